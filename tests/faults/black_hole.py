"""Takeover while the link of the old connection is a black hole: the server hears nothing of its end."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from typing import TypeVar
from urllib.parse import urlsplit

import requests
from websocket import ABNF

from tests.support.chunk_client import ChunkClient
from tests.support.front_end_0_1 import FrontEnd
from tests.support.processes import AppServer, standing_still

from .laboratory import Campaign, Case
from .networks import CUTS, Network, missing
from .senders import sha256_of

T = TypeVar("T")

_LATEST = 2.0  # seconds in which a new connection may send
_LENGTH = 3_000_001  # bytes of the file
_CHUNK = 300_000  # that a client is in the middle of
_TURNED_AWAY = (None, 1012)  # how a WebSocket may have ended of which nothing was heard


def case(case: Case) -> None:
    data = case.random.randbytes(_LENGTH)
    with ExitStack() as stack:
        networks = [stack.enter_context(Network(number)) for number in (1, 2)]
        server = stack.enter_context(_killed(AppServer("gevent", case.folder, host="0.0.0.0").start()))
        ticket = server.ticket()
        here = f"http://127.0.0.1:{server.port}"
        urls = [*(f"http://{network.address}:{server.port}" for network in networks), here]
        clients = [case.random.choice(_CLIENTS)(url, ticket, data) for url in urls]
        for client, network in zip(clients, [*networks, None], strict=True):
            stack.enter_context(client.on(network))

        clients[0].connect()
        clients[0].open()
        for number, network in enumerate(networks):
            clients[number].send_some(case.random.randrange(_CHUNK))
            if case.random.random() < 0.7:
                clients[number].begin_a_chunk()
                case.injected("the old connection is in the middle of a chunk")
            _cut(case, network)
            _take_over(case, server, clients[number], clients[number + 1])

        is_finished_first = case.random.random() < 0.5
        if is_finished_first:
            clients[-1].finish()
        for network, client in zip(networks, clients, strict=False):
            network.mend()
            client.meddle()
        if not is_finished_first:
            clients[-1].finish()
        _assert_untouched(server, ticket, data)


@contextlib.contextmanager
def _killed(server: AppServer) -> Iterator[AppServer]:
    """At the end it is killed: it need not wait for connections that nothing comes over."""
    try:
        yield server
    finally:
        server.kill()


def _cut(case: Case, network: Network) -> None:
    how = case.random.choice(list(CUTS))
    network.cut(how)
    case.injected(how)


def _take_over(case: Case, server: AppServer, old: Client, new: Client) -> None:
    busy = server.busy_workers()
    idle = [pid for pid in server.workers() if pid not in busy]
    where, stopped = case.random.choice([("another worker", busy), ("the same worker", idle)])
    if not busy or not idle:
        where, stopped = "any worker", []
    with standing_still(stopped):
        new.connect()
    began = time.monotonic()
    position = new.open()
    took = time.monotonic() - began
    case.injected(f"takeover of {old.transport} by {new.transport}, on {where}")
    case.measured("seconds until the new connection may send", took)
    assert took <= _LATEST
    assert position >= old.acknowledged, f"{old.acknowledged} were acknowledged, and it goes on at {position}"


def _assert_untouched(server: AppServer, ticket: str, data: bytes) -> None:
    assert sha256_of(server, ticket) == sha256(data).hexdigest(), "the app has another file"
    events = server.events(ticket)
    assert [(event["kind"], event["sha256"]) for event in events] == [("finished", sha256(data).hexdigest())]


# -- clients ----------------------------------------------------------------------------------------------------


class Client(ABC):
    """One that sends a file, stops in the middle of it, and meddles when it can again.

    All that it does happens in a thread of its own, which is on its network.
    """

    transport: str

    def __init__(self, url: str, ticket: str, data: bytes) -> None:
        self._url = url
        self._ticket = ticket
        self._data = data
        self._begun = 0  # bytes of the chunk that is on its way
        self.acknowledged = 0

    @contextlib.contextmanager
    def on(self, network: Network | None) -> Iterator[None]:
        """Live on this network; without one, on ours."""
        with ThreadPoolExecutor(1) as self._thread:
            if network is not None:
                self._do(network.enter)
            try:
                yield
            finally:
                self._do(self._close)

    def connect(self) -> None:
        self._do(self._connect)

    def open(self) -> int:
        """Take the upload over; gives where to go on."""
        self.acknowledged = self._do(self._open)
        return self.acknowledged

    def send_some(self, count: int) -> None:
        """Until so many further bytes, at least, are acknowledged."""
        self.acknowledged = self._do(lambda: self._send(min(self.acknowledged + count, _LENGTH - 2 * _CHUNK)))

    def begin_a_chunk(self) -> None:
        self._begun = random.Random(self._ticket).randrange(1, _CHUNK)
        self._do(self._begin)

    def finish(self) -> None:
        self._do(self._finish)

    def meddle(self) -> None:
        """Go on as if nothing had been, with bytes that are not of this file.

        :raises AssertionError: the server took any.
        """
        self._do(self._meddle)

    @property
    def _rest(self) -> bytes:
        """What it ends the chunk with that it has begun."""
        return bytes(_CHUNK - self._begun)

    def _do(self, work: Callable[[], T]) -> T:
        return self._thread.submit(work).result(40)

    @abstractmethod
    def _connect(self) -> None: ...

    @abstractmethod
    def _open(self) -> int: ...

    @abstractmethod
    def _send(self, end: int) -> int: ...

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...

    @abstractmethod
    def _meddle(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class OverHTTP(Client):
    transport = "HTTP"
    _body: socket.socket | None = None

    def _connect(self) -> None:
        self._client = ChunkClient(self._url, self._ticket, self._data)
        self._client.http.get(f"{self._url}/incoming/ready", timeout=10).raise_for_status()

    def _open(self) -> int:
        offset: int = self._client.open()["offset"]
        return offset

    def _send(self, end: int) -> int:
        if end > self.acknowledged:
            self._client.answer(self._client.put(self.acknowledged, end))
        return end

    def _begin(self) -> None:
        host, _, port = urlsplit(self._url).netloc.partition(":")
        start = self.acknowledged
        self._body = socket.create_connection((host, int(port)), timeout=30)
        self._body.sendall(self._client.head(start, start + _CHUNK) + self._data[start : start + self._begun])

    def _meddle(self) -> None:
        status = b""
        if self._body is not None:
            with contextlib.suppress(ConnectionError):
                self._body.sendall(self._rest)
                status = self._body.recv(20)
            assert status[:12] in (b"", b"HTTP/1.1 409"), status
        with contextlib.suppress(requests.ConnectionError):
            self._client.data = bytes(_LENGTH)
            answer = self._client.put(self.acknowledged, self.acknowledged + _CHUNK)
            assert (answer.status_code, answer.json()["error"]["name"]) == (409, "replaced")

    def _finish(self) -> None:
        assert self._client.wait(self._client.send(self._client.status()))["phase"] == "finished"

    def _close(self) -> None:
        if self._body is not None:
            self._body.close()
        if hasattr(self, "_client"):
            self._client.http.close()


class OverWebSocket(Client):
    transport = "WebSocket"

    def _connect(self) -> None:
        self._front_end = FrontEnd(self._url, self._ticket, self._data)

    def _open(self) -> int:
        return self._front_end.open()

    def _send(self, end: int) -> int:
        self._front_end.send_chunks(end)
        return self._front_end.acked

    def _begin(self) -> None:
        start = self._front_end.position
        chunk = self._data[start : start + self._begun] + self._rest
        self._frame = ABNF.create_frame(chunk, ABNF.OPCODE_BINARY).format()
        self._frame_begun = len(self._frame) - len(self._rest)
        self._send_raw(self._frame[: self._frame_begun])

    def _send_raw(self, piece: bytes) -> None:
        assert self._front_end.socket.sock is not None
        self._front_end.socket.sock.sendall(piece)

    def _meddle(self) -> None:
        with contextlib.suppress(OSError):
            if self._begun:
                self._send_raw(self._frame[self._frame_begun :])
            else:
                self._front_end.socket.send_binary(self._rest)
        assert self._front_end.closing_code() in _TURNED_AWAY

    def _finish(self) -> None:
        self._front_end.send_chunks()
        self._front_end.finish()

    def _close(self) -> None:
        if hasattr(self, "_front_end"):
            self._front_end.vanish()


_CLIENTS: tuple[type[Client], ...] = (OverHTTP, OverWebSocket)

CAMPAIGN = Campaign(
    name="black-hole",
    about="links that swallow everything: a new connection may send within 2 s, the old one changes nothing",
    case=case,
    short=12,
    full=200,
    missing=missing,
)
