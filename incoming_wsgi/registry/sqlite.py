"""The embedded registry: one SQLite file, shared by all processes of one machine.

WAL mode, so that reading never waits. SQLite 3.7.0 to 3.51.2 can lose commits when a writer and a checkpoint of two
connections meet (the WAL-reset bug; 3.44.6 and 3.50.7 are mended): here every commit and every checkpoint happens
under one file lock, which is cheap and also queues the writers fairly without SQLite's own sleeping busy handler.
The file must be on a local disk.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from .. import offload
from ..disk import sync_data
from ..errors import Conflict, IncomingError, NoSpace, Unavailable
from ..extents import Extents
from ..gates.quotas import Quota, Rate, Scope, Use
from ..locks import FileLock, try_flock
from ..upload import ENDING_BY_LENGTH, NOTHING, OPEN_STATES, State, Upload
from . import LONGEST_TRAIL, Delivery, Entry, Registry, Unsubscribe, entry_of
from .boot import boot_id_of_machine
from .group import Group
from .watch import Watch

log = logging.getLogger("incoming_wsgi")

#: What makes a file of a version (the key) one of the next; an empty file has version 0. These stay as they are: a
#: change of the tables is one more.
_MIGRATIONS = {
    0: """
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
""",
    1: """
ALTER TABLE uploads ADD COLUMN synced TEXT NOT NULL DEFAULT '[]';
ALTER TABLE uploads ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN taken_back INTEGER NOT NULL DEFAULT 0;
ALTER TABLE digests ADD COLUMN boot_id TEXT NOT NULL DEFAULT '';
CREATE TABLE clock (boot_id TEXT NOT NULL, base REAL NOT NULL, latest REAL NOT NULL);
UPDATE uploads SET synced = extents;
""",
    2: """
ALTER TABLE uploads ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN created_with TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN client_metadata TEXT NOT NULL DEFAULT '{}';
ALTER TABLE uploads ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE uploads ADD COLUMN part_of TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN parts TEXT NOT NULL DEFAULT '[]';
CREATE INDEX uploads_by_whole ON uploads (part_of) WHERE part_of != '';
""",
    3: """
ALTER TABLE uploads ADD COLUMN client TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN accept TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN expires_at REAL NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN max_connections INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN bound_cookie TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN bound_network TEXT NOT NULL DEFAULT '';
ALTER TABLE uploads ADD COLUMN was_seen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN trail TEXT NOT NULL DEFAULT '';
CREATE INDEX uploads_by_owner ON uploads (app, owner)
    WHERE owner != '' AND state IN ('waiting', 'receiving', 'paused');
CREATE INDEX uploads_by_client ON uploads (app, client)
    WHERE client != '' AND state IN ('waiting', 'receiving', 'paused');
CREATE INDEX uploads_all_here ON uploads (active_at) WHERE state IN ('waiting', 'receiving', 'paused')
    AND extents = CASE length WHEN 0 THEN '[]' ELSE '[[0,' || length || ']]' END;
CREATE INDEX uploads_by_expiry ON uploads (expires_at)
    WHERE expires_at > 0 AND state IN ('waiting', 'receiving', 'paused');
