"""A client's way into an upload: bytes at any position, and the record of those that are safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest

from . import events
from .errors import (
    AlreadyComplete,
    BadRequest,
    Cancelled,
    Conflict,
    Damaged,
    Expired,
    FileChanged,
    IncomingError,
    Replaced,
    TooLarge,
    Unavailable,
    Undeliverable,
    UnknownUpload,
)
from .extents import Extents
from .gates.quotas import Quota
from .registry import Registry
from .storage import Data, Writer
from .upload import OPEN_STATES, State, Upload
from .wire.bulk import bulk_of

#: Bytes and seconds after which arrived bytes are recorded in the middle of a long body.
_RECORD_BYTES = 16 * 1024 * 1024
_RECORD_SECONDS = 5.0

#: Bytes where each record is synced. Nobody waits for one before the end of the body, and disks like long writes.
_SYNC_BYTES = 256 * 1024 * 1024

#: Bytes after which the disk may begin with what will be synced.
_HASTEN_BYTES = 8 * 1024 * 1024

#: Separate ranges that one upload may consist of. Honest clients have a handful of lanes.
_MOST_EXTENTS = 1000


#: What is said of uploads that are over, and not well.
ENDS: Mapping[State, type[IncomingError]] = {
    State.CANCELLED: Cancelled,
    State.EXPIRED: Expired,
    State.DAMAGED: Damaged,
    State.UNDELIVERABLE: Undeliverable,
}


class Session:
    """One lane of the client that owns an upload: writes bytes and records them as safe.

    A session is used by one thread at a time; a client's lanes have one each, with the same token.

    :param arrived: is told when more of the upload is safe.
    :param limit: bytes that may come while the length is unknown.
    :param quotas: that its length counts for, when that is told.
    :param fsync: whether only that counts as safe which a power cut can't take.
    """

    def __init__(
        self,
        upload: Upload,
        registry: Registry,
        writer: Writer,
        arrived: Callable[[Upload], None],
        limit: float,
        *,
        quotas: Sequence[Quota],
        fsync: bool,
    ) -> None:
        self.closed: Callable[[], None] = _nothing
        self.remember: Callable[[Upload], None] = _nothing
        self.upload = upload
        self._registry = registry
        self._writer = writer
        self._arrived = arrived
        self._limit = limit
        self._quotas = quotas
        self._fsync = fsync
        self._pending = Extents()  # written, but not recorded yet
        self._unhastened = Extents()  # written, and not on its way to the disk
        self._recorded_at = time.monotonic()

    @property
    def token(self) -> str:
        return self.upload.session

    @property
    def splices(self) -> bool:
        """Whether bytes in a pipe are welcome."""
        return self._writer.splices

    @property
    def grain(self) -> int:
        """Bytes; where they come without a pause, what ends at a multiple of it is best recorded there."""
        return self._writer.grain

    def write(self, position: int, data: Data) -> None:
        """Store ``data`` from byte ``position`` on. Bytes that are safe already are not written again.

        :raises TooLarge: it goes beyond the length; nothing was stored.
        :raises Replaced: another opening owns the upload now.
        :raises NoSpace, Unavailable: nothing of it counts as arrived; trying again later may help.
        """
        bulk = bulk_of(data)
        end = position + len(bulk)
        with self._writer.exclusive():
            # Within the lock: nobody can make bytes safe between this look and our writing beside them.
            current = self._current() if self._writer.keeps_others_out else self._as_seen_last()
            longest = self._limit if current.length is None else current.length
            if end > longest:
                raise TooLarge(f"These bytes end at {end}; {longest} are allowed.")
            for start, stop in current.extents.missing(position, end):
                self._writer.write(start, bulk.part(start - position, stop - position))
        self._pending = self._pending.add(position, end)
        if self._fsync:
            self._hasten(position, end)

    def _hasten(self, start: int, end: int) -> None:
        self._unhastened = self._unhastened.add(start, end)
        if self._unhastened.received >= _HASTEN_BYTES:
            for first, last in self._unhastened.ranges:
                self._writer.hasten(first, last - first)
            self._unhastened = Extents()

    def sync_if_due(self, *, idle: bool = False, seconds: float | None = None) -> None:
        """:meth:`sync` every few MiB or seconds: when this process is killed, no more than that is lost.

        :param idle: whether there is nothing else to do.
        """
        size = _SYNC_BYTES if self._fsync else _RECORD_BYTES
        seconds = _RECORD_SECONDS if seconds is None else seconds
        if idle:
            self.sync()
        elif self._pending.received >= size or time.monotonic() - self._recorded_at >= seconds:
            self._record_kept()

    def record(self) -> Upload:
        """The upload, with what need not be waited for recorded.

        :raises Replaced: another opening owns the upload now.
        """
        self._record_kept()
        return self.upload

    def sync(self, *, only_grains: bool = False) -> Upload:
        """Record what was written. Only what is recorded may be acknowledged.

        :param only_grains: but not what ends between two multiples of :attr:`grain`.
        :raises Replaced: another opening owns the upload now.
        :raises NoSpace, Unavailable: nothing of it counts as arrived; an opening, later, may help.
        """
        try:
            self._writer.flush(only_grains=only_grains)
        except IncomingError:
            self._record_kept()
            self._current()  # if the upload has ended, this is why its bytes have no place any more
            raise
        self._record_kept()
        return self.upload

    def _record_kept(self) -> None:
        kept = self._writer.kept(self._pending)
        self._pending = self._pending.minus(kept)
        if kept.ranges:
            self._record(kept)
            if events.is_anybody_listening():
                events.count("arrived", kept.received)
            if self.upload.state in OPEN_STATES:  # else somebody has completed it already
                self._writer.recorded(self.upload)
                self._arrived(self.upload)
        self._recorded_at = time.monotonic()

    def _record(self, pending: Extents) -> None:
        synced = self._fsync or self._writer.is_durable
        if self._fsync and not self._writer.is_durable:
            self._writer.sync()
        try:
            with self._writer.exclusive():  # nobody may be writing there, having seen that it is not safe yet
                self.upload = self._registry.add_extents(self.upload.id, self.token, pending, synced=synced)
        except Conflict:
            self.upload = self._recorded_already(pending)
        if self._fsync:
            self._registry.sync()

    def _recorded_already(self, pending: Extents) -> Upload:
        """The upload, where the answer to our record was lost and somebody has completed it before we asked again.

        :raises IncomingError: it is not ours any more, or has ended.
        """
        current = self._registry.get(self.upload.id)
        is_ours = current is not None and current.session == self.token and current.state not in ENDS
        if current is None or not is_ours or pending.minus(current.extents).ranges:
            self._current()
            raise Replaced
        return current

    def declare_length(self, length: int) -> Upload:
        """Record the length, now that it is known; after :meth:`sync`.

        :raises FileChanged: another one was recorded before.
        :raises OverQuota: so many bytes are more than may be open.
        :raises Replaced: another opening owns the upload now.
        :raises NoSpace, Unavailable: it can't be kept where a registry that is lost would find it.
        """
        current = self._current()
        if current.length not in (None, length) or length < current.extents.end:
            raise FileChanged(f"The length is {current.length or current.extents.end} bytes, not {length}.")
        if current.length is None:  # what was stored says nothing of it, and its client will not say so again
            self.remember(current.but(length=length))
        try:
            self.upload = self._registry.save(current, current.but(length=length), quotas=self._quotas)
        except Conflict:
            raise Replaced from None
        if self._fsync:
            self._registry.sync()
        return self.upload

    def discard(self) -> None:
        """Let what was written since the last :meth:`sync` not count; it will be written over."""
        self._pending = Extents()
        self._writer.discard()

    def close(self) -> None:
        """Let go of the storage; unrecorded bytes do not count."""
        self._writer.close()
        closed, self.closed = self.closed, _nothing
        closed()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _current(self) -> Upload:
        current = self._registry.get(self.upload.id)
        if current is None:
            raise UnknownUpload
        refuse_writing(current, self.token)
        _refuse_pieces(current)
        return current

    def _as_seen_last(self) -> Upload:
        """By the opening, or when bytes were recorded last; who has lost it since hears so when they are again."""
        _refuse_pieces(self.upload)
        return self.upload


def _nothing(*_: object) -> None:
    pass


def _refuse_pieces(upload: Upload) -> None:
    if len(upload.extents.ranges) > _MOST_EXTENTS:
        raise BadRequest("The bytes of this upload arrive in too many separate pieces.")


def is_session_of(upload: Upload, token: str) -> bool:
    """Whether a session token is that of the last opening."""
    return compare_digest(upload.session.encode(), token.encode()) and bool(token)


def refuse_writing(upload: Upload, token: str) -> None:
    """Raise what stands against writing to an upload with a session token, if anything does."""
    if upload.state in ENDS:
        raise ENDS[upload.state](upload.public_reason)
    if upload.is_to_be_reopened:
        raise Unavailable("Some bytes of this upload are needed again: open it anew.", retry_after=1)
    if not is_session_of(upload, token):
        raise Replaced
    if upload.state not in OPEN_STATES:
        raise AlreadyComplete
