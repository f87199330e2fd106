"""Load: hundreds of slow uploads at once, over both transports, for a long time; nothing else is done to them."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from statistics import mean, median

from tests.support.processes import AppServer, memory_of
from tests.support.waiting import eventually

from .laboratory import Campaign, Case
from .senders import SENDERS, Sender, finish_all

_UPLOADS = 300  # at the same time
_CHUNK = 32 * 1024  # bytes
_PAUSE = 2.0  # seconds from one acknowledgement to the next chunk
_SHORTEST, _LONGEST = 5, 20  # chunks of a file

_SHORT_SECONDS, _FULL_SECONDS = 30.0, 7200.0
_WINDOWS = 6  # that the time is divided into
_WARM_UP = 5.0  # seconds; by then every worker has met what there is
_MOST_GROWTH = 48 * 2**20  # bytes of memory of all server processes, from the first third to the last
_LATEST = 0.5  # seconds in which 99 of 100 acknowledgements come, in most windows; only the full campaign insists

#: Files are cut from this.
_POOL = random.Random(1).randbytes(4 * 2**20)


class Lane:
    """One upload after the other; each is checked and cleared away when it has ended."""

    def __init__(self, case: Case, server: AppServer, number: int) -> None:
        self._random = random.Random(f"{case.random.random()} {number}")
        self._kind = SENDERS[number % len(SENDERS)]
        self._server = server
        self.sender: Sender | None = None
        self.delays: list[tuple[float, float]] = []
        self.files = 0

    def run(self, over: threading.Event) -> None:
        over.wait(self._random.uniform(0, _PAUSE))  # not all at the same moment
        while not over.is_set():
            self.sender = self._next_sender()
            if over.is_set():
                self.sender.hurry()
            self.sender.start()
            self.sender.join()
            self._check(self.sender)

    def _next_sender(self) -> Sender:
        size = self._random.randrange(_SHORTEST * _CHUNK, _LONGEST * _CHUNK)
        start = self._random.randrange(len(_POOL) - size)
        ticket = self._server.ticket()
        return self._kind(self._server.url, ticket, _POOL[start : start + size], _CHUNK, _PAUSE, ahead=0)

    def _check(self, sender: Sender) -> None:
        finish_all([sender], 0)
        assert sender.troubles == [], sender.troubles
        path = self._server.file(sender.ticket)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(sender.data).digest(), "another file"
        path.unlink()
        self.delays += sender.delays
        self.files += 1


def case(case: Case) -> None:
    _raise_open_files()
    longest = min(_FULL_SECONDS, case.seconds) if case.full else _SHORT_SECONDS
    seconds = float(os.environ.get("INCOMING_LOAD_SECONDS", longest))
    over = threading.Event()
    with AppServer("gevent", case.folder, options=("--keep-alive", "30")) as server:
        lanes = [Lane(case, server, number) for number in range(_UPLOADS)]
        with ThreadPoolExecutor(_UPLOADS) as threads:
            running = [threads.submit(lane.run, over) for lane in lanes]
            try:
                eventually(lambda: all(lane.sender and lane.sender.acknowledged for lane in lanes), 60, "all sending")
                over.wait(_WARM_UP)
                began = time.monotonic()
                memory = _watch_memory(server, running, seconds)
            finally:
                over.set()
                for lane in lanes:
                    if lane.sender is not None:
                        lane.sender.hurry()
            for one in running:
                one.result(60)
        told = (case.folder / "events").read_text().splitlines()
    for _ in range(_UPLOADS):
        case.injected("upload at the same time as the others")
    case.measured("files that arrived", sum(lane.files for lane in lanes))
    assert len(told) == sum(lane.files for lane in lanes), "the app was told of a file twice, or never"
    _judge_memory(case, memory)
    _judge_delays(case, [delay for lane in lanes for delay in lane.delays], began, seconds)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8 * _UPLOADS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _watch_memory(server: AppServer, running: list[Future[None]], seconds: float) -> list[int]:
    """Of all server processes, in bytes, at even intervals; as long as nothing fails."""
    assert server.process is not None
    samples: list[int] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        samples.append(memory_of([server.process.pid, *server.workers()]))
        ended, _ = wait(running, max(0.5, seconds / 1000), FIRST_COMPLETED)
        for one in ended:
            one.result()
    return samples


def _judge_memory(case: Case, samples: list[int]) -> None:
    third = len(samples) // 3
    growth = mean(samples[-third:]) - mean(samples[:third])
    case.measured("MB of memory of the server", mean(samples[-third:]) / 2**20)
    case.measured("MB that it grew by", growth / 2**20)
    assert growth < _MOST_GROWTH, f"{growth / 2**20:.0f} MB more than in the first third"


def _judge_delays(case: Case, delays: list[tuple[float, float]], began: float, seconds: float) -> None:
    late = []
    for window in range(_WINDOWS):
        start, end = (began + seconds * number / _WINDOWS for number in (window, window + 1))
        values = sorted(delay for moment, delay in delays if start <= moment < end)
        late.append(values[int(len(values) * 0.99)])
        case.measured("seconds to an acknowledgement, half of them", median(values))
        case.measured("seconds to an acknowledgement, 99 of 100", late[-1])
    if case.full:
        assert median(late) < _LATEST, f"99 of 100 acknowledgements took {late} s in the windows"


CAMPAIGN = Campaign(
    name="load",
    about=f"{_UPLOADS} slow uploads at once: no error, no growing memory, acknowledgements in time",
    case=case,
    short=1,
    full=1,
    jobs=1,
    timeout=int(_FULL_SECONDS) + 600,
)
