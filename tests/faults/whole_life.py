"""The whole life of an engine: five uploads on their way, each to another end, in a process where a call may fail.

Everybody goes on as they do in earnest: clients come again after an error that allows it, what works in the background
is called again, and the process lives. What must hold then is checked here.
"""

from __future__ import annotations

import functools
import gc
import os
import random
import secrets
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from incoming_wsgi.errors import IncomingError, NoSpace, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.receiver import Receiver
from incoming_wsgi.upload import CLOSED_STATES, OPEN_STATES, State, Upload
from incoming_wsgi.wire.bulk import pipes
from tests.helpers import lane_of, write_by_turns

from .recovery import check_that_nothing_is_left, judge
from .story import IDLE, File, Place, Story, begin_life
from .witness import Witness

T = TypeVar("T")

_PATIENCE = 4  # times that anybody tries the same thing; one of them may fail
_ROUNDS = 8  # looks until all must have come to its end
_TWO_DAYS = 2 * 86400.0

#: What the witness hears when everything is done, and the rest is only looked at.
OVER = "over"

_PIECE = 16_000


def whole_life(folder: Path, *, fsync: bool) -> Story:
    """What happens in it; the same each time, but for the names."""
    chance = random.Random("a whole life")
    files = (
        File(0, chance.randbytes(45_000), "sent", _PIECE, True, ("wait",), "move_to", False),
        File(1, chance.randbytes(20_000), "sent", _PIECE, False, (), "move_to another file system", False),
        File(2, chance.randbytes(10_000), "cancelled", _PIECE, True, (), "", False),
        File(3, b"", "sent", _PIECE, True, (), "", False),
        File(4, chance.randbytes(12_000), "sent", _PIECE, True, (), "", False),
    )
    return Story(folder, "a whole life", files, fsync=fsync)


def live_through(story: Story, short_write: int = 0) -> None:
    """Live it, in a process of its own: what is patched stays so.

    :param short_write: of Python's writes by position, the so many-th writes only half, and says so.
    :raises AssertionError: a promise is broken.
    """
    witness = story.witness()
    clock = begin_life(story, witness)
    _give_the_same_names(random.Random(story.seed))
    _Disk(short_write).watch()
    descriptors = _descriptors()
    place = _insistently(witness, "", lambda: Place(story, witness, clock))
    life = _Life(place, witness)
    life.run()
    with suppress(Unavailable, NoSpace):
        place.engine.close()
    del life, place
    gc.collect()
    left = _looking(_descriptors).items() - descriptors.items()
    assert not left, f"descriptors are left open: {left}"
    witness.tell(OVER)
    last = Place(story, witness, clock)
    assert last.engine.receiver.find() == [], "what has ended is forgotten after a day"
    check_that_nothing_is_left(last)
    last.engine.close()


def _give_the_same_names(chance: random.Random) -> None:
    """Each life makes the same calls, with the same words in them: so one that was counted is met again."""
    secrets.token_bytes = chance.randbytes  # type: ignore[assignment]
    secrets.token_hex = lambda size: chance.randbytes(size).hex()  # type: ignore[assignment, misc]
    secrets.token_urlsafe = secrets.token_hex
    uuid.uuid4 = lambda: uuid.UUID(bytes=chance.randbytes(16))


def _descriptors() -> dict[str, str]:
    """What is open in this process: numbers and paths; but for the pipes that it keeps for later."""
    kept = {str(end) for pipe in pipes.kept for end in (pipe.reading, pipe.writing)}
    found = {}
    for number in set(os.listdir("/proc/self/fd")) - kept:
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # that was the listing itself
    return found


def _insistently(witness: Witness, ticket: str, call: Callable[[], T]) -> T:
    """As a client does it: come again, after an error that says that this may help; any other breaks a promise."""
    for _ in range(_PATIENCE):
        try:
            return call()
        except (NoSpace, Unavailable) as error:
            witness.tell("refused", id=ticket, error=type(error).__name__)
    raise AssertionError("the same thing failed again and again")


def _looking(look: Callable[[], T]) -> T:
    """Our own look may be what fails: then it is taken again."""
    try:
        return look()
    except (OSError, IncomingError):
        return look()


