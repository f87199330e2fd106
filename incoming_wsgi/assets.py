"""Serves the JavaScript library: a fixed map of names, held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from webob import Request, Response

from .errors import MethodNotAllowed

#: File name → media type. No other name ever becomes part of a path.
NAMES: Mapping[str, str] = {
    "incoming.js": "text/javascript",
    "incoming.mjs": "text/javascript",
    "incoming.d.ts": "text/plain",
}

#: A page may be open for days, and the address bears no version: caches ask each time, and mostly hear 304.
_CACHE_CONTROL = "no-cache"


def respond(request: Request, name: str) -> Response:
    """The file of that name, one of :data:`NAMES`; 304 to who has it.

    :raises MethodNotAllowed: for anything but GET and HEAD.
    """
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed(allow=("GET", "HEAD"))
    request.range = None  # a whole file is small; a bad Range would be answered with 416
    body = _content(name)
    response = Response(body=body, content_type=NAMES[name], charset="utf-8", conditional_response=True)
    response.etag = hashlib.sha256(body).hexdigest()[:32]
    response.accept_ranges = "none"
    response.headers["Cache-Control"] = _CACHE_CONTROL
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    response.headers["Access-Control-Allow-Origin"] = "*"  # <script type=module> of other origins; it is public
    return response


@cache
def _content(name: str) -> bytes:
    return (_folder() / name).read_bytes()


def _folder() -> Path:
    """Where the files are: inside the package when it is installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "static"
    return installed if installed.is_dir() else package.parent / "assets"
