from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from incoming_wsgi.errors import Conflict, NoSpace, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.gates.quotas import Rate, Scope
from incoming_wsgi.registry import Delivery, from_url
from incoming_wsgi.registry import sqlite as module
from incoming_wsgi.registry.sqlite import _IS_OPEN, _MIGRATIONS, _OF_SCOPE, SCHEMA_VERSION, SQLiteRegistry
from incoming_wsgi.upload import NOTHING, State, Upload
from tests.support.waiting import eventually

from ..helpers import Child, Clock

ADD = """
import sys
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.upload import NOTHING
path, upload_id, first, step, end = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
registry = SQLiteRegistry(path)
print("ready", flush=True)
sys.stdin.readline()
for start in range(first, end, step):
    registry.add_extents(upload_id, "token", NOTHING.add(start, start + 1))
    print(start, flush=True)
registry.close()
"""

HOLD = """
import sys, time
from incoming_wsgi.registry.sqlite import SQLiteRegistry
registry = SQLiteRegistry(sys.argv[1])
print(registry.holder, flush=True)
delivery = registry.lease("app", ("callable",), time.time())
print(delivery.event_id, flush=True)
with registry.alone("sweep") as alone:
    print(alone, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder, to be made" / "registry.sqlite3"


@pytest.fixture
def registry(path: Path) -> Iterator[SQLiteRegistry]:
    registry = SQLiteRegistry(path)
    yield registry
    registry.close()


def receiving(length: int) -> Upload:
    return Upload(app="app", state=State.RECEIVING, session="token", length=length)


def test_two_processes_add_to_one_upload(registry: SQLiteRegistry, path: Path) -> None:
    upload = registry.create(receiving(600))
    with (
        Child(ADD, [path, upload.id, "0", "3", "600"]) as first,
        Child(ADD, [path, upload.id, "1", "3", "600"]) as second,
    ):
        for child in (first, second):
            assert child.line() == "ready"
        for child in (first, second):
            child.say("go")
        for start in range(2, 600, 3):
            registry.add_extents(upload.id, "token", NOTHING.add(start, start + 1))
            if start % 100 == 2:
                registry.maintain()  # checkpoints between the commits of others
        assert [first.wait(), second.wait()] == [0, 0]
    found = registry.get(upload.id)
    assert found is not None
    assert found.extents.ranges == ((0, 600),)


def test_what_a_killed_process_was_told_is_there(registry: SQLiteRegistry, path: Path) -> None:
    upload = registry.create(receiving(10**6))
    with Child(ADD, [path, upload.id, "0", "2", str(10**6)]) as child:
        assert child.line() == "ready"
        child.say("go")
        told = [int(child.line()) for _ in range(50)]
        child.kill()
    found = registry.get(upload.id)
    assert found is not None
    assert all(found.extents.contains(start, start + 1) for start in told)
    assert registry.add_extents(upload.id, "token", NOTHING.add(1, 2)).offset >= 3


def test_everything_that_a_killed_process_held_is_free(registry: SQLiteRegistry, path: Path) -> None:
    registry.enqueue(Delivery("event", Upload().id, "app", "finished", "callable"))
    with Child(HOLD, [path]) as child:
        holder = child.line()
        assert child.line() == "event"
        assert child.line() == "True"
        assert registry.is_alive(holder)
        assert registry.lease("app", ("callable",), 1.0) is None
        with registry.alone("sweep") as alone:
            assert not alone
        child.kill()
    assert not registry.is_alive(holder)
    assert registry.lease("app", ("callable",), 1.0) is not None
    with registry.alone("sweep") as alone:
        assert alone


def test_the_traces_of_dead_processes_are_cleared_away(registry: SQLiteRegistry, path: Path) -> None:
    registry.enqueue(Delivery("event", Upload().id, "app", "finished", "callable"))
    with Child(HOLD, [path]) as child:
        holder = child.line()
        child.kill()
    folder = path.with_name(path.name + ".holders")
    assert holder in os.listdir(folder)
    registry.maintain()
    assert os.listdir(folder) == [registry.holder]


def test_what_is_not_the_trace_of_a_process_is_left_alone(registry: SQLiteRegistry, path: Path) -> None:
    (path.parent / "outside").touch()
    (registry._holders / "notes").write_text("mine")
    (registry._holders / "1234-notes").write_text("mine")
    (registry._holders / "folder").mkdir()
    (registry._holders / "link").symlink_to(path.parent / "outside")
    before = set(registry._holders.iterdir())
    registry.maintain()
    assert set(registry._holders.iterdir()) == before


def test_processes_that_start_together_make_one_schema(path: Path) -> None:
    code = """
