"""Any HTTP request: framing, limits, addresses, headers given twice, and trouble of the server's own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import requests

from tests.support.processes import AppServer

from .conftest import Begin, OneWorker, StartServer
from .limits import BIG, ROOM, limited_file_size
from .uploads import DATA, SAFE, Upload, assert_refused
from .wire import UPLOAD_WS, Answer, Connection, ask, handshake_headers, request

#: What would be answered with 200 if any part of a body were taken for a request.
HIDDEN_REQUEST = b"GET /incoming/ready HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = DATA[SAFE : SAFE + 5]
KEY = [("Authorization", "Bearer key")]

CHUNKED_PIECE = b"5\r\n" + PIECE + b"\r\n0\r\n\r\n"


# -- framing ----------------------------------------------------------------------------------------------------

#: id → headers beside those of a good chunk, its body, and the status by gunicorn and by werkzeug.
FRAMING: dict[str, tuple[list[tuple[str, str]], bytes, int, int]] = {
    "Content-Length malformed: a letter": ([("Content-Length", "5x")], PIECE, 400, 400),
    "Content-Length malformed: plus": ([("Content-Length", "+5")], PIECE, 400, 400),
    "Content-Length malformed: minus": ([("Content-Length", "-5")], PIECE, 400, 400),
    "Content-Length malformed: hexadecimal": ([("Content-Length", "0x5")], PIECE, 400, 400),
    "Content-Length malformed: underscore": ([("Content-Length", "0_5")], PIECE, 400, 400),
    "Content-Length malformed: two numbers": ([("Content-Length", "5 5")], PIECE, 400, 400),
    "Content-Length malformed: empty": ([("Content-Length", "")], PIECE, 400, 411),
    "Content-Length malformed: space before the colon": ([("Content-Length ", "5")], PIECE, 400, 411),
    "Content-Length repeated, different": ([("Content-Length", "5"), ("Content-Length", "0")], PIECE, 400, 400),
    "Content-Length repeated, as a list": ([("Content-Length", "5, 5")], PIECE, 400, 400),
    "Content-Length together with Transfer-Encoding": (
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        CHUNKED_PIECE,
        400,
        400,
    ),
    "Transfer-Encoding together with a Content-Length that hides a request": (
        [("Transfer-Encoding", "chunked"), ("Content-Length", str(5 + len(HIDDEN_REQUEST)))],
        b"0\r\n\r\n",
        400,
        400,
    ),
    "NUL in a header's value": ([("Content-Length", "5"), ("X-Nul", "a\0b")], PIECE, 400, 400),
    "Transfer-Encoding other than chunked: gzip": ([("Transfer-Encoding", "gzip")], PIECE, 400, 501),
    "Transfer-Encoding other than chunked: identity": ([("Transfer-Encoding", "identity")], PIECE, 400, 501),
    "Transfer-Encoding other than chunked: xchunked": ([("Transfer-Encoding", "xchunked")], PIECE, 501, 501),
    "Transfer-Encoding other than chunked: gzip, chunked": (
        [("Transfer-Encoding", "gzip, chunked")],
        CHUNKED_PIECE,
        501,
        501,
    ),
    "Content-Length over 2^63": ([("Content-Length", "1" + 59 * "0")], PIECE, 413, 413),
    "Content-Length over the limit": ([("Content-Length", "65537")], PIECE, 413, 413),
}


@pytest.mark.parametrize("kind", ["gevent", "gthread", "werkzeug"])
@pytest.mark.parametrize("case", FRAMING)
def test_framing(case: str, kind: str, server_of: Callable[[str], AppServer], begin: Begin) -> None:
    headers, body, by_gunicorn, by_werkzeug = FRAMING[case]
    upload = begin(server_of(kind))
    start = request("PUT", upload.path, [*upload.chunk_headers(SAFE, SAFE + 5), *headers])
    said = _all_that_is_answered(upload.server, start + body + HIDDEN_REQUEST)
    assert said.startswith(b"HTTP/1.1 %d " % (by_werkzeug if kind == "werkzeug" else by_gunicorn)), said[:200]
    assert said.count(b"HTTP/1.") == 1, "a second request was found in the body"


#: id → what stands there, what stands there instead, and how often.
INVISIBLE: dict[str, tuple[bytes, bytes, int]] = {
    "bare LF in the headers": (b"\r\n", b"\n", 3),
    "bare LF everywhere": (b"\r\n", b"\n", -1),
    "bare CR": (b"X-Last: a", b"X-Last: a\rb", 1),
    "folded header": (b"X-Last: a", b"X-Last: a\r\n b", 1),
    "NUL in a header's name": (b"X-Last", b"X-L\0ast", 1),
    "Content-Length repeated, the same": (b"X-Last: a", b"Content-Length: 5", 1),
}


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
@pytest.mark.parametrize("case", INVISIBLE)
def test_framing_that_no_app_sees(case: str, kind: str, server_of: Callable[[str], AppServer], begin: Begin) -> None:
    """Only a server can refuse these; RFC 9112 lets one mend most (sections 2.2, 5.2, 6.3), as werkzeug does."""
    upload = begin(server_of(kind))
    headers = [*upload.chunk_headers(SAFE, SAFE + 5), ("Content-Length", "5"), ("X-Last", "a")]
    spoilt = request("PUT", upload.path, headers).replace(*INVISIBLE[case])
    said = _all_that_is_answered(upload.server, spoilt + PIECE + HIDDEN_REQUEST)
    assert said.startswith(b"HTTP/1.1 400 "), said[:200]
    assert said.count(b"HTTP/1.") == 1


def _all_that_is_answered(server: AppServer, data: bytes) -> bytes:
    with Connection(server.port) as connection:
        connection.send(data)
        return connection.everything()


@pytest.mark.parametrize("kind", ["gevent", "gthread", "werkzeug"])
@pytest.mark.parametrize("coding", ["chunked", "Chunked"])
def test_no_length(coding: str, kind: str, server_of: Callable[[str], AppServer], begin: Begin) -> None:
    upload = begin(server_of(kind))
    with Connection(upload.server.port) as connection:
        headers = [*upload.chunk_headers(SAFE, SAFE + 5), ("Transfer-Encoding", coding)]
        connection.send(request("PUT", upload.path, headers) + CHUNKED_PIECE)
        assert_refused(connection.answer(), 411)


@pytest.mark.parametrize("length", [10_000_001, 2**63 - 1, 2**63])
def test_content_length_over_the_limit_of_a_file(length: int, upload: Upload) -> None:
    """The answer comes soon to a client that sends nothing before it has one."""
    with Connection(upload.server.port, timeout=5) as connection:
        headers = [*upload.chunk_headers(SAFE, SAFE + 5), ("Content-Length", str(length))]
        connection.send(request("PUT", upload.path, headers))
        assert_refused(connection.answer(), 413)


# -- addresses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/incoming",
        "/incoming/",
        "/incoming/nowhere",
        "/incoming/0.1",
        "/incoming/0.2/frontend/incoming.js",
        "/incoming/0.1/0.1/frontend/incoming.js",
        "/incoming/ready/more",
        "/incoming/frontend",
        "/incoming/frontend/",
        "/incoming/frontend/uploads//",
        "/incoming/frontend/upload_ws/",
        "/incoming//frontend/incoming.js",
        "/incoming/frontend/nothing.js",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_unknown_path(path: str, method: str, server: AppServer) -> None:
    assert_refused(ask(server.port, method, path, body=b"" if method != "GET" else None), 404)


@pytest.mark.parametrize("path", ["/incoming/frontend/uploads", "/incoming/0.1/frontend/uploads/"])
def test_creation_in_no_dialect(path: str, server: AppServer) -> None:
    for method in ("GET", "PUT"):
        assert_refused(ask(server.port, method, path, body=b"" if method == "PUT" else None), 404)
    assert_refused(ask(server.port, "POST", path, body=b"bytes"), 400)


@pytest.mark.parametrize("path", ["/incoming/backend", "/incoming/backend/", "/incoming/backend/new_upload/"])
def test_unknown_path_of_the_back_end(path: str, server: AppServer) -> None:
    assert_refused(ask(server.port, "POST", path, [("Authorization", "Bearer key")], b""), 404)


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("{upload}", "PATCH", {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}),
        ("{upload}", "TRACE", {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}),
        ("{upload}", "BREW", {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}),
        ("{upload}/pause", "GET", {"POST", "OPTIONS"}),
        ("{upload}/pause", "DELETE", {"POST", "OPTIONS"}),
        ("/incoming/frontend/upload_ws", "POST", {"GET"}),
        ("/incoming/frontend/incoming.js", "POST", {"GET", "HEAD"}),
        ("/incoming/backend/new_upload", "GET", {"POST"}),
        ("/incoming/backend/cancel_upload", "PUT", {"POST"}),
        ("/incoming/backend/finish_upload", "DELETE", {"POST"}),
    ],
)
def test_wrong_method(path: str, method: str, allowed: set[str], upload: Upload) -> None:
    key = [("Authorization", "Bearer key")]
    answer = ask(upload.server.port, method, path.format(upload=upload.path), key, b"" if method != "GET" else None)
    assert_refused(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == allowed


ODD_IDS = {
    "%2F": "..%2F..%2Fetc%2Fpasswd",
    "%2F within a good id": "{ticket}%2F..%2F{ticket}",
    "..": "..",
    ".. encoded": "%2e%2e",
    ".. and more": "../../registry.sqlite3",
    "../ to a good id": "x/../{ticket}",
    "%00": "{ticket}%00",
    "%00 raw": "{ticket}\0",
    "backslash": "..\\..\\registry.sqlite3",
    "backslash encoded": "..%5C{ticket}",
    "unicode encoded": "{ticket}%C3%A9",
    "unicode raw": "{ticket}é",
    "unicode digits": "%EF%BC%91{ticket}",
    "no UTF-8": "%FF%FE",
    "over 64 characters": 65 * "a",
    "over 64 characters, a good id first": "{ticket}{ticket}",
    "a path parameter": "{ticket};x=y",
    "encoded twice": "%252e%252e%252f{ticket}",
    "line break": "{ticket}%0d%0aSet-Cookie:%20a=b",
    "capitals": "{TICKET}",
    "braces": "%7B{ticket}%7D",
    "no hyphens": "{bare}",
    "nothing but a space": "%20",
    "a dot in two bytes too many": "%c0%ae%c0%ae%c0%af{ticket}",
    "a slash of full width": "..%ef%bc%8f{ticket}",
    "encoded as nobody does": "%u002e%u002e%u2215{ticket}",
    "a tab behind it": "{ticket}%09",
    "a space behind it": "{ticket}%20",
    "a delete behind it": "{ticket}%7f",
    "a full stop behind it": "{ticket}.",
    "a stream of Windows": "{ticket}::$DATA",
    "a query that is encoded": "{ticket}%3Fwait=1",
    "a fragment that is encoded": "{ticket}%23",
    "as Tomcat reads it": "..;/{ticket}",
    "a wildcard": "*",
    "a pattern": "{ticket}%25",
    "two": "{ticket},{ticket}",
    "quoted": "%22{ticket}%22",
    "below it": "{ticket}/file",
    "behind pausing": "{ticket}/pause/x",
}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("case", ODD_IDS)
def test_odd_id(case: str, method: str, upload: Upload) -> None:
    ticket = upload.ticket
    odd = ODD_IDS[case].format(ticket=ticket, TICKET=ticket.upper(), bare=ticket.replace("-", ""))
    before = _stored(upload.server)
    headers = upload.chunk_headers(SAFE, SAFE + 5) if method == "PUT" else []
    with Connection(upload.server.port) as connection:
        connection.send(request(method, f"/incoming/frontend/uploads/{odd}", headers, PIECE if headers else None))
        answer = connection.answer(method)
    if "raw" in case:
        assert answer.status in (400, 404), "servers refuse these by themselves"
    else:
        assert_refused(answer, 404)
    assert _stored(upload.server) == before
    assert "set-cookie" not in answer.headers


def _stored(server: AppServer) -> list[tuple[str, int]]:
    """Every file that the server keeps for uploads, with its size."""
    folder = server.folder / "incoming"
    found = [path for name in ("arriving", "complete") for path in (folder / name).iterdir()]
    top = [(path.name, 0) for path in folder.iterdir() if not path.name.startswith("registry")]
    return sorted([*top, *((str(path), path.stat().st_size) for path in found)])


# -- headers given twice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Content-Range", "Incoming-Session", "Content-Digest", "Origin", "Host"])
@pytest.mark.parametrize("kind", ["gevent", "werkzeug"])
def test_a_chunk_with_a_header_twice(
    header: str, kind: str, server_of: Callable[[str], AppServer], begin: Begin
) -> None:
    upload = begin(server_of(kind))
    host = f"127.0.0.1:{upload.server.port}"
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(PIECE).digest()).decode()}:"
    good = upload.chunk_headers(SAFE, SAFE + 5, Host=host, Origin=f"http://{host}", Content_Digest=digest)
    twice = [*good, (header, dict(good)[header])]
    answer = ask(upload.server.port, "PUT", upload.path, twice, PIECE)
    assert answer.status == 400, answer
    if header != "Host":  # which servers look at by themselves
        assert_refused(answer, 400)


@pytest.mark.parametrize("header", ["Incoming-Length", "Incoming-Name", "Incoming-Fingerprint"])
def test_an_opening_with_a_header_twice(header: str, upload: Upload) -> None:
    good = {"Incoming-Length": str(len(DATA)), "Incoming-Name": "file.bin", "Incoming-Fingerprint": "abc"}
    answer = ask(upload.server.port, "POST", upload.path, [*good.items(), (header, good[header])], b"")
    assert_refused(answer, 400, about=header)


@pytest.mark.parametrize("header", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin"])
def test_an_upgrade_with_a_header_twice(header: str, server: AppServer) -> None:
    good = handshake_headers(server.url)
    address = [*good.items(), ("Host", f"127.0.0.1:{server.port}")]
    assert_refused(ask(server.port, "GET", UPLOAD_WS, [*address, (header, good[header])]), 400, about=header)


@pytest.mark.parametrize("query", ["wait=%ff", "since=%ff&wait=1", "%ff=1&wait=1"])
def test_a_query_that_is_not_utf_8(query: str, upload: Upload) -> None:
    answer = ask(upload.server.port, "GET", f"{upload.path}?{query}")
    assert_refused(answer, 400, about="UTF-8")


def test_a_query_of_the_back_end_that_is_not_utf_8(upload: Upload) -> None:
    answer = ask(upload.server.port, "GET", f"/incoming/backend/uploads/{upload.ticket}/file?backendSecret=%ff", KEY)
    assert_refused(answer, 400, about="UTF-8")


@pytest.mark.parametrize("kind", ["gevent", "gthread", "werkzeug"])
def test_a_form_that_ends_before_its_length(kind: str, server_of: Callable[[str], AppServer]) -> None:
    headers = [*KEY, ("Content-Type", "application/x-www-form-urlencoded"), ("Content-Length", "100")]
    with Connection(server_of(kind).port) as connection:
        connection.send(request("POST", "/incoming/backend/new_upload", headers) + b"signalFinishURL=/x")
        connection.send_nothing_more()
        assert_refused(connection.answer(), 400, about="length")


# -- trouble of the server's own --------------------------------------------------------------------------------


class SlowlyReady(AppServer):
    """Counts as started when the app's own pages are there; our addresses may still answer 503."""

    def _answers(self) -> bool:
        assert self.process is not None
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/page", timeout=5).ok
        return False


