from __future__ import annotations

import re

import pytest

from incoming_wsgi import errors
from incoming_wsgi.errors import CODES, IncomingError

from .helpers import ROOT

KINDS = sorted(IncomingError.__subclasses__(), key=lambda kind: kind.code)

#: The numbers that are out in the world.
PUBLISHED = {
    "bad_request": 1,
    "unauthorized": 2,
    "forbidden": 3,
    "forbidden_origin": 4,
    "wrong_secret": 5,
    "unknown_upload": 6,
    "not_found": 7,
    "method_not_allowed": 8,
    "too_slow": 9,
    "replaced": 10,
    "file_changed": 11,
    "already_complete": 12,
    "cancelled": 13,
    "expired": 14,
    "damaged": 15,
    "length_required": 16,
    "too_late": 17,
    "not_ready": 18,
    "too_large": 19,
    "unsupported_media_type": 20,
    "digest_mismatch": 21,
    "over_quota": 22,
    "internal": 23,
    "not_implemented": 24,
    "unavailable": 25,
    "no_space": 26,
    "undeliverable": 27,
    "file_unreadable": 28,
    "upgrade_required": 29,
}


def test_numbers_and_names_are_told_apart() -> None:
    assert [kind.code for kind in KINDS] == list(range(1, len(KINDS) + 1))
    assert len(CODES) == len(KINDS)


def test_the_closed_set_never_changes_its_meaning() -> None:
    """Pages with an older library are open somewhere: a number may be added, but never moved."""
    assert CODES | PUBLISHED == CODES


@pytest.mark.parametrize("file", ["src/errors.js", "incoming.js", "incoming.mjs"])
def test_the_browser_library_has_the_same_numbers(file: str) -> None:
    text = (ROOT / "assets" / file).read_text("utf-8")
    table = re.search(r"errors = Object\.freeze\(\{(.*?)\}\)", text, re.DOTALL)
    assert table is not None
    found = {name: int(number) for name, number in re.findall(r"(\w+): (\d+)", table[1])}
    assert found == CODES


def test_the_declarations_have_the_same_names() -> None:
    text = (ROOT / "assets" / "incoming.d.ts").read_text("utf-8")
    union = re.search(r"type ErrorName =(.*?);", text, re.DOTALL)
    assert union is not None
    assert re.findall(r'"(\w+)"', union[1]) == list(CODES)


@pytest.mark.parametrize("kind", KINDS)
def test_each_error_can_be_shown(kind: type[IncomingError]) -> None:
    shown = kind().as_json()
    assert shown == {"code": kind.code, "name": kind.name, "message": kind.sentence, "retryable": kind.retryable}
    assert 400 <= kind.status < 600
    assert kind.sentence.endswith(".")
    assert str(kind("This is another sentence.")) == "This is another sentence."


def test_an_error_carries_what_it_knows() -> None:
    error = errors.MethodNotAllowed(allow=("GET",), retry_after=5)
    assert error.facts == {"allow": ("GET",)}
    assert error.retry_after == 5


def test_what_passes_is_retryable() -> None:
    """A 0.1 front end gives up at any error, so these close its connection instead."""
    assert {kind.name for kind in KINDS if kind.retryable} == {
        "too_slow",
        "over_quota",
        "internal",
        "unavailable",
        "no_space",
    }
