"""Front ends that come back after each failure, and insist: what was acknowledged is never asked for again."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from websocket import WebSocketException

from .chunk_client import ChunkClient, Refused
from .front_end_0_1 import Closed, FrontEnd

#: Bytes of a chunk over HTTP; less than the server allows, so that there are some of them.
_CHUNK = 700_000

#: Bytes that are on their way over HTTP when the server is struck; as many as 0.1 allows on a WebSocket.
_WINDOW = 2 * 1024 * 1024

_PATIENCE = 60.0
_PAUSE = 0.05
_TROUBLE = (OSError, WebSocketException, Closed, requests.RequestException)


class Stubborn(ABC):
    """One file on its way to a server that is struck again and again."""

    def __init__(self, url: str, ticket: str, data: bytes) -> None:
        self._url = url
        self._ticket = ticket
        self._data = data

    @abstractmethod
    def be_struck(self, at: int, strike: Callable[[], None]) -> None:
        """Have ``at`` bytes acknowledged, send more, and call ``strike`` while that is on its way."""

    def finish(self) -> None:
        """Until the server says that the app has the file."""
        self._until_no_trouble(self._upload)

    @abstractmethod
    def _upload(self) -> None: ...

    @staticmethod
    def _until_no_trouble(work: Callable[[], None]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return work()
            except (*_TROUBLE, Refused) as error:
                # 503: a worker that ends
                if time.monotonic() > deadline or (isinstance(error, Refused) and error.status != 503):
                    raise
            time.sleep(_PAUSE)


class StubbornFrontEnd(Stubborn):
    """Over the WebSocket, by the protocol of 0.1."""

    def __init__(self, url: str, ticket: str, data: bytes) -> None:
        super().__init__(url, ticket, data)
        self._acked = 0

    def be_struck(self, at: int, strike: Callable[[], None]) -> None:
        self._until_no_trouble(lambda: self._send_up_to(at))
        with self._opened() as front_end:
            while front_end.position < len(self._data) and front_end.chunks_ahead < front_end.send_ahead:
                front_end.send_chunk(self._data[front_end.position : front_end.position + front_end.chunk_size])
            strike()
            with contextlib.suppress(Closed):
                while front_end.chunks_ahead:
                    front_end.take_ack()

    def _send_up_to(self, count: int) -> None:
        with self._opened() as front_end:
            front_end.send_chunks(count)

    def _upload(self) -> None:
        with self._opened() as front_end:
            front_end.send_chunks()
            front_end.finish()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[FrontEnd]:
        front_end = FrontEnd(self._url, self._ticket, self._data)
        try:
            assert front_end.open() >= self._acked, "what was acknowledged is asked for again"
            yield front_end
        finally:
            self._acked = max(self._acked, front_end.acked)
            front_end.vanish()


class StubbornChunks(Stubborn):
    """Over HTTP."""

    def __init__(self, url: str, ticket: str, data: bytes) -> None:
        super().__init__(url, ticket, data)
        self._missing = [[0, len(data)]]

    def be_struck(self, at: int, strike: Callable[[], None]) -> None:
        self._until_no_trouble(lambda: self._send_up_to(at))
        with self._opened() as (client, _), ThreadPoolExecutor(1) as lane:
            start, end = self._missing[0]
            on_its_way = lane.submit(client.put, start, min(start + _WINDOW, end))
            strike()
            with contextlib.suppress(requests.RequestException):
                self._note(on_its_way.result())

    def _send_up_to(self, count: int) -> None:
        with self._opened() as (client, _):
            while self._missing and self._missing[0][0] < count:
                start, end = self._missing[0]
                self._note(client.put(start, min(start + _CHUNK, end, count)))

    def _upload(self) -> None:
        self._send_up_to(len(self._data))
        with self._opened() as (client, status):
            assert client.wait(status)["phase"] == "finished"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[ChunkClient, dict[str, Any]]]:
        client = ChunkClient(self._url, self._ticket, self._data)
        try:
            status = client.open()
            self._remember(status)
            yield client, status
        finally:
            client.http.close()

    def _note(self, response: requests.Response) -> dict[str, Any]:
        response.raise_for_status()
        status: dict[str, Any] = response.json()
        self._remember(status)
        return status

    def _remember(self, status: dict[str, Any]) -> None:
        for start, end in status["missing"]:
            known = any(first <= start and end <= last for first, last in self._missing)
            assert known, f"{start} to {end} was acknowledged, and is asked for again"
        self._missing = status["missing"]


STUBBORN: dict[str, type[Stubborn]] = {"http": StubbornChunks, "websocket": StubbornFrontEnd}