def test_registry_not_reachable_at_the_start(tmp_path: Path) -> None:
    """Something stands in its place. The app's own pages are there all the same, and all is well afterwards."""
    obstacle = tmp_path / "registry"
    obstacle.write_text("not a folder")
    with SlowlyReady("gevent", tmp_path, {"INCOMING_REGISTRY": f"sqlite://{obstacle}/r.sqlite3"}) as server:
        for path in ("/incoming/ready", f"/incoming/frontend/uploads/{uuid.uuid4()}", UPLOAD_WS):
            assert_refused(ask(server.port, "GET", path), 503)
        obstacle.unlink()
        upload = Upload(server)
        upload.complete()
        upload.close()


@contextmanager
def locked_registry(server: AppServer) -> Iterator[None]:
    """Another program keeps the registry to itself."""
    database = sqlite3.connect(server.folder / "incoming" / "registry.sqlite3", isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
    finally:
        database.close()


def test_registry_not_reachable(start_server: StartServer, begin: Begin) -> None:
    upload = begin(start_server())
    with locked_registry(upload.server):
        answers = _all_at_once(
            lambda: ask(
                upload.server.port, "PUT", upload.path, upload.chunk_headers(SAFE, SAFE + 5), DATA[SAFE : SAFE + 5]
            ),
            lambda: ask(upload.server.port, "POST", "/incoming/backend/new_upload?signalFinishURL=/api/arrived", KEY),
        )
    for answer in answers:
        assert_refused(answer, 503)


def test_registry_not_reachable_by_websocket(start_server: StartServer, begin: Begin) -> None:
    upload = begin(start_server())
    with upload.resume() as socket, locked_registry(upload.server):
        socket.chunk(DATA[SAFE : SAFE + 1000])
        assert socket.hear_until_the_end() == [("close", 1013)]


def _all_at_once(*questions: Callable[[], Answer]) -> list[Answer]:
    with ThreadPoolExecutor(len(questions)) as threads:
        return [future.result() for future in [threads.submit(question) for question in questions]]


@pytest.mark.parametrize("with_digest", [False, True])
def test_no_space(with_digest: bool, server_with_large_chunks: AppServer, begin: Begin) -> None:
    upload = begin(server_with_large_chunks, data=BIG)
    piece = BIG[ROOM - 20_000 : ROOM + 20_000]
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(piece).digest()).decode()}:" if with_digest else None
    headers = upload.chunk_headers(ROOM - 20_000, ROOM + 20_000, Content_Digest=digest)
    with limited_file_size(upload.server, ROOM):
        assert_refused(ask(upload.server.port, "PUT", upload.path, headers, piece), 507)
    if not with_digest:
        upload.accept_growth()  # what was written before the disk was full counts