import sys
from incoming_wsgi.registry.sqlite import SQLiteRegistry
print("ready", flush=True)
sys.stdin.readline()
registry = SQLiteRegistry(sys.argv[1])
registry.close()
"""
    children = [Child(code, [path]) for _ in range(4)]
    try:
        for child in children:
            assert child.line() == "ready"
        for child in children:
            child.say("go")
        assert [child.wait() for child in children] == [0, 0, 0, 0]
    finally:
        for child in children:
            child.__exit__()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    SQLiteRegistry(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = open_files()
    with pytest.raises(RuntimeError, match=f"newer.*schema {SCHEMA_VERSION + 1}"):
        SQLiteRegistry(path)
    assert open_files() == before
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    db.close()


def test_close_lets_go_of_everything(path: Path) -> None:
    before = open_files()
    registry = SQLiteRegistry(path)
    registry.create(Upload())
    registry.close()
    assert open_files() == before
    assert os.listdir(path.with_name(path.name + ".holders")) == []


def test_a_file_that_could_not_be_opened_leaves_nothing_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    for call in ("rename", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(errno.EIO))
            with pytest.raises(Unavailable):
                SQLiteRegistry(path)
        assert open_files() == before
    SQLiteRegistry(path).close()


def test_a_file_that_can_not_be_read_now_is_opened_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says of a page that the disk did not give: malformed."""

    def fail(_: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(SQLiteRegistry, "_prepare", fail)
        with pytest.raises(Unavailable):
            SQLiteRegistry(path)
    assert open_files() == before
    SQLiteRegistry(path).close()


def test_trouble_while_it_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    registry = SQLiteRegistry(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EIO))
        with pytest.raises(Unavailable):
            registry.close()
    assert open_files() == before


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), sqlite3.DatabaseError("malformed")])
def test_what_can_not_be_read_now_may_be_later(registry: SQLiteRegistry, error: Exception) -> None:
    upload = registry.create(receiving(5))

    class Broken:
        def execute(self, *_: object) -> None:
            raise error

    reader, registry._reader = registry._reader, cast("sqlite3.Connection", Broken())
    reads: list[Callable[[], object]] = [
        lambda: registry.get(upload.id),
        lambda: registry.find({State.RECEIVING}),
        registry.find_complete,
        lambda: registry.due(upload.id),
        lambda: registry.digest(upload.id),
        lambda: registry.lease("app", ("callable",), registry.now()),
    ]
    for read in reads:
        with pytest.raises(Unavailable):
            read()
    registry._reader = reader
    for read in reads:
        read()


