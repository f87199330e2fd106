from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.wire import fields
from incoming_wsgi.wire.checksums import Checksum

TEXT = st.text(st.characters(max_codepoint=255), max_size=30)


@given(st.integers(0, 10**15 - 1))
def test_numbers(number: int) -> None:
    assert fields.integer(str(number)) == fields.integer(f" {number};a=1;b ") == number


@pytest.mark.parametrize("text", [None, "", "x", "-1", "1.0", "0x1", "1, 2", "9" * 16, "\u00e4", "\u0663", "?1", "1;"])
def test_what_is_no_number(text: str | None) -> None:
    assert fields.integer(text) is None


def test_booleans() -> None:
    assert (fields.boolean("?1"), fields.boolean("?0;x=1")) == (True, False)


@pytest.mark.parametrize("text", [None, "", "1", "true", "?2", "?1, ?0"])
def test_what_is_no_boolean(text: str | None) -> None:
    assert fields.boolean(text) is None


def test_the_strongest_digest_counts() -> None:
    assert fields.checksum("sha-256=:YQ==:, sha-512=:Yg==:;x, md5=:Yw==:") == Checksum("sha512", b"b")
    assert fields.checksum("sha-256=:YQ==:") == Checksum("sha256", b"a")


@pytest.mark.parametrize("text", [None, "", "md5=:YQ==:", "sha-256=5", "sha-256", "sha-256=:?:", "sha-256=YQ=="])
def test_no_digest_that_we_can_check(text: str | None) -> None:
    assert fields.checksum(text) is None


def test_wanted_digests() -> None:
    assert fields.is_wanted("sha-512=1, sha-256=10", "sha-256")
    assert not fields.is_wanted("sha-256=0", "sha-256")
    assert not fields.is_wanted("sha-512=3", "sha-256")
    assert not fields.is_wanted("sha-256", "sha-256")
    assert not fields.is_wanted(None, "sha-256")


def test_dictionaries() -> None:
    assert fields.dictionary({"max-size": 5, "sha-256": b"a"}) == "max-size=5, sha-256=:YQ==:"


@given(TEXT | st.from_regex(r"[?\d;:=,a-z*'%\" -]{0,20}", fullmatch=True))
def test_any_text_is_read_or_ignored(text: str) -> None:
    number = fields.integer(text)
    assert number is None or 0 <= number < 10**15
    assert fields.boolean(text) in (None, True, False)
    assert not isinstance(fields.checksum(text), str)
    assert fields.is_wanted(text, "sha-256") in (True, False)
