from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.gates.clients import Proxies, network_of

PROXY = "10.0.0.1"


def request(peer: str = PROXY, **headers: str) -> dict[str, Any]:
    named = {f"HTTP_X_FORWARDED_{name.upper()}": value for name, value in headers.items()}
    return {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", "HTTP_HOST": "inside:8000", **named}


@pytest.mark.parametrize(
    ("claim", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("1.2.3.4, 192.0.2.7", "192.0.2.7"),  # the first is the client's own word
        ("192.0.2.7, 10.9.9.9", "192.0.2.7"),  # two of our proxies
        ("1.2.3.4, 192.0.2.7, 10.9.9.9,10.8.8.8", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", PROXY),
        ("unknown", PROXY),
        ("192.0.2.7, nonsense", PROXY),
        ("192.0.2.7, nonsense, 10.9.9.9", "10.9.9.9"),
        ("192.0.2.7\t", "192.0.2.7"),
        ("10.1.1.1", "10.1.1.1"),
        ("999.1.1.1", PROXY),
        ("0x7f000001", PROXY),
    ],
)
def test_who_is_behind_a_proxy(claim: str, client: str) -> None:
    assert Proxies(["10.0.0.0/8"]).behind(request(**{"for": claim}))["REMOTE_ADDR"] == client


@pytest.mark.parametrize("networks", [[], ["10.0.0.2"], ["unix"], ["::1", "192.168.0.0/16"]])
def test_who_is_not_listed_is_not_believed(networks: list[str]) -> None:
    asked = request(**{"for": "192.0.2.7", "proto": "https", "host": "evil.example"})
    assert Proxies(networks).behind(asked) == asked


def test_scheme_and_host() -> None:
    seen = Proxies([PROXY]).behind(request(proto="https", host="www.example.org:8443"))
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", "www.example.org:8443")
    seen = Proxies([PROXY]).behind(request(proto="http, https", host="a.example, b.example"))
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", "b.example")


@pytest.mark.parametrize(
    ("proto", "host"), [("", ""), ("ftp", "a b"), ("javascript", "x/y"), ("https:", "user@x"), ("ws", "x?y")]
)
def test_nonsense_changes_nothing(proto: str, host: str) -> None:
    seen = Proxies([PROXY]).behind(request(proto=proto, host=host))
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("http", "inside:8000")


def test_a_unix_socket() -> None:
    assert Proxies(["unix"]).behind(request("", **{"for": "192.0.2.7"}))["REMOTE_ADDR"] == "192.0.2.7"
    assert Proxies(["10.0.0.0/8"]).behind(request("", **{"for": "192.0.2.7"}))["REMOTE_ADDR"] == ""


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_claim(claim: str, host: str) -> None:
    seen = Proxies(["10.0.0.0/8"]).behind(request(**{"for": claim, "host": host, "proto": host}))
    assert network_of(seen) is not None


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("", ""),
        ("nobody", ""),
    ],
)
def test_whom_a_request_counts_for(peer: str, network: str) -> None:
    assert network_of(request(peer)) == network


def test_an_operator_who_forgot_to_list_a_proxy_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    proxies = Proxies([])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            proxies.behind(request(**{"for": "192.0.2.7"}))
        proxies.behind(request())
    assert len(caplog.records) == 1
    assert PROXY in caplog.text
