"""Each call to S3 goes wrong in each way: what is acknowledged is stored, and the file is handed over whole."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from incoming_wsgi.errors import IncomingError
from incoming_wsgi.extents import Extents
from incoming_wsgi.session import Session
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import State, Upload
from tests.helpers import Engine
from tests.support.s3_faults import Fault, Faulty
from tests.support.s3_server import S3Server
from tests.support.waiting import eventually

PART = 5 * MIB
LENGTH = PART + 300_000
DATA = random.Random(10).randbytes(LENGTH)

_TIMEOUT = 1  # seconds that the storage waits for an answer


@pytest.fixture
def faulty(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    with Faulty(s3_server.port, silence=_TIMEOUT + 0.5) as proxy:
        yield proxy


@pytest.fixture
def machine(faulty: Faulty, s3_server: S3Server, tmp_path: Path) -> Iterator[Engine]:
    url = s3_server.url(s3_server.bucket(), faulty.endpoint, part_size=PART, timeout=_TIMEOUT)
    engine = Engine(tmp_path, storage=S3Storage(url))
    engine.start()
    yield engine
    engine.close()


def sent(engine: Engine, ticket: str) -> None:
    """By a client that comes again after each refusal; what it hears as arrived is in the registry, and is there."""
    acknowledged = Extents()
    while True:
        try:
            upload = engine.receiver.status(ticket)
            if upload.state is State.FINISHED:
                return
            assert upload.phase != "failed", upload.reason
            if upload.phase == "uploading" and not upload.is_complete:
                assert not acknowledged.minus(upload.extents).ranges
                with engine.open(ticket, LENGTH) as session:
                    acknowledged = _pieces(session, acknowledged)
                    upload = session.upload
            if upload.is_complete:
                engine.receiver.complete(engine.receiver.status(ticket))
                upload = engine.receiver.wait(ticket, lambda found: found.phase == "finished", 0.3)
                if upload.phase == "processing":
                    engine.receiver.sweep()  # what comes of itself after five seconds
        except IncomingError as error:
            if not error.retryable:
                raise


def _pieces(session: Session, acknowledged: Extents) -> Extents:
    for start, end in ((0, 200_000), (200_000, PART + 100_000), (PART + 100_000, LENGTH)):
        for gap, stop in session.upload.extents.missing(start, end):
            session.write(gap, DATA[gap:stop])
            acknowledged = acknowledged.merge(session.sync().extents)
    return acknowledged


@pytest.mark.parametrize("fault", Fault, ids=str)
def test_one_call_after_the_other(machine: Engine, faulty: Faulty, fault: Fault) -> None:
    """All of them with ``EVERY_CALL=1`` in the environment; else the ways share the calls."""
    which = list(Fault).index(fault)
    number, step = (1, 1) if os.environ.get("EVERY_CALL") else (1 + which, len(Fault))
    while True:
        ticket = machine.ticket(remove_file_when_finished=False)
        machine.app.notices.clear()
        with faulty.strike(fault, number):
            sent(machine, ticket)
        assert_whole(machine, ticket)
        if not faulty.struck:
            break
        number += step
    assert number > 15


@pytest.mark.parametrize(
    "fault", [Fault.DROP_REPLY, Fault.ERROR, Fault.SLOW_DOWN], ids=lambda fault: fault.name.lower()
)
def test_a_server_that_fails_for_a_while(machine: Engine, faulty: Faulty, fault: Fault) -> None:
    """Longer than a call is repeated: the client is told to come again, and is not told anything wrong."""
    for first in (1, 8, 16) if os.environ.get("EVERY_CALL") else (12,):
        ticket = machine.ticket(remove_file_when_finished=False)
        machine.app.notices.clear()
        with faulty.strike(fault, first, 9):
            sent(machine, ticket)
        assert_whole(machine, ticket)


def assert_whole(machine: Engine, ticket: str) -> None:
    assert machine.stored(ticket) == DATA
    eventually(lambda: machine.app.notices)
    assert [notice.upload.id for notice in machine.app.notices] == [ticket]


def test_nothing_but_our_errors(faulty: Faulty, s3_server: S3Server) -> None:
    """Whatever is called while nothing works."""
    url = s3_server.url(s3_server.bucket(), faulty.endpoint, part_size=PART, timeout=_TIMEOUT)
    storage, upload = S3Storage(url), Upload(length=LENGTH, epoch=2)
    storage.create(upload)
    writer = storage.open(upload)
    calls: list[Callable[[], object]] = [
        lambda: storage.create(upload),
        lambda: storage.opened(replace(upload, epoch=3)),
        lambda: S3Storage(url).open(upload),
        lambda: storage.complete(upload),
        lambda: storage.locate(upload),
        lambda: storage.read(upload),
        lambda: storage.remove(upload),
        lambda: storage.join(replace(upload, id=Upload().id), [upload]),
        lambda: list(storage.arriving_since(0)),
        lambda: storage.quarantine(upload.id),
    ]
    for fault in (Fault.DROP_REQUEST, Fault.ERROR):
        for call in calls:
            with faulty.strike(fault, 1, 1000), pytest.raises(IncomingError):
                call()
    with faulty.strike(Fault.SLOW_DOWN, 1, 1000):
        writer.write(0, DATA)
        with pytest.raises(IncomingError):
            writer.flush()
        assert not writer.kept(Extents().add(0, LENGTH)).ranges
    writer.close()
