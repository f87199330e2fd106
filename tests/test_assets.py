from __future__ import annotations

import pytest
from webob import Request

from incoming_wsgi import assets
from incoming_wsgi.errors import MethodNotAllowed

from .helpers import ROOT


@pytest.mark.parametrize("name", ["incoming.js", "incoming.mjs", "incoming.d.ts"])
def test_the_library(name: str) -> None:
    response = assets.respond(Request.blank("/"), name)
    assert response.body == (ROOT / "assets" / name).read_bytes()
    assert response.content_type == ("text/plain" if name.endswith(".ts") else "text/javascript")
    assert response.charset == "utf-8"
    assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_who_has_it_is_told_so() -> None:
    first = assets.respond(Request.blank("/"), "incoming.js")
    again = Request.blank("/", headers={"If-None-Match": first.headers["ETag"]})
    assert again.get_response(assets.respond(again, "incoming.js")).status_code == 304
    older = Request.blank("/", headers={"If-None-Match": '"older"'})
    assert older.get_response(assets.respond(older, "incoming.js")).status_code == 200
    assert first.headers["Cache-Control"] == "no-cache"


def test_the_three_files_differ() -> None:
    etags = {assets.respond(Request.blank("/"), name).headers["ETag"] for name in assets.NAMES}
    assert len(etags) == len(assets.NAMES)


def test_no_part_of_it() -> None:
    """Pieces of a script are of no use to anybody."""
    request = Request.blank("/", headers={"Range": "bytes=0-9"})
    response = request.get_response(assets.respond(request, "incoming.js"))
    assert (response.status_code, response.headers["Accept-Ranges"]) == (200, "none")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_methods(method: str) -> None:
    with pytest.raises(MethodNotAllowed):
        assets.respond(Request.blank("/", method=method), "incoming.js")


def test_head() -> None:
    request = Request.blank("/", method="HEAD")
    response = request.get_response(assets.respond(request, "incoming.js"))
    assert response.body == b""
    assert response.content_length == (ROOT / "assets" / "incoming.js").stat().st_size
