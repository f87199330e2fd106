"""Each call to S3 goes wrong in each way: what is acknowledged is stored, and the file is handed over whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from incoming_wsgi.errors import IncomingError
from incoming_wsgi.extents import Extents
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import Upload
from tests.faults.every_call import PART, TIMEOUT, FilePieces, assert_whole, impatient, machine_on
from tests.helpers import Engine
from tests.support.s3_faults import Fault, Faulty
from tests.support.s3_server import S3Server

LENGTH = PART + 300_000
FILE = FilePieces(random.Random(10), LENGTH, (200_000, PART + 100_000))
DATA = FILE.data


@pytest.fixture
def running(s3_server: S3Server, tmp_path: Path) -> Iterator[tuple[Engine, Faulty]]:
    with impatient(), machine_on(tmp_path, s3_server) as both:
        yield both


@pytest.fixture
def machine(running: tuple[Engine, Faulty]) -> Engine:
    return running[0]


@pytest.fixture
def faulty(running: tuple[Engine, Faulty]) -> Faulty:
    return running[1]


@pytest.mark.parametrize("fault", Fault, ids=str)
def test_one_call_after_the_other(machine: Engine, faulty: Faulty, fault: Fault) -> None:
    """The ways share the calls; the campaign ``every-call`` has all of them in each way."""
    number, step = 1 + list(Fault).index(fault), len(Fault)
    while True:
        ticket = machine.ticket(remove_file_when_finished=False)
        machine.app.notices.clear()
        with faulty.strike(fault, number):
            FILE.send(machine, ticket)
        assert_whole(machine, ticket, DATA)
        if not faulty.struck:
            break
        number += step
    assert number > 15


@pytest.mark.parametrize(
    "fault", [Fault.DROP_REPLY, Fault.ERROR, Fault.SLOW_DOWN], ids=lambda fault: fault.name.lower()
)
def test_a_server_that_fails_for_a_while(machine: Engine, faulty: Faulty, fault: Fault) -> None:
    """Longer than a call is repeated: the client is told to come again, and is not told anything wrong."""
    ticket = machine.ticket(remove_file_when_finished=False)
    with faulty.strike(fault, 12, 9):
        FILE.send(machine, ticket)
    assert_whole(machine, ticket, DATA)


def test_nothing_but_our_errors(faulty: Faulty, s3_server: S3Server) -> None:
    """Whatever is called while nothing works."""
    url = s3_server.url(s3_server.bucket(), faulty.endpoint, part_size=PART, timeout=TIMEOUT)
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
