"""Servers that are killed while files arrive: one worker, the master, or everything, with -9, and started again."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests

from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.upload import State
from tests.support.processes import AppServer, Process
from tests.support.waiting import eventually

from .laboratory import Campaign, Case
from .senders import SENDERS, Sender, assert_whole, finish_all

_UPLOADS = 4  # under way at each kill
_KILLS = 3  # of one case
_SECONDS = 60.0  # that the senders may take to get to their ends after the last kill


def case(case: Case) -> None:
    server = AppServer(case.random.choice(["gevent", "gevent", "gevent", "gthread"]), case.folder)
    fallen: list[Process] = []
    senders: list[Sender] = []
    try:
        server.start()
        for _ in range(_KILLS):
            _keep_busy(case, server, senders)
            _kill(case, server, fallen)
        finish_all(senders, _SECONDS)
        told = [assert_whole(server, sender) for sender in senders]
        assert max(told) <= 1 + _KILLS
        case.measured("times that the app was told of a file", sum(told) / len(told))
    finally:
        for sender in senders:
            sender.give_up()
        _end(server, fallen)
    _assert_nothing_is_left(case.folder, senders)


def _keep_busy(case: Case, server: AppServer, senders: list[Sender]) -> None:
    """Have some uploads under way, in the middle of their files, and let a moment pass."""
    for _ in range(_UPLOADS - sum(sender.is_alive() for sender in senders)):
        senders.append(_sender(case, server))
        senders[-1].start()
    eventually(lambda: any(sender.is_live for sender in senders) or not _alive(senders), 30, "bytes under way")
    target = sum(sender.acknowledged for sender in senders) + case.random.randrange(800_000)
    eventually(lambda: sum(sender.acknowledged for sender in senders) >= target or not _alive(senders), 30, "progress")


def _alive(senders: list[Sender]) -> list[Sender]:
    return [sender for sender in senders if sender.is_alive()]


def _sender(case: Case, server: AppServer) -> Sender:
    kind = case.random.choice(SENDERS)
    chunk = case.random.randrange(20_000, 200_000)
    leisure = case.random.choice(["0", "0", "0.3"])  # that the app takes with a file, so that a kill falls into it
    data = case.random.randbytes(int(2 ** case.random.uniform(16, 22)))
    return kind(server.url, server.ticket(leisure=leisure), data, chunk, case.random.uniform(0.0, 0.1))


# -- kills ------------------------------------------------------------------------------------------------------


def _kill(case: Case, server: AppServer, fallen: list[Process]) -> None:
    what = case.random.choice(list(_VICTIMS))
    case.injected(f"kill -9 of {what} ({server.kind})")
    _VICTIMS[what](case, server, fallen)


def _kill_a_worker(case: Case, server: AppServer, fallen: list[Process]) -> None:
    victims = server.busy_workers() or server.workers()
    with contextlib.suppress(ProcessLookupError):
        os.kill(case.random.choice(victims), signal.SIGKILL)


def _kill_the_master(case: Case, server: AppServer, fallen: list[Process]) -> None:
    """Its workers live on for a moment, beside those of the one that is started at once."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    fallen.append(server.process)
    eventually(lambda: _is_started_again(server), _SECONDS, "a new master")


def _is_started_again(server: AppServer) -> bool:
    """Try once, as a supervisor does: a master gives up when the orphans keep the port for more than 5 s."""
    with contextlib.suppress(AssertionError, requests.Timeout):
        successor = server.start().process
        assert successor is not None
        eventually(lambda: successor.children() or not successor.is_running, what="workers of the new master")
    if server.process is not None and server.process.children():
        return True
    server.kill()
    return False


def _kill_all(case: Case, server: AppServer, fallen: list[Process]) -> None:
    server.kill()
    server.start()


_VICTIMS: Mapping[str, Callable[[Case, AppServer, list[Process]], None]] = {
    "a worker": _kill_a_worker,
    "the master": _kill_the_master,
    "all": _kill_all,
}


def _end(server: AppServer, fallen: list[Process]) -> None:
    for process in fallen:
        process.kill()
    if server.process is not None:
        server.kill()


# -- what is left -----------------------------------------------------------------------------------------------


def _assert_nothing_is_left(folder: Path, senders: list[Sender]) -> None:
    """Every upload is finished and handed over; no bytes, no row of the outbox, no sign of a dead process."""
    stored = folder / "incoming"
    with _registry(stored) as registry:
        uploads = registry.find(set(State))
        assert {upload.id for upload in uploads} == {sender.ticket for sender in senders}
        assert {upload.state for upload in uploads} == {State.FINISHED}
        assert [upload.id for upload in uploads if registry.due(upload.id) is not None] == []
        eventually(lambda: _only_living_holder(registry, stored), what="the dead no longer being counted")
    for name in ("arriving", "complete"):
        assert list((stored / name).iterdir()) == [], f"bytes are left in {name}"
    assert {path.name for path in (folder / "files").iterdir()} == {sender.ticket for sender in senders}


def _only_living_holder(registry: SQLiteRegistry, stored: Path) -> bool:
    registry.maintain()
    return [path.name for path in (stored / "registry.sqlite3.holders").iterdir()] == [registry.holder]


@contextlib.contextmanager
def _registry(stored: Path) -> Iterator[SQLiteRegistry]:
    registry = SQLiteRegistry(stored / "registry.sqlite3")
    try:
        yield registry
    finally:
        registry.close()


CAMPAIGN = Campaign(
    name="server-kill",
    about="kill -9 of workers, masters and whole servers: every file arrives whole, no acknowledged byte goes",
    case=case,
    short=10,
    full=670,
    timeout=240,
)
