"""A registry that has lost everything is made anew from what lies in the storage: no hand-over is lost."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from incoming_wsgi import operate
from incoming_wsgi import receiver as engine_room
from incoming_wsgi.errors import Unavailable, UnknownUpload
from incoming_wsgi.gates.terms import Terms
from incoming_wsgi.registry.redis import RedisRegistry
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.session import Session
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import NOTHING, State, Upload
from tests.helpers import Engine
from tests.support.redis_server import RedisServer
from tests.support.s3_server import CREDENTIALS, S3Server
from tests.support.waiting import eventually

PART = 5 * MIB
LENGTH = 2 * PART + 70_000
DATA = random.Random(9).randbytes(LENGTH)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Site:
    """Machines that share a registry and a storage, and the registry's end.

    :ivar lose: forgets everything.
    """

    def __init__(self, lose: Callable[[], None], make: Callable[[], Engine]) -> None:
        self.lose = lose
        self._make = make
        self._made: list[Engine] = []

    def machine(self) -> Engine:
        self._made.append(self._make())
        return self._made[-1]

    def close(self) -> None:
        for engine in self._made:
            engine.close()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Of this module alone: it is flushed."""
    with RedisServer(tmp_path_factory.mktemp("flushed")) as server:
        yield server


@pytest.fixture(params=["rclone", "ceph", "files-redis", "files-sqlite"])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    redis: RedisServer = request.getfixturevalue("redis_server")
    _flush(redis)  # what an earlier test has left there would be handed over here
    if request.param in ("rclone", "ceph"):
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        server: S3Server = request.getfixturevalue(request.param)
        url = server.url(server.bucket(), part_size=PART)
        site = Site(
            lambda: _flush(redis), lambda: Engine(tmp_path, storage=S3Storage(url), registry=RedisRegistry(redis.url))
        )
    elif request.param == "files-redis":
        site = Site(
            lambda: _flush(redis),
            lambda: Engine(tmp_path, storage=FileStorage(tmp_path), registry=RedisRegistry(redis.url), fsync=True),
        )
    else:
        lost: list[Path] = [tmp_path / "registry-0"]

        def lose() -> None:
            site.close()
            site._made.clear()
            lost.append(tmp_path / f"registry-{len(lost)}")

        site = Site(lose, lambda: Engine(tmp_path, registry=SQLiteRegistry(lost[-1], "boot")))
    yield site
    site.close()