@pytest.mark.parametrize(("number", "error"), [(errno.EIO, Unavailable), (errno.ENOSPC, NoSpace)])
def test_trouble_with_the_files_beside_the_database_is_passing(
    registry: SQLiteRegistry, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", failing(number))
        with pytest.raises(error):
            registry.create(Upload())
        with pytest.raises(error):
            registry.is_alive(registry.holder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(number))
        with pytest.raises(error):
            registry.is_alive(registry.holder)
        with pytest.raises(error), registry.alone("sweep"):
            pass
    assert registry.is_alive(registry.holder)
    with registry.alone("sweep") as alone:
        assert alone
    registry.create(Upload())


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_the_log_does_not_grow_for_ever(registry: SQLiteRegistry, path: Path) -> None:
    log = Path(f"{path}-wal")
    registry.create(Upload())
    registry.maintain()
    small = log.stat().st_size
    assert small > 0, "not worth moving"
    for _ in range(50):
        registry.create(Upload())
    assert log.stat().st_size > 256 * 1024
    registry.maintain()
    assert log.stat().st_size < small, "there is nothing in it but the clock"
    assert len(registry.find({State.WAITING})) == 51


def test_what_failed_leaves_nothing(registry: SQLiteRegistry) -> None:
    upload = registry.create(receiving(5))
    twice = Delivery("event", upload.id, "app", "finished", "callable")
    registry.enqueue(twice)
    with pytest.raises(sqlite3.IntegrityError):
        registry.save(upload, upload.to(State.PAUSED), enqueue=twice)
    found = registry.get(upload.id)
    assert found is not None
    assert found.state is State.RECEIVING
    assert registry.save(upload, upload.to(State.PAUSED)).state is State.PAUSED


def test_a_full_disk_passes(registry: SQLiteRegistry) -> None:
    upload = registry.create(receiving(5))
    (pages,) = registry._writer.execute("PRAGMA page_count").fetchone()
    registry._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpace):
        registry.save(upload, upload.to(State.PAUSED, reason="x" * 10**6))
    registry._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert registry.save(upload, upload.to(State.PAUSED, reason="x" * 10**6)).state is State.PAUSED


def test_trouble_with_the_database_is_passing(registry: SQLiteRegistry, path: Path) -> None:
    upload = registry.create(receiving(5))
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    registry._writer.execute("PRAGMA busy_timeout = 10")
    try:
        with pytest.raises(Unavailable):
            registry.add_extents(upload.id, "token", NOTHING.add(0, 5))
        stranger.execute("ROLLBACK")
        assert registry.add_extents(upload.id, "token", NOTHING.add(0, 5)).is_complete
    finally:
        stranger.close()


def test_a_change_by_another_process_is_heard_without_asking_all_the_time(registry: SQLiteRegistry, path: Path) -> None:
    upload = registry.create(receiving(5))
    heard: list[int] = []
    registry.subscribe(upload.id, lambda: heard.append(1))
    code = """
import sys
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.upload import State
registry = SQLiteRegistry(sys.argv[1])
upload = registry.get(sys.argv[2])
registry.save(upload, upload.to(State.PAUSED))
registry.close()
"""
    with Child(code, [path, upload.id]) as child:
        assert child.wait() == 0
    eventually(lambda: heard)


def test_from_url(path: Path) -> None:
    registry = from_url(f"sqlite://{path}")
    assert isinstance(registry, SQLiteRegistry)
    registry.close()
    assert path.exists()


@pytest.mark.parametrize("url", ["", "/srv/registry.sqlite3", "mysql://localhost/x", "SQLITE3:///x"])
def test_from_a_url_that_means_nothing(url: str) -> None:
    with pytest.raises(ValueError, match="known are sqlite://"):
        from_url(url)


# -- time and power ---------------------------------------------------------------------------------------------


@pytest.fixture
def boots(path: Path) -> Iterator[Callable[[str], SQLiteRegistry]]:
    opened: list[SQLiteRegistry] = []

    def boot(boot_id: str) -> SQLiteRegistry:
        opened.append(SQLiteRegistry(path, boot_id))
        return opened[-1]

    yield boot
    for registry in opened:
        registry.close()


@pytest.mark.parametrize("jump", [-10 * 365 * 86400.0, -3600.0, 3600.0, 10 * 365 * 86400.0])
def test_the_clock_does_not_follow_the_wall_clock(
    boots: Callable[[str], SQLiteRegistry], clock: Clock, jump: float
) -> None:
    first = boots("one")
    began = first.now()
    assert began == pytest.approx(clock.now)
    clock.set_wall_clock(jump)
    second = boots("one")
    assert first.now() == second.now() == pytest.approx(began)
    clock.advance(60)
    assert first.now() == second.now() == pytest.approx(began + 60)


def test_while_the_machine_is_off_the_clock_stands_still(boots: Callable[[str], SQLiteRegistry], clock: Clock) -> None:
    before = boots("one")
    clock.advance(86400)
    before.maintain()
    clock.advance(10)
    off = before.now()
    clock.restart()  # the machine's own clock begins anew
    clock.set_wall_clock(10 * 365 * 86400.0)
    after = boots("two")
    assert off - 60 <= after.now() <= off
    clock.advance(5)
    assert after.now() == pytest.approx(boots("two").now())


