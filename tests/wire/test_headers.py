"""Headers that servers let through, and that no request may have."""

from __future__ import annotations

from typing import Any

import pytest
from webob import Request

from incoming_wsgi.errors import BadRequest, IncomingError, NotImplementedHere, TooLarge
from incoming_wsgi.wire.headers import content_length, refuse_malformed


def environ(**changes: str | None) -> dict[str, Any]:
    """Of a good request, but for these; ``None`` leaves one out."""
    given = {**Request.blank("/").environ, "SERVER_PROTOCOL": "HTTP/1.1", **changes}
    return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"CONTENT_LENGTH": "5"},
        {"CONTENT_LENGTH": ""},
        {"HTTP_TRANSFER_ENCODING": "Chunked"},
        {"HTTP_HOST": None, "SERVER_PROTOCOL": "HTTP/1.0"},
        {"HTTP_X_ANY": "a\tb, c"},
        {"SERVER_PROTOCOL": "HTTP/2"},
    ],
)
def test_good(changes: dict[str, str | None]) -> None:
    refuse_malformed(environ(**changes))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"SERVER_PROTOCOL": "HTTP/0.9"}, BadRequest),
        ({"HTTP_HOST": None}, BadRequest),
        ({"HTTP_HOST": ""}, BadRequest),
        ({"HTTP_HOST": "a,b"}, BadRequest),
        ({"HTTP_X_ANY": "a\r\n b"}, BadRequest),
        ({"HTTP_X_ANY": "a\0b"}, BadRequest),
        ({"HTTP_X\0Y": "a"}, BadRequest),
        ({"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"}, BadRequest),
        ({"CONTENT_LENGTH": "\r\n 5"}, BadRequest),
        ({"CONTENT_LENGTH": "5\n"}, BadRequest),
        ({"CONTENT_LENGTH": "٥"}, BadRequest),  # noqa: RUF001 (a digit, to some)
        ({"CONTENT_LENGTH": "9" * 5000}, TooLarge),
        ({"HTTP_TRANSFER_ENCODING": "gzip"}, NotImplementedHere),
    ],
)
def test_malformed(changes: dict[str, str | None], kind: type[IncomingError]) -> None:
    with pytest.raises(kind):
        refuse_malformed(environ(**changes))


@pytest.mark.parametrize(
    ("text", "length"), [("0", 0), ("07", 7), (" 5\t", 5), (str(2**63 - 1), 2**63 - 1), ("", None)]
)
def test_content_length(text: str, length: int | None) -> None:
    assert content_length({"CONTENT_LENGTH": text}) == length
