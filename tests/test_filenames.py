from __future__ import annotations

import unicodedata
from encodings.aliases import aliases
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from incoming_wsgi.filenames import LONGEST, name_in_disposition, numbered, safe_filename

#: Anything at all, and in particular what means something to a file system.
wild = st.text() | st.text(alphabet="ab./\\ :con\0\n\x7f\u202e\u2028é", max_size=300) | st.text(min_size=200)


@given(wild)
@example("con" + " " * 300 + "x")
@example("a" * 300)
@example("ä" * 200 + ".jpeg")
@example(".bashrc")
@example("\ud800")
def test_every_name_becomes_harmless(name: str) -> None:
    safe = safe_filename(name)
    assert safe
    assert len(safe.encode()) <= LONGEST
    assert safe not in (".", "..")
    assert not safe.startswith((".", " "))
    assert not safe.endswith((".", " "))
    assert not set(safe) & set('/\\<>:"|?*\0')
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs") for char in safe)
    assert safe.split(".")[0].rstrip().lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")


@given(wild)
def test_what_is_safe_stays_as_it_is(name: str) -> None:
    assert safe_filename(safe_filename(name)) == safe_filename(name)


@given(wild, st.integers(2, 10**6))
@example("a" * 251 + ".bin", 2)
@example("ä" * 200, 3)
@example("noextension", 2)
def test_numbered_names_are_safe_and_others(name: str, number: int) -> None:
    safe = safe_filename(name)
    following = numbered(safe, number)
    assert following != safe
    assert following != numbered(safe, number + 1)
    assert len(following.encode()) <= LONGEST
    assert "/" not in following
    assert not following.startswith(".")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("Übersicht März.pdf", "Übersicht März.pdf"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\fakepath\\photo.jpg", "photo.jpg"),
        ("../..", "unnamed"),
        ("", "unnamed"),
        (" . ", "unnamed"),
        (".htaccess", "htaccess"),
        ("a\0b\nc.txt", "abc.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("what?.txt", "what_.txt"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("console.log", "console.log"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("name. ", "name"),
    ],
)
def test_safe(name: str, safe: str) -> None:
    assert safe_filename(name) == safe


def test_a_default() -> None:
    assert safe_filename("...", default="file") == "file"


def test_a_long_name_keeps_its_extension() -> None:
    assert safe_filename("x" * 400 + ".tar.gz").endswith("x.gz")
    # What is too long to be an extension is none.
    assert len(safe_filename("x." + "y" * 400)) == LONGEST


def test_a_name_is_not_cut_within_a_letter() -> None:
    assert safe_filename("€" * 100) == "€" * 85


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("report.pdf", 2, "report (2).pdf"),
        ("archive.tar.gz", 3, "archive.tar (3).gz"),
        ("README", 2, "README (2)"),
        ("a" * 251 + ".bin", 2, "a" * 247 + " (2).bin"),
    ],
)
def test_numbered(name: str, number: int, expected: str) -> None:
    assert numbered(name, number) == expected


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("inline; filename=x.pdf", "x.pdf"),
        ('attachment; filename="a \\"b\\".txt"', 'a "b".txt'),
        ("attachment; filename=\"plain.txt\"; filename*=UTF-8''%E2%82%AC%20rates.txt", "€ rates.txt"),
        ("attachment; filename*=utf-8''x; filename=y", "x"),
        ("attachment; filename*=iso-8859-1''%FCber", "über"),
        ('attachment; filename="' + "über".encode().decode("latin-1") + '"', "über"),
        ('attachment; filename="' + "über" + '"', "über"),
        ("attachment; filename*=unheard-of''%FC", "ü"),
        ("attachment", ""),
        ("", ""),
        ("attachment; name=x", ""),
        ("attachment; filename*=idna''x", "x"),  # Python has decoders that raise, whatever they are asked to do
        ("attachment; filename*=undefined''x", "x"),
        ("attachment; filename*=unicode_escape''%5Cud800", "\\ud800"),  # or make what is no text
        ("attachment; filename*=utf-7''%2B2AA-", "+2AA-"),
        ("attachment; filename*0*=utf-16''%00%d8; filename*1=b", "\0\xd8b"),
        ("attachment; filename*=ISO-8859-1''%fcber", "über"),
        ("attachment; filename*=utf-8''%ed%a0%80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_names_in_content_disposition(header: str, name: str) -> None:
    assert name_in_disposition(header) == name


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_content_disposition(text: str) -> None:
    assert isinstance(name_in_disposition(text), str)
    assert isinstance(name_in_disposition(f"attachment; filename{text}"), str)


@given(st.sampled_from(sorted({*aliases.values(), "undefined", "idna", "punycode", ""})), st.binary(max_size=9))
def test_any_charset(charset: str, name: bytes) -> None:
    assert name_in_disposition(f"x; filename*={charset}''{quote(name)}").encode() or not name