def test_after_a_power_cut_all_hand_overs_are_due(boots: Callable[[str], SQLiteRegistry]) -> None:
    before = boots("one")
    delivery = Delivery("event", Upload().id, "app", "finished", "callable", due_at=before.now() + 36000)
    before.enqueue(delivery)
    assert boots("one").lease("app", ("callable",), before.now()) is None
    after = boots("two")
    assert after.lease("app", ("callable",), after.now()) is not None


#: As it was written once; such files are about.
FIRST_SCHEMA = """
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, version INTEGER NOT NULL, app TEXT NOT NULL,
    protocol TEXT NOT NULL, created_at REAL NOT NULL, active_at REAL NOT NULL, epoch INTEGER NOT NULL,
    session TEXT NOT NULL, length INTEGER, max_length INTEGER, extents TEXT NOT NULL, fingerprint TEXT NOT NULL,
    filename_from_browser TEXT NOT NULL, metadata TEXT NOT NULL, target TEXT NOT NULL, base_url TEXT NOT NULL,
    secret TEXT NOT NULL, remove_file_when_finished INTEGER NOT NULL, dest_type TEXT NOT NULL, holder TEXT NOT NULL,
    event_id TEXT NOT NULL, sha256 TEXT NOT NULL, location TEXT NOT NULL, moved_to TEXT NOT NULL, reason TEXT NOT NULL,
    change INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX uploads_by_change ON uploads (change);
CREATE INDEX uploads_by_idleness ON uploads (state, active_at);
CREATE TABLE outbox (
    event_id TEXT PRIMARY KEY, upload_id TEXT NOT NULL, app TEXT NOT NULL, kind TEXT NOT NULL, handler TEXT NOT NULL,
    attempt INTEGER NOT NULL, due_at REAL NOT NULL, created_at REAL NOT NULL, holder TEXT NOT NULL, error TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX outbox_by_due ON outbox (app, due_at);
CREATE INDEX outbox_by_upload ON outbox (upload_id);
CREATE TABLE digests (upload_id TEXT PRIMARY KEY, position INTEGER NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE counter (change INTEGER NOT NULL);
INSERT INTO counter VALUES (0);
"""


def file_of_version(path: Path, version: int) -> sqlite3.Connection:
    path.parent.mkdir(exist_ok=True)
    db = sqlite3.connect(path)
    db.executescript(FIRST_SCHEMA)
    for older in range(1, version):
        db.executescript(_MIGRATIONS[older])
    db.execute(f"PRAGMA user_version = {version}")
    return db


def tables(path: Path) -> tuple[list[Any], list[Any]]:
    """What a file consists of: its tables and indexes as they were written, and the columns as SQLite takes them."""
    with closing(sqlite3.connect(path)) as db:
        made = db.execute("SELECT name, sql FROM sqlite_master WHERE sql != '' ORDER BY name").fetchall()
        columns = [db.execute(f"PRAGMA table_info({name})").fetchall() for name, _ in made]
    return [(name, sql.split()) for name, sql in made], columns


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_old_file_becomes_like_a_new_one(path: Path, tmp_path: Path, version: int) -> None:
    old = tmp_path / "old.sqlite3"
    file_of_version(old, version).close()
    for each in (old, path):
        SQLiteRegistry(each).close()
    assert len(tables(path)[0]) > 6
    assert tables(old) == tables(path)


