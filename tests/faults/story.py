"""A story: a few files, their clients and the app that gets them, in processes that may die at any moment.

Everything that somebody was told is told to a witness, so that it can be held against what is there in the end. Each
life of a story is a process of its own: :func:`play` is the first one, where clients behave as clients do;
``recovery.py`` has the later ones.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from incoming_wsgi import digests, offload, watermark
from incoming_wsgi.delivery.handover import CallableHandler, FinishedUpload
from incoming_wsgi.errors import (
    AlreadyComplete,
    Cancelled,
    Expired,
    IncomingError,
    NotReady,
    Replaced,
    TooLate,
)
from incoming_wsgi.registry import redis
from incoming_wsgi.registry.redis import RedisRegistry
from incoming_wsgi.session import Session
from incoming_wsgi.upload import State, Upload
from incoming_wsgi.wire.bulk import bulk_of
from tests.helpers import CLOCKED, Clock, Engine, lane_of, write_by_turns
from tests.support.waiting import eventually

from .witness import Witness

IDLE = 1000.0  # seconds until an upload expires
WAIT = 500.0  # seconds that an app may be silent after `wait`

_IN_ONE_PIECE = 0.4  # how likely a client tries to send all with its opening

_ANOTHER_FILE_SYSTEM = "another file system"  # a folder that files can't be linked into

Fate = Literal["sent", "cancelled", "abandoned", "forgotten"]
Taking = Literal["", "move_to", "move_to another file system", "by itself"]


@dataclass(frozen=True)
class File:
    """A file, and what its client and the app are like.

    :ivar fate: ``sent`` in full; ``cancelled`` by its client; ``abandoned`` by it; ``forgotten``: all is sent, but
        nobody says that this was all.
    :ivar piece: bytes that are sent in one go, at most.
    :ivar in_order: or anywhere.
    :ivar answers: of the app to the first hand-overs; to all later ones ``done``.
    :ivar taking: how the app takes the file away, if it does.
    :ivar kept: the app wants to find the file where it is.
    """

    number: int
    data: bytes
    fate: Fate
    piece: int
    in_order: bool
    answers: tuple[str, ...]
    taking: Taking
    kept: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Story:
    """:ivar ages: whether so much time passes in the first life that any upload may expire.
    :ivar fsync: whether bytes are acknowledged only when they are synced.
    :ivar redis: URL of the registry, where it is no SQLite file.
    """

    folder: Path
    seed: str
    files: tuple[File, ...]
    ages: bool = False
    threads: bool = False
    fsync: bool = False
    redis: str = ""

    @property
    def engine_folder(self) -> Path:
        return self.folder / "engine"

    def taken(self, taking: Taking, ticket: str) -> Path:
        """The folder into which the app takes a file."""
        parent = _ANOTHER_FILE_SYSTEM if taking == "move_to another file system" else "taken"
        return self.folder / parent / ticket

    def witness(self) -> Witness:
        return Witness(self.folder / "witness")


def any_story(folder: Path, chance: random.Random) -> Story:
    files = tuple(_any_file(number, chance) for number in range(chance.choice((1, 1, 2, 3, 5))))
    seed = f"story {chance.random()}"
    ages, threads, fsync = chance.random() < 0.15, chance.random() < 0.2, chance.random() < 0.3
    return Story(folder, seed, files, ages, threads, fsync)


def _any_file(number: int, chance: random.Random) -> File:
    size = chance.choice((0, chance.randint(1, 300), chance.randint(1, 30_000), chance.randint(1, 250_000)))
    answers = ("done", "wait", "failed", "raised", "unfit")
    return File(
        number,
        chance.randbytes(size),
        fate=chance.choice(("sent", "sent", "sent", "cancelled", "abandoned", "forgotten")),
        piece=max(1, size // chance.randint(1, 8)),
        in_order=chance.random() < 0.5,
        answers=tuple(chance.choice(answers) for _ in range(chance.choice((0, 0, 1, 2)))),
        taking=chance.choice(("", "", "move_to", "move_to another file system", "by itself")),
        kept=chance.random() < 0.3,
    )


def begin_life(story: Story, witness: Witness, *, threads: bool = False) -> Clock:
    """Make this process one of the story: what is patched stays so. Its clock goes on where the last one stopped."""
    clock = Clock()
    clock.advance(max(0.0, max((fact["now"] for fact in witness.told("clock")), default=0.0) - clock.now))
    for module in CLOCKED:
        module.time = clock  # type: ignore[attr-defined]
    digests._BEHIND, watermark.STEP = 20_000, 30_000
    if not threads:
        offload.background = at_once
    os.link = _refused_across(story.folder / _ANOTHER_FILE_SYSTEM, os.link)
    return clock


class Place:
    """An engine of a story, with its app, in a process that lives it."""

    def __init__(self, story: Story, witness: Witness, clock: Clock, *, threads: bool = False) -> None:
        self.story = story
        self.witness = witness
        self.clock = clock
        self.threads = threads
        app = CallableHandler(self._on_finish, self._on_cancel, self._record_move)
        self._redis = RedisRegistry(story.redis) if story.redis else None
        self.engine = Engine(
            story.engine_folder, idle=IDLE, wait=WAIT, handler=app, fsync=story.fsync, registry=self._redis
        )
        if threads:
            self.engine.start()

    def age(self, seconds: float) -> None:
        self.witness.tell("clock", now=self.clock.now + seconds)
        self.clock.advance(seconds)
        if self._redis is not None:
            self._redis._client.hincrbyfloat(f"{self._redis._prefix}:clock", "now", seconds)
            self._redis._beat()

    def outlive_leases(self) -> None:
        """Those of the dead, which the kernel gives back at once where they are its locks."""
        if self._redis is not None:
            self.age(redis._LEASE)
            for key in self._redis._client.keys(f"{self._redis._prefix}:duty:*"):
                self._redis._client.delete(key)

    def count_rows(self) -> dict[str, int]:
        """What the registry still knows of any upload."""
        if self._redis is None:
            tables = ("uploads", "outbox", "digests")
            reader = self.engine.registry._reader
            return {table: reader.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}  # noqa: S608
        beside = ("clock", "era", "schema", "holders", "boots", "syncs", "lost", "whole")
        keys = [key.removeprefix(f"{self._redis._prefix}:") for key in self._redis._client.scan_iter()]
        return {key: 1 for key in keys if key not in beside}

    def deliver(self) -> None:
        """Whatever is due."""
        if self.threads:
            self.engine.wake()
        else:
            self.engine.receiver._outbox._deliver_due()

    def sweep(self, *, expire: bool) -> None:
        with self.engine.registry.alone("sweep") as alone:
            if alone:
                self.engine.receiver.sweep(expire=expire)

    def file_of(self, ticket: str) -> File:
        numbers = [fact["file"] for fact in self.witness.told("ticket") if fact["id"] == ticket]
        # A ticket that nobody was told of bears the file's number, too.
        number = numbers[0] if numbers else int(self.engine.receiver.status(ticket).metadata["file"])
        return self.story.files[number]

    # -- the app --------------------------------------------------------------------------------------------

    def _on_finish(self, upload: FinishedUpload) -> str:
        file = self.file_of(upload.id)
        digest = hashlib.sha256(Path(upload.path).read_bytes()).hexdigest()
        self.witness.tell(
            "finished", id=upload.id, event=upload.event_id, sha256=digest, said=upload.sha256, path=upload.path
        )
        answer = file.answers[upload.attempt - 1] if upload.attempt <= len(file.answers) else "done"
        if answer == "raised":
            raise RuntimeError("the app is not well")
        if answer in ("done", "wait"):
            self._take(file, upload)
        return answer

    def _take(self, file: File, upload: FinishedUpload) -> None:
        folder = self.story.taken(file.taking, upload.id)
        if file.taking == "by itself":
            folder.mkdir(parents=True, exist_ok=True)
            os.rename(upload.path, folder / "file")
        elif file.taking:
            upload.move_to(f"{folder}/")

    def _on_cancel(self, upload: Upload, reason: str) -> None:
        self.witness.tell("cancelled", id=upload.id, state=upload.state.value)

    def _record_move(self, upload: Upload, target: str) -> None:
        self.engine.receiver.record_move(upload, target)


def at_once(function: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """In place of :func:`offload.background`: the same seed gives the same order of everything."""
    if name in ("signs of life", "push"):
        # No life is as long as a lease. And nobody hears of what others change: that must do no harm.
        return threading.current_thread()
    with suppress(SystemExit):
        try:
            function(*args)
        except Exception as error:  # noqa: BLE001 (as in a thread of its own: it is logged, and that is all)
            offload.log.warning("%s stopped with %r", name, error, exc_info=True)
    return threading.current_thread()


def _refused_across(border: Path, link: Callable[..., None]) -> Any:
    def linked(source: str, target: str) -> None:
        if (border in Path(source).parents) != (border in Path(target).parents):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target)

    return linked


@dataclass
class Client:
    """Sends one file.

    :ivar places: the processes that it may talk to.
    :ivar whims: how likely it is to do something else than to go on, each time.
    """

    file: File
    places: tuple[Place, ...]
    witness: Witness
    chance: random.Random
    whims: float
    ticket: str = ""
    completes: bool = True
    is_over: bool = False
    steps: int = 0
    _sessions: list[Session] = field(default_factory=list)
    _written: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def _engine(self) -> Engine:
        return self.chance.choice(self.places).engine

    def step(self) -> None:
        """Do the next thing, or another."""
        self.steps += 1
        if not self.ticket:
            self._ask_for_a_ticket()
            return
        try:
            self._go_on()
        except (AlreadyComplete, Cancelled, Expired):
            self._let_go()
            self.is_over = True
        except Replaced:  # by a process of the same story
            self._let_go()

    def _ask_for_a_ticket(self) -> None:
        facts = {"file": str(self.file.number)}
        self.ticket = self._engine.ticket(metadata=facts, remove_file_when_finished=not self.file.kept)
        self.witness.tell("ticket", id=self.ticket, file=self.file.number)

    def _go_on(self) -> None:
        if self.file.fate in ("cancelled", "abandoned") and self.chance.random() < 0.1:
            self._end_early()
        elif not self._sessions:
            self._open()
        elif self.chance.random() < self.whims:
            self.chance.choice((self._cut, self._pause, self._take_over, self._join))()
        else:
            self._send()

    def _end_early(self) -> None:
        self._let_go()
        self.is_over = True
        if self.file.fate == "cancelled":
            self.cancel()

    def cancel(self) -> None:
        with suppress(TooLate):
            self._engine.receiver.cancel(self.ticket, "the client wants no more")
            self.witness.tell("cancel", id=self.ticket)

    def _open(self) -> None:
        if self.file.data and self.file.fate == "sent" and self.chance.random() < _IN_ONE_PIECE and self._send_whole():
            return
        session = self._engine.receiver.open(self.ticket, length=len(self.file.data), name="data of a stranger.bin")
        if session is None:
            self.is_over = True
            return
        self._sessions.append(session)
        self.witness.tell("opened", id=self.ticket, token=session.token, file=self.file.number)

    def _send_whole(self) -> bool:
        """All of it in the opening; says whether that was taken."""
        data = self.file.data
        upload = self._engine.receiver.take_whole(self.ticket, bulk_of(data), name="data of a stranger.bin")
        if upload is None:
            return False
        self.witness.tell("acknowledged", id=self.ticket, start=0, end=len(data))
        self.is_over = True
        return True

    def _join(self) -> None:
        """A further lane."""
        self._sessions.append(lane_of(self._engine.receiver, self.ticket, self._sessions[0].token))

    def join(self, token: str) -> None:
        """A lane of an upload that somebody else has opened."""
        self._sessions.append(lane_of(self._engine.receiver, self.ticket, token))

    def _cut(self) -> None:
        self._close(self.chance.choice(self._sessions))

    def _pause(self) -> None:
        self._engine.receiver.pause(self.ticket, self._sessions[0].token)
        self._let_go()

    def _take_over(self) -> None:
        old, self._sessions = self._sessions, []
        self._open()
        for session in old:
            try:
                if not self._written.get(id(session)):
                    session.write(0, self.file.data[:1])
                session.sync()
            except (Replaced, AlreadyComplete):
                self._forget(session)
            else:
                raise AssertionError("a session that was replaced has written")

    def _send(self) -> None:
        upload = self.places[0].engine.receiver.status(self.ticket)
        missing = list(upload.extents.missing(0, len(self.file.data)))
        session = self.chance.choice(self._sessions)
        if not missing:
            self._send_no_more(upload)
        elif self._written.get(id(session)) and self.chance.random() < 0.6:
            self._sync(session)
        else:
            self._write(session, missing)

    def _write(self, session: Session, missing: list[tuple[int, int]]) -> None:
        start, stop = missing[0] if self.file.in_order else self.chance.choice(missing)
        if not self.file.in_order:
            start = self.chance.randrange(start, stop)
        end = min(start + self.file.piece, len(self.file.data))
        write_by_turns(session, start, self.file.data[start:end])
        self._written.setdefault(id(session), []).append((start, end))

    def _sync(self, session: Session) -> None:
        session.sync()
        for start, end in self._written.pop(id(session), []):
            self.witness.tell("acknowledged", id=self.ticket, start=start, end=end)

    def lane_step(self) -> None:
        """Send some bytes of what another process has opened."""
        try:
            self._send()
        except IncomingError:
            self.is_over = True

    def _send_no_more(self, upload: Upload) -> None:
        self._let_go()
        self.is_over = True
        if self.completes:
            self._engine.receiver.complete(upload)

    def _let_go(self) -> None:
        for session in tuple(self._sessions):
            self._close(session)

    def _close(self, session: Session) -> None:
        self._forget(session)
        if session in self._sessions:
            self._sessions.remove(session)

    def _forget(self, session: Session) -> None:
        session.close()
        self._written.pop(id(session), None)


def play(story: Story, arm: Callable[[], None]) -> None:
    """The first life.

    :param arm: called when the process is to begin to be in danger.
    """
    chance = random.Random(story.seed)
    witness = story.witness()
    arm()
    clock = begin_life(story, witness, threads=story.threads)
    places = tuple(Place(story, witness, clock, threads=story.threads) for _ in range(chance.choice((1, 1, 2))))
    clients = [
        Client(file, places, witness, chance, chance.choice((0, 0.1, 0.3)), completes=file.fate != "forgotten")
        for file in story.files
    ]
    while todo := [client for client in clients if not client.is_over]:
        chance.choice(todo).step()
        if chance.random() < 0.15:
            _go_on_behind(story, places[-1], clients, chance)
    for _ in range(6):
        _go_on_behind(story, places[0], clients, chance)
    if story.threads:
        with suppress(AssertionError):  # what fails is made again much later
            eventually(lambda: not any(places[0].engine.registry.due(client.ticket) for client in clients), timeout=0.1)


def play_a_lane(story: Story, arm: Callable[[], None]) -> None:
    """The life of another process beside the first one: it sends bytes of what was opened there, until it is killed."""
    chance = random.Random(f"{story.seed} lane")
    witness = story.witness()
    arm()
    place = Place(story, witness, begin_life(story, witness))
    seen: set[str] = set()
    clients: list[Client] = []
    while True:
        for fact in witness.told("opened"):
            if fact["token"] not in seen:
                seen.add(fact["token"])
                clients += _lanes(place, story.files[fact["file"]], fact, chance)
        for client in [client for client in clients if client._sessions and not client.is_over]:
            client.lane_step()
        time.sleep(0.001)


def _lanes(place: Place, file: File, fact: dict[str, Any], chance: random.Random) -> list[Client]:
    client = Client(file, (place,), place.witness, chance, 0, ticket=fact["id"], completes=False)
    try:
        client.join(fact["token"])
    except IncomingError:
        return []  # it moved on before we came
    return [client]


def _go_on_behind(story: Story, place: Place, clients: list[Client], chance: random.Random) -> None:
    """What happens behind the clients' backs."""
    choice = chance.choice(("deliver", "deliver", "sweep", "maintain", "finish", "age"))
    if choice == "deliver":
        place.deliver()
    elif choice == "sweep":
        place.sweep(expire=True)
    elif choice == "maintain":
        place.engine.registry.maintain()
    elif choice == "finish":
        finish(place, chance.choice(clients).ticket)
    elif story.ages:
        place.age(chance.choice((60, IDLE + 1)))


def finish(place: Place, ticket: str) -> None:
    """The app says that it has the file."""
    if ticket and place.engine.receiver.status(ticket).state is State.WAITING_FOR_APP:
        with suppress(NotReady):
            place.engine.receiver.done(ticket)
            place.witness.tell("done", id=ticket)
