"""Answers in the two forms that are given: JSON to front ends, text to back ends; both also for errors."""

from __future__ import annotations

import json
from typing import Any

from webob import Response

from ..errors import IncomingError


def json_response(values: dict[str, Any], error: IncomingError | None = None) -> Response:
    """:param error: gives the answer its status and headers."""
    return _response(json.dumps(values), "application/json", error)


def text_response(text: str, error: IncomingError | None = None) -> Response:
    """:param error: gives the answer its status and headers."""
    return _response(text, "text/plain", error)


def _response(text: str, content_type: str, error: IncomingError | None) -> Response:
    response = Response(body=text.encode(), content_type=content_type, charset="utf-8")
    if error is not None:
        response.status = error.status
        response.headers.update(error.headers.items())
    return response