def _flush(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()


def recovered(engine: Engine) -> dict[str, Upload]:
    """Those that were made anew, by their tickets."""
    return {upload.id: upload for upload, is_anew in engine.receiver.recover() if is_anew}


def arrive(engine: Engine, ticket: str, stop: int) -> None:
    with engine.open(ticket, LENGTH) as session:
        session.write(0, DATA[:stop])
        session.sync()


def send(session: Session, position: int, data: bytes) -> None:
    session.write(position, data)
    session.sync()


def go_on(engine: Engine, ticket: str) -> int:
    """Where it went on from."""
    with engine.open(ticket, LENGTH) as session:
        offset = session.upload.offset
        for start, end in list(session.upload.extents.missing(0, LENGTH)):
            session.write(start, DATA[start:end])
        engine.receiver.complete(session.sync())
    return offset


def test_a_hand_over_that_was_waiting(site: Site) -> None:
    """It keeps its event id, its secret and whatever else the app was to be told."""
    one = site.machine()
    ticket = one.ticket(secret="geheim", metadata={"a": "ü"}, terms=Terms(bind_network="192.0.2.0/24"), owner="ada")
    before = one.send(ticket, DATA)
    one.until(ticket, State.HANDING_OVER)  # nobody delivers
    site.lose()
    two = site.machine()
    assert list(recovered(two)) == [ticket]
    two.start()
    eventually(lambda: two.receiver.sweep() or two.app.notices)
    (notice,) = two.app.notices
    assert (notice.delivery.event_id, notice.upload.secret) == (before.event_id, "geheim")
    assert (notice.upload.metadata, notice.upload.owner, notice.upload.sha256) == ({"a": "ü"}, "ada", SHA256)
    assert notice.upload.bound_network == "192.0.2.0/24"
    eventually(lambda: two.registry.get(ticket).state is State.FINISHED)  # type: ignore[union-attr]
    assert recovered(two) == {}


def test_a_small_file_that_came_in_one_piece(site: Site) -> None:
    one = site.machine()
    ticket = one.ticket()
    assert one.receiver.take_whole(ticket, DATA[:1000], name="x.bin") is not None
    site.lose()
    two = site.machine()
    assert recovered(two)[ticket].filename == "x.bin"
    two.start()
    two.receiver.sweep()
    eventually(lambda: two.app.notices)
    assert two.app.notices[0].upload.sha256 == hashlib.sha256(DATA[:1000]).hexdigest()


@pytest.mark.parametrize("stop", [PART + 1000, PART, 1000])
def test_what_was_arriving_goes_on(site: Site, stop: int) -> None:
    one = site.machine()
    ticket = one.ticket()
    with one.open(ticket, LENGTH) as session:
        session.write(0, DATA[:stop])
        session.sync()
        _let_a_second_pass(one)
        session.write(PART + 5000, DATA[PART + 5000 : PART + 6000])
        session.sync()
    site.lose()
    two = site.machine()
    (found,) = recovered(two).values()
    assert found.offset == stop
    assert found.received == stop + 1000
    two.start()
    assert go_on(two, ticket) == stop
    two.until(ticket, State.FINISHED)
    (notice,) = two.app.notices
    assert notice.upload.sha256 == SHA256


def _let_a_second_pass(engine: Engine) -> None:
    """Records beside files are not renewed more often."""
    records = engine.folder / "records"
    for path in records.glob("*") if records.exists() else ():
        os.utime(path, (0, 0))


def test_all_bytes_were_here(site: Site) -> None:
    """And nobody had begun to complete it."""
    one = site.machine()
    ticket = one.ticket()
    arrive(one, ticket, LENGTH - 1)
    _let_a_second_pass(one)
    go_on_without_end(one, ticket)
    site.lose()
    two = site.machine()
    assert ticket in recovered(two)
    two.start()
    if not two.receiver.status(ticket).is_complete:  # the last bytes are sent again, at worst
        go_on(two, ticket)
    two.registry.now = lambda _now=two.registry.now: _now() + 60  # type: ignore[method-assign,misc]
    two.receiver.sweep()
    two.until(ticket, State.FINISHED)
    assert two.app.notices[0].upload.sha256 == SHA256


def go_on_without_end(engine: Engine, ticket: str) -> None:
    with engine.open(ticket, LENGTH) as session:
        session.write(LENGTH - 1, DATA[-1:])
        session.sync()


def test_a_dialect_in_which_the_client_has_said_that_it_is_complete(site: Site) -> None:
    """It will not say so again."""
    one = site.machine()
    ticket = one.ticket()
    with one.receiver.open(ticket, length=1000, protocol="ietf") as session:  # type: ignore[union-attr]
        session.write(0, DATA[:1000])
        one.receiver.complete(session.sync())
    one.until(ticket, State.HANDING_OVER)
    site.lose()
    two = site.machine()
    recovered(two)
    two.start()
    two.receiver.sweep()
    two.until(ticket, State.FINISHED)


def test_what_was_joined(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = site.machine()
    ticket = one.ticket()
    parts = [one.receiver.create_part(ticket, size).id for size in (PART + 10, 1000)]
    position = 0
    for part, size in zip(parts, (PART + 10, 1000), strict=True):
        with one.open(part, size) as session:
            session.write(0, DATA[position : position + size])
            session.sync()
        position += size
    with monkeypatch.context() as patch:
        patch.setattr(one.receiver, "_roll_forward_in_background", lambda _upload: None)  # as when it dies
        one.receiver.join(ticket, parts)
    site.lose()
    two = site.machine()
    found = recovered(two)
    assert set(found) == {ticket, *parts}
    two.start()
    two.receiver.sweep()
    two.until(ticket, State.FINISHED)
    assert two.app.notices[0].upload.sha256 == hashlib.sha256(DATA[:position]).hexdigest()


def test_what_the_app_keeps_is_not_handed_over_again(site: Site) -> None:
    one = site.machine()
    one.start()
    tickets = [one.ticket(remove_file_when_finished=keep) for keep in (False, True)]
    for ticket in tickets:
        one.send(ticket, DATA[:1000])
        one.until(ticket, State.FINISHED)
    cancelled = one.ticket()
    arrive(one, cancelled, 1000)
    one.receiver.cancel(cancelled, "why not")
    eventually(lambda: not list(one.storage.remembered()))
    site.lose()
    two = site.machine()
    assert recovered(two) == {}
    assert one.storage.locate(Upload(id=tickets[0])) is not None


def test_a_length_that_was_told_at_the_end(site: Site) -> None:
    """By a client that does not know any more that it has to say so: it hears that all of its bytes are here."""
    one = site.machine()
    ticket = one.ticket()
    with one.receiver.open(ticket, protocol="tus") as session:  # type: ignore[union-attr]
        send(session, 0, DATA[:PART])
        _let_a_second_pass(one)
        send(session, PART, DATA[PART:])
        session.declare_length(LENGTH)
    site.lose()
    two = site.machine()
    found = recovered(two)[ticket]
    assert (found.length, found.is_complete) == (LENGTH, True)
    two.start()
    two.registry.now = lambda _now=two.registry.now: _now() + 60  # type: ignore[method-assign,misc]
    two.receiver.sweep()
    eventually(lambda: is_finished(two, ticket))
    assert two.app.notices[0].upload.sha256 == SHA256


@pytest.mark.parametrize("site", ["rclone", "ceph"], indirect=True)
def test_all_of_it_had_been_taken_back(site: Site) -> None:
    """What was remembered when it was complete for the first time is of bytes that do not count any more."""
    one = site.machine()
    ticket = one.ticket()
    arrive(one, ticket, LENGTH)
    upload = one.receiver.status(ticket)
    one.storage.remember(upload.but(state=State.COMPLETING))
    one.receiver._take_back(upload, "the storage has other bytes", start_anew=True)
    arrive(one, ticket, 2 * PART)
    site.lose()
    two = site.machine()
    found = recovered(two)[ticket]
    assert (found.taken_back, found.offset, found.state) == (1, 2 * PART, State.RECEIVING)
    two.start()
    go_on(two, ticket)
    two.until(ticket, State.FINISHED)
    assert two.app.notices[0].upload.sha256 == SHA256


@pytest.mark.parametrize("site", ["rclone", "ceph"], indirect=True)
def test_some_of_it_is_in_doubt(site: Site) -> None:
    """It had been complete, as far as anybody knew; now these bytes are sent again, and nothing else."""
    one = site.machine()
    ticket = one.ticket()
    arrive(one, ticket, LENGTH)
    upload = one.receiver.status(ticket)
    one.storage.remember(upload.but(state=State.COMPLETING))
    site.lose()
    two = site.machine()
    remembered, less = two.storage.remembered, NOTHING.add(0, PART)
    two.storage.remembered = lambda *_: (found.but(extents=less, synced=less) for found in remembered())  # type: ignore[method-assign]
    assert recovered(two)[ticket].state is State.RECEIVING
    two.start()
    assert go_on(two, ticket) == PART
    two.until(ticket, State.FINISHED)
    assert two.app.notices[0].upload.sha256 == SHA256


def test_what_is_known_stays_as_it_is(site: Site) -> None:
    one = site.machine()
    tickets = [one.ticket() for _ in range(3)]
    arrive(one, tickets[0], 1000)
    one.receiver.pause(tickets[0], one.receiver.status(tickets[0]).session)
    one.send(tickets[1], DATA[:1000])
    one.until(tickets[1], State.HANDING_OVER)
    before = [one.receiver.status(ticket) for ticket in tickets]
    assert recovered(one) == {}
    assert [one.receiver.status(ticket) for ticket in tickets] == before


def test_a_ticket_of_which_nothing_had_come_is_lost(site: Site) -> None:
    ticket = site.machine().ticket()
    site.lose()
    two = site.machine()
    assert recovered(two) == {}
    with pytest.raises(UnknownUpload):
        two.receiver.status(ticket)


@pytest.mark.parametrize("site", ["rclone", "ceph", "files-redis"], indirect=True)
def test_while_the_machines_run(site: Site) -> None:
    """Nobody has to restart them."""
    one, operator = site.machine(), site.machine()
    one.start()
    one.app.answers = ["wait"]
    waiting, arriving = one.ticket(), one.ticket()
    one.send(waiting, DATA)
    one.until(waiting, State.WAITING_FOR_APP)
    with one.open(arriving, LENGTH) as session:
        session.write(0, DATA[:1000])
        session.sync()
        _let_a_second_pass(one)
        session.write(1000, DATA[1000:PART])
        session.sync()
        site.lose()
        lines = list(operate.recover(operator.receiver))
        assert lines[-1] == "2 uploads are known again; 0 were known."
        assert any(line.startswith(waiting) and "handed over" in line for line in lines)
        assert any(line.startswith(arriving) and f"{PART} of {LENGTH}" in line for line in lines)
        assert list(operate.recover(operator.receiver)) == ["0 uploads are known again; 2 were known."]
        session.discard()
        with pytest.raises(Unavailable, match="open it anew"):
            send(session, PART, DATA[PART:])
    go_on(one, arriving)
    one.receiver.sweep()
    for ticket in (waiting, arriving):
        one.until(ticket, State.FINISHED)
    events = [notice.delivery.event_id for notice in one.app.notices if notice.upload.id == waiting]
    assert len(events) == 2
    assert len(set(events)) == 1
    assert all(notice.upload.sha256 == SHA256 for notice in one.app.notices)


def test_only_one_at_a_time(site: Site) -> None:
    one, two = site.machine(), site.machine()
    with one.registry.alone("recover"), pytest.raises(Unavailable):
        list(two.receiver.recover())


# -- by itself --------------------------------------------------------------------------------------------------

emptied = pytest.mark.parametrize("site", ["rclone", "ceph", "files-redis"], indirect=True)


@pytest.fixture
def settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes long here."""
    monkeypatch.setattr(engine_room, "_SETTLED", 0.3)
    monkeypatch.setattr(engine_room, "_SWEEP_INTERVAL", 0.2)


def is_unknown(engine: Engine, ticket: str) -> bool:
    """Whether the ticket is; that one has to come again counts as not."""
    try:
        engine.receiver.status(ticket)
    except UnknownUpload:
        return True
    except Unavailable:
        return False
    return False


def is_finished(engine: Engine, ticket: str) -> bool:
    try:
        return engine.state(ticket) is State.FINISHED
    except Unavailable:
        return False


@emptied
def test_of_itself(site: Site, settling: None) -> None:
    """Nobody does anything: what had been handed over, or was arriving, goes on, and is never called unknown."""
    one = site.machine()
    one.start()
    one.app.answers = ["wait"]
    eventually(lambda: one.registry.lost("app") is None)
    waiting, arriving, unused = one.ticket(), one.ticket(), one.ticket()
    one.send(waiting, DATA)
    one.until(waiting, State.WAITING_FOR_APP)
    with one.open(arriving, LENGTH) as session:
        send(session, 0, DATA[:PART])
    two = site.machine()
    two.start()
    site.lose()
    assert not any(is_unknown(two, ticket) for ticket in (waiting, arriving, unused))
    eventually(lambda: is_unknown(two, unused))
    assert two.receiver.status(arriving).is_to_be_reopened
    go_on(two, arriving)
    for ticket in (waiting, arriving):
        eventually(lambda ticket=ticket: is_finished(two, ticket))  # type: ignore[misc]
    heard = [notice for machine in (one, two) for notice in machine.app.notices]
    assert {notice.upload.id for notice in heard} == {waiting, arriving}
    assert len({notice.delivery.event_id for notice in heard}) == 2
    assert all(notice.upload.sha256 == SHA256 for notice in heard)


@emptied
def test_of_itself_and_again(site: Site, settling: None) -> None:
    """Each loss counts, also one in the middle of the search for what an earlier one has taken."""
    one = site.machine()
    ticket = one.ticket()
    arrive(one, ticket, PART)
    one.start()
    for _ in range(3):
        site.lose()
        eventually(lambda: one.registry.lost("app") is None)
        assert one.receiver.status(ticket).is_to_be_reopened
        site.lose()


@emptied
def test_what_is_lost_while_it_is_sought(site: Site) -> None:
    registry = site.machine().registry
    for era in ("", registry.boot_id, ""):
        site.lose()
        registry.regained("app", era)
        assert registry.lost("app") is not None
    registry = site.machine().registry
    registry.regained("app", registry.boot_id)
    assert registry.lost("app") is None


@emptied
def test_what_was_being_completed(site: Site, settling: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client has said that it is complete, and nobody has written that down beside the bytes yet."""
    one = site.machine()
    ticket = one.ticket()
    remember = one.storage.remember

    def lose_first(upload: Upload) -> None:
        monkeypatch.setattr(one.storage, "remember", remember)
        site.lose()
        one.start()
        eventually(lambda: one.registry.lost("app") is None)
        remember(upload)

    with one.receiver.open(ticket, length=LENGTH, protocol="ietf") as session:  # type: ignore[union-attr]
        for start in (0, PART):
            send(session, start, DATA[start : start + PART])
            _let_a_second_pass(one)
        send(session, 2 * PART, DATA[2 * PART :])
        monkeypatch.setattr(one.storage, "remember", lose_first)
        one.receiver.complete(session.upload)
    eventually(lambda: one.app.notices)
    eventually(lambda: is_finished(one, ticket))
    assert [notice.upload.sha256 for notice in one.app.notices] == [SHA256]


@emptied
def test_the_app_answers_meanwhile(site: Site, settling: None) -> None:
    """It is told again, under the same event id."""
    one = site.machine()
    one.start()
    one.app.may_answer.clear()
    ticket = one.ticket()
    one.send(ticket, DATA)
    eventually(lambda: one.app.notices)
    site.lose()
    one.app.may_answer.set()
    eventually(lambda: is_finished(one, ticket))
    assert len({notice.delivery.event_id for notice in one.app.notices}) == 1


@emptied
def test_a_lane_of_which_the_registry_knows_nothing(site: Site, settling: None) -> None:
    """Its client comes again, and is told then that the upload is to be opened anew."""
    one = site.machine()
    ticket = one.ticket()
    with one.open(ticket, LENGTH) as session:
        send(session, 0, DATA[:PART])
        site.lose()
        with pytest.raises(Unavailable):
            send(session, PART, DATA[PART:])
        with pytest.raises(Unavailable):
            one.receiver.pause(ticket, session.token)
    one.start()
    eventually(lambda: one.registry.lost("app") is None)
    go_on(one, ticket)
    one.until(ticket, State.FINISHED)


def test_a_registry_that_nobody_can_empty(engine: Engine) -> None:
    assert engine.registry.lost("app") is None
    engine.registry.regained("app", "")
    with pytest.raises(UnknownUpload):
        engine.receiver.status(Upload().id)
