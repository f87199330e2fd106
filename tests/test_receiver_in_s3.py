"""The engine on a bucket: bytes that S3 has, and no others, are recorded; a file is handed over as it came."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi import FirstBytes, Upload, offload
from incoming_wsgi.errors import Cancelled, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.gates.terms import Terms
from incoming_wsgi.storage.bucket import Bucket
from incoming_wsgi.storage.claims import Owner
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import PROMISE, State
from tests.helpers import Engine, lane_of
from tests.support.s3_server import S3Server
from tests.support.waiting import eventually

PART = 5 * MIB
LENGTH = 2 * PART + 70_000
DATA = random.Random(7).randbytes(LENGTH)
SHA256 = hashlib.sha256(DATA).hexdigest()

Make = Callable[..., Engine]


@pytest.fixture
def machine(s3_server: S3Server, tmp_path: Path) -> Iterator[Make]:
    """Makes engines that share a bucket and a registry."""
    url = s3_server.url(s3_server.bucket(), part_size=PART)
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        made.append(Engine(tmp_path, storage=S3Storage(url), **options))
        made[-1].start()
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def handed_over(engine: Engine, ticket: str, data: bytes = DATA) -> None:
    """Once, and whole."""
    eventually(lambda: engine.app.notices)
    (notice,) = engine.app.notices
    assert notice.path.endswith(f"/complete/{ticket}")
    assert notice.upload.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("fsync", [False, True])
def test_a_whole_file(machine: Make, fsync: bool) -> None:
    one = machine(fsync=fsync)
    one.app.may_answer.clear()
    ticket = one.ticket()
    one.send(ticket, DATA)
    eventually(lambda: one.app.notices)
    assert one.stored(ticket) == DATA
    handed_over(one, ticket)
    one.app.may_answer.set()
    one.until(ticket, State.FINISHED)
    eventually(lambda: one.storage.locate(one.receiver.status(ticket)) is None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which objects are read from the bucket; a call off the event loop fails, since connections belong to it."""
    place, run, call_bucket = threading.local(), offload.run, Bucket.call_bucket
    made: list[str] = []

    def off_the_loop(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        place.is_off = True
        try:
            return run(function, *args, **kwargs)
        finally:
            place.is_off = False

    def call(bucket: Bucket, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "get_object":
            made.append(parameters["Key"])
        assert not getattr(place, "is_off", False), f"{operation} off the event loop"
        return call_bucket(bucket, operation, **parameters)

    monkeypatch.setattr(offload, "run", off_the_loop)
    monkeypatch.setattr(Bucket, "call_bucket", call)
    return made


@pytest.mark.parametrize("size", [1000, 200_000])
def test_a_small_file_in_one_piece(machine: Make, calls: list[str], size: int) -> None:
    """Its digest is made of the bytes that are here."""
    one = machine()
    ticket = one.ticket(remove_file_when_finished=False)
    assert one.receiver.take_whole(ticket, DATA[:size], name="x") is not None
    one.until(ticket, State.FINISHED)
    assert not any("complete/" in key for key in calls)
    assert one.stored(ticket) == DATA[:size]
    handed_over(one, ticket, DATA[:size])


def test_a_digest_that_was_promised(machine: Make, calls: list[str]) -> None:
    one = machine()
    ticket, promise = one.ticket(), {f"{PROMISE}sha512": hashlib.sha512(DATA).hexdigest()}
    session = one.receiver.open(ticket, length=LENGTH, notes=promise)
    assert session is not None
    with session:
        session.write(0, DATA)
        session.sync()
    one.receiver.complete(one.receiver.status(ticket))
    one.until(ticket, State.FINISHED)
    assert any(f"complete/{ticket}" in key for key in calls)


def test_what_comes_in_order_is_hashed_as_it_passes(machine: Make, calls: list[str]) -> None:
    one = machine()
    ticket = one.ticket()
    one.send(ticket, DATA)
    one.until(ticket, State.FINISHED)
    handed_over(one, ticket)
    assert not any("complete/" in key for key in calls)


def test_what_comes_in_another_order_is_read_back(machine: Make, calls: list[str]) -> None:
    """From the first part on that was not hashed."""
    one = machine()
    ticket = one.ticket()
    with one.open(ticket, LENGTH) as session:
        for start, end in ((0, PART), (2 * PART, LENGTH), (PART, 2 * PART)):
            session.write(start, DATA[start:end])
            session.sync()
    one.receiver.complete(one.receiver.status(ticket))
    one.until(ticket, State.FINISHED)
    handed_over(one, ticket)
    assert any("complete/" in key for key in calls)


def test_in_one_piece_after_somebody_has_died_over_another_file(machine: Make) -> None:
    """Its bytes were stored, and not recorded."""
    one = machine()
    ticket = one.ticket(remove_file_when_finished=False)
    with one.storage.keeping_whole(replace(one.receiver.status(ticket), length=9)) as keep:
        keep(b"something")
    if one.receiver.take_whole(ticket, DATA[:1000], name="x") is None:
        one.send(ticket, DATA[:1000])
    one.until(ticket, State.FINISHED)
    assert one.stored(ticket) == DATA[:1000]


def test_an_empty_file(machine: Make) -> None:
    one = machine()
    ticket = one.ticket(remove_file_when_finished=False)
    one.send(ticket, b"")
    one.until(ticket, State.FINISHED)
    assert one.stored(ticket) == b""


def test_what_is_recorded_is_stored(machine: Make) -> None:
    """While a body comes, whole parts are; its end is stored with the rest."""
    one, two = machine(), machine()
    ticket = one.ticket()
    session = one.open(ticket, LENGTH)
    session.write(0, DATA[: PART + 100])
    assert one.receiver.status(ticket).received == 0

    def recorded() -> bool:
        session.sync_if_due(seconds=0)
        return one.receiver.status(ticket).received == PART

    eventually(recorded)
    session.close()  # as when the process dies
    with two.open(ticket, LENGTH) as session:
        assert session.upload.extents == session.upload.synced == Extents().add(0, PART)
        session.write(PART, DATA[PART : PART + 100])
        assert session.sync().received == PART + 100
    with one.open(ticket, LENGTH) as session:
        session.write(PART + 100, DATA[PART + 100 :])
        one.receiver.complete(session.sync())
    one.until(ticket, State.FINISHED)
    engines = [engine for engine in (one, two) if engine.app.notices]
    assert len(engines) == 1
    handed_over(engines[0], ticket)


def test_lanes(machine: Make) -> None:
    one, two = machine(), machine()
    ticket = one.ticket(remove_file_when_finished=False)
    first = one.open(ticket, LENGTH)
    second = lane_of(two.receiver, ticket, first.token)
    second.write(PART, DATA[PART:])
    first.write(0, DATA[:PART])
    second.sync()
    assert first.sync().is_complete
    first.close()
    second.close()
    two.receiver.complete(two.receiver.status(ticket))
    two.until(ticket, State.FINISHED)
    assert one.stored(ticket) == DATA


def test_bytes_that_were_discarded(machine: Make) -> None:
    """They did not fit their checksum; the right ones take their place."""
    one = machine()
    ticket = one.ticket(remove_file_when_finished=False)
    with one.open(ticket, LENGTH) as session:
        session.write(0, DATA[:1000] + bytes(500))
        session.discard()
        assert session.sync().received == 0
        session.write(0, DATA)
        one.receiver.complete(session.sync())
    one.until(ticket, State.FINISHED)
    assert one.stored(ticket) == DATA


def test_somebody_has_changed_what_is_stored(machine: Make) -> None:
    """It is not handed over; all bytes are owed again, and then it is."""
    one = machine()
    storage = one.storage
    assert isinstance(storage, S3Storage)
    ticket = one.ticket()
    with one.open(ticket, LENGTH) as session:
        session.write(0, DATA)
        whole = session.sync()
    storage._bucket.put(f"claims/{ticket}/0000/{Owner.of(whole)}-whole-1.{0:032x}-other", b"")
    one.receiver.complete(whole)
    eventually(lambda: one.receiver.status(ticket).taken_back)
    taken_back = one.receiver.status(ticket)
    assert (taken_back.received, taken_back.state) == (0, State.RECEIVING)
    assert not one.app.notices
    assert storage.locate(taken_back) is None
    one.send(ticket, DATA)
    one.until(ticket, State.FINISHED)
    handed_over(one, ticket)
    eventually(lambda: not list(storage._bucket.list("")))


def test_joined_from_parts(machine: Make) -> None:
    one = machine()
    ticket = one.ticket(remove_file_when_finished=False)
    ids = []
    for start, end in ((0, PART + 10), (PART + 10, LENGTH)):
        part = one.receiver.create_part(ticket, end - start)
        with one.open(part.id, end - start) as session:
            session.write(0, DATA[start:end])
            session.sync()
        ids.append(part.id)
    one.receiver.join(ticket, ids, name="x", protocol="tus", client_metadata={}, notes={})
    one.until(ticket, State.FINISHED)
    assert one.stored(ticket) == DATA
    handed_over(one, ticket)


def test_cancelling_leaves_nothing(machine: Make) -> None:
    one = machine()
    ticket = one.ticket()
    with one.open(ticket, LENGTH) as session:
        session.write(0, DATA[: PART + 10])
        session.sync()
        one.receiver.cancel(ticket, "enough")
    assert isinstance(one.storage, S3Storage)
    assert not list(one.storage._bucket.list(""))


@pytest.mark.parametrize("at_once", [PART, 40_000])
def test_the_app_sees_the_first_bytes_early(machine: Make, at_once: int) -> None:
    """As soon as they are stored, by whichever machine they came, and once."""
    seen: list[bytes] = []

    def look(_: Upload, head: FirstBytes) -> None:
        seen.append(head)

    machines = (machine(on_first_bytes=look), machine(on_first_bytes=look))
    ticket = machines[0].ticket(remove_file_when_finished=False)
    for number, start in enumerate((0, at_once)):
        with machines[number].open(ticket, LENGTH) as session:
            session.write(start, DATA[start : start + at_once])
            session.sync()
    assert seen == [DATA[: 64 * 1024]]
    with machines[0].open(ticket, LENGTH) as session:
        session.write(2 * at_once, DATA[2 * at_once :])
        machines[0].receiver.complete(session.sync())
    machines[0].until(ticket, State.FINISHED)
    assert len(seen) == 1


def test_an_unwelcome_file_goes_no_further(machine: Make) -> None:
    one = machine()
    ticket = one.ticket(terms=Terms(accept="image/*"))
    with one.open(ticket, 2**33, "holiday.jpg") as session:
        session.write(0, b"%PDF-1.7\n" + DATA[:PART])
        with pytest.raises(Cancelled, match="application/pdf"):
            session.sync()
    assert one.state(ticket) is State.CANCELLED
    assert isinstance(one.storage, S3Storage)
    assert not list(one.storage._bucket.list(""))


def test_nobody_knows_which_first_bytes_count(machine: Make) -> None:
    """Neither is looked at: they have to be sent again, and those are."""
    seen: list[bytes] = []

    def look(_: Upload, head: FirstBytes) -> None:
        seen.append(head)

    one = machine(on_first_bytes=look)
    assert isinstance(one.storage, S3Storage)
    ticket = one.ticket(remove_file_when_finished=False)
    with one.open(ticket, LENGTH) as session:
        session.write(PART, DATA[PART:])
        session.sync()
        owner = Owner.of(session.upload)
        one.storage._bucket.put(f"claims/{ticket}/0000/{owner}-whole-1.{0:032x}-other", b"other")
        session.write(0, DATA[:PART])
        with pytest.raises(Unavailable):
            session.sync()
    assert not seen
    assert one.receiver.status(ticket).is_to_be_reopened
    one.send(ticket, DATA)
    one.until(ticket, State.FINISHED)
    assert seen == [DATA[: 64 * 1024]]
    assert one.stored(ticket) == DATA
