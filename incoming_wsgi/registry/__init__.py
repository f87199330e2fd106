"""Registry: which uploads exist, in which state, and which hand-overs are due. The contract.

Every registry passes ``tests/registry/test_contract.py``. Each method is one transaction: it happened whole or not at
all, and another process sees it at once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Event
from urllib.parse import urlsplit

from ..events import request_id
from ..extents import Extents
from ..gates.quotas import Quota, Rate, Use
from ..upload import State, Upload

#: Entries of an upload's trail that are kept; of more, the latest.
LONGEST_TRAIL = 100

#: What ends a subscription to the changes of an upload.
Unsubscribe = Callable[[], None]


@dataclass(frozen=True)
class Delivery:
    """A row of the outbox: one hand-over that is due.

    :ivar event_id: the same for every attempt, so that the app can tell a repetition.
    :ivar kind: what happened: ``finished``, ``cancelled`` or ``expired``.
    :ivar handler: who takes it: ``callable``, ``path`` or ``url``.
    :ivar attempt: attempts made so far.
    :ivar due_at: when to try next; like ``created_at`` in seconds of the registry's clock.
    """

    event_id: str
    upload_id: str
    app: str
    kind: str
    handler: str
    attempt: int = 0
    due_at: float = 0.0
    created_at: float = 0.0
    holder: str = ""
    error: str = ""


@dataclass(frozen=True)
class Entry:
    """One line of what has happened to an upload.

    :ivar at: seconds of the registry's clock.
    :ivar about: what else there is to say, by name.
    """

    at: float
    state: State
    about: Mapping[str, str]


def entry_of(before: Upload | None, after: Upload) -> dict[str, str] | None:
    """What the trail says of a change besides its time; nothing of small ones."""
    if before is not None and (before.state, before.epoch, before.expires_at) == (
        after.state,
        after.epoch,
        after.expires_at,
    ):
        return None
    is_opening = bool(after.session) and (before is None or before.session != after.session)
    about = {
        "state": after.state.value,
        "protocol": after.protocol if is_opening else "",
        "received": str(after.received),
        "reason": after.reason,
        "request": request_id(),
    }
    return {name: text for name, text in about.items() if text}


@dataclass(frozen=True)
class Loss:
    """That a registry has begun anew: uploads of which it was told before may be missing.

    :ivar era: in which they are missing; see :attr:`Registry.boot_id`.
    :ivar seconds: for which that has been known.
    """

    era: str
    seconds: float


def _nobody_cares(_before: Upload | None, _after: Upload) -> None:
    pass


def _nobody_is_called() -> None:
    pass


class Registry(ABC):
    """The contract. Implementations raise :class:`~incoming_wsgi.errors.Conflict` where a row has changed meanwhile.

    Whatever writes may also raise :class:`~incoming_wsgi.errors.NoSpace` or :class:`~incoming_wsgi.errors.Unavailable`:
    then nothing was written, and trying again later may help.
    """

    #: Told of each change that this process has saved: the upload before (none, of a new one) and after it.
    moved: Callable[[Upload | None, Upload], None] = staticmethod(_nobody_cares)

    #: Called when this registry may have begun anew; it must neither block nor raise.
    began_anew: Callable[[], None] = staticmethod(_nobody_is_called)

    #: Whose uploads this process is asked for.
    apps: Collection[str] = ()

    @property
    @abstractmethod
    def holder(self) -> str:
        """This process's name as a holder of leases. Others can tell when it has died."""

    @abstractmethod
    def is_alive(self, holder: str) -> bool:
        """Whether the process of that name still runs."""

    @abstractmethod
    def alone(self, duty: str) -> AbstractContextManager[bool]:
        """Gives ``True`` to one process at a time, ``False`` to the others: for work that one should do for all."""

    @property
    @abstractmethod
    def boot_id(self) -> str:
        """The boot of the machine, or an era of many machines: another one after a power cut."""

    @abstractmethod
    def now(self) -> float:
        """Seconds on a clock that all processes share and that never jumps, whatever happens to the wall clock.

        It began as seconds since 1970; while the machine, or the server that keeps it, is off it stands still.
        """

    @abstractmethod
    def sync(self) -> None:
        """Make all that was recorded so far survive a power cut. Callers at the same time share one sync.

        :raises NoSpace, Unavailable: it may be lost; it must not be acknowledged.
        """

    @abstractmethod
    def create(self, upload: Upload, *, quotas: Sequence[Quota] = (), rates: Sequence[Rate] = ()) -> Upload:
        """Record a new upload.

        :raises OverQuota: it would be too many of them, or too much, or it comes too soon; nothing was recorded.
        """

    @abstractmethod
    def get(self, upload_id: str) -> Upload | None:
        """The upload as it is now.

        :raises Unavailable: it is not here, and may be one of :attr:`apps` that was lost; see :meth:`lost`.
        """

    def glance(self, upload_id: str) -> Upload | None:
        """The upload as it was a moment ago, at least: for what is decided again when it is recorded."""
        return self.get(upload_id)

    @abstractmethod
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
        """Compare and set: store what differs, if state, epoch, session and holder are still those of ``before``.

        Extents are not written here, they grow by :meth:`add_extents`; but for the two cases of ``back_to_synced`` and
        ``all_came``.

        :param back_to_synced: the disk has lost bytes; only what is synced remains.
        :param if_nothing_came: bytes that have arrived since ``before`` are a conflict, too.
        :param all_came: all bytes, of the length that ``after`` has, have arrived with this move, and are synced.
        :param enqueue: a row for the outbox, written in the same transaction.
        :param settle: a row of the outbox that is done with, removed in the same transaction.
        :param quotas: that this move must not exceed.
        :returns: the upload as it is stored now, with the extents that others have added meanwhile.
        :raises OverQuota: it would; nothing was written.
        :raises Conflict: somebody else moved it first; nothing was written.
        """

    @abstractmethod
    def add_extents(self, upload_id: str, session: str, extents: Extents, *, synced: bool = False) -> Upload:
        """Merge ``extents`` into what is safe, all of them at once.

        :param synced: whether these bytes survive a power cut.
        :raises Conflict: the upload is gone, belongs to another session by now, or takes no more bytes.
        """

    @abstractmethod
    def add_synced(self, upload: Upload) -> None:
        """Record that a power cut can't take the extents of ``upload``, unless some have been taken back since."""

    @abstractmethod
    def forget(self, upload_id: str) -> None:
        """Delete the record, and what the outbox has for it."""

    @abstractmethod
    def find(
        self,
        states: Collection[State],
        *,
        idle_since: float | None = None,
        limit: int = 1000,
        app: str | None = None,
    ) -> list[Upload]:
        """Uploads in one of ``states``, the longest idle first.

        :param idle_since: by the registry's clock; only those that nothing has happened to after it.
        """

    @abstractmethod
    def find_expired(self, now: float, limit: int = 1000) -> list[Upload]:
        """Open uploads whose time (``expires_at``) is over, the longest first."""

    def lost(self, app: str) -> Loss | None:  # noqa: ARG002
        """Whether uploads of an app may be missing, because this registry has begun anew and nobody has said
        :meth:`regained` since. One that can't be emptied while processes use it need not know.
        """
        return None

    def regained(self, app: str, era: str) -> None:  # noqa: B027 (see lost)
        """What the storages remember of the uploads of an app is recorded again, as it was sought in that era."""

    def has(self, upload_id: str) -> bool:
        """Whether an upload is here now, also where others may be missing."""
        return self.get(upload_id) is not None

    def restore(self, upload: Upload) -> bool:
        """Record an upload of which a storage knows, unless it is here; says whether it was not."""
        if self.has(upload.id):
            return False
        self.create(upload)
        return True

    @abstractmethod
    def parts_of(self, upload_id: str) -> list[Upload]:
        """The uploads that are parts of an upload, the oldest first."""

    @abstractmethod
    def usage(self, quota: Quota) -> Use:
        """What the open uploads of a quota's scope take up now."""

    @abstractmethod
    def find_complete(self) -> list[Upload]:
        """Uploads whose bytes are all here, but that nobody has begun to complete.

        Only of dialects in which the last byte completes an upload (:data:`~incoming_wsgi.upload.ENDING_BY_LENGTH`),
        and no parts of others.
        """

    @abstractmethod
    def trail(self, upload_id: str) -> list[Entry]:
        """What has happened to an upload, by :func:`entry_of`, the earliest first: :data:`LONGEST_TRAIL` at most.

        It is written in the same step as the change itself.
        """

    @abstractmethod
    def lease(self, app: str, handlers: Collection[str], now: float) -> Delivery | None:
        """The next due row that one of ``handlers`` of ``app`` may deliver, now held by this process.

        :returns: the row as it was before: its ``attempt`` counts the attempts made so far, this one not.
        """

    @abstractmethod
    def enqueue(self, delivery: Delivery) -> None:
        """Put a row into the outbox (by an operator's ``retry``); replaces one with the same event id."""

    @abstractmethod
    def postpone(self, delivery: Delivery) -> None:
        """Give a leased row back, to be tried again at its ``due_at``."""

    @abstractmethod
    def due(self, upload_id: str) -> Delivery | None:
        """The outbox row of an upload, if there is one."""

    @abstractmethod
    def keep_digest(self, upload: Upload, position: int, state: bytes) -> None:
        """Remember the running hash after ``position`` bytes, unless bytes have been taken back since."""

    @abstractmethod
    def digest(self, upload_id: str) -> tuple[int, bytes] | None:
        """Position and state of the hash that was remembered last; none after a power cut: it is not of the disk."""

    @abstractmethod
    def subscribe(self, upload_id: str, changed: Callable[[], None]) -> Unsubscribe:
        """Have ``changed()`` called after every saved change of an upload, by whichever process.

        It must neither block nor raise. Where changes could not be heard of for a while, it is called after that.
        """

    @abstractmethod
    def maintain(self) -> None:
        """Housekeeping that is due from time to time; may take a while."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def wait(self, upload_id: str, until: Callable[[Upload | None], bool], timeout: float) -> Upload | None:
        """The upload, as soon as ``until(upload)`` holds or ``timeout`` seconds are over."""
        deadline = time.monotonic() + timeout
        with self._changes(upload_id) as changed:
            while True:
                changed.clear()
                upload = self.get(upload_id)
                left = deadline - time.monotonic()
                if until(upload) or left <= 0:
                    return upload
                changed.wait(left)

    @contextmanager
    def _changes(self, upload_id: str) -> Iterator[Event]:
        changed = Event()
        unsubscribe = self.subscribe(upload_id, changed.set)
        try:
            yield changed
        finally:
            unsubscribe()


def _open_sqlite(url: str) -> Registry:
    from .sqlite import SQLiteRegistry

    return SQLiteRegistry(url.removeprefix("sqlite://"))


def _open_redis(url: str) -> Registry:
    from .redis import RedisRegistry

    return RedisRegistry(url)


_SCHEMES: Mapping[str, Callable[[str], Registry]] = {
    "sqlite": _open_sqlite,
    "redis": _open_redis,
    "rediss": _open_redis,
    "unix": _open_redis,
    "redis+sentinel": _open_redis,
}


def check(url: str) -> None:
    """Say at once what :func:`from_url` would say later; nothing is opened or imported.

    :raises ValueError: there is no registry for this scheme, or its package is missing.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ValueError(f"no registry for {scheme or url!r}: known are {known}")
    if _SCHEMES[scheme] is _open_redis and find_spec("redis") is None:
        raise ValueError(f"a registry at {scheme}:// needs the package redis: pip install 'incoming-wsgi[redis]'")


def from_url(url: str) -> Registry:
    """The registry that a URL names: ``sqlite:///var/lib/app/registry.sqlite3``, ``redis://registry.example:6379/0``.

    :raises ValueError: as :func:`check` does, or for a URL that can't be used.
    """
    check(url)
    return _SCHEMES[urlsplit(url).scheme](url)
