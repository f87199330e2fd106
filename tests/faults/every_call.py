"""Campaign: each call to S3 goes wrong in turn, in each way, while a file arrives, is composed and handed over."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from unittest import mock

from incoming_wsgi.errors import IncomingError
from incoming_wsgi.extents import Extents
from incoming_wsgi.session import Session
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import State
from tests.helpers import Engine
from tests.support.s3_faults import Fault, Faulty
from tests.support.s3_server import CREDENTIALS, Ceph, Rclone, S3Server
from tests.support.waiting import eventually

from .laboratory import Campaign, Case

PART = 5 * MIB

#: Seconds that the storage waits for an answer, and for which there is none.
TIMEOUT, SILENCE = 1, 1.5

#: Each way is a case; the first one is that of the short form.
_WAYS = (Fault.DROP_REPLY, *(fault for fault in Fault if fault is not Fault.DROP_REPLY))

#: Those in which a server can fail for a while, and calls that it then fails: more than one call is repeated.
_LASTING, _WHILE = frozenset({Fault.DROP_REPLY, Fault.ERROR, Fault.SLOW_DOWN}), 9

_SERVERS: tuple[type[S3Server], ...] = (Ceph, Rclone)
_STEP = 5  # from one call that is met to the next in the short form
_FEWEST = 15  # calls that even a short upload takes; fewer would mean that this counts the wrong ones


def case(case: Case) -> None:
    turn, which = divmod(case.number, len(_WAYS))
    fault, server = _WAYS[which], _SERVERS[turn % len(_SERVERS)]
    logging.disable()  # it would speak of each call
    with server(case.folder / "s3") as s3, impatient(), machine_on(case.folder, s3) as (machine, faulty):
        for count in (1, _WHILE) if fault in _LASTING and case.full else (1,):
            calls = _strike_each(case, machine, faulty, fault, count)
            case.measured(f"calls until the end, when that may happen to each: {fault.value}", calls)
            assert calls > _FEWEST


def _strike_each(case: Case, machine: Engine, faulty: Faulty, fault: Fault, count: int) -> int:
    """Upload after upload, until there was no call with the next number; gives the last one that there was."""
    step = 1 if case.full else _STEP
    number = case.random.randrange(step) + 1 - step
    while True:
        number += step
        file = FilePieces(case.random)
        ticket = machine.ticket(remove_file_when_finished=False)
        machine.app.notices.clear()
        with faulty.strike(fault, number, count):
            file.send(machine, ticket)
        assert_whole(machine, ticket, file.data)
        for _ in range(faulty.struck):
            case.injected(fault.value)
        if not faulty.struck:
            return number - step


class FilePieces:
    """A file of several parts, in pieces: some of which are parts, or have one in them, and of some a part is composed.

    :param cuts: where a piece ends and the next begins; else that is left to chance.
    """

    def __init__(self, chance: random.Random, length: int = 0, cuts: Sequence[int] = ()) -> None:
        length = length or 2 * PART + chance.randrange(1, MIB)
        cuts = cuts or [PART, *(chance.randrange(1, length) for _ in range(3))]
        self.data = chance.randbytes(length)
        self._pieces = list(pairwise(sorted({0, *cuts, length})))

    def send(self, engine: Engine, ticket: str) -> None:
        """By a client that comes again after each refusal; what it hears as arrived is recorded, and is there."""
        acknowledged = Extents()
        while True:
            try:
                upload = engine.receiver.status(ticket)
                if upload.state is State.FINISHED:
                    return
                assert upload.phase != "failed", upload.reason
                if upload.phase == "uploading" and not upload.is_complete:
                    assert not acknowledged.minus(upload.extents).ranges
                    with engine.open(ticket, len(self.data)) as session:
                        acknowledged = self._write(session, acknowledged)
                        upload = session.upload
                if upload.is_complete:
                    engine.receiver.complete(engine.receiver.status(ticket))
                    upload = engine.receiver.wait(ticket, lambda found: found.phase == "finished", 0.3)
                    if upload.phase == "processing":
                        engine.receiver.sweep()  # what comes of itself after five seconds
            except IncomingError as error:
                if not error.retryable:
                    raise

    def _write(self, session: Session, acknowledged: Extents) -> Extents:
        for start, end in self._pieces:
            for gap, stop in session.upload.extents.missing(start, end):
                session.write(gap, self.data[gap:stop])
                acknowledged = acknowledged.merge(session.sync().extents)
        return acknowledged


def assert_whole(machine: Engine, ticket: str, data: bytes) -> None:
    assert machine.stored(ticket) == data
    eventually(lambda: machine.app.notices)
    assert [notice.upload.id for notice in machine.app.notices] == [ticket]


@contextmanager
def machine_on(folder: Path, s3: S3Server) -> Iterator[tuple[Engine, Faulty]]:
    with Faulty(s3.port, SILENCE) as faulty, mock.patch.dict("os.environ", CREDENTIALS):
        engine = Engine(
            folder, storage=S3Storage(s3.url(s3.bucket(), faulty.endpoint, part_size=PART, timeout=TIMEOUT))
        )
        with closing(engine):
            engine.start()
            yield engine, faulty


@contextmanager
def impatient() -> Iterator[None]:
    """Calls are repeated at once."""
    with mock.patch("botocore.retries.standard.ExponentialBackoff.delay_amount", return_value=0.01):
        yield


CAMPAIGN = Campaign(
    name="every-call",
    about="each call to S3 lost, refused, cut, reset, late or silent in turn: what is acknowledged is stored",
    case=case,
    short=1,
    full=len(_WAYS) * len(_SERVERS),
    jobs=1,
    timeout=900,
    missing=Ceph.missing,
)
