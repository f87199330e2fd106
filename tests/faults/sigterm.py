"""Servers that are told to end, to reload, or to renew a worker, while files arrive over both transports."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .laboratory import Campaign, Case
from .senders import SENDERS, ChunkSender, Sender, assert_whole, finish_all

_GONE = 5.0  # seconds in which whoever is told to end is gone
_BACK = 3.0  # seconds in which a chunk client gets on again, where another worker is there all the time
_SECONDS = 60.0  # that all may take to get to their ends
_TURNED_AWAY = 1012  # the code by which a front end comes again at once
_MAX_REQUESTS = 40

_RENEWED = re.compile(r"\[(\d+)\] \[INFO\] Autorestarting worker")


def case(case: Case) -> None:
    kind = case.random.choice(["gevent", "gthread"])
    what = list(_ORDERS)[case.number % len(_ORDERS)]
    options = ("--max-requests", str(_MAX_REQUESTS)) if what == "--max-requests" else ()
    senders: list[Sender] = []
    threads: list[Sender | SlowSender] = []
    server = AppServer(kind, case.folder, options=options)
    try:
        server.start()
        for number in range(4):
            data = case.random.randbytes(case.random.randrange(1_000_000, 3_000_000))
            chunk, pause = case.random.randrange(20_000, 100_000), case.random.uniform(0, 0.1)
            senders.append(SENDERS[number % 2](server.url, server.ticket(), data, chunk, pause))
        slow = SlowSender(server.url, server.ticket(), case.random.randbytes(500_000))
        waiting = ChunkSender(server.url, server.ticket(answer="wait"), b"taken slowly", 100, 0)
        threads += [*senders, slow, waiting]
        for thread in threads:
            thread.start()
        eventually(lambda: all(sender.acknowledged for sender in senders) and slow.sent, what="bytes under way")
        eventually(lambda: server.events(waiting.ticket), what="a client that waits for the app")
        case.injected(f"{what} ({kind})")
        _ORDERS[what](case, server)
        slow.end()
        senders.append(ChunkSender(server.url, slow.ticket, slow.data, 100_000, 0, sent=slow.sent))
        threads.append(senders[-1])
        senders[-1].start()
        requests.post(f"{server.url}/finish/{waiting.ticket}", timeout=10).raise_for_status()
        finish_all([*senders, waiting], _SECONDS)
        _judge(case, server, senders, always_served=what != "SIGTERM to the master")
    finally:
        for thread in threads:
            thread.give_up()
        if server.process is not None:
            server.kill()


def _judge(case: Case, server: AppServer, senders: list[Sender], *, always_served: bool) -> None:
    for sender in senders:
        assert_whole(server, sender)
        assert set(sender.closed_with) <= {_TURNED_AWAY}, f"WebSockets were closed with {sender.closed_with}"
        if isinstance(sender, ChunkSender) and always_served:
            for gap in sender.gaps:
                case.measured("seconds until a chunk client got on", gap)
                assert gap <= _BACK


# -- orders -----------------------------------------------------------------------------------------------------


def _end_the_master(case: Case, server: AppServer) -> None:
    assert server.process is not None
    master, workers = server.process, server.workers()
    began = time.monotonic()
    os.kill(master.pid, signal.SIGTERM)
    _await_end(case, workers, began)
    eventually(lambda: not master.is_running, _GONE, "the end of the master")
    server.start()


def _end_a_worker(case: Case, server: AppServer) -> None:
    worker = case.random.choice(server.busy_workers())
    began = time.monotonic()
    os.kill(worker, signal.SIGTERM)
    _await_end(case, [worker], began)


def _reload(case: Case, server: AppServer) -> None:
    assert server.process is not None
    workers = server.workers()
    began = time.monotonic()
    os.kill(server.process.pid, signal.SIGHUP)
    _await_end(case, workers, began)


def _renew(case: Case, server: AppServer) -> None:
    """A worker that has had so many requests ends by itself; it says so in the log."""

    def is_told() -> re.Match[str] | None:
        with contextlib.suppress(requests.RequestException):  # the uploads alone may be too few
            requests.get(f"{server.url}/incoming/ready", timeout=5)
        return _RENEWED.search(server.log())

    worker = int(eventually(is_told, 30, "a worker that has had enough")[1])
    _await_end(case, [worker], time.monotonic())


def _await_end(case: Case, pids: list[int], began: float) -> None:
    for pid in pids:
        gone = Path(f"/proc/{pid}")
        eventually(lambda: not gone.exists(), began + _GONE - time.monotonic(), f"the end of process {pid}")  # noqa: B023
        case.measured("seconds until a worker was gone", time.monotonic() - began)


_ORDERS: Mapping[str, Callable[[Case, AppServer], None]] = {
    "SIGTERM to the master": _end_the_master,
    "SIGTERM to a worker": _end_a_worker,
    "SIGHUP": _reload,
    "--max-requests": _renew,
}


# -- a sender of one byte a second --------------------------------------------------------------------------------


class SlowSender(threading.Thread):
    """A chunk client in the middle of one endless body.

    :ivar sent: bytes, so far.
    """

    def __init__(self, url: str, ticket: str, data: bytes) -> None:
        super().__init__(daemon=True)
        self.ticket = ticket
        self.data = data
        self.sent = 0
        self._url = url
        self._answer = b""
        self._given_up = False

    def run(self) -> None:
        client = ChunkClient(self._url, self.ticket, self.data)
        client.open()
        client.http.close()
        host, _, port = urlsplit(self._url).netloc.partition(":")
        with socket.create_connection((host, int(port))) as connection, contextlib.suppress(OSError):
            connection.sendall(client.head(0, len(self.data)))
            connection.settimeout(1)  # a byte a second, and the end at once
            while not self._given_up:
                connection.sendall(self.data[self.sent : self.sent + 1])
                self.sent += 1
                with contextlib.suppress(TimeoutError):
                    self._answer = connection.recv(4096)
                    return

    def end(self) -> None:
        """End it, where the server has not: its worker may be one that goes on.

        :raises AssertionError: the server had ended it by an answer that a front end would give up for.
        """
        self.give_up()
        self.join(_GONE)
        status = self._answer.split(b" ")[1:2]
        assert status in ([], [b"200"], [b"503"]), self._answer

    def give_up(self) -> None:
        self._given_up = True


CAMPAIGN = Campaign(
    name="sigterm",
    about="SIGTERM, SIGHUP and --max-requests under load: workers go at once, front ends go on elsewhere",
    case=case,
    short=5,
    full=500,
)
