"""A wall clock that is set, by an hour or by ten years, forwards or backwards, under a running server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import requests

from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .laboratory import Campaign, Case

_IDLE = 8.0  # seconds until an upload expires; a server that has just started lets none expire for as long
_WAIT = 8.0  # seconds until an app that said `wait` is called again
_EARLY = 0.7  # of that time must have passed at least, for all that ran before the jump
_LATE = 30.0  # seconds after which it must have happened

_HOUR, _YEAR = 3600.0, 365 * 86400.0
_JUMPS = {"+1 h": _HOUR, "-1 h": -_HOUR, "+10 years": 10 * _YEAR, "-10 years": -10 * _YEAR}


def case(case: Case) -> None:
    clock = Clock(case.folder / "clock")
    server = AppServer("gevent", case.folder, clock.environment, app="tests.faults.hasty_app:app")
    began = time.monotonic()
    with server:
        eventually(lambda: time.monotonic() - began > _IDLE + 1, 30, "the server's first seconds")
        name = list(_JUMPS)[case.number % len(_JUMPS)]
        if case.random.random() < 0.5:
            clock.jump(-_JUMPS[name])  # everything begins under a clock that is wrong, and is then set right
            after = 0.0
        else:
            after = _JUMPS[name]
        _uploads_and_a_jump(server, lambda: clock.jump(after))
    case.injected(f"jump by {name}, {'to' if after == 0 else 'from'} the right time")


def _uploads_and_a_jump(server: AppServer, jump: Callable[[], None]) -> None:
    waiting, busy = server.ticket(answer="wait"), server.ticket(leisure="3")
    since = time.monotonic()
    for ticket in (waiting, busy):
        _send_all(server, ticket)
    quiet, lively = Part(server), Part(server)
    for part in (quiet, lively):
        part.send()
    eventually(lambda: server.events(waiting) and server.events(busy), what="both calls")
    jump()
    seen = _watch(server, since, quiet.ticket, waiting, lively)
    for what, seconds in seen.items():
        assert seconds >= _EARLY * _IDLE, f"{what} after {seconds:.1f} s"
    assert lively.state() == "receiving"
    server.wait_for_file(busy)
    assert len(server.events(busy)) == 1, "the app was busy, not dead"
    assert len({event["event_id"] for event in server.events(waiting)}) == 1
    requests.post(f"{server.url}/finish/{waiting}", timeout=10).raise_for_status()
    lively.finish()


def _watch(server: AppServer, since: float, quiet: str, waiting: str, lively: Part) -> Mapping[str, float]:
    """Keep one upload lively until the quiet one has expired and the app was called again: seconds after each."""
    seen: dict[str, float] = {}

    def look() -> bool:
        lively.send()
        if "expired" not in seen and any(event["kind"] == "cancelled" for event in server.events(quiet)):
            seen["expired"] = time.monotonic() - since
        if "called again" not in seen and len(server.events(waiting)) > 1:
            seen["called again"] = time.monotonic() - since
        return len(seen) == 2

    eventually(look, _LATE, "an end for the quiet one, and a second call")
    return seen


class Clock:
    """The wall clock of a server of ``hasty_app``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {
            "CLOCK": str(file),
            "INCOMING_IDLE_TIMEOUT": str(_IDLE),
            "INCOMING_WAIT_TIMEOUT": str(_WAIT),
        }
        self.jump(0)

    def jump(self, to: float) -> None:
        """:param to: seconds from the right time."""
        new = self._file.with_suffix(".new")
        new.write_text(str(to))
        new.rename(self._file)


class Part:
    """An upload of which now and then a byte arrives."""

    def __init__(self, server: AppServer) -> None:
        self.ticket = server.ticket()
        self._client = ChunkClient(server.url, self.ticket, b"x" * 100_000)
        self._client.open()
        self._sent = 0

    def send(self) -> None:
        self._client.put(self._sent, self._sent + 1).raise_for_status()
        self._sent += 1

    def state(self) -> str:
        return str(self._client.status()["state"])

    def finish(self) -> None:
        response = self._client.put(self._sent, len(self._client.data))
        response.raise_for_status()
        self._client.http.close()


def _send_all(server: AppServer, ticket: str) -> None:
    client = ChunkClient(server.url, ticket, b"some bytes")
    with client.http:
        client.open(client.data)


CAMPAIGN = Campaign(
    name="clock-jumps",
    about="the wall clock jumps by ±1 h and ±10 years: nothing expires early, nothing waits for ever",
    case=case,
    short=10,
    full=200,
    jobs=5,
)
