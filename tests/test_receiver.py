"""The engine, in one process and in several: a second :class:`Engine` on the same folder is another process."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi import receiver as module
from incoming_wsgi import session as session_module
from incoming_wsgi.delivery.handover import Notice, Outcome
from incoming_wsgi.errors import (
    AlreadyComplete,
    BadRequest,
    Cancelled,
    Damaged,
    Expired,
    FileChanged,
    IncomingError,
    NoSpace,
    NotReady,
    Replaced,
    TooLarge,
    TooLate,
    Unavailable,
    Undeliverable,
    UnknownUpload,
)
from incoming_wsgi.extents import Extents
from incoming_wsgi.session import Session
from incoming_wsgi.storage import Data
from incoming_wsgi.storage.files import FileWriter
from incoming_wsgi.upload import NOTHING, State, Upload
from tests.support.waiting import eventually

from .helpers import NOBODYS, Child, Clock, Engine, answer_late, lane_of

DATA = random.Random(3).randbytes(100_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
HOUR, DAY = 3600.0, 86400.0


def given_back(engine: Engine, ticket: str, attempts: int) -> bool:
    """Whether so many attempts are over, and the row waits for the next one."""
    due = engine.registry.due(ticket)
    return due is not None and not due.holder and due.attempt == attempts


@pytest.fixture
def other(engine: Engine, tmp_path: Path) -> Iterator[Engine]:
    """Another process on the same folder, not started."""
    other = Engine(tmp_path)
    yield other
    other.close()


@pytest.fixture
def handed_over(engine: Engine) -> Iterator[str]:
    """The ticket of an upload that the app has right now, without having answered."""
    engine.app.may_answer.clear()
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, b"12345")
    eventually(lambda: engine.app.notices)
    yield ticket
    engine.app.may_answer.set()


def test_an_opening_that_comes_late(engine: Engine, other: Engine) -> None:
    """It was held up on its way; its client has given it up, and opened the upload anew."""
    ticket = engine.ticket()
    engine.receiver.open(ticket, length=10, opening="page.1")
    other.receiver.open(ticket, length=10, opening="page.10")
    with pytest.raises(Replaced):
        engine.receiver.open(ticket, length=10, opening="page.9")
    assert engine.receiver.status(ticket).epoch == 2
    engine.receiver.open(ticket, length=10, opening="another.1")
    engine.receiver.open(ticket, length=10)
    session = engine.receiver.open(ticket, length=10, opening="page.1")
    assert session is not None
    session.write(0, b"0123456789")
    assert session.sync().is_complete


def test_an_opening_that_is_late_by_a_moment(engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had looked at the upload before the newer one was recorded."""
    ticket, save = engine.ticket(), engine.registry.save
    newer: list[Session | None] = []

    def late(*arguments: Any, **options: Any) -> Upload:
        monkeypatch.undo()
        newer.append(other.receiver.open(ticket, length=10, opening="page.2"))
        return save(*arguments, **options)

    monkeypatch.setattr(engine.registry, "save", late)
    with pytest.raises(Replaced):
        engine.receiver.open(ticket, length=10, opening="page.1")
    (session,) = newer
    assert session is not None
    assert engine.receiver.status(ticket).session == session.token


def test_an_opening_that_comes_twice_is_one(engine: Engine, other: Engine) -> None:
    """A proxy has asked two machines, since the first one did not answer in time."""
    ticket = engine.ticket()
    one = engine.receiver.open(ticket, length=10, opening="page.1")
    two = other.receiver.open(ticket, length=10, opening="page.1")
    assert one is not None
    assert two is not None
    assert one.token == two.token
    one.write(0, b"01234")
    one.sync()
    two.write(5, b"56789")
    assert two.sync().is_complete


@pytest.mark.parametrize("opening", ["x", "x.", ".1", "x.y", "x.1.1", "x.-1", f"{'x' * 33}.1", "x.1234567890", "ü.1"])
def test_openings_are_numbered(engine: Engine, opening: str) -> None:
    with pytest.raises(BadRequest):
        engine.receiver.open(engine.ticket(), length=10, opening=opening)