def test_no_space_for_the_registry(server_with_large_chunks: AppServer, begin: Begin) -> None:
    upload = begin(server_with_large_chunks)
    with limited_file_size(upload.server, 1):
        answer = ask(upload.server.port, "POST", "/incoming/backend/new_upload?signalFinishURL=/api/arrived", KEY)
    assert answer.status in (503, 507)
    assert_refused(answer, answer.status)


class Patient(OneWorker):
    """Ends only when its connections do, or after half a minute."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--keep-alive", "25"]


def test_shutting_down(tmp_path: Path) -> None:
    """On connections that are open already, what comes now is sent away."""
    with Patient("gevent", tmp_path) as server, ExitStack() as stack:
        upload = stack.enter_context(closing(Upload(server)))
        socket = stack.enter_context(upload.resume())
        kept = [stack.enter_context(Connection(server.port)) for _ in range(4)]
        for connection in kept:
            connection.send(request("GET", "/page"))
            assert connection.answer().status == 200
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGTERM)
        assert socket.hear_until_the_end() == [("close", 1012)]
        piece = upload.chunk_headers(SAFE, SAFE + 5)
        kept[0].send(request("GET", UPLOAD_WS, tuple(handshake_headers().items())))
        kept[1].send(request("PUT", upload.path, piece, PIECE))
        kept[2].send(request("POST", upload.path, [("Incoming-Length", str(len(DATA))), ("Incoming-Name", "a")], b""))
        assert_refused(kept[0].answer(), 503)
        late = kept[1].answer()  # bytes are still heard for a second: no proxy could pass them on
        assert_refused(late, 409 if late.status == 409 else 503)  # the WebSocket has replaced this session
        assert_refused(kept[2].answer(), 503)
        kept[3].send(request("GET", upload.path))
        assert kept[3].answer().json()["received"] == SAFE
        stack.pop_all().close()
        server.stop()
        server.start()
        with closing(Upload(server, upload.ticket, safe=0)) as again:
            assert again.before == upload.before
            again.complete()
