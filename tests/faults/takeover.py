"""Campaign: tus clients that do not know of each other send into one upload; what one was told is stored stays its own.

Each sends bytes that nobody else has. A byte that a ``PATCH`` was answered 204 for is in the file as that client sent
it, and the answers together are the whole file: none was mixed with another, none was stored twice.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from incoming_wsgi import frontend, intake
from tests.helpers import Engine
from tests.protocols.tus_client import BYTES, UPLOADS, Client, Dripping

from .laboratory import Campaign, Case

_LENGTH = 20_000  # bytes of the file
_LONGEST = 200  # bytes of one PATCH
_CLIENTS = 4
_PROCESSES = 2


@dataclass
class Sender:
    """One client, with bytes of its own.

    :ivar told: where the bytes are that it was told are stored: first position, and behind the last.
    """

    client: Client
    url: str
    data: bytes
    chance: random.Random
    told: list[tuple[int, int]] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    offset: int = 0

    def send_until(self, is_over: threading.Event) -> None:
        while not is_over.is_set():
            self._step()
            if self.offset == _LENGTH:
                is_over.set()

    def _step(self) -> None:
        if self.chance.random() < 0.3:
            self._look()
        end = min(self.offset + self.chance.randint(1, _LONGEST), _LENGTH)
        status, offset = self._patch(end)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 204:
            assert offset == end, f"{end} bytes would be there, and {offset} are said to be"
            self.told.append((self.offset, end))
            self.offset = end
        else:
            assert status in (403, 409), f"a PATCH was answered with {status}"
            self._look()

    def _look(self) -> None:
        self.offset = int(self.client.head(self.url).headers["Upload-Offset"])

    def _patch(self, end: int) -> tuple[int, int]:
        """Status and offset of the answer."""
        piece = self.data[self.offset : end]
        headers = {"Upload-Offset": str(self.offset), "Content-Type": BYTES}
        if self.chance.random() < 0.5:
            answer = self.client.ask("PATCH", self.url, piece, headers)
        else:
            headers["Transfer-Encoding"] = "chunked"
            environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
            dripping = Dripping(piece, lambda _: time.sleep(self.chance.choice((0, 0, 0.001))), step=50)
            answer = self.client.ask("PATCH", self.url, dripping, headers, environ)
        return answer.status_int, int(answer.headers.get("Upload-Offset", "-1"))


def case(case: Case) -> None:
    with _in_haste():
        engines = [Engine(case.folder) for _ in range(_PROCESSES)]
        ticket = engines[0].ticket(length=_LENGTH)
        clients = [Client(engine) for engine in engines]
        url = f"{UPLOADS}/{ticket}"
        senders = [
            Sender(
                clients[number % _PROCESSES], url, case.random.randbytes(_LENGTH), random.Random(case.random.random())
            )
            for number in range(_CLIENTS)
        ]
        is_over = threading.Event()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            for ended in [pool.submit(sender.send_until, is_over) for sender in senders]:
                ended.result(60)
        _compare(senders, engines[0].stored(ticket))
        for engine in engines:
            engine.close()
    for sender in senders:
        case.measured("PATCHes that were taken over, or came too late", sender.statuses.get(409, 0))
        case.injected("a client that goes on in the middle of another")


@contextmanager
def _in_haste() -> Iterator[None]:
    """Nobody waits for the app, nor long for others; and refusals, of which there are many, are not logged."""
    log = logging.getLogger("incoming_wsgi")
    level = log.level
    log.setLevel("ERROR")
    try:
        with (
            mock.patch.object(intake, "_WAIT_FOR_END", 0.01),
            mock.patch.object(frontend, "_LONGEST_INTERRUPTION", 0.05),
        ):
            yield
    finally:
        log.setLevel(level)


def _compare(senders: list[Sender], stored: bytes) -> None:
    told = sorted((start, end, number) for number, sender in enumerate(senders) for start, end in sender.told)
    position = 0
    for start, end, number in told:
        assert start == position, f"bytes {position} to {start} were acknowledged twice, or to nobody"
        assert stored[start:end] == senders[number].data[start:end], f"bytes {start} to {end} are not what was sent"
        position = end
    assert position == len(stored) == _LENGTH


CAMPAIGN = Campaign(
    name="takeover",
    about="4 tus clients on 2 processes send different bytes into one upload: what was acknowledged to one stays so",
    case=case,
    short=12,
    full=2000,
    in_memory=True,
)