class _Disk:
    """One that can't keep what was written: a sync that fails takes away all that came after the last good one.

    :param short_write: the so many-th write writes only half.
    """

    def __init__(self, short_write: int) -> None:
        self._short_write = short_write
        self._writes = 0
        self._pwritev, self._splice, self._fdatasync = os.pwritev, os.splice, os.fdatasync
        self._dirty: dict[str, Extents] = {}

    def watch(self) -> None:
        os.pwritev, os.splice = self._written, self._spliced  # type: ignore[assignment]
        os.fdatasync = self._synced  # type: ignore[assignment]

    def _written(self, descriptor: int, blocks: Sequence[memoryview], position: int) -> int:
        if self._is_short():
            blocks = [blocks[0][: len(blocks[0]) // 2]]
        return self._noted(descriptor, position, self._pwritev(descriptor, blocks, position))

    def _spliced(self, source: int, descriptor: int, count: int, *, offset_dst: int) -> int:
        if self._is_short():
            count //= 2
        return self._noted(descriptor, offset_dst, self._splice(source, descriptor, count, offset_dst=offset_dst))

    def _is_short(self) -> bool:
        self._writes += 1
        return self._writes == self._short_write

    def _noted(self, descriptor: int, position: int, count: int) -> int:
        file = _file(descriptor)
        if count:
            self._dirty[file] = self._dirty.get(file, Extents()).add(position, position + count)
        return count

    def _synced(self, descriptor: int) -> None:
        dirty = self._dirty.pop(_file(descriptor), Extents())
        try:
            self._fdatasync(descriptor)
        except OSError:
            for start, end in dirty.ranges:
                os.pwrite(descriptor, bytes(end - start), start)
            raise


def _file(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


@dataclass
class _Life:
    place: Place
    witness: Witness

    def run(self) -> None:
        moved, copied, cancelled, empty, small = senders = [_Sender(self, file) for file in self.place.story.files]
        copied.send(10_000)
        moved.send(30_000)
        cancelled.send(5_000)
        moved.pause()
        moved.send_all()
        cancelled.cancel()
        self._behind()
        small.send_whole()
        empty.send_all()
        copied.send_all()
        for _ in range(_ROUNDS):
            self.place.age(100)
            self._behind()
            ended = [sender.has_come_to_its_end() for sender in senders]  # each of them looks
            if all(ended):
                break
        for _ in range(2):  # for tickets that nobody was told of
            self.place.age(IDLE + 100)
            self._behind(expire=True)
        _looking(self._check_ends)
        for _ in range(2):
            self.place.age(_TWO_DAYS)
            self._behind()

    def _behind(self, *, expire: bool = False) -> None:
        """What happens in the background, where all that goes wrong is logged and tried again later."""
        sweep = functools.partial(self.place.sweep, expire=expire)
        for work in (sweep, self.place.engine.registry.maintain, self.place.deliver):
            try:
                work()
            except Exception as error:  # noqa: BLE001 (as in the threads that do it)
                self.witness.tell("background", error=repr(error))

    def _check_ends(self) -> None:
        engine = self.place.engine
        uploads = engine.receiver.find()
        tickets = {fact["id"] for fact in self.witness.told("ticket")}
        assert tickets <= {upload.id for upload in uploads}, "a ticket is forgotten"
        for upload in uploads:
            assert upload.state in CLOSED_STATES, f"stuck: {upload}"
            assert engine.registry.due(upload.id) is None, f"its app has never answered: {upload}"
            judge(self.place, upload)
        for upload in uploads:
            self.witness.tell("ended", id=upload.id, state=upload.state.value)


class _Sender:
    """A client with two lanes."""

    def __init__(self, life: _Life, file: File) -> None:
        self._life = life
        self._file = file
        self._acknowledged = Extents()
        self._taken_back = 0
        self._token = ""
        self._ticket = ""
        self._ticket = self._try(self._ask)

    def _ask(self) -> str:
        facts = {"file": str(self._file.number)}
        ticket = self._life.place.engine.ticket(metadata=facts, max_length=2**20)
        self._life.witness.tell("ticket", id=ticket, file=self._file.number)
        return ticket

    @property
    def _receiver(self) -> Receiver:
        return self._life.place.engine.receiver

    def _try(self, call: Callable[[], T]) -> T:
        return _insistently(self._life.witness, self._ticket, call)

    def send(self, end: int) -> None:
        """Until all bytes before ``end`` are acknowledged."""
        self._try(lambda: self._send(end))

    def _send(self, end: int) -> None:
        self._look()
        session = self._receiver.open(self._ticket, length=len(self._file.data), name="data.bin")
        if session is None:
            return
        self._token = session.token
        with session, lane_of(self._receiver, self._ticket, session.token) as other:
            missing = list(session.upload.extents.missing(0, end))
            for start, stop in missing:
                for number, position in enumerate(range(start, stop, _PIECE)):
                    lane, last = (session, other)[number % 2], min(stop, position + _PIECE)
                    write_by_turns(lane, position, self._file.data[position:last])
                    self._acknowledge(lane.sync(), position, last)

    def _acknowledge(self, upload: Upload, start: int, end: int) -> None:
        self._acknowledged = self._acknowledged.add(start, end)
        self._life.witness.tell("acknowledged", id=self._ticket, start=start, end=end)

    def _look(self) -> Upload:
        """Is all there that was acknowledged? Of a disk that failed at a sync, what had been synced."""
        upload = self._receiver.status(self._ticket)
        if upload.taken_back > self._taken_back:
            self._life.witness.tell("taken back", id=self._ticket)
            self._taken_back, self._acknowledged = upload.taken_back, upload.extents
        for start, end in self._acknowledged.ranges:
            assert upload.extents.contains(start, end), f"{start} to {end} was acknowledged: {upload}"
        return upload

    def pause(self) -> None:
        self._try(self._pause)

    def _pause(self) -> None:
        try:
            self._receiver.pause(self._ticket, self._token)
        except Unavailable:
            self._send(0)  # it may have to be opened anew
            raise

    def send_all(self) -> None:
        self._try(self._send_all)

    def _send_all(self) -> None:
        self._send(len(self._file.data))
        self._receiver.complete(self._look())

    def send_whole(self) -> None:
        """With the opening."""
        self._try(self._send_whole)

    def _send_whole(self) -> None:
        if self._receiver.take_whole(self._ticket, self._file.data, name="data.bin") is not None:
            self._acknowledge(self._look(), 0, len(self._file.data))

    def cancel(self) -> None:
        self._try(lambda: self._receiver.cancel(self._ticket, "the client wants no more"))
        self._life.witness.tell("cancel", id=self._ticket)

    def has_come_to_its_end(self) -> bool:
        """Look how it goes; send what is owed again; the app that took its time says that it is done."""
        upload = self._try(self._look)
        if upload.state is State.WAITING_FOR_APP:
            self._try(lambda: self._receiver.done(self._ticket))
        elif upload.state in OPEN_STATES:
            self.send_all()
        due = self._try(lambda: self._life.place.engine.registry.due(self._ticket))
        return upload.state in CLOSED_STATES and due is None
