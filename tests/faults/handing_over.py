"""Hand-over over HTTP to a back end that misbehaves in every way, by processes that are killed meanwhile."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import requests  # noqa: F401 (once, before the processes that deliver are forked)

from incoming_wsgi import receiver
from incoming_wsgi.delivery import handover, outbox
from incoming_wsgi.delivery.handover import URLHandler
from incoming_wsgi.receiver import App, Patience, Receiver
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.signatures import key_of
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import State, Upload
from tests.support.waiting import eventually

from .backends import SIGNING_KEY, BackEnd, misdeeds
from .laboratory import Campaign, Case

_forked = multiprocessing.get_context("fork")

_TIMEOUT = 0.1  # seconds that the back end may take to answer
_WAIT = 0.05  # seconds after which an app that said `wait` is called again


@dataclass(frozen=True)
class Sent:
    """A complete upload, and what is in it."""

    upload: Upload
    data: bytes


def case(case: Case) -> None:
    back_end = BackEnd(case.folder, misdeeds(case.random, case.random.randrange(1, 10)), case.random.random() < 0.5)
    deliverers = Deliverers(case.folder, case.random.randrange(1, 3))
    try:
        sent = _send(case, back_end.url)
        kills = [time.monotonic() + case.random.uniform(0, 0.3) for _ in range(case.random.randrange(3))]
        deadline = time.monotonic() + 30
        while kills or not _all_finished(case.folder):
            assert time.monotonic() < deadline, f"not handed over in 30 s: {_states(case.folder)}"
            back_end.look_after()
            deliverers.look_after()
            if kills and min(kills) < time.monotonic():
                kills.remove(min(kills))
                deliverers.kill(case.random.randrange(9))
                case.injected("kill -9 of a process that delivers")
            time.sleep(0.03)
    finally:
        deliverers.stop()
        back_end.stop()
    for misdeed in back_end.done_wrong:
        case.injected(f"the back end {misdeed}")
    for one in sent:
        _assert_acted_once(one, back_end)
    _assert_nothing_is_left(case.folder)


class Deliverers:
    """Processes that share a folder and deliver; what is killed is started again."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._processes: list[Any] = [None] * count

    def look_after(self) -> None:
        for index, process in enumerate(self._processes):
            if process is None or not process.is_alive():
                self._processes[index] = _forked.Process(target=_deliver, args=(self._folder,), daemon=True)
                self._processes[index].start()

    def kill(self, which: int) -> None:
        process = self._processes[which % len(self._processes)]
        process.kill()
        process.join()

    def stop(self) -> None:
        for index, process in enumerate(self._processes):
            if process is not None:
                self.kill(index)


def _deliver(folder: Path) -> None:
    """In a process of its own: with pauses that suit a test."""
    logging.basicConfig(filename=folder / "log")
    outbox.PAUSES = (0.01, 0.01, 0.02, 0.02, 0.05, 0.05)
    outbox._LOOK = 0.02
    handover._LONGEST_RETRY_AFTER = 0.2
    receiver._SWEEP_INTERVAL = 0.1
    _receiver(folder).start()
    signal.pause()


def _receiver(folder: Path) -> Receiver:
    app = App("app", FileStorage(folder), {"url": URLHandler(_TIMEOUT, [key_of(SIGNING_KEY)])}, 2**40)
    registry = SQLiteRegistry(folder / "registry.sqlite3")
    return Receiver(registry, {"app": app}, Patience(idle=3600, wait=_WAIT))


def _send(case: Case, url: str) -> list[Sent]:
    """Some uploads, complete and due; nobody delivers yet, and the registry is closed again before anybody forks."""
    engine = _receiver(case.folder)
    sent = []
    for _ in range(case.random.randrange(1, 4)):
        data = case.random.randbytes(case.random.randrange(100_000))
        upload = engine.create("app", target=url)
        with engine.open(upload.id, length=len(data), name="file") or _no_session() as session:
            session.write(0, data)
            engine.complete(session.sync())
        sent.append(Sent(upload, data))
    for one in sent:
        eventually(lambda: engine.status(one.upload.id).state is State.HANDING_OVER, what="completion")  # noqa: B023
    engine.close()
    return sent


def _no_session() -> Any:
    raise AssertionError("an upload without a byte was beyond taking any")


def _states(folder: Path) -> list[State]:
    registry = SQLiteRegistry(folder / "registry.sqlite3")
    try:
        return [upload.state for upload in registry.find(set(State))]
    finally:
        registry.close()


def _all_finished(folder: Path) -> bool:
    return set(_states(folder)) == {State.FINISHED}


def _assert_acted_once(sent: Sent, back_end: BackEnd) -> None:
    """The back end acted on the right bytes; again only where it had died before its own record of it was safe."""
    story = back_end.story(sent.upload.id)
    expected = hashlib.sha256(sent.data).hexdigest()
    assert {line["event_id"] for line in story} == {sent.upload.event_id}
    assert "refused" not in {line["what"] for line in story}, "a call of ours was not signed as it should be"
    effects = [line for line in story if line["what"] == "effect"]
    assert effects, "the file is lost: the back end never used it"
    assert {line["sha256"] for line in effects} == {expected}
    assert len(effects) <= 1 + back_end.deaths, f"the back end died {back_end.deaths} times: {story}"
    first_settled = next((index for index, line in enumerate(story) if line["what"] == "settled"), len(story))
    assert not [line for line in story[first_settled:] if line["what"] == "effect"], f"it acted again: {story}"


def _assert_nothing_is_left(folder: Path) -> None:
    """When the tombstones' time is over neither bytes nor rows are left."""
    engine = _receiver(folder)
    try:
        uploads = engine.find()
        assert [upload.id for upload in uploads if engine.registry.due(upload.id) is not None] == []
        with mock.patch.object(receiver, "_TOMBSTONE", -1.0):
            engine.sweep()
        assert engine.find() == []
    finally:
        engine.close()
    for name in ("arriving", "complete"):
        assert list((folder / name).iterdir()) == [], f"bytes are left in {name}"


CAMPAIGN = Campaign(
    name="hand-over",
    about="back ends that drop, hang, lie and die, and killed deliverers: no file is lost, each is acted on once",
    case=case,
    short=200,
    full=10_000,
)
