from __future__ import annotations

from typing import Any

import pytest

from incoming_wsgi.errors import BadRequest, Forbidden
from incoming_wsgi.gates.terms import Terms, refuse_unbound
from incoming_wsgi.upload import Upload


def bound(**terms: Any) -> Upload:
    return Upload(**Terms(**terms).fields(100.0))


@pytest.mark.parametrize(
    ("cookies", "fits"),
    [
        ("session=abc", True),
        ("a=b; session=abc; c=d", True),
        ("session=other; session=abc", True),
        ('session="abc"', True),
        ("session=abcd", False),
        ("Session=abc", False),
        ("xsession=abc", False),
        ("session", False),
        ("session=", False),
        ("", False),
        ("session=ab c", False),
        ("session=\u00e4", False),
    ],
)
def test_a_cookie(cookies: str, fits: bool) -> None:
    upload = bound(bind_cookie="session=abc")
    if fits:
        refuse_unbound(upload, cookies, "")
    else:
        with pytest.raises(Forbidden):
            refuse_unbound(upload, cookies, "")


def test_the_value_of_the_cookie_is_not_kept() -> None:
    assert "abc" not in bound(bind_cookie="session=abc").bound_cookie


@pytest.mark.parametrize(
    ("network", "address", "fits"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.0/24", "192.0.2.200", True),
        ("192.0.2.0/24", "192.0.3.1", False),
        ("2001:db8::/64", "2001:db8::9", True),
        ("2001:db8::/64", "192.0.2.7", False),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),  # by a socket that takes both kinds
        ("192.0.2.0/24", "::ffff:192.0.3.7", False),
        ("2001:db8::/64", "2001:db8::9%eth0", True),
        ("192.0.2.7", "", False),
        ("192.0.2.7", "nobody", False),
    ],
)
def test_a_network(network: str, address: str, fits: bool) -> None:
    upload = bound(bind_network=network)
    if fits:
        refuse_unbound(upload, "", address)
    else:
        with pytest.raises(Forbidden):
            refuse_unbound(upload, "", address)


def test_nothing_binds_by_itself() -> None:
    upload = bound()
    assert upload == Upload(id=upload.id, created_at=upload.created_at, active_at=upload.active_at)
    refuse_unbound(upload, "", "")


def test_time() -> None:
    assert bound(expires_in=5).expires_at == 105.0


@pytest.mark.parametrize(
    "terms",
    [
        {"accept": "jpg"},
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": float("nan")},
        {"expires_in": float("inf")},
        {"expires_in": 1e12},
        {"max_connections": -1},
        {"max_connections": 10**6},
        {"bind_cookie": "session"},
        {"bind_cookie": "session="},
        {"bind_cookie": "a b=c"},
        {"bind_cookie": "session=a;b"},
        {"bind_cookie": "session=a\r\nb"},
        {"bind_network": "example.org"},
        {"bind_network": "192.0.2.7/24"},
    ],
)
def test_terms_that_mean_nothing(terms: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        Terms(**terms)
