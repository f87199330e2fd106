"""WebSocket clients that keep to no limit: they cost a few MiB at most, and the others' uploads go on."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.bad_inputs.wire import BINARY, CONTINUATION, PING, TEXT, WebSocket, frame
from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer, memory_of

from .conftest import assert_arrived_once, data_of, sha256

MIB = 1 << 20
CHUNK = bytes(512 * 1024)
MOST_HELD = 8 * MIB


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """One worker, so that all of its memory is looked at; it has met an upload of each kind."""
    options = ("-w", "1")
    with AppServer(request.param, tmp_path_factory.mktemp("server"), options=options) as started:
        upload(started)
        with opened(started, 4 * len(CHUNK)) as websocket:
            for _ in range(4):
                websocket.chunk(CHUNK)
            websocket.hear_until_the_end()
        yield started


def opened(server: AppServer, length: int) -> WebSocket:
    websocket = WebSocket(server.port, timeout=60)
    websocket.say("MsgUploadReq", Id=server.ticket(), LengthBytes=length, Name="x")
    assert websocket.hear()[0] == "MsgUploadConf"
    websocket.say("MsgAck", Ack=True)
    return websocket


def upload(server: AppServer) -> None:
    """Somebody else's file arrives meanwhile."""
    data = data_of(3 * MIB)
    client = ChunkClient(server.url, server.ticket(), data)
    client.upload()
    assert_arrived_once(server, client.resource.rpartition("/")[2], sha256(data))
    client.http.close()


class Held:
    """Watches how much more memory the server has, at most."""

    def __init__(self, server: AppServer) -> None:
        self._pids = server.workers()
        self._before = memory_of(self._pids)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most = 0

    def __enter__(self) -> Held:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, memory_of(self._pids) - self._before)


def test_who_ignores_the_window_and_reads_no_acknowledgement(server: AppServer) -> None:
    """200 MiB at once, in chunks that are each acknowledged to nobody."""
    with opened(server, 400 * len(CHUNK)) as websocket, Held(server) as held:
        for _ in range(399):
            websocket.chunk(CHUNK)
        upload(server)
    assert held.most <= MOST_HELD


def test_who_sends_tiny_chunks_and_reads_no_acknowledgement(server: AppServer) -> None:
    """Each byte asks for an answer of 70: they are not heaped up for somebody who does not read them."""
    tiny = 1000 * frame(BINARY, b"x")
    with opened(server, 10**9) as websocket, Held(server) as held:
        websocket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        websocket.socket.settimeout(2)
        _send_until_nobody_reads(websocket, tiny, 300)
        upload(server)
    assert held.most <= MOST_HELD


def test_who_sends_pings_and_reads_no_pong(server: AppServer) -> None:
    pings = 1000 * frame(PING, 125 * b"p")
    with opened(server, 10**9) as websocket, Held(server) as held:
        websocket.socket.settimeout(2)
        _send_until_nobody_reads(websocket, pings, 200)
        upload(server)
    assert held.most <= MOST_HELD


def _send_until_nobody_reads(websocket: WebSocket, data: bytes, times: int) -> None:
    try:
        for _ in range(times):
            websocket.send(data)
    except (TimeoutError, ConnectionError):
        return


#: What has no end: its beginning, and what goes on.
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "fragments of a chunk": (frame(BINARY, b"x", fin=False), frame(CONTINUATION, b"x", fin=False)),
    "fragments of a text": (frame(TEXT, b"x", fin=False), frame(CONTINUATION, b"x", fin=False)),
    "empty fragments": (frame(BINARY, b"", fin=False), frame(CONTINUATION, b"", fin=False)),
    "fragments of 64 KiB": (frame(BINARY, b"x", fin=False), frame(CONTINUATION, bytes(65536), fin=False)),
    "a frame of exabytes": (struct.pack("!BBQ", 0x82, 0x80 | 127, 2**62) + bytes(4), bytes(65536)),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end(server: AppServer, what: str) -> None:
    start, more = ENDLESS[what]
    with opened(server, 10**9) as websocket, Held(server) as held:
        websocket.send(start)
        _send_until_nobody_reads(websocket, more * (1 + 65536 // len(more)), 100)
        assert _close_code(websocket) in (1009, None)
        upload(server)
    assert held.most <= MOST_HELD


def _close_code(websocket: WebSocket) -> int | None:
    """What the server said, if that was not lost with the connection."""
    kind, data = websocket.hear_until_the_end()[-1]
    assert kind in ("close", "end")
    return int(data) if kind == "close" else None
