"""incoming.js and the other files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from incoming_wsgi.assets import NAMES
from tests.end_to_end.conftest import sha256
from tests.support.processes import ROOT, AppServer

from .conftest import EVERYWHERE
from .uploads import assert_refused
from .wire import Connection, ask, request

FOLDER = "/incoming/frontend/"
SCRIPT = FOLDER + "incoming.js"


@pytest.fixture(scope="module", params=EVERYWHERE)
def server(request: pytest.FixtureRequest, server_at: Callable[[str], AppServer]) -> AppServer:
    return server_at(request.param)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("name", NAMES)
def test_get_and_head_only(name: str, method: str, server: AppServer) -> None:
    answer = ask(server.port, method, FOLDER + name)
    assert_refused(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("version", ["", "0.1/"])
@pytest.mark.parametrize("name", NAMES)
def test_media_type_nosniff_and_etag(name: str, version: str, server: AppServer) -> None:
    path = f"/incoming/{version}frontend/{name}"
    answer = ask(server.port, "GET", path)
    assert answer.status == 200
    assert answer.headers["content-type"] == f"{NAMES[name]}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["etag"].strip('"')
    assert sha256(answer.body) == sha256(ROOT / "assets" / name)
    head = ask(server.port, "HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for header in ("content-type", "content-length", "etag"):
        assert head.headers[header] == answer.headers[header]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ["{etag}", "W/{etag}", '"other", {etag}'])
def test_not_modified(form: str, method: str, server: AppServer) -> None:
    etag = ask(server.port, "GET", SCRIPT).headers["etag"]
    answer = ask(server.port, method, SCRIPT, [("If-None-Match", form.format(etag=etag))])
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize("header", ['"other"', "other", '"', "W/", ",,,", 4000 * "x"])
def test_modified(header: str, server: AppServer) -> None:
    assert ask(server.port, "GET", SCRIPT, [("If-None-Match", header)]).status == 200


@pytest.mark.parametrize(
    "name",
    [
        "incoming.py",
        "incoming.js.map",
        "INCOMING.JS",
        "incoming.js/",
        "/incoming.js",
        "incoming.js%00",
        "incoming.js%00.html",
        "../frontend/incoming.js",
        "./incoming.js",
        "..%2Fsetup.py",
        "%2e%2e/%2e%2e/setup.py",
        "src/incoming.js",
        "package.json",
        "....//setup.py",
        "..\\setup.py",
        "C:/windows/win.ini",
        "incoming.js;x",
        "%69ncoming.js%20",
    ],
)
def test_names_from_a_fixed_map(name: str, server: AppServer) -> None:
    answer = ask(server.port, "GET", FOLDER + name)
    if server.kind == "nginx" and "%00" in name:
        assert answer.status == 400, "by nginx itself"
    else:
        assert_refused(answer, 404)


@pytest.mark.parametrize(
    "value",
    [
        "bytes=0-9",
        "bytes=5-1",
        "bytes=99999999-",
        "bytes=-0",
        "bytes=abc",
        "bytes=",
        "bytes",
        "lines=1-2",
        "bytes=0-0,2-2,4-4",
        "bytes=0-18446744073709551616",
        ",".join(["bytes=0-"] + 200 * ["0-"]),
    ],
)
def test_a_range_is_ignored(value: str, server: AppServer) -> None:
    answer = ask(server.port, "GET", SCRIPT, [("Range", value)])
    assert (answer.status, len(answer.body)) == (200, int(answer.headers["content-length"]))
    assert sha256(answer.body) == sha256(ROOT / "assets" / "incoming.js")
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("kind", ["gevent", "gthread", "nginx"])
def test_a_body_is_no_second_request(kind: str, server_at: Callable[[str], AppServer]) -> None:
    """Werkzeug's server, for development, does not find the next request."""
    with Connection(server_at(kind).port) as connection:
        connection.send(request("GET", SCRIPT, [], b"GET /incoming/nowhere HTTP/1.1\r\nHost: x\r\n\r\n"))
        assert connection.answer().status == 200
        connection.send(request("GET", "/incoming/ready", [("Connection", "close")]))
        assert connection.answer().status == 200
