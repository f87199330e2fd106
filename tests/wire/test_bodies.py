"""Bodies of requests that come over a real connection, as a server would give it away."""

from __future__ import annotations

import io
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from incoming_wsgi.errors import TooSlow
from incoming_wsgi.wire import bodies, servers
from incoming_wsgi.wire.bodies import InputBody, RequestBody, SocketBody, body_of
from incoming_wsgi.wire.bulk import PIECE
from incoming_wsgi.wire.servers import RawBody

from .test_sockets import bytes_of, connected

DATA = random.Random(6).randbytes(PIECE + 12_345)


class Wire:
    """A client's end, and what a server knows of the other one."""

    def __init__(self) -> None:
        self.client, self.server = connected()
        self.counted = 0

    def body(self, length: int, *, read_ahead: bytes = b"", patience: float = 5.0) -> SocketBody:
        return SocketBody({}, length, patience, RawBody(self.server, read_ahead, self._count))

    def input_body(self, length: int, *, patience: float = 5.0) -> InputBody:
        environ: dict[str, Any] = {"wsgi.input": self.server.makefile("rb"), "gunicorn.socket": self.server}
        return InputBody(environ, length, patience)

    def _count(self, count: int) -> None:
        self.counted += count

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(params=["socket", "wsgi.input"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def body_on(wire: Wire, kind: str, length: int, **options: Any) -> RequestBody:
    return wire.body(length, **options) if kind == "socket" else wire.input_body(length, **options)


def all_of(body: RequestBody, *, splice: bool = False) -> bytes:
    data = b""
    while not body.has_ended:
        piece = body.read(splice=splice)
        data += b"".join(bytes(block) for block in piece.blocks())
    return data


@pytest.mark.parametrize("splice", [False, True])
def test_never_beyond_its_end(wire: Wire, splice: bool) -> None:
    """What follows is the next request."""
    threading.Thread(target=wire.client.sendall, args=(DATA[100:] + b"GET / HTTP/1.1",)).start()
    body = wire.body(len(DATA), read_ahead=DATA[:100])
    assert all_of(body, splice=splice) == DATA
    assert not body.was_cut
    assert body.path == ("splice" if splice else "socket")
    assert wire.counted == len(DATA) - 100  # the server knows of the first ones
    assert body.drain(1)
    body.close()
    assert wire.server.recv(100) == b"GET / HTTP/1.1"


def test_a_body_that_the_server_had_read_as_a_whole(wire: Wire) -> None:
    body = wire.body(5, read_ahead=b"12345")
    assert all_of(body, splice=True) == b"12345"
    assert not body.was_cut
    body.close()


def test_cut(wire: Wire, kind: str) -> None:
    wire.client.sendall(DATA[:1000])
    wire.client.shutdown(socket.SHUT_WR)
    body = body_on(wire, kind, 2000)
    assert all_of(body) == DATA[:1000]
    assert body.was_cut
    body.close()


def test_a_broken_connection_is_a_cut(wire: Wire) -> None:
    wire.client.sendall(b"12345")
    body = wire.body(10)
    assert bytes_of(body.read()) == b"12345"
    wire.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wire.client.close()
    assert not body.read()
    assert body.was_cut
    body.close()


def test_what_has_come_is_given_away_before_anybody_complains(wire: Wire, kind: str) -> None:
    wire.client.sendall(b"12345")
    body = body_on(wire, kind, 100, patience=0.2)
    assert bytes_of(body.read()) == b"12345"
    with pytest.raises(TooSlow):
        body.read()
    assert not body.drain(0.1)
    body.close()


def test_one_byte_now_and_then_is_too_slow(wire: Wire) -> None:
    """Each of them comes well within the patience; but no 1 KiB does."""
    gone = threading.Event()

    def drip() -> None:
        while not gone.wait(0.02):
            wire.client.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    body = wire.body(100_000, patience=0.3)
    try:
        with pytest.raises(TooSlow):
            all_of(body)
    finally:
        gone.set()
        thread.join()
        body.close()


def test_who_is_slow_because_we_are_is_not_too_slow(wire: Wire) -> None:
    """Only the time counts that we have waited."""
    body = wire.body(4000, patience=0.2)
    for start in (0, 2000):
        wire.client.sendall(DATA[start : start + 2000])
        assert bytes_of(body.read()) == DATA[start : start + 2000]
        time.sleep(0.3)  # a disk that takes its time
    body.close()


def test_ended_by_us(wire: Wire, kind: str) -> None:
    body = body_on(wire, kind, 1000, patience=60.0)
    wire.client.sendall(b"12345")
    threading.Timer(0.1, body.end).start()
    assert all_of(body) == b"12345"
    assert body.was_cut
    body.close()


def test_draining(wire: Wire, kind: str) -> None:
    wire.client.sendall(DATA[:5000] + b"next")
    body = body_on(wire, kind, 5000)
    assert body.drain(5)
    body.close()


def test_what_does_not_come_is_not_waited_for_and_the_connection_is_over(wire: Wire, kind: str) -> None:
    """Else a server would look for the next request in what is still to come of this one."""
    wire.client.sendall(DATA[:5000])
    body = body_on(wire, kind, 5001)
    assert not body.drain(0.2)
    body.close()
    assert wire.server.recv(1) == b""


def test_a_server_that_kills_busy_workers(wire: Wire, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body ends half way to that: what has come is safe, and the client goes on with a new request."""
    monkeypatch.setattr(servers, "longest_request", lambda environ: 0.4)
    gone = threading.Event()

    def send() -> None:
        while not gone.wait(0.05):
            wire.client.sendall(bytes(2000))

    thread = threading.Thread(target=send)
    thread.start()
    body = body_on(wire, kind, 10_000_000)
    try:
        assert all_of(body)
        assert body.was_cut
    finally:
        gone.set()
        thread.join()
        body.close()


def test_pieces_of_a_slow_body(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is given away after a second, here after less."""
    monkeypatch.setattr(bodies, "_LONGEST_WAIT", 0.05)
    body = wire.body(3_000_000)
    for text in (b"one", b"two"):
        wire.client.sendall(text)
        assert bytes_of(body.read(splice=True)) == text
    body.close()


def test_nothing_comes_for_a_while(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_LONGEST_WAIT", 0.01)
    body = wire.body(5)
    assert (len(body.read()), body.has_ended) == (0, False)
    wire.client.sendall(b"12345")
    assert (all_of(body), body.has_ended) == (b"12345", True)
    body.close()


def test_another_server_has_its_own_input() -> None:
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(b"12345"), "SERVER_PROTOCOL": "HTTP/1.1"}
    body = body_of(environ, 5, 1.0)
    assert isinstance(body, InputBody)
    assert body.path == "wsgi.input"
    assert all_of(body, splice=True) == b"12345"


class Dechunked:
    """``wsgi.input`` of a body in chunked coding, as servers give it: what is there, and nothing at the end.

    :param error: raised where the last chunk is missing.
    """

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = list(pieces)
        self._error = error

    def read(self, size: int) -> bytes:
        if self._pieces:
            piece = self._pieces.pop(0)
            assert len(piece) <= size
            return piece
        if self._error is not None:
            raise self._error
        return b""


def chunked(*pieces: bytes, error: Exception | None = None) -> RequestBody:
    body = body_of({"wsgi.input": Dechunked(*pieces, error=error), "wsgi.input_terminated": True}, None, 5.0)
    assert body is not None
    return body


def test_a_body_that_does_not_say_its_length() -> None:
    body = chunked(b"12345", b"6", b"789")
    assert body.length is None
    assert all_of(body) == b"123456789"
    assert body.has_ended
    assert not body.was_cut
    assert body.drain(1.0)


@pytest.mark.parametrize("error", [OSError("gone"), EOFError(), ValueError("what a server makes of it")])
def test_one_that_is_cut_keeps_what_came(error: Exception) -> None:
    body = chunked(b"12345", b"6", error=error)
    assert all_of(body) == b"123456"
    assert body.has_ended
    assert body.was_cut
    assert not body.drain(0.1)


def test_a_server_that_does_not_tell_the_end_of_such_a_body() -> None:
    assert body_of({"wsgi.input": Dechunked(b"1")}, None, 5.0) is None