def test_a_file_of_the_first_schema_is_taken_over(path: Path) -> None:
    """With all that is in it; what it calls safe was so by its own rules."""
    db = file_of_version(path, 1)
    values = [(upload := Upload()).id, "receiving", 0, "app", "incoming", 1.0, 1.0, 1, "token", 10, None, "[[0,5]]"]
    values += ["", "", "{}", "", "", "", 1, "file", "", "", "", "", "", "", 1]
    db.execute(f"INSERT INTO uploads VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608 (only marks)
    db.commit()
    db.close()
    registry = SQLiteRegistry(path)
    found = registry.get(upload.id)
    assert found is not None
    assert found.offset == 5
    assert registry.add_extents(upload.id, "token", NOTHING.add(5, 10)).is_complete
    registry.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_a_log_that_could_not_be_synced_is_moved_into_the_database(
    registry: SQLiteRegistry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To sync it again would prove nothing."""
    fdatasync = os.fdatasync
    calls: list[int] = []

    def fail_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    upload = registry.create(Upload())
    with pytest.raises(Unavailable):
        registry.sync()
    registry.sync()
    assert len(calls) == 1
    database = sqlite3.connect(f"file:{path}?immutable=1", uri=True)  # without the log
    assert database.execute("SELECT id FROM uploads").fetchone() == (upload.id,)
    database.close()
    registry.sync()
    assert len(calls) == 2


def test_who_comes_after_the_end_changes_nothing(path: Path) -> None:
    """Something that runs in the background may: another file may have the number of the lock's by then."""
    registry = SQLiteRegistry(path)
    upload = registry.create(receiving(5))
    registry.close()
    with path.with_name("another").open("w"), pytest.raises(Unavailable):
        registry.save(upload, upload.to(State.PAUSED))


def test_a_log_that_could_not_be_synced_is_not_believed_while_somebody_reads_from_it(
    registry: SQLiteRegistry, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not move what came after the reader began, and says so in its answer only."""
    registry.create(Upload())
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT id FROM uploads").fetchall()
    registry.create(Upload())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(Unavailable):
            registry.sync()
    with pytest.raises(Unavailable):
        registry.sync()
    reader.close()
    registry.sync()
    database = sqlite3.connect(f"file:{path}?immutable=1", uri=True)  # without the log
    assert database.execute("SELECT COUNT(*) FROM uploads").fetchone() == (2,)
    database.close()


# -- arrivals in one statement ----------------------------------------------------------------------------------


def statements(registry: SQLiteRegistry) -> list[str]:
    """What the registry writes from now on."""
    found: list[str] = []
    registry._writer.set_trace_callback(found.append)
    return found


def test_an_arrival_is_one_statement_where_nothing_has_changed(registry: SQLiteRegistry) -> None:
    upload = registry.create(receiving(100))
    registry.get(upload.id)
    written = statements(registry)
    for start in range(3):
        registry.add_extents(upload.id, "token", NOTHING.add(start, start + 1))
        assert registry.get(upload.id) is registry.get(upload.id)
    assert [statement.split()[0] for statement in written] == 3 * ["UPDATE"]
    found = registry.get(upload.id)
    assert found is not None
    assert found.extents.ranges == ((0, 3),)


@pytest.mark.parametrize("by", ["another lane", "another opening", "a sync", "a disk that lost bytes", "nobody"])
def test_what_is_remembered_is_never_believed_without_a_look(registry: SQLiteRegistry, path: Path, by: str) -> None:
    upload = registry.create(receiving(100))
    registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
    known = registry.get(upload.id)
    assert known is not None
    other = SQLiteRegistry(path)
    if by == "another lane":
        other.add_extents(upload.id, "token", NOTHING.add(20, 30))
    elif by == "another opening":
        other.save(known, known.to(State.RECEIVING, session="other", epoch=1))
    elif by == "a sync":
        other.add_synced(known)
    elif by == "a disk that lost bytes":
        other.save(known, known, back_to_synced=True)
    if by == "another opening":
        with pytest.raises(Conflict):
            registry.add_extents(upload.id, "token", NOTHING.add(10, 15))
    else:
        saved = registry.add_extents(upload.id, "token", NOTHING.add(10, 15))
        assert saved == other.get(upload.id) == registry.get(upload.id)
        expected = {"another lane": ((0, 15), (20, 30)), "a disk that lost bytes": ((10, 15),)}
        assert saved.extents.ranges == expected.get(by, ((0, 15),))
        assert saved.synced.ranges == (((0, 10),) if by == "a sync" else ())
    other.close()


def test_what_is_remembered_of_a_change_is_what_others_read(registry: SQLiteRegistry, path: Path) -> None:
    upload = registry.create(Upload(app="app", length=20, metadata={"a": "b"}, owner="somebody"))
    opened = upload.to(State.RECEIVING, epoch=1, session="token", notes={"c": "d"}, client_metadata={"e": "f"})
    steps: list[Callable[[Upload], Upload]] = [
        lambda known: registry.save(known, opened),
        lambda known: registry.add_extents(known.id, "token", NOTHING.add(0, 5)),
        lambda known: registry.save(known, known.to(State.PAUSED)),
        lambda known: registry.add_extents(known.id, "token", NOTHING.add(10, 20), synced=True),
        lambda known: registry.save(known, known.to(State.RECEIVING), back_to_synced=True),
        lambda known: registry.save(known, known.to(State.COMPLETING, parts=("x", "y"), was_seen=True), all_came=True),
    ]
    known = upload
    for step in steps:
        known = step(known)
        other = SQLiteRegistry(path)
        assert known == registry.get(upload.id) == other.get(upload.id)
        other.close()


def test_what_was_not_committed_is_not_remembered(registry: SQLiteRegistry) -> None:
    upload = registry.create(receiving(100))
    delivery = Delivery("event", upload.id, "app", "finished", "callable")
    registry.enqueue(delivery)
    with pytest.raises(sqlite3.IntegrityError):
        registry.save(upload, upload.to(State.PAUSED), enqueue=delivery)
    assert upload.id not in registry._remembered


def test_full_buckets_are_not_kept(registry: SQLiteRegistry, path: Path, clock: Clock) -> None:
    registry.create(Upload(), rates=[Rate("soon", 1, 1.0)])
    registry.create(Upload(), rates=[Rate("late", 1, 1e6)])
    clock.advance(3600)
    registry.maintain()
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM rates").fetchall() == [("late",)]
    db.close()


def test_what_is_open_is_counted_by_an_index(registry: SQLiteRegistry, path: Path) -> None:
    db = sqlite3.connect(path)
    for scope, index in ((Scope.OWNER, "uploads_by_owner"), (Scope.CLIENT, "uploads_by_client")):
        query = f"EXPLAIN QUERY PLAN SELECT COUNT(*) FROM uploads WHERE {_OF_SCOPE[scope]} AND {_IS_OPEN}"  # noqa: S608
        plan = db.execute(query, {"app": "app", "whose": "x"}).fetchall()
        assert index in str(plan)
    db.close()


def test_few_uploads_are_remembered(registry: SQLiteRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
    uploads = [registry.create(receiving(10)) for _ in range(10)]
    for upload in uploads:
        assert registry.get(upload.id) == upload
    assert len(registry._remembered) <= 3


@pytest.mark.parametrize("index", ["uploads_all_here", "uploads_by_expiry"])
def test_what_a_sweep_looks_for_is_found_by_an_index(registry: SQLiteRegistry, path: Path, index: str) -> None:
    """However many uploads are open: it is looked for every few seconds."""
    upload = registry.create(
        Upload(state=State.RECEIVING, session="t", length=10, expires_at=1.0, extents=Extents().add(0, 9))
    )
    db = sqlite3.connect(path)
    count = f"SELECT COUNT(*) FROM uploads INDEXED BY {index} WHERE "  # noqa: S608
    whole = "extents = CASE length WHEN 0 THEN '[]' ELSE '[[0,' || length || ']]' END"
    terms = {"uploads_all_here": whole, "uploads_by_expiry": "expires_at > 0"}[index]
    before = db.execute(f"{count} {terms} AND {_IS_OPEN}").fetchone()
    registry.add_extents(upload.id, "t", NOTHING.add(9, 10))
    after = db.execute(f"{count} {terms} AND {_IS_OPEN}").fetchone()
    assert (before, after) == (((0,), (1,)) if index == "uploads_all_here" else ((1,), (1,)))
    assert [found.id for found in registry.find_complete()] == [upload.id]
    assert [found.id for found in registry.find_expired(2.0)] == [upload.id]
    db.close()
