"""Addresses of buckets."""

from __future__ import annotations

import pytest

from incoming_wsgi.storage.bucket import Address, check

MIB = 2**20


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://files", Address("files")),
        ("s3://files/up/loads/", Address("files", "up/loads/")),
        (
            "s3://files/up?endpoint=https://rgw.example:7480&region=eu&part_size=8388608&timeout=5",
            Address("files", "up/", "https://rgw.example:7480", "eu", 8 * MIB, 5),
        ),
        ("s3://files?endpoint=http%3A%2F%2F127.0.0.1%3A7480", Address("files", endpoint="http://127.0.0.1:7480")),
    ],
)
def test_addresses(url: str, address: Address) -> None:
    check(url)
    assert Address.of(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://key:secret@files",
        "s3:///files",
        "http://files",
        "s3://files/a//b",
        "s3://files/a b",
        "s3://files?part_size=1000",
        "s3://files?part_size=16M",
        "s3://files?timeout=0",
        "s3://files?endpoint=rgw.example",
        "s3://files?endpoint=https://key:secret@rgw.example",
        "s3://files?access_key=x",
        "s3://files?x",
    ],
)
def test_what_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Address.of(url)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incoming_wsgi.storage.bucket.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"incoming-wsgi\[s3\]"):
        check("s3://files")
