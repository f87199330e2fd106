"""An engine in a process of its own, that does for one upload what it is told over a pipe."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from incoming_wsgi import offload
from incoming_wsgi.delivery.handover import CallableHandler, FinishedUpload
from incoming_wsgi.errors import IncomingError
from incoming_wsgi.session import Session
from incoming_wsgi.upload import Upload
from tests.helpers import CLOCKED, Clock, Engine, lane_of, write_by_turns

from .story import at_once
from .witness import Witness

#: What to do, with whatever belongs to it; what may be done are the methods of :class:`_Served`.
Command: TypeAlias = tuple[Any, ...]

#: What came of it: a word, the name of the error that it was refused with, or what is known afterwards.
Result: TypeAlias = Any

_forked = multiprocessing.get_context("fork")


class EngineProcess:
    """:param now: seconds since 1970 that its clock shows.
    :param idle: seconds after which an upload expires.
    """

    def __init__(self, folder: Path, *, now: float, idle: float) -> None:
        self._link, inner = _forked.Pipe()
        self._process = _forked.Process(target=_serve, args=(inner, self._link, folder, now, idle))
        self._process.start()
        inner.close()

    def begin(self, commands: Sequence[Command]) -> None:
        """Have it do these, one after the other."""
        self._link.send(commands)

    def end(self) -> list[Result]:
        """Wait until it has done them; what came of each."""
        results, failure = self._link.recv()
        assert not failure, failure
        return list(results)

    def do(self, *command: Any) -> Result:
        self.begin([command])
        return self.end()[0]

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self._process.kill()
        self._process.join()
        self._link.close()


def _serve(link: Connection, outer: Connection, folder: Path, now: float, idle: float) -> None:
    outer.close()
    logging.disable()  # what the app refuses is refused on purpose
    offload.background = at_once
    clock = Clock()
    clock.show(now)
    for module in CLOCKED:
        module.time = clock  # type: ignore[attr-defined]
    served = _Served(folder, clock, idle)
    while True:
        try:
            commands = link.recv()
        except EOFError:
            os._exit(0)
        try:
            link.send(([served.do(*command) for command in commands], ""))
        except Exception:  # noqa: BLE001 (nothing of it is expected: the run fails with it)
            link.send(([], traceback.format_exc()))


class _Served:
    def __init__(self, folder: Path, clock: Clock, idle: float) -> None:
        app = CallableHandler(self._on_finish, self._on_cancel, lambda upload, target: None)
        self._engine = Engine(folder / "engine", idle=idle, handler=app)
        self._witness = Witness(folder / "witness")
        self._clock = clock
        self._lanes: dict[int, Session] = {}
        self._answer = "done"

    def do(self, what: str, *args: Any) -> Result:
        """The result of a command, or the name of the error that it was refused with."""
        try:
            return getattr(self, what)(*args)
        except IncomingError as error:
            return type(error).__name__

    def ticket(self) -> str:
        return self._engine.ticket(remove_file_when_finished=False)

    def time(self, now: float) -> None:
        self._clock.show(now)

    def status(self, ticket: str) -> Upload:
        return self._engine.receiver.status(ticket)

    def open(self, ticket: str, length: int, lane: int) -> Result:
        session = self._engine.receiver.open(ticket, length=length, name="file.bin")
        if session is None:
            return "nothing to open"
        self._lanes[lane] = session
        return "opened"

    def take(self, ticket: str, data: bytes) -> Result:
        upload = self._engine.receiver.take_whole(ticket, data, name="file.bin")
        return "the longer way" if upload is None else "taken"

    def token(self, lane: int) -> str:
        return self._lanes[lane].token

    def join(self, ticket: str, token: str, lane: int) -> Result:
        self._lanes[lane] = lane_of(self._engine.receiver, ticket, token)
        return "opened"

    def write(self, lane: int, position: int, data: bytes) -> Result:
        write_by_turns(self._lanes[lane], position, data)
        return "written"

    def sync(self, lane: int) -> Result:
        return self._lanes[lane].sync().extents

    def cut(self, lane: int) -> Result:
        self._lanes.pop(lane).close()
        return "cut"

    def pause(self, ticket: str, token: str) -> Result:
        self._engine.receiver.pause(ticket, token)
        return "paused"

    def cancel(self, ticket: str) -> Result:
        self._engine.receiver.cancel(ticket, "no more")
        return "cancelled"

    def complete(self, ticket: str) -> Result:
        self._engine.receiver.complete(self._engine.receiver.status(ticket))
        return "completed"

    def finish(self, ticket: str) -> Result:
        self._engine.receiver.done(ticket)
        return "finished"

    def deliver(self, answer: str) -> Result:
        self._answer = answer
        self._engine.receiver._outbox._deliver_due()
        return "delivered"

    def sweep(self) -> Result:
        with self._engine.registry.alone("sweep") as alone:
            if alone:
                self._engine.receiver.sweep()
                self._engine.registry.maintain()
        return "swept"

    def _on_finish(self, upload: FinishedUpload) -> str:
        digest = hashlib.sha256(Path(upload.path).read_bytes()).hexdigest()
        self._witness.tell("finished", event=upload.event_id, sha256=digest, said=upload.sha256)
        return self._answer

    def _on_cancel(self, upload: Upload, reason: str) -> None:
        self._witness.tell("given up", state=upload.state.value)
