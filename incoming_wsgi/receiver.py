"""The engine. The ONE place where registry, storage and hand-over meet.

A protocol opens an upload and gets a :class:`Session`; it writes bytes into it, at any position, and says when the
upload is complete. All that is remembered is in the registry: every step may happen in another process than the last.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import Any, BinaryIO

from . import offload
from .bulk import Bulk, bulk_of
from .digests import Digests, NoDigests
from .errors import (
    AlreadyComplete,
    BadRequest,
    Cancelled,
    Conflict,
    Damaged,
    Expired,
    FileChanged,
    IncomingError,
    NotReady,
    Replaced,
    TooLarge,
    TooLate,
    Unavailable,
    Undeliverable,
    UnknownUpload,
)
from .extents import Extents
from .handover import Handler, Notice, Outcome, handler_for
from .outbox import Outbox, is_given_up, later
from .registry import Delivery, Registry, Unsubscribe
from .storage import Data, Storage, SyncFailed, Writer
from .upload import CLOSED_STATES, MOVES, NOTHING, OPEN_STATES, State, Upload, is_ticket, shortened
from .watermark import Watermarks

log = logging.getLogger("incoming_wsgi")

#: Bytes and seconds after which arrived bytes are recorded in the middle of a long body.
_RECORD_BYTES = 16 * 1024 * 1024
_RECORD_SECONDS = 5.0

#: Bytes where each record is synced. Nobody waits for one before the end of the body, and disks like long writes.
_SYNC_BYTES = 256 * 1024 * 1024

#: Bytes after which the disk may begin with what will be synced.
_HASTEN_BYTES = 8 * 1024 * 1024

#: Uploads that one upload may be joined from. Clients that send parts have as many as they have connections.
_MOST_PARTS = 1000

#: Separate ranges that one upload may consist of. Honest clients have a handful of lanes.
_MOST_EXTENTS = 1000

_SWEEP_INTERVAL = 5.0  # seconds, for each process; only one of them works at a time
_COMEBACK = 600.0  # seconds after its start in which a process lets no upload expire: clients are coming back
_GRACE = 5.0  # seconds that whoever brought the last byte has to complete the upload by itself
_TOMBSTONE = 86400.0  # seconds for which a closed upload can still be asked for
_ORPHAN_AGE = 86400.0  # seconds after which bytes of an upload that nobody knows are put aside
_ORPHAN_INTERVAL = 3600.0  # seconds between two looks for them
_CONFLICTS = 50  # times that a move is tried again because somebody else moved first


@dataclass(frozen=True)
class App:
    """One app that uploads are received for.

    :ivar handlers: how its files are handed over, by kind.
    :ivar max_length: bytes that its uploads may have, where the ticket does not say less.
    """

    name: str
    storage: Storage
    handlers: Mapping[str, Handler]
    max_length: int


@dataclass(frozen=True)
class _File:
    """What an opening says of the file; the length in bytes. See :meth:`Receiver.open`."""

    length: int | None
    name: str
    fingerprint: str
    protocol: str
    is_creation: bool = False
    client_metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds.

    :ivar idle: an upload that owes bytes and gets none expires after this.
    :ivar wait: an app that answered ``wait`` and is not heard of again is called again after this.
    """

    idle: float
    wait: float


