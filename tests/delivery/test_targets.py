from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.delivery.targets import FinishHosts, checked_target, parsed_target
from incoming_wsgi.errors import BadRequest, Forbidden

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
    def resolve(host: str, port: object, **_: object) -> list[Any]:
        return [(0, 0, 0, "", (one, 0)) for one in ("93.184.216.34", address)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    hosts = FinishHosts(allowed=("*",))
    if is_public:
        assert checked_target("http://name.example/", hosts)
    else:
        with pytest.raises(Forbidden):
            checked_target("http://name.example/", hosts)


def test_a_host_that_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: object, **_: object) -> list[Any]:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(BadRequest, match="found"):
        checked_target("http://name.example/", FinishHosts(allowed=("*",)))


#: What people write who want to reach a machine behind the server: none of it is called, though any public host is.
INWARD = [
    f"http://{host}/"
    for host in (
        "localhost",
        "LOCALHOST",
        "localhost:80",
        "localhost.",
        "ip6-localhost",
        "127.0.0.1",
        "127.0.0.1:22",
        "127.0.0.1.",
        "127.127.127.127",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "0x7F.0.0.0x1",
        "2130706433",
        "017700000001",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "169.254.169.254:80",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::1]:80",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::]",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "loca%6chost",
        "%31%32%37.0.0.1",
        "127.0.0.1%00.example",
        "user@127.0.0.1",
        "93.184.216.34@127.0.0.1",
        "127.0.0.1#@93.184.216.34",
        "127.0.0.1\\@93.184.216.34",
        "127.0.0.1 .example",
        "127.0.0.1\t.example",
        "-.example",
        "..",
    )
] + [
    "http:127.0.0.1/",
    "http:/127.0.0.1/",
    "http:///127.0.0.1/",
    "//127.0.0.1/",
    "\\\\127.0.0.1\\x",
    "gopher://127.0.0.1:6379/_x",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "ftp://127.0.0.1/",
    "data:text/plain,x",
]


@pytest.mark.parametrize("url", INWARD)
def test_no_way_inwards(url: str) -> None:
    with pytest.raises((Forbidden, BadRequest)):
        checked_target(url, FinishHosts(allowed=("*",)), "192.0.2.7")


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def resolve(host: str, port: object, **_: object) -> list[Any]:
        return [(0, 0, 0, "", (one, 0)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_name_that_changes_its_address_after_the_ticket_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = FinishHosts(allowed=("*",))
    resolving_to(monkeypatch, "93.184.216.34")
    checked_target("http://name.example/", hosts)
    assert hosts.addresses_of("name.example") == ["93.184.216.34"]
    for addresses in (("169.254.169.254",), ("93.184.216.34", "::1")):
        resolving_to(monkeypatch, *addresses)
        with pytest.raises(PermissionError):
            hosts.addresses_of("name.example")


@pytest.mark.parametrize("allowed", ["name.example", "name.example:8000"])
def test_a_host_that_is_named_may_be_anywhere(monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    resolving_to(monkeypatch, "10.0.0.1")
    assert FinishHosts(allowed=("*", allowed)).addresses_of("name.example") == ["10.0.0.1"]
    assert FinishHosts().addresses_of("name.example") == ["10.0.0.1"]  # the app itself has made the ticket


def test_who_asked_by_its_address_is_called_at_it() -> None:
    hosts = FinishHosts(allowed=("*",), caller=True)
    checked_target("http://10.0.0.5/", hosts, "10.0.0.5")
    assert hosts.addresses_of("10.0.0.5") == ["10.0.0.5"]


@given(st.text() | st.from_regex(r"https?://[^/]{0,20}(:[0-9]{0,6})?/.{0,20}", fullmatch=True))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parts = parsed_target(text, "/incoming")
    except (BadRequest, Forbidden):
        return
    assert parts.scheme in ("http", "https") or text.startswith("/")
