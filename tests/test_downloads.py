from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from webtest import TestApp
from werkzeug.http import parse_options_header

from incoming_wsgi.downloads import download, download_headers
from incoming_wsgi.filenames import safe_filename

DATA = random.Random(8).randbytes(1_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "kept 100%.bin"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


def ask(path: Path, headers: dict[str, str] | None = None, **options: Any) -> Any:
    return TestApp(download(path, "Übersicht.pdf", **options)).get("/", headers=headers or {})


def test_the_file_as_a_whole(path: Path) -> None:
    answer = ask(path)
    assert answer.status_int == 200
    assert answer.body == DATA
    assert answer.headers["Accept-Ranges"] == "bytes"
    for name, value in download_headers("Übersicht.pdf").items():
        assert answer.headers[name] == value


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=999990-", 999_990, 1_000_000),
        ("bytes=-5", 999_995, 1_000_000),
    ],
)
def test_a_part_of_it(path: Path, wanted: str, start: int, stop: int) -> None:
    answer = ask(path, {"Range": wanted})
    assert answer.status_int == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert answer.body == DATA[start:stop]
    assert answer.headers["Content-Disposition"] == download_headers("Übersicht.pdf")["Content-Disposition"]


def test_a_part_that_it_does_not_have(path: Path) -> None:
    answer = TestApp(download(path, "x")).get("/", headers={"Range": "bytes=1000000-"}, status=416)
    assert answer.headers["Content-Range"] == "bytes */1000000"


def test_who_has_it_already_is_told_so(path: Path) -> None:
    unchanged = {"If-Modified-Since": ask(path).headers["Last-Modified"]}
    assert ask(path, unchanged).status_int == 304


def test_the_server_in_front_sends_it(path: Path) -> None:
    answer = ask(path, x_accel={"/elsewhere": "/no/", str(path.parent): "/kept/"})
    assert (answer.body, answer.headers["X-Accel-Redirect"]) == (b"", "/kept/kept%20100%25.bin")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    answer = ask(path, x_sendfile=True)
    assert (answer.body, answer.headers["X-Sendfile"]) == (b"", f"{path.parent}/kept%20100%25.bin")


@pytest.mark.parametrize(
    "name", ["%2e%2e%2f%2e%2e%2fetc%2fpasswd", "x\r\nSet-Cookie: a=b", "\u0142\u00f3d\u017a", "a%00b"]
)
def test_no_name_leads_the_server_in_front_elsewhere(tmp_path: Path, name: str) -> None:
    """nginx, lighttpd and mod_xsendfile all decode what they are told."""
    path = tmp_path / name
    path.write_bytes(b"x")
    for header, options in (
        ("X-Accel-Redirect", {"x_accel": {str(tmp_path): str(tmp_path)}}),
        ("X-Sendfile", {"x_sendfile": True}),
    ):
        told = ask(path, **options).headers[header]
        assert told.isascii()
        assert told.isprintable()
        assert unquote(told) == str(path)


def test_nginx_is_sent_nowhere_else(path: Path, tmp_path: Path) -> None:
    (tmp_path / "files-of-others").mkdir()
    other = tmp_path / "files-of-others" / "x"
    other.write_bytes(b"other")
    (path.parent / "link").symlink_to(other)
    for odd in (other, path.parent / "link", path.parent / ".." / "files-of-others" / "x"):
        answer = ask(odd, x_accel={str(path.parent): "/kept/"})
        assert "X-Accel-Redirect" not in answer.headers
        assert answer.body == b"other"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        download(tmp_path / "x", "x")


def test_files_are_closed(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        ask(path)
        ask(path, {"Range": "bytes=0-9"})
        ask(path, x_sendfile=True)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


#: File names that mean something to somebody on the way: none of them becomes more than the name of a download.
HOSTILE = [
    *(
        f"{stem}{end}"
        for stem in ("x", "", "../x", "..\\x", "/etc/x", "C:\\x")
        for end in (".html", ".svg", ".exe", ".js")
    ),
    *(f"x{char}Set-Cookie: a=b" for char in ("\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x85", "\u2028", "\u2029")),
    *(
        f"x{char}y.html"
        for char in "\"\\'%;,=<>|?*:&#$`!~^@[]{}()+ \t\x7f\u200b\u200e\u200f\u202a\u202e\u2066\ufeff\u00ad"
    ),
    *(
        f"{name}{end}"
        for name in ("con", "PRN", "aux", "NUL", "com1", "LPT9", "CoN .x")
        for end in ("", ".txt", " ", ".")
    ),
    *(".", "..", "...", " ", "", "\0", "/", "//", "\\", ". .", ".htaccess", ".bashrc", "~", "~root", "-rf", "--help"),
    *("a" * 300, "ä" * 300, "x." + "y" * 300, "." * 300, " " * 300 + "x", "\ud800", "\udcff.html", "e\u0301" * 200),
    *("x.html\0.png", "x.png\u202egpj.exe", "x.php.jpg", "x.html.", "x.html ", "x.html::$DATA", "file.txt:stream"),
    *(
        'x"; filename="y.html',
        "x\"; filename*=UTF-8''y.html",
        "=?utf-8?B?eA==?=",
        "x%0d%0aSet-Cookie:a=b",
        "%2e%2e%2fx",
    ),
    *(
        "<script>alert(1)</script>.html",
        "javascript:alert(1)",
        "data:text/html,x",
        "$(reboot)",
        "`id`",
        "x;rm -rf /",
        "| id",
    ),
    *("'; DROP TABLE files; --", "{{7*7}}", "${7*7}", "%s%n", "%p%p", "\x1b[2J", "\x1b]0;x\x07", "\b\b\b"),
]


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTILE)) >= 120


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: str) -> None:
    assert_harmless(name)


@given(st.text())
@example("\udcff")
def test_every_name(name: str) -> None:
    assert_harmless(name)


def assert_harmless(name: str) -> None:
    """One header line of ASCII, that a reader understands as a download by the safe name, and as nothing else."""
    header = download_headers(name)["Content-Disposition"]
    assert header.isascii()
    assert header.isprintable()
    disposition, options = parse_options_header(header)
    assert disposition == "attachment"
    assert options == {"filename": safe_filename(name)}
    plain = header.partition('filename="')[2].partition('"')[0]
    assert header == f"attachment; filename=\"{plain}\"; filename*=UTF-8''" + header.rpartition("''")[2]