class Receiver:
    """:param apps: the apps that this process serves, by name.
    :param fsync: whether a byte is acknowledged only when a power cut can't take it any more.
    :param digest: whether the SHA-256 of each file is computed.
    """

    def __init__(
        self,
        registry: Registry,
        apps: Mapping[str, App],
        patience: Patience,
        *,
        fsync: bool = False,
        digest: bool = True,
    ) -> None:
        self.registry = registry
        self._fsync = fsync
        self._apps = apps
        self._patience = patience
        self._digests = Digests(self.read, registry.keep_digest, registry.digest) if digest else NoDigests()
        handlers = {name: app.handlers for name, app in apps.items()}
        self._outbox = Outbox(registry, handlers, self._notice, self._answered)
        self._watermarks = Watermarks(self._sync_arrived)
        self._completing: set[str] = set()
        self._stopped = threading.Event()
        self._made_at = time.monotonic()
        self._orphans_sought_at = self._made_at

    # -- life of the process --------------------------------------------------------------------------------

    def start(self) -> None:
        """Deliver what is due and look after what is left lying, in the background."""
        self._outbox.start()
        offload.background(self._keep, name="keeper")

    def close(self) -> None:
        """Begin nothing new and let go of the registry."""
        self._stopped.set()
        self._outbox.stop()
        self.registry.close()

    # -- tickets --------------------------------------------------------------------------------------------

    def create(
        self,
        app: str,
        *,
        target: str = "",
        base_url: str = "http://localhost",
        secret: str = "",
        remove_file_when_finished: bool = True,
        max_length: int | None = None,
        length: int | None = None,
        owner: str = "",
        name: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Upload:
        """A new upload of an app; its id is the ticket.

        :param target: who gets the file: empty for the callable, an absolute path of the wrapped app, or a URL.
        :param max_length: bytes; never more than the app's own limit.
        :param length: bytes that the file has, where that is known.
        :param owner: a label of whoever will upload.
        :param name: what the file is called, whatever the client says.
        :raises BadRequest: there is nobody to hand the file to.
        """
        if handler_for(target) not in self._apps[app].handlers:
            raise BadRequest("There is nobody to hand the file to: give signalFinishURL, or on_finish to Incoming.")
        upload = Upload(
            app=app,
            dest_type=self._apps[app].storage.kind,
            target=target,
            base_url=base_url,
            secret=secret,
            remove_file_when_finished=remove_file_when_finished,
            max_length=max_length,
            length=length,
            owner=owner,
            filename_from_browser=name,
            metadata=dict(metadata or {}),
            event_id=f"msg_{uuid.uuid4().hex}",
            active_at=self.registry.now(),
        )
        created = self.registry.create(upload)
        self.registry.sync()  # in both modes: a page that holds a ticket which nobody knows could not go on
        return created

    def create_part(self, whole_id: str, length: int = 0) -> Upload:
        """A new upload that will be a part of another one; see :meth:`join`.

        :param length: bytes that it will have, as far as that is known.
        :raises UnknownUpload, Cancelled, Expired, AlreadyComplete: that other one takes no more bytes.
        :raises BadRequest: it has too many parts, or is a part itself.
        :raises TooLarge: all its parts together are longer than the ticket, or the app, allows.
        """
        whole = self._known(whole_id)
        self._refuse_if_over(whole)
        if whole.state not in OPEN_STATES:
            raise AlreadyComplete
        parts = self.registry.parts_of(whole.id)
        if whole.part_of or len(parts) >= _MOST_PARTS:
            raise BadRequest("This upload can't have one more part.")
        together, limit = length + sum(part.length or part.received for part in parts), self.limit(whole)
        if together > limit:
            raise TooLarge(f"The parts have {together} bytes together; {limit} are allowed.")
        part = Upload(app=whole.app, max_length=whole.max_length, part_of=whole.id, active_at=self.registry.now())
        return self.registry.create(part)

    def status(self, upload_id: str, app: str | None = None) -> Upload:
        """The upload as it is now, and as may be told to anybody.

        :param app: whose it must be.
        :raises UnknownUpload: there is none, or it is another app's.
        """
        upload = self._known(upload_id, app)
        self._settle()
        return upload

    def _known(self, upload_id: str, app: str | None = None) -> Upload:
        upload = self.registry.get(upload_id) if is_ticket(upload_id) else None
        if upload is None or upload.app not in self._apps or app not in (None, upload.app):
            raise UnknownUpload
        return upload

    def wait(self, upload_id: str, until: Callable[[Upload], bool], timeout: float) -> Upload:
        """The upload, as soon as ``until(upload)`` holds, or after ``timeout`` seconds.

        :raises UnknownUpload: it is gone.
        """
        upload = self.registry.wait(upload_id, lambda found: found is None or until(found), timeout)
        if upload is None:
            raise UnknownUpload
        self._settle()
        return upload

    def subscribe(self, upload_id: str, changed: Callable[[], None]) -> Unsubscribe:
        """Have ``changed()`` called after every move of an upload, on whichever process it happens."""
        return self.registry.subscribe(upload_id, changed)

    def dest_type(self, app: str) -> str:
        """Where the files of an app go: ``file`` or ``s3``."""
        return self._apps[app].storage.kind

    def read(self, upload: Upload) -> BinaryIO:
        """The stored bytes of an upload.

        :raises FileNotFoundError: there are none.
        """
        return self._storage(upload).read(upload)

    # -- bytes ----------------------------------------------------------------------------------------------

    def open(
        self,
        upload_id: str,
        *,
        length: int | None = None,
        name: str = "",
        fingerprint: str = "",
        protocol: str = "incoming",
        is_creation: bool = False,
        client_metadata: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Session | None:
        """Take an upload over: from now on only the session that this gives can change it.

        :param length: bytes that the file has; ``None`` where this opening does not say.
        :param name: the file's name as the client gave it.
        :param is_creation: whether it is this dialect's way to create an upload.
        :param client_metadata: what else the client says of the file; like the name, what was said first counts.
        :param notes: what the dialect has to remember.
        :returns: ``None`` where all bytes are here already and the upload is beyond taking any.
        :raises UnknownUpload, Cancelled, Expired, Damaged, Undeliverable: there is nothing to open any more.
        :raises FileChanged: an earlier opening was for another file.
        :raises TooLarge: the file is longer than the ticket, or the app, allows.
        """
        for _ in range(_CONFLICTS):
            upload = self._known(upload_id)
            self._refuse_if_over(upload)
            self._refuse_other_file(upload, length, fingerprint)
            if upload.state not in OPEN_STATES:
                return None
            file = _File(length, name, fingerprint, protocol, is_creation, client_metadata or {}, notes or {})
            try:
                saved = self.registry.save(upload, self._opened(upload, State.RECEIVING, file))
            except Conflict:
                continue
            log.info("upload %s opened (%s), %d of %s bytes", shortened(saved.id), protocol, saved.received, length)
            if not saved.received:
                self._storage(saved).create(saved)
            self._storage(saved).opened(saved)
            if self._fsync and not saved.received:
                self._storage(saved).sync(saved)
            self._settle()
            session = self._session(saved)
            try:
                if not saved.part_of and self._storage(saved).reads_arriving:
                    self._digests.start(saved)
            except BaseException:
                session.close()
                raise
            return session
        raise Unavailable("Too many connections want this upload at once.", retry_after=1)

    def shut_out(self, upload_id: str) -> Upload:
        """End whatever writes to an upload: the offset that this gives stays, until the next opening."""
        for _ in range(_CONFLICTS):
            upload = self.status(upload_id)
            if upload.state not in OPEN_STATES or not upload.session:
                return upload
            try:
                saved = self.registry.save(upload, replace(upload, epoch=upload.epoch + 1, session=""))
            except Conflict:
                continue
            self._settle()
            return saved
        raise Unavailable("Too many connections want this upload at once.", retry_after=1)

    def take_whole(
        self, upload_id: str, data: Data, *, name: str, fingerprint: str = "", protocol: str = "incoming"
    ) -> Upload | None:
        """Open an upload whose bytes are all here already, store them and hand them over: a small file's short way.

        Nothing is recorded before all is on the disk, in both modes; who dies before that leaves a ticket as it was.

        :returns: ``None`` where somebody has opened it before: then :meth:`open` is the way.
        :raises UnknownUpload, Cancelled, Expired, Damaged, Undeliverable, FileChanged, TooLarge: as :meth:`open`.
        :raises NoSpace, Unavailable: nothing of it counts as arrived; trying again later may help.
        """
        bulk = bulk_of(data)
        file = _File(len(bulk), name, fingerprint, protocol)
        upload = self._known(upload_id)
        self._refuse_if_over(upload)
        self._refuse_other_file(upload, file.length, fingerprint)
        if upload.state is not State.WAITING or not bulk:
            return None
        try:
            claimed = self._claim_whole(upload, bulk, file)
        except (FileNotFoundError, FileExistsError):
            claimed = None  # a cancel has removed it, or somebody has died over other bytes
        if claimed is None:
            self._remove_if_ended(upload)
            return None
        log.info("upload %s came in one piece (%s), %d bytes", shortened(claimed.id), protocol, len(bulk))
        self._completing.add(claimed.id)
        self._roll_forward(claimed, self._give_away)
        self._settle()
        return claimed

    def _claim_whole(self, upload: Upload, bulk: Bulk, file: _File) -> Upload | None:
        """Store all bytes, and record that they are here; ``None`` if somebody else was faster."""
        with self._storage(upload).keeping_whole(replace(upload, length=file.length)) as keep:
            # Within the lock, as a session does: who opens it from now on writes after us, or finds that it is taken.
            if self.registry.get(upload.id) != upload:
                return None
            keep(bulk)
            digest = self._digests.whole(upload, len(bulk))
            claimed = self._opened(
                upload, State.COMPLETING, file, holder=self.registry.holder, sha256=digest or upload.sha256
            )
            return self._save_quietly(upload, claimed, all_came=True)

    def _opened(self, upload: Upload, state: State, file: _File, **changes: object) -> Upload:
        """The upload as an opening makes it."""
        return upload.to(
            state,
            epoch=upload.epoch + 1,
            session=secrets.token_urlsafe(16),
            protocol=file.protocol,
            created_with=upload.created_with or (file.protocol if file.is_creation else ""),
            length=upload.length if file.length is None else file.length,
            fingerprint=upload.fingerprint or file.fingerprint,
            filename_from_browser=upload.filename_from_browser or file.name,
            client_metadata=upload.client_metadata or dict(file.client_metadata),
            notes=upload.notes or dict(file.notes),
            active_at=self.registry.now(),
            **changes,
        )

    def session(self, upload_id: str, token: str) -> Session:
        """A further lane of the client that opened the upload last.

        :raises Replaced: somebody else has opened it since.
        :raises AlreadyComplete, Cancelled, Expired, Damaged, Undeliverable: it takes no more bytes.
        """
        upload = self._known(upload_id)
        refuse_writing(upload, token)
        return self._session(upload)

    def pause(self, upload_id: str, token: str) -> Upload:
        """Record that the client pauses. Pausing what is paused, or beyond, changes nothing.

        :raises Replaced: the token is not that of the last opening.
        """
        upload = self.status(upload_id)
        if upload.state is not State.RECEIVING:
            return upload
        refuse_writing(upload, token)
        try:
            return self._move(upload, State.PAUSED, active_at=self.registry.now())
        except Conflict:
            return self.status(upload_id)  # it moved on at this moment

    def complete(self, upload: Upload) -> Upload:
        """All bytes are here, says the protocol: put them onto the disk, hash them, hand them over; in the background.

        If a process has died over that, this one goes on.

        :raises NotReady: some are missing.
        """
        if upload.state in _HELD_STATES and upload.holder:
            self._take_up(upload)
        if upload.state not in OPEN_STATES or upload.part_of:
            return upload
        if not upload.is_complete:
            raise NotReady("Some bytes of this upload are still missing.")
        try:
            saved = self.registry.save(upload, upload.to(State.COMPLETING, holder=self.registry.holder))
        except Conflict:
            return self.status(upload.id)
        self._roll_forward_in_background(saved)
        return saved

    def join(self, upload_id: str, part_ids: Sequence[str], **opening: Any) -> Upload:
        """Make an upload of its parts, in order; in the background, as :meth:`complete`. Saying it twice does no harm.

        :param part_ids: each made by :meth:`create_part` for this upload, and complete; a part may come more than once.
        :param opening: ``name``, ``protocol``, ``client_metadata`` and ``notes``, as for :meth:`open`.
        :raises BadRequest: something is no part of this upload, or there are none.
        :raises NotReady: bytes of a part are missing.
        :raises AlreadyComplete: it has bytes of its own, or was made of other parts.
        :raises TooLarge: all together they are longer than the ticket, or the app, allows.
        """
        for _ in range(_CONFLICTS):
            upload = self._known(upload_id)
            self._refuse_if_over(upload)
            if upload.parts == tuple(part_ids) and upload.parts:
                return upload
            if upload.state not in OPEN_STATES or upload.received or upload.parts:
                raise AlreadyComplete
            length = self._joined_length(upload, part_ids)
            self._refuse_other_file(upload, length, "")
            joining = upload.to(
                State.JOINING,
                epoch=upload.epoch + 1,
                session="",
                holder=self.registry.holder,
                parts=tuple(part_ids),
                length=length,
                protocol=opening["protocol"],
                created_with=upload.created_with or opening["protocol"],
                filename_from_browser=upload.filename_from_browser or opening["name"],
                client_metadata=upload.client_metadata or dict(opening["client_metadata"]),
                notes=upload.notes or dict(opening["notes"]),
                active_at=self.registry.now(),
            )
            try:
                saved = self.registry.save(upload, joining)
            except Conflict:
                continue
            self._settle()
            self._roll_forward_in_background(saved)
            return saved
        raise Unavailable("Too many connections want this upload at once.", retry_after=1)

    def _joined_length(self, whole: Upload, part_ids: Sequence[str]) -> int:
        parts = {part.id: part for part in self.registry.parts_of(whole.id)}
        if not part_ids or not parts.keys() >= set(part_ids):
            raise BadRequest("An upload can be joined only from parts that were made for it.")
        if not all(parts[part_id].is_complete for part_id in part_ids):
            raise NotReady("Some bytes of the parts are still missing.")
        return sum(parts[part_id].length or 0 for part_id in part_ids)

    # -- ends -----------------------------------------------------------------------------------------------

    def cancel(self, upload_id: str, reason: str, app: str | None = None) -> Upload:
        """Give an upload up and delete its bytes; the app is told. What is cancelled already stays so.

        :raises TooLate: its hand-over has begun.
        """
        return self._give_up(self.status(upload_id, app), State.CANCELLED, reason)

    def done(self, upload_id: str, app: str | None = None) -> Upload:
        """The app has the file (``finish_upload``); may come before its own ``wait`` is heard, and more than once.

        :raises NotReady: the file is not being handed over.
        """
        for _ in range(_CONFLICTS):
            upload = self.status(upload_id, app)
            if upload.state is State.FINISHED:
                return upload
            if State.FINISHED not in _moves(upload):
                raise NotReady
            try:
                return self._finish(upload, self.registry.due(upload.id))
            except Conflict:
                continue
        raise Unavailable("This upload is changing too fast.", retry_after=1)

    def retry(self, upload_id: str) -> Upload:
        """Hand a file over again that nobody took (an operator's command).

        :raises NotReady: it is not waiting for that.
        """
        upload = self.status(upload_id)
        delivery = self.registry.due(upload.id)
        if delivery is not None:
            self.registry.enqueue(replace(delivery, due_at=0, created_at=self.registry.now()))
        elif upload.state is State.UNDELIVERABLE:
            after = upload.to(State.HANDING_OVER, reason="")
            upload = self.registry.save(upload, after, enqueue=self._delivery(upload, "finished"))
        else:
            raise NotReady
        self._outbox.wake()
        return upload

    # -- housekeeping ---------------------------------------------------------------------------------------

    def sweep(self, *, expire: bool = True) -> None:
        """Expire what is idle, go on with what was left in the middle, forget what is long closed.

        Idempotent, for any process at any time; nothing is ever deleted that is not closed.

        :param expire: whether this process has been there for clients long enough to say that they are idle.
        """
        now = self.registry.now()
        left = (upload for upload in self.registry.find_complete() if upload.active_at <= now - _GRACE)
        self._each(left, self.complete)
        self._each(self.registry.find(_HELD_STATES), self._take_up)
        if expire:
            idle_since = now - self._patience.idle
            idle = self.registry.find(OPEN_STATES, idle_since=idle_since)
            self._each(idle, lambda upload: self._expire(upload.id, idle_since))
        self._each(self.registry.find(CLOSED_STATES, idle_since=now - _TOMBSTONE), self._bury)
        self._digests.prune()
        if time.monotonic() - self._orphans_sought_at >= _ORPHAN_INTERVAL:
            self._orphans_sought_at = time.monotonic()
            self.quarantine_orphans()

    def _each(self, uploads: Iterable[Upload], work: Callable[[Upload], object]) -> None:
        """Do something for those uploads that are ours; trouble with one must not keep it from the others."""
        for upload in uploads:
            if upload.app not in self._apps:
                continue
            try:
                work(upload)
            except (IncomingError, OSError) as error:
                log.warning("upload %s could not be cleaned up; trying again: %s", shortened(upload.id), error)

    def quarantine_orphans(self) -> None:
        """Put aside what has lain in a storage for a day and belongs to no upload; nothing is deleted.

        Only what was still arriving: a complete file without a record is one that the app wanted to keep.
        """
        for storage in {id(app.storage): app.storage for app in self._apps.values()}.values():
            for upload_id in storage.arriving_since(_ORPHAN_AGE):
                if self.registry.get(upload_id) is None:
                    log.warning("nobody knows the upload %s; its bytes are put aside", shortened(upload_id))
                    with suppress(FileNotFoundError):
                        storage.quarantine(upload_id)

    def find(self, app: str | None = None) -> list[Upload]:
        """All uploads that are known (for an operator), the longest idle first."""
        return self.registry.find(set(State), app=app, limit=100_000)

    def _keep(self) -> None:
        while not self._stopped.is_set():
            try:
                with self.registry.alone("sweep") as alone:
                    if alone:
                        self.sweep(expire=self._was_there_for_clients)
                        self.registry.maintain()
            except Exception:
                log.exception("the sweep failed; trying again")
            self._stopped.wait(_SWEEP_INTERVAL * random.uniform(0.8, 1.2))

    @property
    def _was_there_for_clients(self) -> bool:
        """Whether this process has run for a while: a server that was down must not take its absence for theirs."""
        return time.monotonic() - self._made_at >= min(_COMEBACK, self._patience.idle)

    def _expire(self, upload_id: str, idle_since: float) -> None:
        with suppress(UnknownUpload, TooLate):  # it has come to life, or to its end
            upload = self.status(upload_id)
            if upload.is_complete and not upload.part_of:
                return
            if self._family_active_at(upload) <= idle_since:
                self._give_up(upload, State.EXPIRED, "Nothing arrived for a long time.")

    def _family_active_at(self, upload: Upload) -> float:
        """When the latest bytes came, of an upload or of what it will be joined with."""
        whole = self.registry.get(upload.part_of) if upload.part_of else upload
        parts = self.registry.parts_of(upload.part_of or upload.id)
        family = (upload, *parts, *filter(None, (whole,)))
        return max(one.active_at for one in family if one.state in OPEN_STATES)

    def _bury(self, upload: Upload) -> None:
        if self.registry.due(upload.id) is None:
            if upload.state is not State.FINISHED or upload.remove_file_when_finished:
                self._storage(upload).remove(upload)
            self.registry.forget(upload.id)

    def _take_up(self, upload: Upload) -> None:
        """Go on with an upload that is being joined, or completed, by nobody."""
        if upload.id not in self._completing and not self._is_being_completed(upload):
            saved = self._save_quietly(upload, replace(upload, holder=self.registry.holder))
            if saved is not None:
                self._roll_forward_in_background(saved)

    def _is_being_completed(self, upload: Upload) -> bool:
        return bool(upload.holder) and upload.holder != self.registry.holder and self.registry.is_alive(upload.holder)

    # -- from the last byte to the app ----------------------------------------------------------------------

    def _roll_forward_in_background(self, upload: Upload) -> None:
        self._completing.add(upload.id)
        step = self._join if upload.state is State.JOINING else self._hand_over
        offload.background(self._roll_forward, upload, step, name="completion")

    def _roll_forward(self, upload: Upload, step: Callable[[Upload], None]) -> None:
        try:
            step(upload)
        except SyncFailed as error:
            self._take_back(upload, str(error), start_anew=bool(error.facts.get("start_anew")))
        except (Damaged, EOFError, FileNotFoundError) as error:
            self._give_up_as_damaged(upload, error)
        except IncomingError as error:
            log.warning("upload %s can't be completed yet: %s", shortened(upload.id), error)
            self._save_quietly(upload, replace(upload, holder=""))  # the next sweep tries again
        finally:
            self._completing.discard(upload.id)

    def _join(self, upload: Upload) -> None:
        """Only when all is on the disk, and recorded so, do the parts go."""
        parts = {part.id: part for part in self.registry.parts_of(upload.id)}
        if not parts.keys() >= set(upload.parts):
            raise Damaged("A part of this upload is gone.")
        self._storage(upload).join(upload, [parts[part_id] for part_id in upload.parts])
        joined = self.registry.save(upload, upload.to(State.COMPLETING), all_came=True)
        self.registry.sync()
        self._remove_parts(joined)
        self._roll_forward(joined, self._hand_over)

    def _remove_parts(self, upload: Upload) -> None:
        """The ends of parts are nobody's news."""
        for part in self.registry.parts_of(upload.id):
            self._storage(part).remove(part)
            self.registry.forget(part.id)

    def _give_up_as_damaged(self, upload: Upload, error: Exception, settle: Delivery | None = None) -> None:
        """What is stored is not what arrived: it is kept for the operator, and never handed over."""
        log.error("upload %s is damaged: %s", shortened(upload.id), error)
        after = upload.to(State.DAMAGED, reason=str(error) or Damaged.sentence)
        self.registry.save(upload, after, settle=settle)

    def _hand_over(self, upload: Upload) -> None:
        """Each step is recorded, and the record synced, before the next one needs it: see docs/promises.rst."""
        if not upload.is_complete:
            raise SyncFailed("A power cut has taken bytes that were not on the disk yet.")
        storage = self._storage(upload)
        if not upload.length and storage.locate(upload) is None:
            storage.create(upload)  # who opened it may have died before; without a byte, nothing can be lost
        if not storage.reads_arriving:
            storage.complete(upload)
        digest = self._digests.finish(upload) if storage.reads_arriving else self._digests.read_back(upload)
        self._refuse_other_bytes(upload, digest)
        storage.sync(upload)
        upload = self._move(upload, State.COMPLETING, sha256=digest or upload.sha256, synced=upload.extents)
        self.registry.sync()
        self._give_away(upload)

    def _give_away(self, upload: Upload) -> None:
        """What is on the disk, as the records say, goes to its place and into the outbox."""
        location = self._storage(upload).complete(upload)
        after = upload.to(State.HANDING_OVER, holder="", location=location, active_at=self.registry.now())
        with self._outbox.at_once(self._delivery(after, "finished")) as row:
            self.registry.save(upload, after, enqueue=row)
            self.registry.sync()
            log.info("upload %s is complete", shortened(upload.id))

    def _take_back(self, upload: Upload, reason: str, *, start_anew: bool = False) -> None:
        """Some bytes did not get onto the disk: whoever sends this upload has to open it anew and to send them again.

        The session ends: what its lanes remember as arrived need not be there any more.

        :param start_anew: whether what was synced is not to be trusted either.
        """
        with suppress(Conflict):
            current = self._known(upload.id)
            if current.state not in (State.RECEIVING, State.PAUSED, State.COMPLETING):
                return
            if start_anew:
                current = self.registry.save(current, replace(current, synced=NOTHING))
            after = current.to(State.RECEIVING, epoch=current.epoch + 1, session="", holder="", sha256="")
            saved = self.registry.save(current, after, back_to_synced=True)
            log.error("upload %s is back at %d bytes: %s", shortened(upload.id), saved.received, reason)
        self._digests.drop(upload.id)

    def _sync_arrived(self, upload: Upload) -> None:
        """Put onto the disk what has arrived by now, and then the record that it is there."""
        current = self.registry.get(upload.id)
        if current is None or current.state not in OPEN_STATES:
            return
        try:
            self._storage(current).sync(current)
        except SyncFailed as error:
            self._take_back(current, str(error))
        else:
            self.registry.add_synced(current)
            self.registry.sync()

    def _refuse_other_bytes(self, upload: Upload, digest: str) -> None:
        """:raises Damaged: the bytes were others when they were hashed before; a disk has lied, say, at a power cut."""
        if upload.sha256 and digest and upload.sha256 != digest:
            raise Damaged("What is stored is not what arrived: its SHA-256 has changed.")

    def _notice(self, delivery: Delivery) -> Notice | None:
        """What the outbox tells the app; ``None`` where it has nothing to tell any more."""
        upload = self.registry.get(delivery.upload_id)
        if upload is None or upload.state is State.FINISHED:
            return None
        if delivery.kind != "finished":
            return Notice(upload, delivery, "")
        if upload.state is State.WAITING_FOR_APP:
            try:
                upload = self._move(upload, State.HANDING_OVER)
            except Conflict:
                return None  # finish_upload came at this moment
        if upload.boot_id != self.registry.boot_id and not self._is_whole_after_power_cut(upload, delivery):
            return None
        here = self._storage(upload).locate(upload) is not None
        if not here and not upload.moved_to and delivery.attempt:
            return None  # the app took the file away by itself, and its answer was lost
        path = upload.location if here else upload.moved_to or upload.location
        return Notice(upload, delivery, path, self._storage(upload).remote(upload))

    def _is_whole_after_power_cut(self, upload: Upload, delivery: Delivery) -> bool:
        """Hash a complete file again that may have been through a power cut, before anybody is given it."""
        if self._storage(upload).is_durable:
            return True
        try:
            with suppress(FileNotFoundError):  # the app has taken it
                self._refuse_other_bytes(upload, self._digests.finish(upload))
        except (Damaged, EOFError) as error:
            self._give_up_as_damaged(upload, error, settle=delivery)
            return False
        self.registry.save(upload, replace(upload, boot_id=self.registry.boot_id))
        return True

    def _answered(self, delivery: Delivery, outcome: Outcome) -> None:
        """Record what came of an attempt."""
        upload = self.registry.get(delivery.upload_id)
        if upload is None or upload.state is State.DAMAGED:
            return
        try:
            if delivery.kind != "finished":
                self._told_of_end(upload, delivery, outcome)
            elif outcome.word == "done":
                self._finish(upload, delivery)
            elif outcome.word == "wait":
                self._wait_for_app(upload, delivery)
            elif is_given_up(delivery, self.registry.now()):
                log.error("upload %s is undeliverable: %s", shortened(upload.id), outcome.error)
                after = upload.to(State.UNDELIVERABLE, reason=outcome.error)
                self.registry.save(upload, after, settle=delivery)
            else:
                self.registry.postpone(later(delivery, outcome, self.registry.now()))
        except Conflict:
            # finish_upload came meanwhile: it has settled the row
            log.debug("upload %s moved on while it was handed over", shortened(upload.id))

    def _told_of_end(self, upload: Upload, delivery: Delivery, outcome: Outcome) -> None:
        now = self.registry.now()
        if outcome.word != "failed" or is_given_up(delivery, now):
            self.registry.save(upload, upload, settle=delivery)
        else:
            self.registry.postpone(later(delivery, outcome, now))

    def _wait_for_app(self, upload: Upload, delivery: Delivery) -> None:
        if upload.state is not State.HANDING_OVER:
            raise Conflict
        now = self.registry.now()  # the app is alive: it gets as much patience as in the beginning
        due = replace(delivery, attempt=delivery.attempt + 1, due_at=now + self._patience.wait, created_at=now)
        self.registry.save(upload, upload.to(State.WAITING_FOR_APP), settle=delivery, enqueue=replace(due, holder=""))

    def _finish(self, upload: Upload, delivery: Delivery | None) -> Upload:
        if upload.state is State.FINISHED:
            return self.registry.save(upload, upload, settle=delivery)
        after = upload.to(State.FINISHED, reason="", active_at=self.registry.now())
        saved = self.registry.save(upload, after, settle=delivery)
        log.info("upload %s is finished", shortened(upload.id))
        if upload.remove_file_when_finished and self._storage(upload).locate(upload) is not None:
            self.registry.sync()
            self._storage(upload).remove(upload)
        else:
            self._settle()
        return saved

    def _give_up(self, upload: Upload, state: State, reason: str) -> Upload:
        for _ in range(_CONFLICTS):
            if upload.state in (State.CANCELLED, State.EXPIRED):
                return upload
            if state not in _moves(upload):
                raise TooLate
            after = upload.to(state, reason=reason, active_at=self.registry.now())
            kind = "cancelled" if state is State.CANCELLED else "expired"
            row = self._delivery(after, kind) if not after.part_of else None
            try:
                saved = self.registry.save(upload, after, enqueue=row, if_nothing_came=state is State.EXPIRED)
            except Conflict:
                upload = self.status(upload.id)
                if state is State.EXPIRED:
                    return upload  # it has come to life
                continue
            log.info("upload %s is %s: %s", shortened(upload.id), kind, reason)
            self._digests.drop(upload.id)
            self.registry.sync()
            self._storage(upload).remove(upload)
            self._remove_parts(upload)
            self._outbox.wake()
            return saved
        raise Unavailable("This upload is changing too fast.", retry_after=1)

    def _move(self, upload: Upload, state: State, **changes: object) -> Upload:
        return self.registry.save(upload, upload.to(state, **changes))

    def _save_quietly(self, before: Upload, after: Upload, *, all_came: bool = False) -> Upload | None:
        try:
            return self.registry.save(before, after, all_came=all_came)
        except Conflict:
            return None

    def record_move(self, upload: Upload, target: str) -> None:
        """Remember where the app takes a file, before it is touched."""
        current = self.status(upload.id)
        self.registry.save(current, replace(current, moved_to=target))
        self.registry.sync()

    # -- helpers --------------------------------------------------------------------------------------------

    def _storage(self, upload: Upload) -> Storage:
        return self._apps[upload.app].storage

    def _settle(self) -> None:
        """Before anything is told: in fsync mode what was read or written of the records must be on the disk."""
        if self._fsync:
            self.registry.sync()

    def _delivery(self, upload: Upload, kind: str) -> Delivery:
        now = self.registry.now()
        return Delivery(
            event_id=upload.event_id if kind == "finished" else f"{upload.event_id}_{kind}",
            upload_id=upload.id,
            app=upload.app,
            kind=kind,
            handler=handler_for(upload.target),
            due_at=now,
            created_at=now,
        )

    def _session(self, upload: Upload) -> Session:
        """:raises IncomingError: the upload has ended meanwhile, or its bytes are gone."""
        try:
            writer = self._storage(upload).open(upload)
        except (FileNotFoundError, Damaged) as error:
            refuse_writing(self._known(upload.id), upload.session)
            reason = str(error) if isinstance(error, Damaged) else "The stored bytes of this upload are gone."
            self._move(upload, State.DAMAGED, reason=reason)
            raise Damaged(reason) from None
        try:
            self._remove_if_ended(upload)
        except BaseException:
            writer.close()
            raise
        return Session(upload, self.registry, writer, self._arrived, self.limit(upload), fsync=self._fsync)

    def _arrived(self, upload: Upload) -> None:
        """More of an upload is safe."""
        if self._storage(upload).reads_arriving:
            self._digests.advance(upload)
        if not self._fsync:
            self._watermarks.advance(upload)

    def _remove_if_ended(self, upload: Upload) -> None:
        """A cancel that came between our opening and the making of the file has not seen the file."""
        current = self._known(upload.id)
        if current.state in (State.CANCELLED, State.EXPIRED):
            self._storage(upload).remove(upload)
            self._refuse_if_over(current)

    def _refuse_if_over(self, upload: Upload) -> None:
        error = _OVER.get(upload.state)
        if error is not None:
            raise error(upload.public_reason)

    def _refuse_other_file(self, upload: Upload, length: int | None, fingerprint: str) -> None:
        if upload.fingerprint and fingerprint and upload.fingerprint != fingerprint:
            raise FileChanged
        if length is None:
            return
        if upload.length not in (None, length):
            raise FileChanged(f"This upload began with a file of {upload.length} bytes, not {length}.")
        if length < upload.extents.end:
            raise FileChanged(f"The file has {length} bytes; more have arrived already.")
        limit = self.limit(upload)
        if length > limit:
            raise TooLarge(f"The file has {length} bytes; {limit} are allowed.")

    def limit(self, upload: Upload) -> int:
        """Bytes that an upload may have at most."""
        limits = (upload.max_length, self._apps[upload.app].max_length)
        return min(limit for limit in limits if limit is not None)

    def expires_in(self, upload: Upload) -> float:
        """Seconds until an upload that owes bytes is given up, if nothing happens to it."""
        return max(0.0, upload.active_at + self._patience.idle - self.registry.now())


class Session:
    """One lane of the client that owns an upload: writes bytes and records them as safe.

    A session is used by one thread at a time; a client's lanes have one each, with the same token.

    :param arrived: is told when more of the upload is safe.
    :param limit: bytes that may come while the length is unknown.
    :param fsync: whether only that counts as safe which a power cut can't take.
    """

    def __init__(
        self,
        upload: Upload,
        registry: Registry,
        writer: Writer,
        arrived: Callable[[Upload], None],
        limit: int,
        *,
        fsync: bool,
    ) -> None:
        self.upload = upload
        self._registry = registry
        self._writer = writer
        self._arrived = arrived
        self._limit = limit
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
            current = self._current()
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

    def sync(self) -> Upload:
        """Record what was written. Only what :meth:`sync` has returned for may be acknowledged.

        :raises Replaced: another opening owns the upload now.
        :raises NoSpace, Unavailable: nothing of it counts as arrived; an opening, later, may help.
        """
        try:
            self._writer.flush()
        finally:
            self._record_kept()
        return self.upload

    def _record_kept(self) -> None:
        kept = self._writer.kept(self._pending)
        self._pending = self._pending.minus(kept)
        if kept.ranges:
            self._record(kept)
            self._writer.recorded(self.upload)
            self._arrived(self.upload)
        self._recorded_at = time.monotonic()

    def _record(self, pending: Extents) -> None:
        synced = self._fsync or self._writer.is_durable
        if self._fsync and not self._writer.is_durable:
            self._writer.sync()
        for start, end in pending.ranges:
            try:
                with self._writer.exclusive():  # nobody may be writing there, having seen that it is not safe yet
                    self.upload = self._registry.add_extent(self.upload.id, self.token, start, end, synced=synced)
            except Conflict:
                self._current()
                raise Replaced from None
        if self._fsync:
            self._registry.sync()

    def declare_length(self, length: int) -> Upload:
        """Record the length, now that it is known; after :meth:`sync`.

        :raises FileChanged: another one was recorded before.
        :raises Replaced: another opening owns the upload now.
        """
        current = self._current()
        if current.length not in (None, length) or length < current.extents.end:
            raise FileChanged(f"The length is {current.length or current.extents.end} bytes, not {length}.")
        try:
            self.upload = self._registry.save(current, replace(current, length=length))
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

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _current(self) -> Upload:
        current = self._registry.get(self.upload.id)
        if current is None:
            raise UnknownUpload
        refuse_writing(current, self.token)
        if len(current.extents.ranges) > _MOST_EXTENTS:
            raise BadRequest("The bytes of this upload arrive in too many separate pieces.")
        return current


def refuse_writing(upload: Upload, token: str) -> None:
    """Raise what stands against writing to an upload with a session token, if anything does."""
    if upload.state in _OVER:
        raise _OVER[upload.state](upload.public_reason)
    if upload.is_to_be_reopened:
        raise Unavailable("Some bytes of this upload are needed again: open it anew.", retry_after=1)
    if not compare_digest(upload.session.encode(), token.encode()) or not token:
        raise Replaced
    if upload.state not in OPEN_STATES:
        raise AlreadyComplete


#: States that a process holds an upload in while it works on it.
_HELD_STATES = frozenset({State.JOINING, State.COMPLETING})

#: What is said of uploads that are over, and not well.
_OVER: Mapping[State, type[IncomingError]] = {
    State.CANCELLED: Cancelled,
    State.EXPIRED: Expired,
    State.DAMAGED: Damaged,
    State.UNDELIVERABLE: Undeliverable,
}


def _moves(upload: Upload) -> frozenset[State]:
    return MOVES[upload.state]