CREATE TABLE rates (name TEXT PRIMARY KEY, full_at REAL NOT NULL) WITHOUT ROWID;
""",
}

#: The version of the tables that this package knows; a file with a newer one is refused.
SCHEMA_VERSION = len(_MIGRATIONS)

#: As the indexes have it, word for word: else SQLite would not see that they serve.
_IS_OPEN = "state IN ('waiting', 'receiving', 'paused')"
#: Whose uploads count together. Not all of these columns are the first of an index.
_OF_SCOPE: Mapping[Scope, str] = {
    Scope.APP: "app = :app",
    Scope.OWNER: "app = :app AND owner = :whose AND owner != ''",
    Scope.CLIENT: "app = :app AND client = :whose AND client != ''",
}

_UPLOAD_FIELDS = tuple(field.name for field in fields(Upload))
_COLUMNS = ", ".join(_UPLOAD_FIELDS)
#: What an arrival changes of an upload.
_ARRIVAL_FIELDS = ("extents", "synced", "boot_id", "active_at")
#: Whether an upload is as it was: nothing else of it changes without its version.
_TERMS = ("version", *_ARRIVAL_FIELDS)
#: Fields that :meth:`SQLiteRegistry.save` writes; the others it takes from nobody.
_SAVED = tuple(name for name in _UPLOAD_FIELDS if name not in ("version", "extents", "taken_back"))
_saved_of = attrgetter(*_SAVED)
_fields_of = attrgetter(*_UPLOAD_FIELDS)
#: How fields are written that SQLite does not know.
_WRITTEN: Mapping[str, Callable[[Any], Any]] = {
    "state": attrgetter("value"),
    "extents": Extents.to_json,
    "synced": Extents.to_json,
    "metadata": lambda metadata: json.dumps(dict(metadata)),
    "client_metadata": lambda metadata: json.dumps(dict(metadata)),
    "notes": lambda notes: json.dumps(dict(notes)),
    "parts": json.dumps,
    "remove_file_when_finished": int,
    "was_seen": int,
}
#: Where these stand among :data:`_COLUMNS`, and those.
_WRITTEN_PLACES = tuple((_UPLOAD_FIELDS.index(name), write) for name, write in _WRITTEN.items())
_TERM_PLACES = tuple(map(_UPLOAD_FIELDS.index, _TERMS))
_SELECT_UPLOAD = f"SELECT {_COLUMNS} FROM uploads WHERE id = ?"
_SELECT_TERMS = f"SELECT {', '.join(_TERMS)} FROM uploads WHERE id = ?"
_ADD_AS_REMEMBERED = (
    f"UPDATE uploads SET {', '.join(f'{name} = ?' for name in _ARRIVAL_FIELDS)}"
    f" WHERE id = ? AND {' AND '.join(f'{name} = ?' for name in _TERMS)}"
)
_INSERT_UPLOAD = (
    f"INSERT INTO uploads ({_COLUMNS}, trail, change)"
    f" VALUES ({', '.join('?' * len(_UPLOAD_FIELDS))}, ?, (SELECT change FROM counter))"
)
#: The values of :data:`_TERMS`, as SQLite gives them.
_Terms: TypeAlias = tuple[Any, ...]
_DELIVERY_FIELDS = tuple(field.name for field in fields(Delivery))
#: The name of a holder, as :meth:`SQLiteRegistry._come_alive` makes it.
_HOLDER = re.compile(r"[0-9]+-[0-9a-f]{16}")

#: Seconds that another program, such as a backup, may have the file locked.
_FOREIGN_PATIENCE = 1.0

#: Uploads whose rows are remembered as they were read last; the bytes of few arrive at a time.
_MOST_REMEMBERED = 256

#: Characters of a trail, which is in a column of the upload's own row: that is written anyway. Of a longer one the
#: first lines go; :data:`LONGEST_TRAIL` usual ones are left.
_LONG_TRAIL, _CUT_TRAIL = 40_000, 20_000
_APPENDED = (
    f"trail = CASE WHEN length(trail) < {_LONG_TRAIL} THEN trail"
    f" ELSE substr(trail, {_CUT_TRAIL} + instr(substr(trail, {_CUT_TRAIL}), char(10))) END || ?"
)

_CACHE_BYTES = 2 * 1024 * 1024

#: These mean that there is no room, for us (quota) or for anybody.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

#: Bytes up to which the log of writes is not worth moving into the database.
_SMALL_LOG = 256 * 1024

#: Seconds between two times that the clock is kept in the database, which moves the log, too.
_CLOCK_INTERVAL = 60.0


class SQLiteRegistry(Registry):
    """:param path: the database file; its folder is made if it is not there.
    :param boot_id: the boot of the machine that this is; tests make power cuts with it.
    :raises Unavailable: the file can't be opened, now.
    :raises RuntimeError: the file was written by a newer version of this package.
    """

    def __init__(self, path: str | os.PathLike[str], boot_id: str = "") -> None:
        self._path = Path(path)
        self._log = f"{path}-wal"  # where SQLite writes first
        self._boot_id = boot_id or boot_id_of_machine()
        self._read_guard = threading.Lock()
        self._group = Group(self._sync_log)
        self._log_was_lost = False
        self._remembered: dict[str, tuple[_Terms, Upload]] = {}
        try:
            self._open()
        except (sqlite3.DatabaseError, OSError) as error:
            log.warning("the registry %s can't be opened: %s", self._path, error)
            raise Unavailable("The server can't open its records at the moment.", retry_after=5) from error
        self._watch = Watch(self._changed_since)

    def _open(self) -> None:
        with ExitStack() as opened:  # it closes what is open when a later step fails
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write_lock = FileLock.on(f"{self._path}.lock")
            opened.callback(self._write_lock.close)
            with self._write_lock:
                self._writer = self._connect(opened)
                self._prepare()
                self._writer.execute("PRAGMA busy_timeout = 0")  # it would hold up the event loop: _begin() waits
            self._reader = self._connect(opened)
            self._clock_base = self._start_clock()
            self._clock_kept_at = time.monotonic()
            self._holder, self._holder_file = self._come_alive()
            opened.pop_all()

    # -- time and power -----------------------------------------------------------------------------------------

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def now(self) -> float:
        return self._clock_base + time.monotonic()

    def sync(self) -> None:
        self._group.join()

    def _start_clock(self) -> float:
        """The seconds to add to the machine's monotonic clock, which begins anew with every boot."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM clock").fetchone()
            if row is not None and row["boot_id"] == self._boot_id:
                return float(row["base"])
            now = time.time() if row is None else row["latest"]
            base = float(now) - time.monotonic()
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock VALUES (?, ?, ?)", (self._boot_id, base, now))
            # Nobody knows how long the machine was off, and who said `wait` may have been on it.
            db.execute("UPDATE outbox SET due_at = ? WHERE due_at > ?", (now, now))
        return base

    def _sync_log(self) -> None:
        """Put SQLite's log onto the disk, as ``synchronous = FULL`` does at each commit; but for many commits at once.

        The file is opened each time: closing it gives back none of SQLite's locks, which are on other files. A failed
        sync is never tried again, since the kernel may have forgotten what it could not write: instead all of the log
        is moved into the database, which is synced too.
        """
        try:
            if self._log_was_lost:
                with self._write_lock:
                    was_moved = offload.run(self._checkpoint)
                if not was_moved:
                    raise OSError(errno.EBUSY, "somebody is still reading from the log that could not be synced")
            else:
                _sync_file(self._log)
        except (OSError, sqlite3.Error) as error:
            self._log_was_lost = True
            log.error("the records could not be synced: %s", error)  # noqa: TRY400 (expected; no trace)
            raise Unavailable("The server's records have trouble; what has arrived is kept.", retry_after=5) from error
        self._log_was_lost = False

    # -- uploads ------------------------------------------------------------------------------------------------

    def create(self, upload: Upload, *, quotas: Sequence[Quota] = (), rates: Sequence[Rate] = ()) -> Upload:
        upload = upload.but(boot_id=self._boot_id)
        with self._transaction() as db:
            self._take_tokens(db, rates)
            _refuse_over_quota(db, quotas, None, upload)
            _count_change(db)
            db.execute(_INSERT_UPLOAD, (*_row_of_upload(upload), self._line(None, upload)))
        self.moved(None, upload)
        return upload

    def get(self, upload_id: str) -> Upload | None:
        with _translating(), self._read_guard:
            return self._select_upload(self._reader, upload_id)

    def save(
        self,
        before: Upload,
        after: Upload,
        *,
        enqueue: Delivery | None = None,
        settle: Delivery | None = None,
        back_to_synced: bool = False,
        if_nothing_came: bool = False,
        all_came: bool = False,
        quotas: Sequence[Quota] = (),
    ) -> Upload:
        with self._transaction() as db:
            terms, current = self._select(db, before.id)
            if current is None or _identity(current) != _identity(before):
                raise Conflict
            if if_nothing_came and current.extents != before.extents:
                raise Conflict
            changes = _differences(before, after)
            if back_to_synced:
                changes |= {"extents": current.synced, "taken_back": current.taken_back + 1}
                db.execute("DELETE FROM digests WHERE upload_id = ?", (before.id,))
            if all_came:
                extents = NOTHING.add(0, after.length or 0)
                changes |= {"extents": extents, "synced": extents, "boot_id": self._boot_id}
            saved = current
            if changes:
                changes["version"] = current.version + 1
                saved = current.but(**changes)
                _refuse_over_quota(db, quotas, current, saved)
                row = {name: _column(saved, name) for name in changes}
                terms = tuple(map(row.get, _TERMS, terms))
                _count_change(db)
                _update(db, before.id, row, self._line(current, saved), is_counted=True)
            if settle is not None:
                db.execute("DELETE FROM outbox WHERE event_id = ?", (settle.event_id,))
            if enqueue is not None:
                _insert(db, "outbox", _row_of_delivery(enqueue))
        if changes:
            self._remember(terms, saved)
            self._watch.notify(before.id)
            self.moved(current, saved)
        return saved

    def add_extents(self, upload_id: str, session: str, extents: Extents, *, synced: bool = False) -> Upload:
        saved = self._add_as_remembered(upload_id, session, extents, synced)
        return saved or self._add_extents(upload_id, session, extents, synced)

    def _add_as_remembered(self, upload_id: str, session: str, extents: Extents, synced: bool) -> Upload | None:
        """In one statement, if the upload is still as it was seen last: it mostly is, since one lane writes."""
        terms, current = self._remembered.get(upload_id, ((), None))
        if current is None or current.boot_id != self._boot_id:
            return None
        if current.session != session or current.state not in OPEN_STATES:
            return None
        saved = self._with_extents(current, extents, synced)
        changed = tuple(_column(saved, name) for name in _ARRIVAL_FIELDS)
        if not self._replace(upload_id, terms, changed):
            return None
        self._remember((saved.version, *changed), saved)
        return saved

    def _replace(self, upload_id: str, terms: _Terms, changed: tuple[Any, ...]) -> bool:
        """Change an upload that is still like this; says whether it was."""
        with _translating(), self._write_lock:
            try:
                return bool(self._writer.execute(_ADD_AS_REMEMBERED, (*changed, upload_id, *terms)).rowcount)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                return False  # by a foreign program: the longer way is more patient

    def _with_extents(self, upload: Upload, extents: Extents, synced: bool) -> Upload:
        return upload.but(
            extents=upload.extents.merge(extents),
            synced=upload.synced.merge(extents) if synced else upload.synced,
            boot_id=self._boot_id,
            active_at=self.now(),
        )

    def _add_extents(self, upload_id: str, session: str, extents: Extents, synced: bool) -> Upload:
        with self._transaction() as db:
            current = self._select_upload(db, upload_id)
            if current is None or current.session != session or current.state not in OPEN_STATES:
                raise Conflict
            saved = self._with_extents(current, extents, synced)
            _update(db, upload_id, {name: _column(saved, name) for name in _ARRIVAL_FIELDS})
        return saved

    def add_synced(self, upload: Upload) -> None:
        with self._transaction() as db:
            current = self._select_upload(db, upload.id)
            if current is not None and current.taken_back == upload.taken_back:
                _update(db, upload.id, {"synced": current.synced.merge(upload.extents).to_json()})

    def forget(self, upload_id: str) -> None:
        with self._transaction() as db:
            for table, column in (("uploads", "id"), ("outbox", "upload_id"), ("digests", "upload_id")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (upload_id,))

    def find_complete(self) -> list[Upload]:
        # The extents of a complete upload are one range from 0 to its length; of an empty file, none. Under another
        # boot of the machine less of them may count.
        query = (
            f"SELECT {_COLUMNS} FROM uploads INDEXED BY uploads_all_here WHERE {_IS_OPEN}"
            " AND extents = CASE length WHEN 0 THEN '[]' ELSE '[[0,' || length || ']]' END"
            f" AND protocol IN ({_marks(ENDING_BY_LENGTH)}) AND part_of = '' LIMIT 1000"
        )
        with self._reading() as db:
            rows = db.execute(query, tuple(ENDING_BY_LENGTH)).fetchall()
        return [upload for upload in map(self._upload_of_row, rows) if upload.is_complete]

    def usage(self, quota: Quota) -> Use:
        with self._reading() as db:
            return _usage(db, quota)

    def _take_tokens(self, db: sqlite3.Connection, rates: Iterable[Rate]) -> None:
        for rate in rates:
            row = db.execute("SELECT full_at FROM rates WHERE name = ?", (rate.name,)).fetchone()
            full_at = rate.full_at(row["full_at"] if row else 0.0, self.now())
            db.execute("INSERT OR REPLACE INTO rates VALUES (?, ?)", (rate.name, full_at))

    def find_expired(self, now: float, limit: int = 1000) -> list[Upload]:
        query = (
            f"SELECT {_COLUMNS} FROM uploads INDEXED BY uploads_by_expiry"
            f" WHERE expires_at > 0 AND expires_at <= ? AND {_IS_OPEN}"
            " ORDER BY expires_at LIMIT ?"
        )
        with self._reading() as db:
            rows = db.execute(query, (now, limit)).fetchall()
        return [self._upload_of_row(row) for row in rows]

    def parts_of(self, upload_id: str) -> list[Upload]:
        # The second condition lets SQLite see that its index has all of them.
        query = f"SELECT {_COLUMNS} FROM uploads WHERE part_of = ? AND part_of != '' ORDER BY created_at"
        with self._reading() as db:
            rows = db.execute(query, (upload_id,)).fetchall()
        return [self._upload_of_row(row) for row in rows]

    def find(
        self,
        states: Collection[State],
        *,
        idle_since: float | None = None,
        limit: int = 1000,
        app: str | None = None,
    ) -> list[Upload]:
        query = f"SELECT {_COLUMNS} FROM uploads WHERE state IN ({_marks(states)})"
        values: list[Any] = [state.value for state in states]
        if idle_since is not None:
            query, values = query + " AND active_at <= ?", [*values, idle_since]
        if app is not None:
            query, values = query + " AND app = ?", [*values, app]
        with self._reading() as db:
            rows = db.execute(query + " ORDER BY active_at LIMIT ?", [*values, limit]).fetchall()
        return [self._upload_of_row(row) for row in rows]

    def _select_upload(self, db: sqlite3.Connection, upload_id: str) -> Upload | None:
        return self._select(db, upload_id)[1]

    def _select(self, db: sqlite3.Connection, upload_id: str) -> tuple[_Terms, Upload | None]:
        """An upload, and its terms; most are as they were seen last, which a few columns tell."""
        terms, upload = self._remembered.get(upload_id, ((), None))
        if upload is not None:
            found = db.execute(_SELECT_TERMS, (upload_id,)).fetchone()
            if found is not None and tuple(found) == terms:
                return terms, upload
        row = db.execute(_SELECT_UPLOAD, (upload_id,)).fetchone()
        if row is None:
            return (), None
        terms, upload = _terms_of(row), self._upload_of_row(row)
        if not db.in_transaction:  # what is not committed may never have been
            self._remember(terms, upload)
        return terms, upload

    def _upload_of_row(self, row: Iterable[Any]) -> Upload:
        return _upload_of_row(row).under(self._boot_id)

    def _remember(self, terms: _Terms, upload: Upload) -> None:
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[upload.id] = terms, upload

    def trail(self, upload_id: str) -> list[Entry]:
        with self._reading() as db:
            row = db.execute("SELECT trail FROM uploads WHERE id = ?", (upload_id,)).fetchone()
        lines = [json.loads(line) for line in row["trail"].splitlines()] if row else []
        return [Entry(line.pop("at"), State(line.pop("state")), line) for line in lines[-LONGEST_TRAIL:]]

    def _line(self, before: Upload | None, after: Upload) -> str:
        about = entry_of(before, after)
        return json.dumps({"at": self.now(), **about}) + "\n" if about is not None else ""

    # -- outbox -------------------------------------------------------------------------------------------------

    def lease(self, app: str, handlers: Collection[str], now: float) -> Delivery | None:
        with self._reading() as db:
            if not _due_rows(db, app, handlers, now):
                return None
        with self._transaction() as db:
            for delivery in _due_rows(db, app, handlers, now):
                if not delivery.holder or not self.is_alive(delivery.holder):
                    # Counted now: an attempt in which this process dies was one, too.
                    db.execute(
                        "UPDATE outbox SET holder = ?, attempt = attempt + 1 WHERE event_id = ?",
                        (self.holder, delivery.event_id),
                    )
                    return delivery
        return None

    def enqueue(self, delivery: Delivery) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM outbox WHERE event_id = ?", (delivery.event_id,))
            _insert(db, "outbox", _row_of_delivery(delivery))

    def postpone(self, delivery: Delivery) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE outbox SET holder = '', attempt = ?, due_at = ?, error = ? WHERE event_id = ?",
                (delivery.attempt, delivery.due_at, delivery.error, delivery.event_id),
            )

    def due(self, upload_id: str) -> Delivery | None:
        with self._reading() as db:
            row = db.execute("SELECT * FROM outbox WHERE upload_id = ?", (upload_id,)).fetchone()
        return None if row is None else _delivery_of_row(row)

    # -- digests ------------------------------------------------------------------------------------------------

    def keep_digest(self, upload: Upload, position: int, state: bytes) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO digests (upload_id, position, state, boot_id)"
                " SELECT id, ?, ?, ? FROM uploads WHERE id = ? AND taken_back = ?",
                (position, state, self._boot_id, upload.id, upload.taken_back),
            )

    def digest(self, upload_id: str) -> tuple[int, bytes] | None:
        with self._reading() as db:
            row = db.execute(
                "SELECT position, state FROM digests WHERE upload_id = ? AND boot_id = ?", (upload_id, self._boot_id)
            ).fetchone()
        return None if row is None else (row["position"], row["state"])

    # -- waiting ------------------------------------------------------------------------------------------------

    def subscribe(self, upload_id: str, changed: Callable[[], None]) -> Unsubscribe:
        return self._watch.subscribe(upload_id, changed)

    def _changed_since(self, mark: int) -> tuple[int, Iterable[str]]:
        with self._reading() as db:
            (newest,) = db.execute("SELECT change FROM counter").fetchone()
            if mark < 0 or newest == mark:
                return newest, ()
            rows = db.execute("SELECT id FROM uploads WHERE change > ?", (mark,)).fetchall()
        return newest, [row["id"] for row in rows]

    # -- holders ------------------------------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        return self._holder

    def is_alive(self, holder: str) -> bool:
        """A living process holds the kernel's lock on a file of its name; a dead one's file is cleared away."""
        with _translating():
            return self._is_alive(self._holders / holder)

    def _is_alive(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not try_flock(descriptor):
                return True
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)

    @contextmanager
    def alone(self, duty: str) -> Iterator[bool]:
        with _translating():
            descriptor = os.open(f"{self._path}.{duty}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            with _translating():
                alone = try_flock(descriptor)
            yield alone
        finally:
            os.close(descriptor)

    @property
    def _holders(self) -> Path:
        return self._path.with_name(self._path.name + ".holders")

    def _come_alive(self) -> tuple[str, int]:
        self._holders.mkdir(exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(self._holders / f".{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
        try:
            try_flock(descriptor)
            # Locked before it bears the name that others look for: nobody can take it for a dead one's.
            os.rename(self._holders / f".{name}", self._holders / name)
        except BaseException:
            os.close(descriptor)
            raise
        return name, descriptor

    # -- the database -------------------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Move the log into the database; automatic checkpoints would sync on the event loop."""
        is_clock_old = time.monotonic() - self._clock_kept_at >= _CLOCK_INTERVAL
        if is_clock_old or self._log_size() > _SMALL_LOG:
            with _translating(), self._write_lock:
                offload.run(self._checkpoint)
            self._clock_kept_at = time.monotonic()
            with self._transaction() as db:
                db.execute("DELETE FROM rates WHERE full_at <= ?", (self.now(),))
        self._clear_dead_holders()

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        self._watch.close()
        with _translating(), ExitStack() as closing:  # all of it, whatever fails
            closing.callback(self._write_lock.close)
            closing.callback(os.close, self._holder_file)
            closing.callback((self._holders / self._holder).unlink, missing_ok=True)
            with self._write_lock, self._read_guard:
                self._writer.close()
                self._reader.close()

    def _checkpoint(self) -> bool:
        """Move the log into the database; says whether all of it is there, and the log empty."""
        self._writer.execute(f"PRAGMA busy_timeout = {int(_FOREIGN_PATIENCE * 1000)}")
        try:
            is_busy, *_ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            # The first commit after it syncs the new log's header: better this one than one on the event loop.
            self._writer.execute("UPDATE clock SET latest = max(latest, ?)", (self.now(),))
            return not is_busy
        finally:
            self._writer.execute("PRAGMA busy_timeout = 0")

    def _clear_dead_holders(self) -> None:
        for path in self._holders.iterdir():
            if _HOLDER.fullmatch(path.name):  # nothing else in there is ours
                self.is_alive(path.name)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with _translating(), self._read_guard:
            yield self._reader

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _translating(), self._write_lock:
            try:
                self._begin()
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk has ended it already
                    self._writer.execute("ROLLBACK")
                raise

    def _begin(self) -> None:
        """Begin to write. Of ourselves nobody is in the way; a foreign program may be, for a moment."""
        deadline = time.monotonic() + _FOREIGN_PATIENCE
        while True:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _connect(self, opened: ExitStack) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        opened.callback(db.close)
        db.row_factory = sqlite3.Row
        db.create_function("arrived", 1, _arrived, deterministic=True)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(f"PRAGMA cache_size = -{_CACHE_BYTES // 1024}")
        return db

    def _prepare(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise RuntimeError(
                f"{self._path} was written by a newer incoming_wsgi (schema {version}, this one knows {SCHEMA_VERSION})"
            )
        if version < SCHEMA_VERSION:
            steps = "".join(_MIGRATIONS[older] for older in range(version, SCHEMA_VERSION))
            self._writer.executescript(f"BEGIN;{steps}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")


def _sync_file(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # who had the database open last has moved all of it, synced, into the database
    try:
        sync_data(descriptor)
    finally:
        os.close(descriptor)


class _Translating:
    """What SQLite and the system raise, as we call it. Entered with each look at the records: it holds nothing."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # DatabaseError itself: what could not be read from the disk, SQLite calls malformed.
        if isinstance(error, (sqlite3.OperationalError, OSError)) or type(error) is sqlite3.DatabaseError:
            raise _translated(error) from error


_TRANSLATING = _Translating()


def _translating() -> _Translating:
    return _TRANSLATING


def _translated(error: sqlite3.DatabaseError | OSError) -> IncomingError:
    number = getattr(error, "errno", None)
    if number in _FULL or (number is None and "full" in str(error)):
        return NoSpace(retry_after=10)
    return Unavailable("The server's records have trouble; what has arrived is kept.", retry_after=5)


def _due_rows(db: sqlite3.Connection, app: str, handlers: Collection[str], now: float) -> list[Delivery]:
    query = (
        f"SELECT * FROM outbox WHERE app = ? AND due_at <= ? AND handler IN ({_marks(handlers)})"
        " ORDER BY due_at LIMIT 1000"
    )
    rows = db.execute(query, (app, now, *handlers)).fetchall()
    return [_delivery_of_row(row) for row in rows]


def _marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))


def _insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({_marks(row)})", tuple(row.values()))


def _update(
    db: sqlite3.Connection, upload_id: str, changes: dict[str, Any], line: str = "", *, is_counted: bool = False
) -> None:
    """:param line: is appended to the trail.
    :param is_counted: whether this is the change that was counted last.
    """
    assignments = [f"{name} = ?" for name in changes]
    values = list(changes.values())
    if line:
        assignments.append(_APPENDED)
        values.append(line)
    if is_counted:
        assignments.append("change = (SELECT change FROM counter)")
    db.execute(f"UPDATE uploads SET {', '.join(assignments)} WHERE id = ?", (*values, upload_id))


def _count_change(db: sqlite3.Connection) -> None:
    """One more change, that others may be waiting for."""
    db.execute("UPDATE counter SET change = change + 1")


def _arrived(extents: str) -> int:
    return Extents.from_json(extents).received


def _usage(db: sqlite3.Connection, quota: Quota) -> Use:
    # TOTAL, unlike SUM, does not fail at 2^63 bytes.
    row = db.execute(
        "SELECT TOTAL(part_of = ''), TOTAL(COALESCE(length, arrived(extents)))"
        f" FROM uploads WHERE {_OF_SCOPE[quota.scope]} AND {_IS_OPEN}",
        {"app": quota.app, "whose": quota.whose},
    ).fetchone()
    return Use(int(row[0]), int(row[1]))


def _refuse_over_quota(db: sqlite3.Connection, quotas: Iterable[Quota], before: Upload | None, after: Upload) -> None:
    for quota in quotas:
        was, will_be = quota.use_of(before), quota.use_of(after)
        if will_be.uploads > was.uploads or will_be.bytes > was.bytes:
            quota.refuse_growth(_usage(db, quota), was, will_be)


def _identity(upload: Upload) -> tuple[State, int, str, str]:
    return upload.state, upload.epoch, upload.session, upload.holder


def _differences(before: Upload, after: Upload) -> dict[str, Any]:
    """The fields that :meth:`SQLiteRegistry.save` has to write, with their new values."""
    pairs = zip(_SAVED, _saved_of(before), _saved_of(after), strict=True)
    return {name: new for name, old, new in pairs if old != new}


def _row_of_upload(upload: Upload) -> tuple[Any, ...]:
    """The values of :data:`_COLUMNS`."""
    values = list(_fields_of(upload))
    for place, write in _WRITTEN_PLACES:
        values[place] = write(values[place])
    return tuple(values)


def _terms_of(row: Sequence[Any]) -> _Terms:
    """:param row: the values of :data:`_COLUMNS`."""
    return tuple([row[place] for place in _TERM_PLACES])


def _column(upload: Upload, name: str) -> Any:
    """A field as it stands in its column."""
    value = getattr(upload, name)
    return _WRITTEN[name](value) if name in _WRITTEN else value


def _upload_of_row(row: Iterable[Any]) -> Upload:
    """:param row: the values of :data:`_COLUMNS`."""
    values = dict(zip(_UPLOAD_FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    values["extents"] = Extents.from_json(values["extents"])
    values["synced"] = Extents.from_json(values["synced"])
    for name in ("metadata", "client_metadata", "notes"):
        values[name] = json.loads(values[name])
    values["parts"] = tuple(json.loads(values["parts"]))
    for name in ("remove_file_when_finished", "was_seen"):
        values[name] = bool(values[name])
    return Upload(**values)


def _row_of_delivery(delivery: Delivery) -> dict[str, Any]:
    return {name: getattr(delivery, name) for name in _DELIVERY_FIELDS}


def _delivery_of_row(row: sqlite3.Row) -> Delivery:
    return Delivery(**{name: row[name] for name in _DELIVERY_FIELDS})
