"""Lives of an engine on a disk whose power goes: several clients at once, and an app that takes the files elsewhere.

Each life is a process of its own, under a boot id of its own. What anybody was told is told to a witness, who does not
live on that disk.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from incoming_wsgi import digests, receiver, watermark
from incoming_wsgi.delivery.handover import CallableHandler, FinishedUpload
from incoming_wsgi.errors import NotReady
from incoming_wsgi.registry import sqlite
from incoming_wsgi.session import Session
from incoming_wsgi.upload import OPEN_STATES, State, Upload
from tests.helpers import Engine, lane_of, write_by_turns
from tests.support.waiting import eventually

from .crash_points import CrashPoint
from .witness import Witness

_MIB = 1024 * 1024

#: Seconds in which all uploads of a life must come to their end, or to where the app leaves them.
_PATIENCE = 60.0

#: Words that a life says when the power is to go: at a crash point; after enough has been told, or all has been done.
AT_CRASH_POINT, AT_REST = b"!", b"."

Taking = Literal["", "move_to", "by itself"]
Answer = Literal["done", "wait", "wait, then finished", "failed", "silent"]


@dataclass(frozen=True)
class File:
    """A file, and what its client and the app are like.

    :ivar piece: bytes that are written in one go, at most.
    :ivar in_order: or anywhere.
    :ivar lanes: on which its pieces come.
    :ivar in_one_piece: its client tries to send all with the opening.
    :ivar is_announced: the ticket tells how long it is at most: its room on the disk is taken in advance.
    :ivar taking: how the app takes the file away, onto another file system; empty: not at all.
    :ivar kept: the app wants to find the file where it is.
    """

    number: int
    data: bytes
    sha256: str
    piece: int
    in_order: bool
    lanes: int
    is_announced: bool
    taking: Taking
    kept: bool
    in_one_piece: bool


@dataclass(frozen=True)
class Plan:
    """What happens in one case.

    :ivar folder: with the witness and what the app has taken; its disk is mounted below it.
    :ivar fsync: whether bytes are acknowledged only when they are synced.
    :ivar step: bytes of an upload after which the engine syncs them in the background.
    :ivar tidies: whether the records are moved from SQLite's log into the database all the time.
    """

    folder: Path
    root: Path
    seed: str
    files: tuple[File, ...]
    fsync: bool
    step: int
    tidies: bool

    @property
    def pieces(self) -> int:
        return sum(-(-len(file.data) // file.piece) for file in self.files)

    def witness(self) -> Witness:
        return Witness(self.folder / "witness")

    def taken(self, ticket: str) -> Path:
        return self.folder / "taken" / ticket


def any_plan(folder: Path, root: Path, chance: random.Random, *, fsync: bool) -> Plan:
    files = tuple(_any_file(number, chance) for number in range(chance.choice((2, 3, 4))))
    step = chance.choice((_MIB // 4, _MIB // 4, _MIB // 2, 64 * _MIB))
    seed = f"powered {chance.random()}"
    return Plan(folder, root, seed, files, fsync, step, chance.random() < 0.3)


def _any_file(number: int, chance: random.Random) -> File:
    data = chance.randbytes(chance.randint(_MIB, 8 * _MIB))
    return File(
        number,
        data,
        hashlib.sha256(data).hexdigest(),
        piece=chance.randint(_MIB // 16, _MIB),
        in_order=chance.random() < 0.6,
        lanes=chance.choice((1, 1, 2, 3)),
        is_announced=chance.random() < 0.4,
        taking=chance.choice(("", "move_to", "by itself")),
        kept=chance.random() < 0.3,
        in_one_piece=chance.random() < 0.3,
    )


class Place:
    """An engine, with its app, in a process that has just come up after the power did.

    :param boot: which time this is, from 0.
    :param answers: what the app answers, each time anew.
    :param told: is called after anybody was told anything.
    """

    def __init__(self, plan: Plan, boot: int, answers: Callable[[], Answer], told: Callable[[], None]) -> None:
        self.plan = plan
        self.witness = plan.witness()
        self.asked: set[str] = set()  # tickets whose files the app was offered in this life
        self._answers = answers
        self._told = told
        self._make_small()
        app = CallableHandler(self._on_finish, None, self._record_move)
        self.engine = Engine(plan.root / "engine", handler=app, fsync=plan.fsync, boot_id=f"boot {boot}")
        self._watch_the_watermarks()

    def tell(self, what: str, **facts: Any) -> None:
        self.witness.tell(what, **facts)
        self._told()

    def facts(self, what: str, ticket: str) -> list[dict[str, Any]]:
        return [fact for fact in self.witness.told(what) if fact["id"] == ticket]

    def tickets(self) -> dict[str, File]:
        """Those that somebody holds."""
        return {fact["id"]: self.plan.files[fact["file"]] for fact in self.witness.told("ticket")}

    def _make_small(self) -> None:
        watermark.STEP = self.plan.step
        digests._BEHIND, digests._STEP = _MIB // 4, _MIB
        if self.plan.tidies:
            receiver._SWEEP_INTERVAL, sqlite._SMALL_LOG = 0.05, 0

    def _watch_the_watermarks(self) -> None:
        watermarks = self.engine.receiver._watermarks
        sync, get = watermarks._sync, self.engine.registry.get

        def watched(upload: Upload) -> None:
            before = get(upload.id)
            sync(upload)
            after = get(upload.id)
            if before and after and {before.state, after.state} <= OPEN_STATES and not after.taken_back:
                self.tell("synced", id=upload.id, ranges=before.extents.ranges)

        watermarks._sync = watched

    # -- the app --------------------------------------------------------------------------------------------

    def _on_finish(self, upload: FinishedUpload) -> str:
        file = self.tickets()[upload.id]
        answer = self._answers()
        if self._has(upload.id) and not Path(upload.path).exists():
            return "done"  # an app that takes files by itself knows which ones it has
        digest = hashlib.sha256(Path(upload.path).read_bytes()).hexdigest()
        self.tell("finished", id=upload.id, event=upload.event_id, sha256=digest, said=upload.sha256)
        if answer in ("done", "wait", "wait, then finished"):
            self._take(file, upload)
        self.asked.add(upload.id)
        if answer == "silent":
            threading.Event().wait()
        elif answer == "wait, then finished":
            threading.Thread(target=self._finish, args=(upload.id,), daemon=True).start()
        return answer.split(",")[0]

    def _has(self, ticket: str) -> bool:
        return (self.plan.taken(ticket) / "file.bin").exists()

    def _take(self, file: File, upload: FinishedUpload) -> None:
        folder = self.plan.taken(upload.id)
        if file.taking == "move_to":
            upload.move_to(f"{folder}/")
        elif file.taking:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(upload.path, folder / "half")
            os.rename(folder / "half", folder / "file.bin")
            os.unlink(upload.path)

    def _finish(self, ticket: str) -> None:
        with suppress(NotReady):
            self.engine.receiver.done(ticket)
            self.tell("done", id=ticket)

    def _record_move(self, upload: Upload, target: str) -> None:
        self.engine.receiver.record_move(upload, target)


class Sender:
    """A client that sends one file, in a thread of its own, and comes back until the app has it."""

    def __init__(self, place: Place, file: File, ticket: str, chance: random.Random) -> None:
        self._place = place
        self._receiver = place.engine.receiver
        self._file = file
        self._chance = chance
        self._acknowledged_late: dict[Session, list[tuple[int, int]]] = {}
        self.ticket = ticket
        self.failure = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            if not self.ticket:
                self._ask_for_a_ticket()
            while self._state() is not State.FINISHED:
                self._send_what_is_missing()
                self._receiver.wait(self.ticket, _is_at_a_turn, _PATIENCE)
        except BaseException:  # noqa: BLE001 (the life ends with it)
            self.failure = traceback.format_exc()

    def _ask_for_a_ticket(self) -> None:
        most = len(self._file.data) if self._file.is_announced else None
        ticket = self._place.engine.ticket(max_length=most, remove_file_when_finished=not self._file.kept)
        self._place.tell("ticket", id=ticket, file=self._file.number)
        self.ticket = ticket

    def _state(self) -> State:
        state = self._receiver.status(self.ticket).state
        self._place.tell("seen", id=self.ticket, state=state.value)
        return state

    def _send_what_is_missing(self) -> None:
        if self._file.in_one_piece and self._receiver.take_whole(self.ticket, self._file.data, name="file.bin"):
            self._place.tell("acknowledged", id=self.ticket, start=0, end=len(self._file.data))
            return
        session = self._receiver.open(self.ticket, length=len(self._file.data), name="file.bin")
        if session is None:
            return
        lanes = [session, *(lane_of(self._receiver, self.ticket, session.token) for _ in range(1, self._file.lanes))]
        for start, end in self._pieces(session):
            self._write(self._chance.choice(lanes), start, end)
        for lane in lanes:
            self._sync(lane)
            lane.close()
        self._receiver.complete(self._receiver.status(self.ticket))

    def _pieces(self, session: Session) -> list[tuple[int, int]]:
        size, piece = len(self._file.data), self._file.piece
        gaps = session.upload.extents.missing(0, size)
        pieces = [(start, min(start + piece, end)) for gap, end in gaps for start in range(gap, end, piece)]
        if not self._file.in_order:
            self._chance.shuffle(pieces)
        return pieces

    def _write(self, lane: Session, start: int, end: int) -> None:
        write_by_turns(lane, start, self._file.data[start:end])
        self._acknowledged_late.setdefault(lane, []).append((start, end))
        if self._chance.random() < 0.6:
            self._sync(lane)

    def _sync(self, lane: Session) -> None:
        lane.sync()
        for start, end in self._acknowledged_late.pop(lane, []):
            self._place.tell("acknowledged", id=self.ticket, start=start, end=end)


def _is_at_a_turn(upload: Upload) -> bool:
    return upload.state is State.FINISHED or upload.state in OPEN_STATES


def send_all(place: Place, boot: int) -> list[Sender]:
    """All clients come back at once."""
    tickets = {file.number: ticket for ticket, file in place.tickets().items()}
    chance = random.Random(f"{place.plan.seed} senders {boot}")
    return [
        Sender(place, file, tickets.get(file.number, ""), random.Random(chance.random())) for file in place.plan.files
    ]


def live(plan: Plan, boot: int, check: Callable[[Place], None], point: CrashPoint | None, wire: int, most: int) -> None:
    """A life that ends when the power goes; until then nothing more happens once ``wire`` has got a word.

    :param check: what must hold when the power is back, before anything else happens.
    :param point: where the power is to go, if this life gets there.
    :param most: the time has also come when so many things have been told.
    """
    chance = random.Random(f"{plan.seed} life {boot}")
    count = itertools.count(1)

    def told() -> None:
        if next(count) == most:
            os.write(wire, AT_REST)

    def stand_still() -> None:
        os.write(wire, AT_CRASH_POINT)
        threading.Event().wait()

    try:
        if point is not None:
            point.arm(stand_still)
        place = Place(plan, boot, lambda: chance.choice(_ANSWERS), told)
        check(place)
        place.engine.start()
        senders = send_all(place, boot)
        eventually(lambda: all(_is_at_rest(place, sender) for sender in senders), _PATIENCE, "the clients' rest")
    except BaseException:  # noqa: BLE001 (the case fails with it)
        plan.witness().tell("error", text=traceback.format_exc())
    os.write(wire, AT_REST)
    threading.Event().wait()


_ANSWERS: tuple[Answer, ...] = ("done", "wait", "wait, then finished", "failed", "silent")


def _is_at_rest(place: Place, sender: Sender) -> bool:
    """The file is with the app, or its answer is."""
    assert not sender.failure, sender.failure
    return sender.has_ended or sender.ticket in place.asked
