"""tus byte by byte against real gunicorn: what only a server can do, or do wrong."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.bad_inputs.conftest import OneWorker
from tests.bad_inputs.wire import Answer, Connection
from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .conftest import StartServer, assert_arrived_once, data_of, sha256

requirement = pytest.mark.requirement

UPLOADS = "/incoming/frontend/uploads"
DATA = data_of(300_000)
BYTES = "Content-Type: application/offset+octet-stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with AppServer("gevent", tmp_path_factory.mktemp("tus")) as started:
        yield started


@pytest.fixture
def connection(server: AppServer) -> Iterator[Connection]:
    with Connection(server.port) as opened:
        yield opened


def send_head(connection: Connection, method: str, path: str, *headers: str) -> None:
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", "Tus-Resumable: 1.0.0", *headers)
    connection.send("".join(f"{line}\r\n" for line in (*lines, "")).encode())


def ask(connection: Connection, method: str, path: str, *headers: str, body: bytes = b"") -> Answer:
    length = (f"Content-Length: {len(body)}",) if body else ()
    send_head(connection, method, path, *headers, *length)
    connection.send(body)
    return connection.answer(method)


def create(connection: Connection, server: AppServer, length: int = len(DATA)) -> str:
    """The path of a new upload."""
    answer = ask(
        connection, "POST", f"{UPLOADS}?ticket={server.ticket()}", f"Upload-Length: {length}", "Content-Length: 0"
    )
    assert answer.status == 201
    return urlsplit(answer.headers["location"]).path


def offset(connection: Connection, path: str) -> int:
    return int(ask(connection, "HEAD", path).headers["upload-offset"])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@requirement("tus-28")
def test_a_whole_upload_on_one_connection(server: AppServer, connection: Connection) -> None:
    path = create(connection, server)
    for start in range(0, len(DATA), 100_000):
        assert offset(connection, path) == start
        refused = ask(connection, "PATCH", path, "Upload-Offset: 7", BYTES, body=b"GET /page HTTP/1.1\r\n\r\n")
        assert refused.status == 409
        piece = DATA[start : start + 100_000]
        assert ask(connection, "PATCH", path, f"Upload-Offset: {start}", BYTES, body=piece).status == 204
    assert_arrived_once(server, path.rpartition("/")[2], sha256(DATA))


@requirement("tus-26")
def test_chunked_coding(server: AppServer, connection: Connection) -> None:
    path = create(connection, server)
    send_head(connection, "PATCH", path, "Upload-Offset: 0", BYTES, "Transfer-Encoding: chunked")
    for start in range(0, len(DATA), 70_001):
        connection.send(chunk(DATA[start : start + 70_001]))
    connection.send(b"0\r\n\r\n")
    answer = connection.answer()
    assert (answer.status, answer.headers["upload-offset"]) == (204, str(len(DATA)))
    assert_arrived_once(server, path.rpartition("/")[2], sha256(DATA))


@requirement("tus-24")
def test_chunked_coding_beyond_the_end(server: AppServer, connection: Connection) -> None:
    path = create(connection, server, 1000)
    send_head(connection, "PATCH", path, "Upload-Offset: 0", BYTES, "Transfer-Encoding: chunked")
    connection.send(chunk(DATA[:600]) + chunk(DATA[600:1100]) + b"0\r\n\r\n")
    assert connection.answer().status == 413
    with Connection(server.port) as other:
        assert offset(other, path) <= 1000


@requirement("tus-30")
@pytest.mark.parametrize("rest", [b"zz\r\nxx\r\n0\r\n\r\n", b"5\r\nxx", b"-1\r\n", b"ffffffffffffffffff\r\nx"])
def test_broken_chunks(server: AppServer, connection: Connection, rest: bytes) -> None:
    path = create(connection, server)
    send_head(connection, "PATCH", path, "Upload-Offset: 0", BYTES, "Transfer-Encoding: chunked")
    connection.send(chunk(DATA[:1000]) + rest)
    connection.send_nothing_more()
    connection.everything()
    with Connection(server.port) as other:
        found = offset(other, path)
        assert found <= 1002
        body = DATA[found:]
        assert ask(other, "PATCH", path, f"Upload-Offset: {found}", BYTES, body=body).status == 204


@requirement("tus-27")
@pytest.mark.parametrize(("start", "status"), [(0, 204), (5, 409)])
def test_asking_before_the_body_is_sent(server: AppServer, connection: Connection, start: int, status: int) -> None:
    path = create(connection, server)
    head = (f"Upload-Offset: {start}", BYTES, "Content-Length: 1000", "Expect: 100-continue")
    send_head(connection, "PATCH", path, *head)
    if status == 204:
        connection.socket.settimeout(10)
        assert connection.socket.recv(25).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(DATA[:1000])
        assert connection.answer().status == 204
    else:
        assert b" 409 Conflict\r\n" in connection.everything()


@requirement("tus-28")
def test_after_a_refusal_the_body_is_no_request(server: AppServer, connection: Connection) -> None:
    path = create(connection, server)
    inside = b"DELETE " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n\r\n"
    answer = ask(connection, "PATCH", path, "Upload-Offset: 5", BYTES, body=inside * 100)
    assert answer.status == 409
    with Connection(server.port) as other:
        assert offset(other, path) == 0


def trailed(connection: Connection, path: str, data: bytes, *trailers: str) -> Answer:
    head = ("Upload-Offset: 0", BYTES, "Transfer-Encoding: chunked", "Trailer: Upload-Checksum")
    send_head(connection, "PATCH", path, *head)
    connection.send(chunk(data) + b"0\r\n" + "".join(f"{line}\r\n" for line in (*trailers, "")).encode())
    return connection.answer()


@requirement("tus-61")
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_checksum_behind_the_body(server: AppServer, connection: Connection, algorithm: str) -> None:
    path = create(connection, server)
    options = ask(connection, "OPTIONS", path)
    assert "checksum-trailer" in options.headers["tus-extension"].split(",")
    right = base64.b64encode(hashlib.new(algorithm, DATA).digest()).decode()
    for trailers, status in (
        ([f"Upload-Checksum: {algorithm} {right[::-1].lstrip('=')}{'=' * right.count('=')}"], 460),
        ([], 400),
        (["Upload-Checksum: nonsense"], 400),
        ([f"Upload-Checksum: {algorithm} {right}"], 204),
    ):
        assert trailed(connection, path, DATA, *trailers).status == status
        assert offset(connection, path) == (len(DATA) if status == 204 else 0)


@requirement("tus-61")
@pytest.mark.parametrize("kind", ["gevent-pywsgi", "waitress", "cheroot"])
def test_no_checksum_behind_the_body_where_the_server_drops_it(start_server: StartServer, kind: str) -> None:
    server = start_server(kind)
    with Connection(server.port) as connection:
        assert "checksum-trailer" not in ask(connection, "OPTIONS", UPLOADS).headers["tus-extension"]


@requirement("tus-22", "tus-65", "tus-81", "tus-82")
@pytest.mark.parametrize("end", ["HEAD", "PATCH", "DELETE"])
def test_a_connection_that_hangs_is_not_waited_for(server: AppServer, end: str) -> None:
    """Its first bytes are there, and recorded soon; then the network is gone, and nobody has told the server."""
    with Connection(server.port) as hanging, Connection(server.port) as other:
        path = create(other, server)
        send_head(hanging, "PATCH", path, "Upload-Offset: 0", BYTES, f"Content-Length: {len(DATA)}")
        hanging.send(DATA[:100_000])
        eventually(lambda: look(other, path) == 100_000, what="the first bytes being recorded")
        if end == "DELETE":
            assert ask(other, "DELETE", path).status == 204
            assert ask(other, "HEAD", path).status == 410
            return
        if end == "HEAD":
            assert offset(other, path) == 100_000
        rest = DATA[100_000:]
        answer = ask(other, "PATCH", path, "Upload-Offset: 100000", BYTES, body=rest)
        assert (answer.status, answer.headers["upload-offset"]) == (204, str(len(DATA)))
        hanging.send(b"late bytes")
    assert_arrived_once(server, path.rpartition("/")[2], sha256(DATA))


@requirement("tus-81")
def test_who_was_replaced_hears_of_it(tmp_path: Path) -> None:
    """In the same process even while nothing comes from there any more; so it does not go on as if nothing was."""
    with OneWorker("gevent", tmp_path) as server, Connection(server.port) as hanging, Connection(server.port) as other:
        path = create(other, server)
        send_head(hanging, "PATCH", path, "Upload-Offset: 0", BYTES, f"Content-Length: {len(DATA)}")
        hanging.send(DATA[:100_000])
        eventually(lambda: look(other, path) > 0, what="the first bytes being recorded")
        assert offset(other, path) == 100_000
        assert hanging.answer("PATCH").status == 409
        assert offset(other, path) == 100_000


def look(connection: Connection, path: str) -> int:
    """The offset as it is recorded, without a word to the one who sends."""
    connection.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return int(connection.answer("HEAD").headers["upload-offset"])


@requirement("tus-15", "tus-9")
def test_methods_in_place_of_post(server: AppServer, connection: Connection) -> None:
    path = create(connection, server)
    sent = ("X-HTTP-Method-Override: PATCH", "Upload-Offset: 0", BYTES)
    assert ask(connection, "POST", path, *sent, body=DATA[:10]).status == 204
    head = ask(connection, "POST", path, "X-HTTP-Method-Override: HEAD", "Content-Length: 0")
    assert (head.status, head.headers["upload-offset"], head.body) == (200, "10", b"")
    assert ask(connection, "POST", path, "X-HTTP-Method-Override: DELETE", "Content-Length: 0").status == 204
    refused = ask(connection, "POST", path, "X-HTTP-Method-Override: HEAD", "Content-Length: 0")
    assert refused.status == 410


@requirement("tus-12", "tus-15")
def test_no_answer_to_head_has_a_body(server: AppServer, connection: Connection) -> None:
    path = create(connection, server)
    for there, status in ((path, 200), (f"{path}x", 404), (UPLOADS, 404)):
        assert ask(connection, "HEAD", there).status == status  # the next answer would be garbage


@requirement("tus-22")
def test_an_upload_goes_on_after_the_server_was_killed(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    with Connection(server.port) as connection:
        path = create(connection, server)
        send_head(connection, "PATCH", path, "Upload-Offset: 0", BYTES, f"Content-Length: {len(DATA)}")
        connection.send(DATA[:200_000])
        with Connection(server.port) as other:
            eventually(lambda: look(other, path) == 200_000, what="the first bytes being recorded")
        server.kill()
    server.start()
    with Connection(server.port) as connection:
        assert offset(connection, path) == 200_000
        rest = DATA[200_000:]
        assert ask(connection, "PATCH", path, "Upload-Offset: 200000", BYTES, body=rest).status == 204
    assert_arrived_once(server, path.rpartition("/")[2], sha256(DATA))