@pytest.mark.parametrize("text", ["", "..", "x" * 36, "A" * 36, f"{NOBODYS}\n", NOBODYS.upper(), f"{NOBODYS}/", "*"])
def test_what_is_no_ticket_never_reaches_the_registry(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for name in ("get", "save", "wait", "parts_of"):
        monkeypatch.setattr(engine.registry, name, lambda *_, **__: pytest.fail("the registry was asked"))
    receiver = engine.receiver
    for use in (
        lambda: receiver.status(text),
        lambda: receiver.open(text, length=1, name="x"),
        lambda: receiver.take_whole(text, b"x", name="x"),
        lambda: lane_of(receiver, text, "token"),
        lambda: receiver.pause(text, "token"),
        lambda: receiver.cancel(text, "why"),
        lambda: receiver.renew(text, None),
        lambda: receiver.done(text),
        lambda: receiver.shut_out(text),
        lambda: receiver.create_part(text),
        lambda: receiver.join(text, [], name="x", protocol="tus", client_metadata={}, notes={}),
    ):
        with pytest.raises(UnknownUpload):
            use()


# -- from the ticket to the app ---------------------------------------------------------------------------------


def test_a_whole_life(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket(secret="geheim", metadata={"owner": "me"})
    assert engine.state(ticket) is State.WAITING
    seen: list[bytes] = []
    engine.app.acts = lambda notice: seen.append(Path(notice.path).read_bytes())
    with engine.open(ticket, len(DATA), name="photo.jpg") as session:
        assert engine.state(ticket) is State.RECEIVING
        session.write(0, DATA)
        engine.receiver.complete(session.sync())
    upload = engine.until(ticket, State.FINISHED)
    (notice,) = engine.app.notices
    assert seen == [DATA]
    assert notice.path == str(engine.complete(ticket))
    assert notice.upload.sha256 == upload.sha256 == DIGEST
    assert notice.upload.filename_from_browser == "photo.jpg"
    assert notice.upload.metadata == {"owner": "me"}
    assert notice.delivery.event_id == upload.event_id
    assert notice.delivery.attempt == 0
    assert engine.registry.due(ticket) is None
    eventually(lambda: not engine.complete(ticket).exists())


def test_a_file_that_the_app_wants_to_keep(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket(remove_file_when_finished=False)
    engine.send(ticket, DATA)
    engine.until(ticket, State.FINISHED)
    assert engine.complete(ticket).read_bytes() == DATA


def test_an_empty_file(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket(remove_file_when_finished=False)
    engine.send(ticket, b"")
    upload = engine.until(ticket, State.FINISHED)
    assert engine.complete(ticket).read_bytes() == b""
    assert upload.sha256 == hashlib.sha256().hexdigest()


def test_a_small_file_in_one_piece(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket()
    taken = engine.receiver.take_whole(ticket, DATA, name="small.bin", fingerprint="f", protocol="tus")
    assert taken is not None
    assert (taken.epoch, taken.length, taken.sha256, taken.protocol) == (1, len(DATA), DIGEST, "tus")
    upload = engine.until(ticket, State.FINISHED)
    (notice,) = engine.app.notices
    assert (notice.upload.sha256, notice.upload.filename, notice.path) == (DIGEST, "small.bin", upload.location)
    eventually(lambda: not engine.complete(ticket).exists())
    assert engine.receiver.take_whole(ticket, DATA, name="small.bin") is None


def test_one_piece_for_what_was_opened_before(engine: Engine, other: Engine) -> None:
    """Its bytes may be safe already: it goes the longer way."""
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:1000])
        session.sync()
        assert other.receiver.take_whole(ticket, bytes(len(DATA)), name="x") is None
        assert session.sync().received == 1000
    assert engine.stored(ticket)[:1000] == DATA[:1000]


@pytest.mark.parametrize("moment", ["create", "open"])
def test_somebody_opens_what_comes_in_one_piece(
    engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before it is stored, or while: who opens it last owns it."""
    ticket = engine.ticket()
    sessions: list[Session] = []
    call = getattr(engine.storage, moment)

    def meanwhile(upload: Upload) -> Any:
        result = call(upload)
        sessions.append(other.open(ticket, len(DATA)))
        return result

    monkeypatch.setattr(engine.storage, moment, meanwhile)
    assert engine.receiver.take_whole(ticket, bytes(len(DATA)), name="x") is None
    with sessions[0] as session:
        session.write(0, DATA)
        session.sync()
    other.start()
    other.receiver.complete(other.receiver.status(ticket))
    assert other.until(ticket, State.FINISHED).sha256 == DIGEST


@pytest.mark.parametrize("moment", ["create", "open", "sync"])
def test_a_cancel_of_what_comes_in_one_piece(
    engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    ticket = engine.ticket()
    call = getattr(engine.storage, moment)

    def meanwhile(upload: Upload) -> Any:
        other.receiver.cancel(ticket, "no more")
        return call(upload)

    monkeypatch.setattr(engine.storage, moment, meanwhile)
    with pytest.raises(Cancelled):
        engine.receiver.take_whole(ticket, DATA, name="x")
    assert not engine.arriving(ticket).exists()
    assert engine.state(ticket) is State.CANCELLED


@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "fsync"])
def test_a_disk_that_fails_what_comes_in_one_piece(engine: Engine, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Nothing has happened, and it can be sent once more."""
    ticket = engine.ticket()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Unavailable if call != "pwritev" else NoSpace):
            engine.receiver.take_whole(ticket, DATA, name="x")
    upload = engine.receiver.status(ticket)
    assert (upload.state, upload.received, upload.taken_back) == (State.WAITING, 0, 0)
    engine.start()
    assert engine.receiver.take_whole(ticket, DATA, name="x") is not None
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST


def test_a_file_in_one_piece_that_is_too_large(engine: Engine) -> None:
    ticket = engine.ticket(max_length=10)
    with pytest.raises(TooLarge):
        engine.receiver.take_whole(ticket, DATA, name="x")
    assert not engine.arriving(ticket).exists()


def test_who_dies_with_a_small_file_half_way_leaves_it_to_the_others(
    engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = engine.ticket()
    monkeypatch.setattr(engine.receiver, "_give_away", lambda upload: None)
    assert engine.receiver.take_whole(ticket, DATA, name="x") is not None
    monkeypatch.setattr(other.registry, "is_alive", lambda holder: False)
    other.start()
    assert other.until(ticket, State.FINISHED).sha256 == DIGEST


def test_nobody_to_hand_it_to(engine: Engine) -> None:
    for target in ("/a/path", "https://example.org/"):
        with pytest.raises(BadRequest, match="nobody"):
            engine.ticket(target=target)


def test_any_order_any_process(engine: Engine, other: Engine) -> None:
    """Four lanes in two processes, each with the token of the one opening."""
    ticket = engine.ticket(remove_file_when_finished=False)
    token = engine.open(ticket, len(DATA))
    token.close()
    starts = list(range(0, len(DATA), 1000))
    random.Random(5).shuffle(starts)

    def lane(number: int) -> None:
        with lane_of((engine, other)[number % 2].receiver, ticket, token.token) as session:
            for start in starts[number::4]:
                session.write(start, DATA[start : start + 1000])
                session.sync()

    lanes = [threading.Thread(target=lane, args=(number,)) for number in range(4)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    other.start()
    other.receiver.complete(other.receiver.status(ticket))
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST
    assert engine.complete(ticket).read_bytes() == DATA


def test_completing_twice_is_one_handover(engine: Engine, other: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA)
        whole = session.sync()
    engine.start()
    for one in (engine, other, engine):
        one.receiver.complete(whole)
    engine.until(ticket, State.FINISHED)
    assert engine.receiver.complete(engine.receiver.status(ticket)).state is State.FINISHED
    assert len(engine.app.notices) == 1


def test_bytes_that_were_recorded_before_others_completed_the_upload(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the record was lost; when it is asked for again the upload is finished: that is no trouble."""
    engine.start()
    ticket = engine.ticket()
    answer_late(engine, ticket, monkeypatch)
    with engine.open(ticket, 5) as session:
        session.write(0, b"12345")
        assert session.sync().state is State.FINISHED
    assert [notice.upload.id for notice in engine.app.notices] == [ticket]


def test_bytes_of_an_upload_that_was_cancelled_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = engine.ticket()
    add_extents = engine.registry.add_extents

    def late(*row: Any, **options: Any) -> Upload:
        add_extents(*row, **options)
        engine.receiver.cancel(ticket, "not today")
        return add_extents(*row, **options)

    monkeypatch.setattr(engine.registry, "add_extents", late)
    with engine.open(ticket, 5) as session:
        session.write(0, b"12345")
        with pytest.raises(Cancelled):
            session.sync()


def test_a_completion_that_can_not_be_recorded_is_given_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as it can: nobody takes one from a process that lives."""
    monkeypatch.setattr(module, "_GIVING_BACK", 0.01)
    ticket = engine.ticket()
    with engine.open(ticket, 5) as session:
        session.write(0, b"12345")
        arrived = session.sync()
    save = engine.registry.save
    failed: list[Upload] = []

    def away(before: Upload, after: Upload, **options: Any) -> Upload:
        if before.state is not State.COMPLETING:
            return save(before, after, **options)
        failed.append(before)
        raise Unavailable

    with monkeypatch.context() as trouble:
        trouble.setattr(engine.registry, "save", away)
        engine.receiver.complete(arrived)
        eventually(lambda: len(failed) > 3)
        assert engine.receiver.status(ticket).holder == engine.registry.holder
        assert engine.receiver.is_busy
    eventually(lambda: not engine.receiver.status(ticket).holder)
    eventually(lambda: not engine.receiver.is_busy)
    engine.start()
    engine.receiver.sweep()
    engine.until(ticket, State.FINISHED)


def test_completing_too_early(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(5, b"12345")
        with pytest.raises(NotReady):
            engine.receiver.complete(session.sync())
    assert engine.state(ticket) is State.RECEIVING


def test_nothing_is_wiped_at_a_start(engine: Engine, tmp_path: Path) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(0, b"12345")
        session.sync()
    later = Engine(tmp_path)
    later.start()
    later.receiver.sweep()
    with later.open(ticket, 10) as session:
        assert session.upload.offset == 5
        session.write(5, b"67890")
        later.receiver.complete(session.sync())
    later.until(ticket, State.FINISHED)
    assert later.app.notices[0].upload.sha256 == hashlib.sha256(b"1234567890").hexdigest()
    later.close()


def test_the_hash_goes_on_in_another_process(engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incoming_wsgi.digests._BEHIND", 1000)
    monkeypatch.setattr("incoming_wsgi.digests._STEP", 10_000)
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:50_000])
        session.sync()
        eventually(lambda: (engine.registry.digest(ticket) or (0, b""))[0] == 50_000)
    position, state = engine.registry.digest(ticket) or (0, b"")
    engine.registry.keep_digest(engine.receiver.status(ticket), position, state)
    engine.arriving(ticket).write_bytes(bytes(50_000))  # who hashed it again would notice
    other.start()
    with other.open(ticket, len(DATA)) as session:
        session.write(50_000, DATA[50_000:])
        other.receiver.complete(session.sync())
    assert other.until(ticket, State.FINISHED).sha256 == DIGEST


# -- what can't be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticket", ["", "x", "../../../etc/passwd", NOBODYS, NOBODYS.upper()])
def test_unknown(engine: Engine, ticket: str) -> None:
    with pytest.raises(UnknownUpload):
        engine.receiver.status(ticket)
    with pytest.raises(UnknownUpload):
        engine.open(ticket, 5)
    with pytest.raises(UnknownUpload):
        engine.receiver.cancel(ticket, "why")
    with pytest.raises(UnknownUpload):
        engine.receiver.done(ticket)


def test_uploads_of_another_app(engine: Engine) -> None:
    mine, foreign = engine.ticket(), engine.registry.create(Upload(app="other")).id
    assert engine.receiver.status(mine, "app").id == mine
    for ticket, app in ((mine, "other"), (foreign, None), (foreign, "app"), (foreign, "other")):
        with pytest.raises(UnknownUpload):
            engine.receiver.status(ticket, app)


def test_another_file_is_refused_without_harm(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10, fingerprint="f:1") as session:
        session.write(0, b"12345")
        session.sync()
        for length, fingerprint in ((11, "f:1"), (9, ""), (10, "f:2")):
            with pytest.raises(FileChanged):
                engine.open(ticket, length, fingerprint=fingerprint)
        session.write(5, b"67890")
        assert session.sync().is_complete  # who sends the right file has noticed nothing
    with engine.open(ticket, 10) as again:  # a front end that sends no fingerprint
        assert again.upload.fingerprint == "f:1"


def test_the_first_name_counts(engine: Engine) -> None:
    ticket = engine.ticket()
    engine.open(ticket, 10, name="first.txt").close()
    with engine.open(ticket, 10, name="second.txt") as session:
        assert session.upload.filename_from_browser == "first.txt"


def test_too_large(engine: Engine, tmp_path: Path) -> None:
    small = Engine(tmp_path, max_length=100)
    for ticket, most in ((small.ticket(), 100), (small.ticket(max_length=50), 50), (small.ticket(max_length=500), 100)):
        with pytest.raises(TooLarge):
            small.receiver.open(ticket, length=most + 1, name="x")
        assert small.state(ticket) is State.WAITING
        small.open(ticket, most).close()
    small.close()


def test_a_ticket_for_an_empty_file_only(engine: Engine) -> None:
    ticket = engine.ticket(max_length=0)
    with pytest.raises(TooLarge):
        engine.open(ticket, 1)
    engine.open(ticket, 0).close()


def test_beyond_the_end(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(0, b"12345")
        with pytest.raises(TooLarge):
            session.write(5, b"678901")
        assert session.sync().received == 5
    assert engine.arriving(ticket).read_bytes() == b"12345"


def test_what_was_written_apart_is_recorded_in_one_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another lane could write in between, over bytes that this one is about to call its own."""
    ticket = engine.ticket()
    add_extents, seen = engine.registry.add_extents, []

    def noted(*row: Any, **options: Any) -> Upload:
        recorded = add_extents(*row, **options)
        seen.append(recorded.extents.ranges)
        return recorded

    monkeypatch.setattr(engine.registry, "add_extents", noted)
    with engine.open(ticket, 10) as session:
        session.write(0, b"12")
        session.write(7, b"89")
        session.sync()
    assert seen == [((0, 2), (7, 9))]


def test_too_many_pieces(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10_000) as session:
        for start in range(0, 2002, 2):
            engine.registry.add_extents(ticket, session.token, NOTHING.add(start, start + 1))
        with pytest.raises(BadRequest, match="pieces"):
            session.write(5000, b"x")


# -- bytes that are safe ----------------------------------------------------------------------------------------


def test_safe_bytes_are_never_written_again(engine: Engine, other: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 20) as session:
        session.write(5, b"safe!")
        session.sync()
        session.write(3, b"XXXXXXXXX")  # before, over and behind it
        session.write(5, b"YYYYY")
        session.sync()
    assert engine.arriving(ticket).read_bytes()[3:12] == b"XXsafe!XX"
    with other.open(ticket, 20) as session:
        session.write(0, b"Z" * 20)
        assert session.sync().is_complete
    assert engine.arriving(ticket).read_bytes() == b"ZZZXXsafe!XXZZZZZZZZ"


def test_what_was_written_but_not_recorded_does_not_count(engine: Engine, other: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 5) as session:
        session.write(0, b"wrong")
        session.discard()
        assert session.sync().received == 0
        session.write(0, b"wrong")
    with other.open(ticket, 5) as session:
        assert session.upload.received == 0
        session.write(0, b"right")
        assert session.sync().is_complete
    assert engine.arriving(ticket).read_bytes() == b"right"


@pytest.mark.parametrize(("name", "value"), [("_RECORD_BYTES", 10), ("_RECORD_SECONDS", 0.0)])
def test_a_long_body_is_recorded_on_its_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 100) as session:
        session.write(0, b"123")
        session.sync_if_due()
        assert engine.receiver.status(ticket).received == 0
        monkeypatch.setattr(session_module, name, value)
        session.write(3, b"4567890")
        session.sync_if_due()
        assert engine.receiver.status(ticket).received == 10


def test_a_body_that_is_synced_goes_to_the_disk_while_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is recorded when it has come: each record in between would have to wait for the disk."""
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(FileWriter, "hasten", lambda _, position, length: begun.append((position, length)))
    monkeypatch.setattr(session_module, "_HASTEN_BYTES", 5)
    monkeypatch.setattr(session_module, "_RECORD_BYTES", 1)
    for fsync in (False, True):
        engine = Engine(tmp_path / str(fsync), fsync=fsync)
        with engine.open(engine.ticket(), 12) as session:
            for start in range(0, 12, 3):
                session.write(start, b"123")
                session.sync_if_due()
            arrived = engine.receiver.status(session.upload.id).received
            assert session.sync().is_complete
        engine.close()
        assert (begun, arrived) == (([(0, 6), (6, 6)], 0) if fsync else ([], 12))


def test_a_full_disk_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start()
    ticket = engine.ticket()

    def full(descriptor: int, data: list[memoryview], position: int) -> int:
        if position >= 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(descriptor, data[0][:5], position)  # there was room for these

    with engine.open(ticket, 10) as session:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", full)
            with pytest.raises(NoSpace):
                session.write(0, b"1234567890")
            assert session.sync().received == 0
        assert engine.state(ticket) is State.RECEIVING
        session.write(0, b"0987654321")
        engine.receiver.complete(session.sync())
    assert engine.until(ticket, State.FINISHED).sha256 == hashlib.sha256(b"0987654321").hexdigest()


@pytest.mark.parametrize("call", ["registry.get", "receiver._digests.start"])
def test_an_opening_that_fails_leaves_nothing_open(engine: Engine, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    ticket = engine.ticket()
    original = attrgetter(call)(engine)
    before = len(os.listdir("/proc/self/fd"))

    def fail_when_made(what: Any) -> Any:
        if engine.arriving(ticket).exists():
            raise Unavailable
        return original(what)

    with monkeypatch.context() as patch:
        holder, _, name = call.rpartition(".")
        patch.setattr(attrgetter(holder)(engine), name, fail_when_made)
        with pytest.raises(Unavailable):
            engine.open(ticket, 5)
    assert len(os.listdir("/proc/self/fd")) == before
    engine.send(ticket, b"12345")


def test_one_uploads_trouble_is_its_own(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = engine.ticket(), engine.ticket()
    pwritev = os.pwritev

    def sometimes(descriptor: int, data: list[memoryview], position: int) -> int:
        if os.path.sameopenfile(descriptor, stream.fileno()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwritev(descriptor, data, position)

    monkeypatch.setattr(os, "pwritev", sometimes)
    with (
        engine.open(good, 5) as fine,
        engine.open(bad, 5) as broken,
        engine.arriving(bad).open("rb") as stream,
    ):
        with pytest.raises(Unavailable):
            broken.write(0, b"12345")
        fine.write(0, b"12345")
        assert fine.sync().is_complete


# -- who owns an upload -----------------------------------------------------------------------------------------


def test_the_newest_opening_wins(engine: Engine, other: Engine) -> None:
    """Two that take over from each other: whoever was last may write, and nobody else."""
    ticket = engine.ticket()
    sessions: list[Session] = []
    for one in (engine, other, engine, other):
        session = one.open(ticket, 10)
        for old in sessions:
            with pytest.raises(Replaced):
                old.write(0, b"XXXXX")
        session.write(0, b"12345")
        sessions.append(session)
    for old in sessions[:-1]:
        with pytest.raises(Replaced):
            old.sync()
        assert old.sync().received == 0  # nothing is left of it
    assert sessions[-1].sync().received == 5
    assert engine.arriving(ticket).read_bytes() == b"12345"
    assert len({session.token for session in sessions}) == 4
    assert [session.upload.epoch for session in sessions] == [1, 2, 3, 4]
    for session in sessions:
        session.close()


def test_who_was_replaced_between_writing_and_recording_acknowledges_nothing(engine: Engine, other: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as old:
        old.write(0, b"12345")
        with other.open(ticket, 10) as new:
            with pytest.raises(Replaced):
                old.sync()
            new.write(0, b"abcde")
            assert new.sync().extents == Extents().add(0, 5)
    assert engine.arriving(ticket).read_bytes() == b"abcde"


def test_tokens(engine: Engine) -> None:
    ticket = engine.ticket()
    with pytest.raises(Replaced):
        lane_of(engine.receiver, ticket, "")  # before any opening
    with engine.open(ticket, 10) as session:
        lane_of(engine.receiver, ticket, session.token).close()
        for token in ("", "x", session.token + "x", "ü", session.token[:-1]):
            with pytest.raises(Replaced):
                lane_of(engine.receiver, ticket, token)


def test_many_openings_at_once(engine: Engine, other: Engine) -> None:
    ticket = engine.ticket()
    tokens: list[str] = []

    def take(one: Engine) -> None:
        with one.open(ticket, 10) as session:
            tokens.append(session.token)

    threads = [threading.Thread(target=take, args=((engine, other)[n % 2],)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    upload = engine.receiver.status(ticket)
    assert upload.epoch == len(set(tokens)) == 12
    assert upload.session in tokens


def test_pause(engine: Engine) -> None:
    ticket = engine.ticket()
    assert engine.receiver.pause(ticket, "").state is State.WAITING
    with engine.open(ticket, 10) as session:
        session.write(0, b"12345")
        session.sync()
        with pytest.raises(Replaced):
            engine.receiver.pause(ticket, "another")
        for _ in range(2):
            assert engine.receiver.pause(ticket, session.token).state is State.PAUSED
    with engine.open(ticket, 10) as session:
        assert (session.upload.state, session.upload.offset) == (State.RECEIVING, 5)
        session.write(5, b"67890")
        engine.receiver.pause(ticket, session.token)
        assert session.sync().is_complete  # what was on its way when it paused


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.CANCELLED, Cancelled),
        (State.EXPIRED, Expired),
        (State.DAMAGED, Damaged),
        (State.UNDELIVERABLE, Undeliverable),
    ],
)
def test_what_is_over(engine: Engine, state: State, error: type[IncomingError]) -> None:
    upload = Upload(app="app", state=state, length=5, session="token", reason="This is why.")
    ticket = engine.registry.create(upload).id
    given = state in (State.CANCELLED, State.EXPIRED)  # else it is what went wrong inside, for the operator alone
    with pytest.raises(error, match="This is why" if given else error.sentence):
        engine.receiver.open(ticket, length=5, name="x")
    with pytest.raises(error):
        lane_of(engine.receiver, ticket, "token")


@pytest.mark.parametrize("state", [State.COMPLETING, State.HANDING_OVER, State.WAITING_FOR_APP, State.FINISHED])
def test_what_needs_no_more_bytes(engine: Engine, state: State) -> None:
    upload = Upload(app="app", state=state, length=5, session="token", extents=Extents().add(0, 5))
    ticket = engine.registry.create(upload).id
    assert engine.receiver.open(ticket, length=5, name="x") is None
    with pytest.raises(FileChanged):
        engine.receiver.open(ticket, length=6, name="x")
    with pytest.raises(AlreadyComplete):
        lane_of(engine.receiver, ticket, "token")
    assert engine.receiver.pause(ticket, "token").state is state


# -- cancelling and expiring ------------------------------------------------------------------------------------


def test_cancel(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(0, b"12345")
        session.sync()
        assert engine.receiver.cancel(ticket, "changed my mind").state is State.CANCELLED
        with pytest.raises(Cancelled, match="changed my mind"):
            session.write(5, b"67890")
    assert not engine.arriving(ticket).exists()
    (notice,) = eventually(lambda: engine.app.notices)
    assert (notice.delivery.kind, notice.upload.reason, notice.path) == ("cancelled", "changed my mind", "")
    assert notice.delivery.event_id.startswith(notice.upload.event_id)
    eventually(lambda: engine.registry.due(ticket) is None)
    assert engine.receiver.cancel(ticket, "again").reason == "changed my mind"


def test_two_cancel_at_the_same_time(engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = engine.ticket()
    engine.open(ticket, 10).close()
    save = engine.registry.save

    def save_too_late(*args: Any, **options: Any) -> Upload:
        other.receiver.cancel(ticket, "faster")
        return save(*args, **options)

    monkeypatch.setattr(engine.registry, "save", save_too_late)
    upload = engine.receiver.cancel(ticket, "slower")
    assert (upload.state, upload.reason) == (State.CANCELLED, "faster")


def test_cancel_before_the_first_byte(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket()
    engine.receiver.cancel(ticket, "never mind")
    eventually(lambda: engine.app.notices)


def test_the_app_hears_of_a_cancelled_upload_again_until_it_answers(engine: Engine, clock: Clock) -> None:
    engine.app.answers = [ConnectionError("not now"), Outcome("failed", "nor now")]
    engine.start()
    ticket = engine.ticket()
    engine.receiver.cancel(ticket, "why")
    for attempt in (1, 2):
        eventually(functools.partial(given_back, engine, ticket, attempt))
        clock.advance(HOUR)
        engine.wake()
    eventually(lambda: engine.registry.due(ticket) is None)
    assert len(engine.app.notices) == 3
    assert {notice.delivery.kind for notice in engine.app.notices} == {"cancelled"}
    assert len({notice.delivery.event_id for notice in engine.app.notices}) == 1


def test_too_late_to_cancel(engine: Engine, handed_over: str) -> None:
    with pytest.raises(TooLate):
        engine.receiver.cancel(handed_over, "why")
    assert engine.complete(handed_over).exists()
    engine.app.may_answer.set()
    engine.until(handed_over, State.FINISHED)
    with pytest.raises(TooLate):
        engine.receiver.cancel(handed_over, "why")


def test_a_server_that_was_down_does_not_take_its_absence_for_the_clients(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Engine(tmp_path)
    ticket = before.ticket()
    before.open(ticket, 10).close()
    before.close()
    clock.advance(2 * HOUR)  # the server is down for longer than an upload may be idle
    after = Engine(tmp_path)
    swept: list[bool] = []
    sweep = after.receiver.sweep

    def noted(expire: bool) -> None:
        sweep(expire=expire)
        swept.append(expire)

    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 0.01)
    monkeypatch.setattr(after.receiver, "sweep", noted)
    after.start()
    eventually(lambda: swept)
    assert after.state(ticket) is State.RECEIVING
    monkeypatch.setattr(module, "_COMEBACK", 0.0)  # the time that clients get to come back is over
    after.until(ticket, State.EXPIRED)
    after.close()


def test_what_is_idle_expires(engine: Engine, clock: Clock) -> None:
    engine.start()
    idle, lively, unused = (engine.ticket() for _ in range(3))
    for ticket in (idle, lively):
        with engine.open(ticket, 10) as session:
            session.write(0, b"12345")
            engine.receiver.pause(ticket, session.sync().session)
    clock.advance(HOUR + 1)
    with engine.open(lively, 10) as session:
        session.write(5, b"6")
        session.sync()
    engine.receiver.sweep()
    assert [engine.state(one) for one in (idle, lively, unused)] == [State.EXPIRED, State.RECEIVING, State.EXPIRED]
    assert not engine.arriving(idle).exists()
    assert engine.arriving(lively).exists()
    eventually(lambda: len(engine.app.notices) == 2)
    assert {notice.delivery.kind for notice in engine.app.notices} == {"expired"}
    assert engine.receiver.cancel(idle, "too late to cancel").state is State.EXPIRED
    with pytest.raises(Expired):
        engine.open(idle, 10)


def test_what_came_to_life_while_we_were_looking_does_not_expire(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        clock.advance(HOUR + 1)
        seen = engine.registry.find({State.RECEIVING})
        session.write(0, b"1")
        session.sync()
    monkeypatch.setattr(engine.registry, "find", lambda states, **_: seen if State.RECEIVING in states else [])
    engine.receiver.sweep()
    assert engine.state(ticket) is State.RECEIVING


def test_bytes_that_come_at_the_moment_of_expiry(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the end of the upload: they are acknowledged, so they must not be thrown away."""
    ticket = engine.ticket()
    save = engine.registry.save
    with engine.open(ticket, 5) as session:
        clock.advance(HOUR + 1)

        def late(*args: Any, **changes: Any) -> Upload:
            monkeypatch.undo()
            session.write(0, b"12345")
            session.sync()
            return save(*args, **changes)

        monkeypatch.setattr(engine.registry, "save", late)
        engine.receiver.sweep()
    assert engine.state(ticket) is State.RECEIVING
    assert engine.receiver.status(ticket).is_complete


def test_uploads_of_apps_that_are_not_here_are_left_to_them(engine: Engine, clock: Clock) -> None:
    """Several apps may share a registry; only the process that serves one knows where its files are."""
    foreign = [
        engine.registry.create(Upload(app="other", active_at=0.0, **changes)).id
        for changes in (
            {},
            {"state": State.RECEIVING, "length": 0},
            {"state": State.RECEIVING, "length": 5, "extents": Extents().add(0, 5)},
            {"state": State.COMPLETING, "length": 0},
            {"state": State.FINISHED},
        )
    ]
    before = [engine.registry.get(ticket) for ticket in foreign]
    engine.receiver.sweep()
    assert [engine.registry.get(ticket) for ticket in foreign] == before


# -- the app's answer -------------------------------------------------------------------------------------------


def test_wait_and_finish(engine: Engine) -> None:
    engine.app.answers = ["wait"]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    engine.until(ticket, State.WAITING_FOR_APP)
    assert engine.complete(ticket).exists()
    for _ in range(2):
        assert engine.receiver.done(ticket).state is State.FINISHED
    assert not engine.complete(ticket).exists()
    assert engine.registry.due(ticket) is None
    assert len(engine.app.notices) == 1


def test_who_waits_too_long_is_called_again(engine: Engine, clock: Clock) -> None:
    engine.app.answers = ["wait", "wait", "done"]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    for calls in (1, 2):
        engine.until(ticket, State.WAITING_FOR_APP)
        clock.advance(590)
        engine.wake()
        assert not threading.Event().wait(0.05)
        assert len(engine.app.notices) == calls
        clock.advance(20)
        engine.wake()
        eventually(lambda calls=calls: len(engine.app.notices) == calls + 1)  # type: ignore[misc]
    engine.until(ticket, State.FINISHED)
    assert [notice.delivery.attempt for notice in engine.app.notices] == [0, 1, 2]
    assert len({notice.delivery.event_id for notice in engine.app.notices}) == 1


def test_who_waits_for_days_is_not_given_up_at_the_first_trouble(tmp_path: Path, clock: Clock) -> None:
    engine = Engine(tmp_path, wait=2 * DAY)
    engine.app.answers = ["wait", "wait", ConnectionError("the app restarts"), "done"]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    for calls in (1, 2):
        eventually(lambda calls=calls: len(engine.app.notices) == calls)  # type: ignore[misc]
        engine.until(ticket, State.WAITING_FOR_APP)
        clock.advance(2 * DAY + 1)
        engine.wake()
    eventually(lambda: given_back(engine, ticket, 3))
    assert engine.state(ticket) is State.HANDING_OVER
    clock.advance(HOUR)
    engine.wake()
    engine.until(ticket, State.FINISHED)
    engine.close()


def test_finish_may_come_before_wait_is_heard(engine: Engine, handed_over: str) -> None:
    engine.app.answers = []
    assert engine.state(handed_over) is State.HANDING_OVER
    assert engine.receiver.done(handed_over).state is State.FINISHED
    engine.app.may_answer.set()
    assert not threading.Event().wait(0.05)
    assert engine.state(handed_over) is State.FINISHED
    assert engine.registry.due(handed_over) is None


@pytest.mark.parametrize("answer", ["wait", "nonsense", "failed"])
def test_whatever_comes_after_finish_changes_nothing(engine: Engine, clock: Clock, answer: str) -> None:
    engine.app.answers = [Outcome("wait") if answer == "wait" else Outcome("failed", answer)]
    engine.app.acts = lambda notice: engine.receiver.done(notice.upload.id)
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    engine.until(ticket, State.FINISHED)
    eventually(lambda: not any("hand-over" in thread.name for thread in threading.enumerate()))
    assert engine.state(ticket) is State.FINISHED
    assert engine.registry.due(ticket) is None
    clock.advance(DAY / 2)
    engine.wake()
    engine.receiver.sweep()
    assert len(engine.app.notices) == 1


def test_finishing_what_is_not_there_yet(engine: Engine) -> None:
    ticket = engine.ticket()
    with pytest.raises(NotReady):
        engine.receiver.done(ticket)
    with engine.open(ticket, 5) as session:
        session.write(0, b"1234")
        session.sync()
        with pytest.raises(NotReady):
            engine.receiver.done(ticket)
    engine.receiver.cancel(ticket, "why")
    with pytest.raises(NotReady):
        engine.receiver.done(ticket)


def test_a_failed_handover_is_made_again_after_growing_pauses(engine: Engine, clock: Clock) -> None:
    engine.app.answers = [ConnectionError("not now"), *(Outcome("failed", "busy") for _ in range(4))]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    pauses: list[float] = []
    for attempt in range(1, 6):

        def given_back(attempt: int = attempt) -> float:
            due = engine.registry.due(ticket)
            is_back = due is not None and not due.holder and due.attempt == attempt
            return due.due_at - engine.registry.now() if due is not None and is_back else 0

        pauses.append(eventually(given_back))
        assert engine.state(ticket) is State.HANDING_OVER
        clock.advance(pauses[-1] + 0.001)
        engine.wake()
    engine.until(ticket, State.FINISHED)
    assert pauses == sorted(pauses)
    assert pauses[0] < 10
    assert pauses[-1] > HOUR
    assert [notice.delivery.attempt for notice in engine.app.notices] == [0, 1, 2, 3, 4, 5]
    assert {notice.path for notice in engine.app.notices} == {str(engine.complete(ticket))}
    assert len({notice.delivery.event_id for notice in engine.app.notices}) == 1


def test_a_file_that_nobody_takes_is_kept(engine: Engine, clock: Clock) -> None:
    engine.app.answers = [Outcome("failed", "go away")] * 30
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)

    def has_been_tried() -> bool:
        clock.advance(6 * HOUR)
        engine.wake()
        return not threading.Event().wait(0.02) and engine.state(ticket) is State.UNDELIVERABLE

    eventually(has_been_tried)
    upload = engine.receiver.status(ticket)
    assert upload.reason == "go away"
    assert len(engine.app.notices) >= 6
    assert engine.registry.due(ticket) is None
    clock.advance(365 * DAY)
    engine.receiver.sweep()
    assert engine.complete(ticket).read_bytes() == DATA
    with pytest.raises(Undeliverable):
        engine.open(ticket, len(DATA))
    # The operator has seen to it.
    engine.app.answers = []
    calls = len(engine.app.notices)
    engine.receiver.retry(ticket)
    engine.until(ticket, State.FINISHED)
    assert len(engine.app.notices) == calls + 1
    assert engine.app.notices[-1].delivery.event_id == engine.app.notices[0].delivery.event_id


def test_the_app_may_take_an_undeliverable_file_after_all(engine: Engine) -> None:
    upload = Upload(app="app", state=State.UNDELIVERABLE, length=5)
    assert engine.receiver.done(engine.registry.create(upload).id).state is State.FINISHED


def test_retry_brings_the_next_attempt_forward(engine: Engine, clock: Clock) -> None:
    engine.app.answers = [Outcome("failed", "busy", 5 * HOUR)]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    eventually(lambda: given_back(engine, ticket, 1))
    engine.receiver.retry(ticket)
    engine.until(ticket, State.FINISHED)
    with pytest.raises(NotReady):
        engine.receiver.retry(ticket)
    with pytest.raises(NotReady):
        engine.receiver.retry(engine.ticket())


def test_a_file_that_the_app_took_away_by_itself(engine: Engine, clock: Clock) -> None:
    """It moved the file, and then its answer was lost: the next attempt finds it gone, and that is fine."""

    def take_and_die(notice: Notice) -> None:
        os.rename(notice.path, f"{notice.path}.mine")

    engine.app.acts = take_and_die
    engine.app.answers = [ConnectionResetError("the answer was lost")]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    eventually(lambda: given_back(engine, ticket, 1))
    clock.advance(HOUR)
    engine.wake()
    engine.until(ticket, State.FINISHED)
    assert len(engine.app.notices) == 1
    assert Path(f"{engine.complete(ticket)}.mine").read_bytes() == DATA


def test_a_file_that_move_to_took_away(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    """The move is recorded: the next attempt is told where the file is now."""
    target = tmp_path / "mine.bin"

    def take_and_die(notice: Notice) -> None:
        if not target.exists():
            engine.receiver.record_move(notice.upload, str(target))
            os.rename(notice.path, target)

    engine.app.acts = take_and_die
    engine.app.answers = [ConnectionResetError("the answer was lost")]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    eventually(lambda: given_back(engine, ticket, 1))
    clock.advance(HOUR)
    engine.wake()
    engine.until(ticket, State.FINISHED)
    assert [notice.path for notice in engine.app.notices] == [str(engine.complete(ticket)), str(target)]
    assert target.read_bytes() == DATA


# -- when something breaks --------------------------------------------------------------------------------------


def test_damaged_bytes_are_kept_and_never_handed_over(engine: Engine) -> None:
    engine.start()
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA)
        whole = session.sync()
    os.truncate(engine.arriving(ticket), 60_000)
    engine.receiver.complete(whole)
    upload = engine.until(ticket, State.DAMAGED)
    assert "60000 of 100000" in upload.reason
    assert engine.arriving(ticket).read_bytes() == DATA[:60_000]
    assert not engine.app.notices
    with pytest.raises(Damaged):
        engine.open(ticket, len(DATA))


def test_without_digests(engine: Engine, tmp_path: Path) -> None:
    """What another process knew of the bytes stays; and a file that is too short is noticed all the same."""
    whole = {}
    for ticket in (engine.ticket(), engine.ticket()):
        with engine.open(ticket, len(DATA)) as session:
            session.write(0, DATA)
            whole[ticket] = session.sync()
    good, short = whole
    known = engine.registry.save(whole[good], whole[good].to(State.COMPLETING, sha256="hashed before"))
    os.truncate(engine.arriving(short), 60_000)
    plain = Engine(tmp_path, digest=False)
    plain.start()
    unhashed = plain.ticket()
    plain.send(unhashed, DATA)
    plain.receiver.complete(known)
    plain.receiver.complete(whole[short])
    assert plain.until(unhashed, State.FINISHED).sha256 == ""
    plain.receiver.sweep()
    assert plain.until(good, State.FINISHED).sha256 == "hashed before"
    assert "60000 are stored" in plain.until(short, State.DAMAGED).reason
    assert plain.arriving(short).stat().st_size == 60_000
    plain.close()


def test_a_lane_that_comes_as_the_last_byte_does_finds_no_damage(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another lane has completed the upload, and its file has been moved, since this one looked."""
    engine.start()
    ticket = engine.ticket()
    with engine.open(ticket, 5) as session:
        session.write(0, b"12345")
        before = session.sync()
        engine.receiver.complete(before)
    engine.until(ticket, State.FINISHED)
    known, looks = engine.receiver._known, [before]
    monkeypatch.setattr(engine.receiver, "_known", lambda *given: looks.pop() if looks else known(*given))
    with pytest.raises(AlreadyComplete):
        lane_of(engine.receiver, ticket, before.session)
    assert engine.state(ticket) is State.FINISHED
    assert not engine.arriving(ticket).exists()


@pytest.mark.parametrize("lost", ["the end", "all"])
def test_a_hole_where_bytes_were_safe_is_noticed_before_more_come(engine: Engine, lost: str) -> None:
    """Else the rest would be written behind it, and the file would have its length, and zeros in it."""
    engine.start()
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:60_000])
        session.sync()
    if lost == "all":
        engine.arriving(ticket).unlink()
    else:
        os.truncate(engine.arriving(ticket), 50_000)
    with pytest.raises(Damaged):
        engine.open(ticket, len(DATA))
    assert engine.state(ticket) is State.DAMAGED
    if lost != "all":
        assert engine.arriving(ticket).read_bytes() == DATA[:50_000]


def test_a_file_that_is_gone(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 5) as session:
        session.write(0, b"12345")
        whole = session.sync()
    engine.arriving(ticket).unlink()
    engine.receiver.complete(whole)
    engine.until(ticket, State.DAMAGED)


def test_trouble_of_the_storage_at_the_end_passes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start()
    ticket = engine.ticket()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        engine.send(ticket, DATA)
        eventually(lambda: not engine.receiver.status(ticket).holder)
        assert engine.state(ticket) is State.COMPLETING
    engine.receiver.sweep()
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST


def test_the_last_byte_came_and_then_the_process_died(engine: Engine, other: Engine, clock: Clock) -> None:
    tickets = [engine.ticket(), engine.ticket()]
    for ticket, data in zip(tickets, (DATA, b""), strict=True):
        with engine.open(ticket, len(data)) as session:
            session.write(0, data)
            session.sync()
    other.start()
    other.receiver.sweep()
    for ticket in tickets:  # who has just brought it may be about to complete it
        assert other.state(ticket) is State.RECEIVING
    clock.advance(10)
    other.receiver.sweep()
    for ticket in tickets:
        other.until(ticket, State.FINISHED)


def test_who_opened_an_empty_file_died_before_it_was_made(engine: Engine, clock: Clock) -> None:
    engine.start()
    ticket = engine.ticket(remove_file_when_finished=False)
    engine.open(ticket, 0).close()
    engine.arriving(ticket).unlink()
    clock.advance(10)
    engine.receiver.sweep()
    assert engine.until(ticket, State.FINISHED).sha256 == hashlib.sha256().hexdigest()
    assert engine.complete(ticket).read_bytes() == b""
    assert not engine.arriving(ticket).exists()


@pytest.mark.parametrize("by", ["the sweep", "a client that asks"])
@pytest.mark.parametrize("renamed", [False, True])
def test_who_completed_it_died(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool, by: str
) -> None:
    """Before or after the rename; while it lives, nobody else touches the upload."""

    def look() -> None:
        engine.receiver.sweep() if by == "the sweep" else engine.receiver.complete(engine.receiver.status(ticket))

    dying = Engine(tmp_path)
    monkeypatch.setattr(dying.receiver, "_roll_forward_in_background", lambda upload: None)
    ticket = dying.ticket()
    upload = dying.send(ticket, DATA)
    assert upload.state is State.COMPLETING
    if renamed:
        dying.storage.complete(upload)
    engine.start()
    look()
    assert not threading.Event().wait(0.05)
    assert engine.receiver.status(ticket) == upload
    dying.close()
    look()
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST


DYING = """
import sys, time
from pathlib import Path
from typing import Any
from tests.helpers import Engine
engine = Engine(Path(sys.argv[1]))
def hang(*_):
    print(ticket, flush=True)
    time.sleep(60)
if sys.argv[2] == "completing":
    engine.storage.complete = hang
else:
    engine.app.acts = hang
ticket = engine.ticket()
engine.start()
engine.send(ticket, b"12345")
time.sleep(60)
"""


@pytest.mark.parametrize("step", ["completing", "handing over"])
def test_another_process_takes_over_from_a_killed_one(engine: Engine, tmp_path: Path, step: str) -> None:
    engine.start()
    with Child(DYING, [tmp_path, step]) as child:
        ticket = child.line()
        engine.wake()
        engine.receiver.sweep()
        assert not threading.Event().wait(0.05)
        assert not engine.app.notices
        child.kill()
    engine.receiver.sweep()
    engine.wake()
    upload = engine.until(ticket, State.FINISHED)
    assert upload.sha256 == hashlib.sha256(b"12345").hexdigest()
    (notice,) = engine.app.notices
    assert notice.delivery.event_id == upload.event_id


# -- tombstones -------------------------------------------------------------------------------------------------


def test_a_closed_upload_can_be_asked_for_for_a_day(engine: Engine, clock: Clock) -> None:
    engine.start()
    finished, cancelled = engine.ticket(), engine.ticket()
    engine.send(finished, DATA)
    engine.receiver.cancel(cancelled, "why")
    engine.until(finished, State.FINISHED)
    eventually(lambda: engine.registry.due(cancelled) is None)
    clock.advance(DAY - 10)
    engine.receiver.sweep()
    assert engine.state(finished) is State.FINISHED
    assert engine.state(cancelled) is State.CANCELLED
    clock.advance(20)
    engine.receiver.sweep()
    for ticket in (finished, cancelled):
        with pytest.raises(UnknownUpload):
            engine.receiver.status(ticket)


def test_nothing_is_forgotten_before_the_app_has_heard_of_it(engine: Engine, clock: Clock) -> None:
    ticket = engine.ticket()
    engine.receiver.cancel(ticket, "why")
    clock.advance(2 * DAY)
    engine.receiver.sweep()
    assert engine.state(ticket) is State.CANCELLED


@pytest.mark.parametrize(
    ("state", "remove", "is_kept"),
    [
        (State.FINISHED, True, False),
        (State.FINISHED, False, True),
        (State.CANCELLED, True, False),
        (State.CANCELLED, False, False),
        (State.EXPIRED, True, False),
    ],
)
def test_bytes_that_a_dying_process_left_go_with_the_record(
    engine: Engine, clock: Clock, state: State, remove: bool, is_kept: bool
) -> None:
    """It died between the record of the end and the removal of the file."""
    upload = Upload(app="app", length=5, remove_file_when_finished=remove)
    engine.storage.create(upload)
    writer = engine.storage.open(upload)
    writer.write(0, b"12345")
    writer.close()
    location = engine.storage.complete(upload) if state is State.FINISHED else ""
    engine.registry.create(replace(upload, state=state, location=location))
    clock.advance(DAY + 1)
    engine.receiver.sweep()
    assert engine.registry.get(upload.id) is None
    left = engine.arriving(upload.id).exists() or engine.complete(upload.id).exists()
    assert left is is_kept


def test_the_keeper_goes_on_after_trouble(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 0.01)
    swept: list[int] = []

    def sweep(expire: bool) -> None:
        swept.append(1)
        if len(swept) < 3:
            raise OSError("disk trouble")

    monkeypatch.setattr(engine.receiver, "sweep", sweep)
    engine.start()
    eventually(lambda: len(swept) > 4)
    assert "disk trouble" in caplog.text


def test_one_process_sweeps_for_all(engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEP_INTERVAL", 0.01)
    swept = threading.Event()
    monkeypatch.setattr(other.receiver, "sweep", lambda expire: swept.set())
    with engine.registry.alone("sweep") as alone:
        assert alone
        other.start()
        assert not swept.wait(0.1)
    assert swept.wait(5)


# -- what nobody knows ------------------------------------------------------------------------------------------


def test_bytes_of_an_upload_that_nobody_knows_are_put_aside_after_a_day(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, lost, kept = engine.ticket(), engine.ticket(), engine.ticket(remove_file_when_finished=False)
    engine.start()
    engine.send(kept, DATA)
    engine.until(kept, State.FINISHED)
    for ticket in (known, lost):
        with engine.open(ticket, len(DATA)) as session:
            session.write(0, DATA[:500])
            session.sync()
    for ticket in (lost, kept):
        engine.registry.forget(ticket)
    engine.receiver.quarantine_orphans()
    assert engine.arriving(lost).exists(), "it may be a matter of moments"
    monkeypatch.setattr(module, "_ORPHAN_AGE", 0.0)
    engine.receiver.quarantine_orphans()
    assert not engine.arriving(lost).exists()
    assert (engine.folder / "quarantine" / lost).read_bytes() == DATA[:500]
    assert engine.arriving(known).read_bytes() == DATA[:500]
    assert engine.complete(kept).read_bytes() == DATA


def test_the_sweep_looks_for_what_nobody_knows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ORPHAN_AGE", 0.0)
    ticket = engine.ticket()
    engine.open(ticket, 5).close()
    engine.registry.forget(ticket)
    engine.receiver.sweep()
    assert engine.arriving(ticket).exists()
    monkeypatch.setattr(module, "_ORPHAN_INTERVAL", 0.0)
    engine.receiver.sweep()
    assert not engine.arriving(ticket).exists()


def test_a_jump_of_the_wall_clock_expires_nothing(engine: Engine, clock: Clock) -> None:
    ticket = engine.ticket()
    for jump in (10 * 365 * DAY, -20 * 365 * DAY, HOUR):
        clock.set_wall_clock(jump)
        engine.receiver.sweep()
        assert engine.state(ticket) is State.WAITING
    clock.advance(HOUR + 1)
    engine.receiver.sweep()
    assert engine.state(ticket) is State.EXPIRED


def test_bytes_that_another_lane_is_writing_are_not_recorded_beside_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lanes of one client bring different bytes for one place: whichever stay, the hash is theirs."""
    engine.start()
    ticket = engine.ticket(remove_file_when_finished=False)
    slow = engine.open(ticket, 5)
    quick = lane_of(engine.receiver, ticket, slow.token)
    quick.write(0, b"quick")
    has_looked, may_write = threading.Event(), threading.Event()
    write = slow._writer.write

    def stall(position: int, data: Data) -> None:
        has_looked.set()
        assert may_write.wait(20)
        write(position, data)

    monkeypatch.setattr(slow._writer, "write", stall)
    writing = threading.Thread(target=slow.write, args=(0, b"slow!"))
    ending = threading.Thread(target=lambda: engine.receiver.complete(quick.sync()))
    writing.start()
    assert has_looked.wait(20)
    ending.start()
    with suppress(AssertionError):  # it does not come to that, if all is well
        eventually(lambda: engine.receiver.status(ticket).sha256, 1.5)
    may_write.set()
    for thread in (writing, ending):
        thread.join(20)
    upload = engine.until(ticket, State.FINISHED)
    slow.close()
    quick.close()
    assert hashlib.sha256(engine.complete(ticket).read_bytes()).hexdigest() == upload.sha256


def test_trouble_with_one_upload_does_not_keep_the_sweep_from_the_others(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = [engine.ticket() for _ in range(3)]
    clock.advance(HOUR + 1)
    remove = engine.storage.remove

    def refuse_one(upload: Upload) -> None:
        if upload.id == tickets[0]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove(upload)

    monkeypatch.setattr(engine.storage, "remove", refuse_one)
    engine.receiver.sweep()
    assert [engine.state(ticket) for ticket in tickets] == [State.EXPIRED] * 3
    clock.advance(2 * DAY)
    engine.start()
    eventually(lambda: len(engine.app.notices) == 3)
    eventually(lambda: not any(engine.registry.due(ticket) for ticket in tickets))
    engine.receiver.sweep()
    assert [upload.id for upload in engine.receiver.find()] == tickets[:1]


# -- lengths that are not known at first ------------------------------------------------------------------------


def test_a_length_that_is_told_later(engine: Engine) -> None:
    ticket = engine.ticket(max_length=100)
    session = engine.receiver.open(ticket, name="x", protocol="tus", is_creation=True)
    assert session is not None
    with session:
        assert session.upload.created_with == "tus"
        session.write(0, b"12345")
        assert session.sync().length is None
        with pytest.raises(TooLarge):
            session.write(99, b"12")
        with pytest.raises(FileChanged):
            session.declare_length(4)
        assert session.declare_length(5).is_complete
        assert session.declare_length(5).length == 5
        with pytest.raises(FileChanged):
            session.declare_length(6)
    engine.receiver.complete(engine.receiver.status(ticket))
    engine.start()
    assert engine.until(ticket, State.FINISHED).length == 5


def test_an_opening_that_does_not_say_the_length_leaves_it(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(0, b"12345")
        session.sync()
    again = engine.receiver.open(ticket, protocol="tus")
    assert again is not None
    with again:
        assert again.upload.length == 10
        assert again.upload.filename_from_browser == "file.bin"
        assert again.upload.created_with == ""  # the app has
    with pytest.raises(FileChanged):
        engine.receiver.open(ticket, length=11)


def test_a_length_that_is_less_than_what_has_arrived(engine: Engine) -> None:
    ticket = engine.ticket()
    session = engine.receiver.open(ticket)
    assert session is not None
    with session:
        session.write(0, b"12345")
        session.sync()
    with pytest.raises(FileChanged):
        engine.receiver.open(ticket, length=4)


def test_who_is_shut_out_can_change_nothing_more(engine: Engine) -> None:
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(0, b"12345")
        session.sync()
        session.write(5, b"67")
        assert engine.receiver.shut_out(ticket).offset == 5
        with pytest.raises(Replaced):
            session.sync()
        with pytest.raises(Replaced):
            session.write(5, b"67")
    assert engine.receiver.status(ticket).offset == 5
    assert engine.receiver.shut_out(ticket) == engine.receiver.status(ticket)
    with engine.open(ticket, 10) as session:
        session.write(5, b"67890")
        assert session.sync().is_complete


# -- parts ------------------------------------------------------------------------------------------------------

OPENING: dict[str, Any] = {"name": "whole.bin", "protocol": "tus", "client_metadata": {"a": "b"}, "notes": {"c": "d"}}


def part_of(engine: Engine, ticket: str, data: bytes) -> str:
    """A part that is complete."""
    part = engine.receiver.create_part(ticket, len(data))
    session = engine.receiver.open(part.id, length=len(data), protocol="tus")
    assert session is not None
    with session:
        session.write(0, data)
        upload = session.sync()
    assert engine.receiver.complete(upload).state is State.RECEIVING  # it is nothing by itself
    return part.id


def test_an_upload_is_joined_from_its_parts(engine: Engine) -> None:
    ticket = engine.ticket(remove_file_when_finished=False)
    parts = [part_of(engine, ticket, data) for data in (b"123", b"45", b"")]
    engine.start()
    order = [parts[1], parts[0], parts[2], parts[1]]
    joining = engine.receiver.join(ticket, order, **OPENING)
    assert joining.state is State.JOINING
    assert joining.phase == "processing"
    upload = engine.until(ticket, State.FINISHED)
    assert engine.stored(ticket) == b"4512345"
    assert (upload.length, upload.parts) == (7, tuple(order))
    assert upload.sha256 == hashlib.sha256(b"4512345").hexdigest()
    assert (upload.filename_from_browser, upload.client_metadata, upload.notes) == ("whole.bin", {"a": "b"}, {"c": "d"})
    assert [notice.upload.id for notice in engine.app.notices] == [ticket]
    assert engine.registry.parts_of(ticket) == []
    assert not list((engine.folder / "arriving").iterdir())
    assert engine.receiver.join(ticket, order, **OPENING) == upload  # the answer was lost, say
    with pytest.raises(AlreadyComplete):
        engine.receiver.join(ticket, [parts[0]], **OPENING)


def test_what_can_not_be_joined(engine: Engine) -> None:
    ticket, other = engine.ticket(), engine.ticket()
    mine, strange = part_of(engine, ticket, b"1"), part_of(engine, other, b"2")
    unfinished = engine.receiver.create_part(ticket).id
    for parts, error in (
        ([], BadRequest),
        ([mine, strange], BadRequest),
        ([ticket], BadRequest),
        ([mine, unfinished], NotReady),
    ):
        with pytest.raises(error):
            engine.receiver.join(ticket, parts, **OPENING)
    assert engine.state(ticket) is State.WAITING
    with engine.open(ticket, 5) as session:
        session.write(0, b"1")
        session.sync()
    with pytest.raises(AlreadyComplete):
        engine.receiver.join(ticket, [mine], **OPENING)


def test_parts_are_limited_together(engine: Engine) -> None:
    ticket = engine.ticket(max_length=10)
    part_of(engine, ticket, b"123456")
    with pytest.raises(TooLarge):
        engine.receiver.create_part(ticket, 5)
    part = engine.receiver.create_part(ticket, 4)
    with pytest.raises(BadRequest):
        engine.receiver.create_part(part.id)
    with pytest.raises(TooLarge):
        engine.receiver.open(part.id, length=11)


def test_parts_live_as_long_as_their_family(tmp_path: Path, clock: Clock) -> None:
    engine = Engine(tmp_path, idle=100.0)
    ticket = engine.ticket()
    first = part_of(engine, ticket, b"123")
    clock.advance(60)
    second = part_of(engine, ticket, b"456")
    clock.advance(60)
    engine.receiver.sweep()
    assert {engine.state(one) for one in (first, second)} == {State.RECEIVING}
    assert engine.state(ticket) is State.WAITING
    clock.advance(60)
    engine.receiver.sweep()
    assert engine.state(ticket) is State.EXPIRED
    assert engine.registry.parts_of(ticket) == []
    assert not list((engine.folder / "arriving").iterdir())
    engine.start()
    eventually(lambda: len(engine.app.notices) == 1)
    assert engine.app.notices[0].upload.id == ticket
    engine.close()


def test_cancelling_takes_the_parts_along(engine: Engine) -> None:
    ticket = engine.ticket()
    part = part_of(engine, ticket, b"123")
    engine.receiver.cancel(ticket, "no more")
    assert not engine.arriving(part).exists()
    with pytest.raises(UnknownUpload):
        engine.receiver.status(part)
    with pytest.raises(Cancelled):
        engine.receiver.create_part(ticket)


def test_who_joins_may_die(engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the worst moment: when the bytes are there, and it is not recorded."""
    ticket = engine.ticket(remove_file_when_finished=False)
    parts = [part_of(engine, ticket, data) for data in (b"123", b"45")]
    monkeypatch.setattr(engine.receiver, "_roll_forward_in_background", lambda _: None)
    joining = engine.receiver.join(ticket, parts, **OPENING)
    engine.storage.join(joining, [engine.receiver.status(part) for part in parts])
    other.receiver.sweep()
    assert other.state(ticket) is State.JOINING  # its holder lives
    monkeypatch.setattr(other.registry, "is_alive", lambda holder: holder != engine.registry.holder)
    other.receiver.sweep()
    other.start()
    other.until(ticket, State.FINISHED)
    assert other.stored(ticket) == b"12345"


def test_a_part_that_is_gone_is_not_made_up(engine: Engine) -> None:
    ticket = engine.ticket()
    part = part_of(engine, ticket, b"123")
    engine.arriving(part).unlink()
    engine.receiver.join(ticket, [part], **OPENING)
    assert engine.until(ticket, State.DAMAGED).reason == "The stored bytes of a part are gone."


def test_no_room_for_joining_now(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = engine.ticket(remove_file_when_finished=False)
    part = part_of(engine, ticket, b"123")

    def refuse(*_: object) -> None:
        raise NoSpace

    with monkeypatch.context() as full:
        full.setattr(engine.storage, "join", refuse)
        engine.receiver.join(ticket, [part], **OPENING)
        eventually(lambda: not engine.receiver.status(ticket).holder)
    assert engine.state(ticket) is State.JOINING
    engine.receiver.sweep()
    engine.start()
    engine.until(ticket, State.FINISHED)
    assert engine.stored(ticket) == b"123"


def test_a_ticket_for_a_file_that_is_too_long(engine: Engine) -> None:
    with pytest.raises(TooLarge):
        engine.ticket(length=11, max_length=10)
    assert engine.receiver.find() == []


def test_uploads_that_have_not_come_to_a_bad_end(engine: Engine) -> None:
    ticket = engine.ticket()
    assert engine.receiver.standing(ticket) == engine.receiver.status(ticket)
    engine.receiver.cancel(ticket, "why not")
    with pytest.raises(Cancelled, match="why not"):
        engine.receiver.standing(ticket)


# -- many stale uploads -----------------------------------------------------------------------------------------


def test_many_stale_uploads_expire_in_slices(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are held at a time, and their ends are synced together."""
    asked: list[int] = []
    synced: list[int] = []
    find, sync = engine.registry.find, engine.registry.sync

    def counting(states: Any, *, limit: int = 1000, **more: Any) -> Any:
        asked.append(limit)
        return find(states, limit=limit, **more)

    def counted() -> None:
        synced.append(1)
        sync()

    tickets = [engine.ticket() for _ in range(450)]
    for ticket in tickets[:20]:
        engine.open(ticket, 10).close()
    clock.advance(2 * HOUR)
    alive = engine.ticket()
    monkeypatch.setattr(engine.registry, "find", counting)
    monkeypatch.setattr(engine.registry, "sync", counted)
    assert engine.receiver.sweep() is False
    assert max(asked) <= 1000
    assert len(synced) <= 5
    assert {engine.state(ticket) for ticket in tickets} == {State.EXPIRED}
    assert engine.state(alive) is State.WAITING
    assert not any(engine.arriving(ticket).exists() for ticket in tickets)


def test_a_sweep_ends_after_a_while(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(450):
        engine.ticket()
    clock.advance(2 * HOUR)
    find = engine.registry.find

    def slow(*states: Any, **more: Any) -> Any:
        clock.advance(0.7)
        return find(*states, **more)

    monkeypatch.setattr(engine.registry, "find", slow)
    sweeps = 1
    while engine.receiver.sweep():
        sweeps += 1
    assert 1 < sweeps < 10
    assert {upload.state for upload in find(set(State), limit=1000)} == {State.EXPIRED}


def test_uploads_that_live_on_hold_up_no_others(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have been idle the longest, but may not expire, stand before the others."""
    monkeypatch.setattr(module, "_SLICE", 5)
    wholes = [engine.ticket() for _ in range(12)]
    clock.advance(60)
    stale = engine.ticket()
    clock.advance(2 * HOUR)
    for whole in wholes:
        engine.receiver.create_part(whole, 10)  # keeps its whole alive
    engine.receiver.sweep()
    assert engine.state(stale) is State.EXPIRED
    assert {engine.state(whole) for whole in wholes} == {State.WAITING}
