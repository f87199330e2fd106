"""Several storages by name: a ticket chooses, the upload remembers, and one that is gone loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from webtest import TestApp

from incoming_wsgi import Incoming, Permission, receiver
from incoming_wsgi.errors import BadRequest, Unavailable
from incoming_wsgi.receiver import App, Patience, Receiver
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.storage import Storage
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import State, Upload
from tests.helpers import NOBODYS, PlayedApp
from tests.support.s3_server import S3Server
from tests.support.waiting import eventually

DATA = b"0123456789" * 100


class Engine:
    """A receiver with a folder as its default, and further storages."""

    def __init__(self, folder: Path, **storages: Storage) -> None:
        self.folder = folder
        self._is_closed = False
        self.app = PlayedApp()
        self.registry = SQLiteRegistry(folder / "registry.sqlite3")
        app = App("app", FileStorage(folder / "main"), {"callable": self.app}, 2**40, storages=storages)
        self.receiver = Receiver(self.registry, {"app": app}, Patience(idle=3600, wait=600))

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.receiver.close()

    def ticket(self, dest: str = "", *, keep: bool = False) -> str:
        return self.receiver.create("app", dest=dest, remove_file_when_finished=not keep).id

    def send(self, ticket: str, data: bytes = DATA) -> None:
        session = self.receiver.open(ticket, length=len(DATA))
        assert session is not None
        with session:
            session.write(0, data)
            upload = session.sync()
            if upload.is_complete:
                self.receiver.complete(upload)

    def until(self, ticket: str, state: State) -> Upload:
        eventually(lambda: self.receiver.status(ticket).state is state)
        return self.receiver.status(ticket)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path, fast=FileStorage(tmp_path / "fast"), slow=FileStorage(tmp_path / "slow"))
    engine.receiver.start()
    yield engine
    engine.close()


@pytest.mark.parametrize(("dest", "folder"), [("", "main"), ("file", "main"), ("fast", "fast"), ("slow", "slow")])
def test_the_ticket_chooses(engine: Engine, dest: str, folder: str) -> None:
    ticket = engine.ticket(dest, keep=True)
    engine.send(ticket)
    upload = engine.until(ticket, State.FINISHED)
    assert upload.dest_type == (dest or "file")
    assert Path(upload.location) == engine.folder / folder / "complete" / ticket
    assert Path(upload.location).read_bytes() == DATA


def test_a_small_file_in_one_piece(engine: Engine) -> None:
    ticket = engine.ticket("fast", keep=True)
    assert engine.receiver.take_whole(ticket, DATA, name="x") is not None
    assert Path(engine.until(ticket, State.FINISHED).location) == engine.folder / "fast" / "complete" / ticket


def test_parts_are_where_their_whole_is(engine: Engine) -> None:
    whole = engine.ticket("slow", keep=True)
    part = engine.receiver.create_part(whole, len(DATA))
    engine.send(part.id)
    assert (engine.folder / "slow" / "arriving" / part.id).exists()
    engine.receiver.join(whole, [part.id])
    location = engine.until(whole, State.FINISHED).location
    assert Path(location) == engine.folder / "slow" / "complete" / whole


@pytest.mark.parametrize("dest", ["s3", "Fast", "other", "complete", "../fast"])
def test_an_unknown_one_is_refused(engine: Engine, dest: str) -> None:
    with pytest.raises(BadRequest, match="file, fast, slow"):
        engine.ticket(dest)


def test_a_kind_means_the_only_one_of_it(tmp_path: Path) -> None:
    bucket, folder = S3Storage("s3://bucket"), FileStorage(tmp_path / "one")
    by_kind = App("app", bucket, {}, 1, storages={"archive": folder})
    assert by_kind.destination("file") == "archive"
    assert by_kind.destination("s3") == by_kind.destination("") == "s3"
    several = App("app", bucket, {}, 1, storages={"archive": folder, "other": folder})
    with pytest.raises(BadRequest):
        several.destination("file")
    named = App("app", bucket, {}, 1, storages={"file": folder, "other": folder})
    assert named.destination("file") == "file"


def test_what_back_ends_of_0_1_say_is_the_default() -> None:
    assert App("app", S3Storage("s3://bucket"), {}, 1).destination("file") == "s3"


def test_a_storage_that_is_configured_no_more(engine: Engine) -> None:
    arriving, complete = engine.ticket("fast"), engine.ticket("fast")
    engine.send(arriving, DATA[:500])
    engine.app.answers = ["wait"]
    engine.send(complete)
    engine.until(complete, State.WAITING_FOR_APP)
    engine.close()

    without = Engine(engine.folder, slow=FileStorage(engine.folder / "slow"))
    with pytest.raises(Unavailable):
        without.receiver.open(arriving, length=len(DATA))
    without.receiver.sweep()
    assert without.receiver.status(arriving).received == 500
    assert without.receiver.status(complete).state is State.WAITING_FOR_APP
    without.close()

    again = Engine(engine.folder, fast=FileStorage(engine.folder / "fast"))
    again.receiver.start()
    with again.receiver.open(arriving, length=len(DATA)) as session:  # type: ignore[union-attr]
        assert session.upload.offset == 500
        session.write(500, DATA[500:])
        again.receiver.complete(session.sync())
    again.until(arriving, State.FINISHED)
    again.receiver.done(complete)
    eventually(lambda: not (engine.folder / "fast" / "complete" / complete).exists())
    again.close()


def test_orphans_are_put_aside_in_each(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("main", "fast", "slow"):
        (engine.folder / name / "arriving" / NOBODYS).write_bytes(b"x")
    monkeypatch.setattr(receiver, "_ORPHAN_AGE", 0)
    engine.receiver.quarantine_orphans()
    assert [(engine.folder / name / "quarantine" / NOBODYS).exists() for name in ("main", "fast", "slow")] == [True] * 3


def test_both_kinds_side_by_side(s3_server: S3Server, tmp_path: Path) -> None:
    engine = Engine(tmp_path, archive=S3Storage(s3_server.url(s3_server.bucket())))
    engine.receiver.start()
    here, there = engine.ticket("file", keep=True), engine.ticket("s3", keep=True)
    for ticket in (here, there):
        engine.send(ticket)
        engine.until(ticket, State.FINISHED)
        with engine.receiver.read(engine.receiver.status(ticket)) as file:
            assert file.read() == DATA
    assert engine.receiver.status(there).dest_type == "archive"
    assert engine.receiver.status(there).location.startswith("s3://")
    engine.close()


def test_from_python_and_over_http(tmp_path: Path) -> None:
    incoming = Incoming(
        lambda *_: [],
        on_finish=lambda _: None,
        storage=tmp_path,
        storages={"fast": tmp_path / "fast"},
        backend_key="key",
        finish_hosts="app.example",
    )
    web = TestApp(incoming)

    def asked(dest: str, status: int) -> str:
        values = {"signalFinishURL": "http://app.example/x", "destType": dest}
        headers = {"Authorization": "Bearer key"}
        return str(web.post("/incoming/backend/new_upload", values, headers=headers, status=status).text)

    for ticket in (incoming.new_upload(dest="fast"), asked("fast", 200), incoming._create(Permission(dest="fast")).id):
        upload = incoming.upload(ticket)
        assert upload is not None
        assert upload.dest_type == "fast"
    with pytest.raises(BadRequest):
        incoming.new_upload(dest="other")
    assert "fast" in asked("other", 400)
    incoming.close()
