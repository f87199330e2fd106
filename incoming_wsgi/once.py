"""Once: for back ends that are told of a file at least once, and want to act on it exactly once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

#: Seconds for which an event is remembered: longer than a hand-over is repeated.
_MEMORY = 30 * 86400.0

#: Seconds to wait for another process that is busy with an event.
_PATIENCE = 60.0


class Once:
    """Remembers in a SQLite file which events have been dealt with; for any number of processes of one machine.

    ::

        events = Once("events.sqlite3")

        with events.first_time(event_id) as first:
            if first:
                …   # one process at a time; if this raises, or dies, the event counts as never seen

    :param path: the file; made if it is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)

    @contextmanager
    def first_time(self, event_id: str) -> Iterator[bool]:
        """Gives whether this event has not been dealt with before; at the end of the block it has."""
        with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")  # what was acted on must not be forgotten by a power cut
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, seen_at REAL NOT NULL)")
            db.execute("DELETE FROM events WHERE seen_at < ?", (time.time() - _MEMORY,))
            first = db.execute("SELECT 1 FROM events WHERE id = ?", (event_id,)).fetchone() is None
            if first:
                db.execute("INSERT INTO events VALUES (?, ?)", (event_id, time.time()))
            yield first
            db.execute("COMMIT")  # where the block raised, closing rolls back
