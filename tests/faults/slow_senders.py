"""Strangers who send a byte in ten seconds, hundreds at once, in every dialect: cut soon, hardly noticed meanwhile."""

from __future__ import annotations

import resource
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.bad_inputs.wire import BINARY, WebSocket, frame_head, request
from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer, memory_of
from tests.support.waiting import eventually

from .laboratory import Campaign, Case

_SHORT, _FULL = 200, 2000  # senders
_PAUSE = 10.0  # seconds from one byte to the next
_CUT_AFTER = 30.0  # seconds
_GRACE = 6.0  # seconds more on a machine that has other things to do
_MOST_MEMORY = 100 * 2**20  # bytes, of all server processes
_HEALTHY = 16 * 2**20  # bytes of a file of somebody with a good connection
_ROUNDS = 12  # of these, whose best counts: others may use this machine, too
_OPENERS = 8  # threads
_LOOK = 0.2  # seconds between two looks who has been cut
_LEAST_SPEED = 0.8  # of what it is without the strangers

_LENGTH = 1_000_000  # bytes of the files that never come
_PARTS = "application/offset+octet-stream"


def case(case: Case) -> None:
    count = _FULL if case.full else _SHORT
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with AppServer("gevent", case.folder, options=("--worker-connections", str(2 * count))) as server:
        alone = _speed(case, server)
        before = memory_of(server.workers())
        with _Crowd() as crowd, ThreadPoolExecutor(_OPENERS) as pool:
            list(pool.map(lambda number: crowd.add(_open(server, number)), range(count)))
            beside = _watch(case, server, crowd, before)
            _check(case, server, crowd.senders)
        if beside < _LEAST_SPEED * alone:  # was it they, or has something else begun on this machine?
            alone = min(alone, _speed(case, server))
        case.measured("speed beside them, of that without", beside / alone)
        assert beside >= _LEAST_SPEED * alone


def _watch(case: Case, server: AppServer, crowd: _Crowd, before: int) -> float:
    """Until all have been cut; gives the speed of somebody else meanwhile."""
    beside, deadline = 0.0, time.monotonic() + _CUT_AFTER + _GRACE
    while alive := crowd.alive():
        assert time.monotonic() < deadline, f"{len(alive)} were not cut: {alive[0].kind}"
        case.measured("senders at the same time", len(alive))
        beside = max(beside, _speed(case, server))
        more = memory_of(server.workers()) - before
        case.measured("memory of the servers, MiB more", more / 2**20)
        assert more < _MOST_MEMORY
    return beside


def _check(case: Case, server: AppServer, senders: list[_Sender]) -> None:
    for sender in senders:
        case.injected(f"a byte in {_PAUSE:.0f} s: {sender.kind}")
        case.measured("seconds until the cut", sender.cut_at - sender.began)
        assert sender.cut_at - sender.began < _CUT_AFTER + _GRACE
    for sender in senders[:8]:  # who was only slow loses nothing
        client = ChunkClient(server.url, sender.ticket, bytes(_LENGTH))
        assert client.status()["phase"] == "uploading"
        client.http.close()


def _speed(case: Case, server: AppServer) -> float:
    """Bytes per second of a file that somebody sends meanwhile; at least one has to arrive."""
    data, best = case.random.randbytes(_HEALTHY), 0.0
    for _ in range(_ROUNDS):
        client = ChunkClient(server.url, server.ticket(), data)
        began = time.monotonic()
        client.send(client.open())
        best = max(best, len(data) / (time.monotonic() - began))
        eventually(lambda client=client: client.status()["phase"] == "finished")  # type: ignore[misc]
        client.http.close()
    return best


# -- strangers --------------------------------------------------------------------------------------------------


@dataclass
class _Sender:
    """:ivar began: when it had said how much it would send."""

    kind: str
    ticket: str
    socket: socket.socket
    began: float
    cut_at: float = 0.0
    _dripped_at: float = 0.0

    def drip(self) -> None:
        if time.monotonic() - self._dripped_at >= _PAUSE:
            self._dripped_at = time.monotonic()
            try:
                self.socket.send(b"x")
            except OSError:
                self.cut_at = self.cut_at or time.monotonic()

    def is_cut(self) -> bool:
        """Whether the server has said something, or hung up."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if not self.cut_at and poll.poll(0):
            self.cut_at = time.monotonic()
        return self.cut_at > 0


class _Crowd:
    """Has all of them drip, from the moment that they are there."""

    def __init__(self) -> None:
        self.senders: list[_Sender] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def add(self, sender: _Sender) -> None:
        self.senders.append(sender)

    def alive(self) -> list[_Sender]:
        return [sender for sender in list(self.senders) if not sender.cut_at]

    def _run(self) -> None:
        while not self._is_over.wait(_LOOK):
            for sender in self.alive():
                if not sender.is_cut():
                    sender.drip()

    def __enter__(self) -> _Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        for sender in self.senders:
            sender.socket.close()


def _open(server: AppServer, number: int) -> _Sender:
    kind = list(_KINDS)[number % len(_KINDS)]
    ticket = server.ticket()
    sock = _KINDS[kind](server, ticket)
    return _Sender(kind, ticket, sock, time.monotonic())


def _chunk(server: AppServer, ticket: str) -> socket.socket:
    client = ChunkClient(server.url, ticket, bytes(_LENGTH))
    client.open()
    client.http.close()
    return _connected(server, client.head(0, _LENGTH))


def _tus(server: AppServer, ticket: str) -> socket.socket:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(_LENGTH), "Content-Type": _PARTS}
    length = {"Content-Length": str(_LENGTH)}
    path = f"/incoming/frontend/uploads?ticket={ticket}"
    return _connected(server, request("POST", path, {**headers, **length}.items()))


def _draft(server: AppServer, ticket: str) -> socket.socket:
    headers = {"Upload-Complete": "?1", "Content-Type": "text/plain", "Content-Length": str(_LENGTH)}
    return _connected(server, request("POST", f"/incoming/frontend/uploads/{ticket}", headers.items()))


def _chunked(server: AppServer, ticket: str) -> socket.socket:
    headers = {"Upload-Complete": "?1", "Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
    return _connected(server, request("POST", f"/incoming/frontend/uploads/{ticket}", headers.items()) + b"fffff\r\n")


def _websocket(server: AppServer, ticket: str) -> socket.socket:
    websocket = WebSocket(server.port)
    websocket.say("MsgUploadReq", Id=ticket, LengthBytes=_LENGTH, Name="x")
    assert websocket.hear()[0] == "MsgUploadConf"
    websocket.say("MsgAck", Ack=True)
    websocket.send(frame_head(BINARY, 500_000) + bytes(4))
    return websocket.socket


def _connected(server: AppServer, head: bytes) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connected.sendall(head)
    return connected


_KINDS: Mapping[str, Callable[[AppServer, str], socket.socket]] = {
    "a chunk": _chunk,
    "tus": _tus,
    "the drafts": _draft,
    "chunked coding": _chunked,
    "a WebSocket": _websocket,
}


CAMPAIGN = Campaign(
    name="slow-senders",
    about="hundreds who send a byte in ten seconds: cut within 30 s, with little memory, and others do not suffer",
    case=case,
    short=1,
    full=1,
    jobs=1,
    timeout=300,
)
