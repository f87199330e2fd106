"""What several unit tests share: waiting for a condition, a clock that can be moved, an app that plays its part."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from incoming_wsgi import receiver
from incoming_wsgi.delivery.handover import Handler, Notice, Outcome
from incoming_wsgi.frontend import Manners
from incoming_wsgi.gates.quotas import Allowance
from incoming_wsgi.protocols.websocket import Window
from incoming_wsgi.receiver import App, OnFirstBytes, Patience, Receiver
from incoming_wsgi.registry import sqlite
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.session import Session
from incoming_wsgi.storage import Storage
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import State, Upload
from incoming_wsgi.wire.bulk import Piped, bulk_of, pipes
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

ROOT = Path(__file__).parent.parent

#: A ticket of the right form that nobody has been given.
NOBODYS = "1d9e0f5c-6a2b-4c3d-8e7f-0a1b2c3d4e5f"


#: The modules of the engine that look at a clock.
CLOCKED = (receiver, sqlite)


def piped(data: bytes) -> Piped:
    """Bytes as they come from a socket that could be spliced."""
    pipe = pipes.lend()
    pipe.held += os.write(pipe.writing, data)
    assert pipe.held == len(data), "more than fits into a pipe"
    return Piped([pipe])


def write_by_turns(session: Session, position: int, data: bytes) -> None:
    """Write from memory, or from a pipe, as the position has it."""
    piece = piped(data) if random.Random(position).random() < 0.5 else bulk_of(data)
    try:
        session.write(position, piece)
    finally:
        piece.release()


class Clock:
    """Stands in for the module ``time``: its clocks move only when told to.

    :ivar now: the wall clock.
    """

    def __init__(self) -> None:
        self.now, self._monotonic = time.time(), time.monotonic()

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self._monotonic += seconds

    def show(self, seconds: float) -> None:
        """What both clocks show from now on; so that those of several processes can agree."""
        self.now = self._monotonic = seconds

    def restart(self) -> None:
        """The machine has been off: its monotonic clock begins anew."""
        self._monotonic = 5.0

    def set_wall_clock(self, seconds: float) -> None:
        """Somebody sets the wall clock, to so many seconds from what it shows."""
        self.now += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class PlayedApp(Handler):
    """A handler that answers as it is told, and keeps what it heard.

    :ivar answers: what to answer next; an exception is raised. When there is none left the answer is ``done``.
    :ivar acts: called within each attempt, before the answer.
    """

    def __init__(self, *answers: str | Outcome | Exception) -> None:
        self.answers = list(answers)
        self.notices: list[Notice] = []
        self.acts: Callable[[Notice], object] = lambda notice: None
        self.may_answer = threading.Event()
        self.may_answer.set()

    def deliver(self, notice: Notice) -> Outcome:
        answer = self.answers.pop(0) if self.answers else "done"
        self.notices.append(notice)
        self.acts(notice)
        self.may_answer.wait(10)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Outcome) else Outcome(answer)


class Engine:
    """A receiver on a folder, with an app that is played. A second one on the same folder is another process.

    :param handler: takes the files in place of the played app.
    :param registry: one that stands in for the SQLite file in the folder.
    :param storage: in place of the folder.
    :param allowance: what all uploads may take up together.
    """

    def __init__(
        self,
        folder: Path,
        *,
        idle: float = 3600.0,
        wait: float = 600.0,
        max_length: int = 2**40,
        handler: Handler | None = None,
        fsync: bool = False,
        digest: bool = True,
        boot_id: str = "",
        registry: Any = None,
        storage: Storage | None = None,
        connections: int = 0,
        on_first_bytes: OnFirstBytes | None = None,
        **allowance: Any,
    ) -> None:
        self.folder = folder
        self.app = PlayedApp()
        self.storage = storage or FileStorage(folder)
        self.registry: SQLiteRegistry = registry or SQLiteRegistry(folder / "registry.sqlite3", boot_id)
        app = App(
            "app", self.storage, {"callable": handler or self.app}, max_length, Allowance(**allowance), on_first_bytes
        )
        patience = Patience(idle=idle, wait=wait)
        self.receiver = Receiver(
            self.registry, {"app": app}, patience, fsync=fsync, digest=digest, connections=connections
        )

    def start(self) -> None:
        """Deliver from now on."""
        self.receiver.start()

    def wake(self) -> None:
        """Have the outbox look now."""
        self.receiver._outbox.wake()

    def close(self) -> None:
        self.receiver.close()

    def ticket(self, **options: Any) -> str:
        return self.receiver.create("app", **options).id

    def open(self, ticket: str, length: int, name: str = "file.bin", fingerprint: str = "") -> Session:
        session = self.receiver.open(ticket, length=length, name=name, fingerprint=fingerprint)
        assert session is not None
        return session

    def send(self, ticket: str, data: bytes) -> Upload:
        """A whole file in one go, up to the point where the protocol says that it is complete."""
        with self.open(ticket, len(data)) as session:
            session.write(0, data)
            return self.receiver.complete(session.sync())

    def take_back(self, ticket: str) -> None:
        """As when the disk has lost all that was not synced."""
        self.receiver._take_back(self.receiver.status(ticket), "the disk failed")

    def state(self, ticket: str) -> State:
        return self.receiver.status(ticket).state

    def until(self, ticket: str, state: State) -> Upload:
        """The upload, as soon as it is in that state."""
        eventually(lambda: self.state(ticket) is state)
        return self.receiver.status(ticket)

    def arriving(self, ticket: str) -> Path:
        return self.folder / "arriving" / ticket

    def stored(self, ticket: str) -> bytes:
        """The bytes of an upload, wherever its completion has got to."""
        with self.receiver.read(self.receiver.status(ticket)) as file:
            return file.read()

    def complete(self, ticket: str) -> Path:
        return self.folder / "complete" / ticket


def manners(**changes: Any) -> Manners:
    """Those of a browsers' door that lets any file in."""
    usual = Manners(
        allow_origins=(),
        public_url="",
        chunk_size=65536,
        window=Window(65536, 4),
        lanes=4,
        websocket=True,
        max_length=2**40,
        receive_timeout=5.0,
    )
    return replace(usual, **changes)


def lane_of(receiver: Receiver, ticket: str, token: str) -> Session:
    """A further lane of the client that opened the upload last."""
    return receiver.lane(receiver.owned(ticket, token))


def answer_late(engine: Engine, ticket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the answer to the record of the last bytes lost; before it is asked again others complete the upload."""
    add_extents = engine.registry.add_extents

    def late(*row: Any, **options: Any) -> Upload:
        recorded = add_extents(*row, **options)
        if not recorded.is_complete:
            return recorded
        engine.receiver.complete(recorded)
        engine.until(ticket, State.FINISHED)
        return add_extents(*row, **options)

    monkeypatch.setattr(engine.registry, "add_extents", late)


class Child:
    """Python code in a process of its own, that says ``ready`` and then does what it does until it is killed."""

    def __init__(self, code: str, arguments: Sequence[str | Path] = ()) -> None:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, cwd=ROOT)

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """As ``kill -9`` does."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        return self._process.wait(30)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self._process.stdout, self._process.stdin):
            if stream is not None:
                stream.close()
