from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.errors import BadRequest, Forbidden
from incoming_wsgi.targets import FinishHosts, checked_target, parsed_target

OPEN = FinishHosts(allowed=("app.example", "other.example:8000"), loopback=True, caller=True, path=True)


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example/finish",
        "https://APP.example:8443/finish?x=1&y=%20",
        "http://other.example:8000/",
        "http://localhost:5000/x",
        "http://127.0.0.1/x",
        "http://[::1]:5000/x",
        "http://192.0.2.7:81/the-caller",
        "/api/finish?kind=photo",
        "/incoming-things",
    ],
)
def test_allowed(url: str) -> None:
    assert checked_target(url, OPEN, "192.0.2.7") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/",
        "http://other.example:8001/",
        "http://evil.example/",
        "http://app.example.evil.example/",
        "http://notapp.example/",
        "http://127.0.0.2/",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost.evil.example/",
        "http://192.0.2.8/",
    ],
)
def test_hosts_that_are_not_allowed(url: str) -> None:
    with pytest.raises(Forbidden):
        checked_target(url, OPEN, "192.0.2.7")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "finish",
        "//app.example/finish",
        "ftp://app.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///x",
        "http:app.example/",
        "http://user@app.example/",
        "http://user:pw@app.example/",
        "http://@app.example/",
        "http://app.example/#part",
        "http://app.example/#",
        "http://app.example:0/",
        "http://app.example:99999/",
        "http://app.example:x/",
        "http://[::1/",
        "http://app.example\\@evil.example/",
        "http://app.example/a b",
        "http://app.example/\n",
        "http://app.example/\0",
        "http://app.example/" + "x" * 2048,
        "/incoming",
        "/incoming/frontend/x",
    ],
)
def test_malformed(url: str) -> None:
    with pytest.raises(BadRequest):
        checked_target(url, OPEN)


def test_a_path_needs_a_wrapped_app() -> None:
    with pytest.raises(BadRequest):
        checked_target("/api", FinishHosts())


def test_nothing_is_allowed_by_itself() -> None:
    for url in ("http://localhost/", "http://192.0.2.7/", "http://app.example/"):
        with pytest.raises(Forbidden):
            checked_target(url, FinishHosts(), "192.0.2.7")


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("100.64.0.1", False),
    ],
)
def test_any_host_means_any_public_one(monkeypatch: pytest.MonkeyPatch, address: str, is_public: bool) -> None:
    def resolve(host: str, port: object) -> list[Any]:
        return [(0, 0, 0, "", (one, 0)) for one in ("93.184.216.34", address)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    hosts = FinishHosts(allowed=("*",))
    if is_public:
        assert checked_target("http://name.example/", hosts)
    else:
        with pytest.raises(Forbidden):
            checked_target("http://name.example/", hosts)


def test_a_host_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: object) -> list[Any]:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(BadRequest, match="found"):
        checked_target("http://name.example/", FinishHosts(allowed=("*",)))


@given(st.text() | st.from_regex(r"https?://[^/]{0,20}(:[0-9]{0,6})?/.{0,20}", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parts = parsed_target(text, "/incoming")
    except BadRequest:
        return
    assert parts.scheme in ("http", "https") or text.startswith("/")
