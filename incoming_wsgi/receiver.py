"""The engine. The ONE place where registry, storage and hand-over meet.

A protocol opens an upload and gets a :class:`Session`; it writes bytes into it, at any position, and says when the
upload is complete. All that is remembered is in the registry: every step may happen in another process than the last.
"""

from __future__ import annotations

import functools
import io
import logging
import random
import re
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, TypeVar

from . import events, offload
from .delivery.handover import Handler, Notice, Outcome, handler_for
from .delivery.outbox import Outbox, is_given_up, later
from .digests import Digests, NoDigests, update_from
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
    UnknownUpload,
    UnsupportedMediaType,
)
from .gates.first_look import LENGTH as FIRST_BYTES
from .gates.first_look import FirstBytes, is_of_other_kind
from .gates.kinds import accept_of
from .gates.quotas import Allowance, Quota, Use
from .gates.terms import Terms, checked_life
from .gates.turnstile import Turnstile
from .gates.visitors import INSIDER, Visitor
from .registry import Delivery, Registry, Unsubscribe
from .session import ENDS, Session, refuse_writing
from .storage import Data, Storage, SyncFailed
from .upload import CLOSED_STATES, MOVES, NOTHING, OPEN_STATES, State, Upload, is_ticket, shortened
from .watermark import Watermarks
from .wire.bulk import bulk_of
from .wire.checksums import ALGORITHMS, hash_of

log = logging.getLogger("incoming_wsgi")

T = TypeVar("T")

#: Uploads that one upload may be joined from. Clients that send parts have as many as they have connections.
_MOST_PARTS = 1000

#: Why an upload has expired whose ticket had an end.
_TIME_IS_OVER = "The time for this upload is over."

#: Uploads that one process completes at a time.
_COMPLETIONS = 8

_SWEEP_INTERVAL = 5.0  # seconds, for each process; only one of them works at a time
_SWEEP_SLICE = 1.0  # seconds of a sweep, before others get to work
_SWEEP_PAUSE = 0.5  # seconds until the next sweep where that was not enough
_SLICE = 200  # uploads that are held at a time
_COMEBACK = 600.0  # seconds after its start in which a process lets no upload expire: clients are coming back
_GRACE = 5.0  # seconds that whoever brought the last byte has to complete the upload by itself
_TOMBSTONE = 86400.0  # seconds for which a closed upload can still be asked for
_GIVING_BACK = 1.0  # seconds between two attempts to give an upload back that can't be completed now
_SETTLED = 3.0  # seconds after which nobody is still storing what was begun before a registry was emptied
_ORPHAN_AGE = 86400.0  # seconds after which bytes of an upload that nobody knows are put aside
_ORPHAN_INTERVAL = 3600.0  # seconds between two looks for them
_CONFLICTS = 50  # times that a move is tried again because somebody else moved first


#: How a client may tell its openings apart, and the note that keeps the last one.
_OPENING = re.compile(r"[A-Za-z0-9]{1,32}\.[0-9]{1,9}")
_LAST_OPENING = "opening"

#: What back ends of Incoming!! 0.1 call the only storage that they know.
_DESTINATION_OF_0_1 = "file"

#: Shown an upload and its first bytes: nothing, or why the file is not welcome.
OnFirstBytes = Callable[[Upload, FirstBytes], str | None]


@dataclass(frozen=True)
class App:
    """One app that uploads are received for.

    :ivar storage: where its files go, unless the ticket says otherwise. Its name is its kind: ``file``, ``s3``.
    :ivar handlers: how its files are handed over, by kind.
    :ivar max_length: bytes that its uploads may have, where the ticket does not say less.
    :ivar allowance: what all of them may take up together.
    :ivar on_first_bytes: is shown the first bytes of a file, and may refuse it with a sentence for the person.
    :ivar storages: further ones, by name.
    """

    name: str
    storage: Storage
    handlers: Mapping[str, Handler]
    max_length: int
    allowance: Allowance = field(default_factory=Allowance)
    on_first_bytes: OnFirstBytes | None = None
    storages: Mapping[str, Storage] = field(default_factory=dict)

    def destination(self, wanted: str) -> str:
        """The name of the storage that a new upload goes to.

        :param wanted: a name, or a kind of which there is only one; empty for the default. ``file`` means that, too,
            where nothing is called so: back ends of 0.1, which knew nothing else, may say it.
        :raises BadRequest: there is no such storage.
        """
        if wanted in ("", self.storage.kind):
            return self.storage.kind
        if wanted in self.storages:
            return wanted
        of_kind = [name for name, storage in self.storages.items() if storage.kind == wanted]
        if len(of_kind) == 1:
            return of_kind[0]
        if wanted == _DESTINATION_OF_0_1 and not of_kind:
            return self.storage.kind
        names = ", ".join(dict.fromkeys((self.storage.kind, *self.storages)))
        raise BadRequest(f"destType must name one of the storages here: {names}.")

    def storage_of(self, upload: Upload) -> Storage:
        """:raises Unavailable: its storage is configured no more."""
        if upload.dest_type == self.storage.kind:
            return self.storage
        try:
            return self.storages[upload.dest_type]
        except KeyError:
            name = shortened(upload.id)
            log.warning("upload %s is in the storage %r, which is not configured", name, upload.dest_type)
            raise Unavailable("The storage of this upload is missing at the moment.", retry_after=60) from None

    @property
    def all_storages(self) -> Mapping[str, Storage]:
        """By name."""
        return {self.storage.kind: self.storage, **self.storages}


@dataclass(frozen=True)
class _File:
    """What an opening says of the file, and of itself; the length in bytes. See :meth:`Receiver.open`."""

    length: int | None
    name: str
    fingerprint: str
    protocol: str
    is_creation: bool = False
    client_metadata: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    opening: str = ""


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
    :param connections: that may bring bytes of one upload to this process at the same time; 0 for any number.
    """

    def __init__(
        self,
        registry: Registry,
        apps: Mapping[str, App],
        patience: Patience,
        *,
        fsync: bool = False,
        digest: bool = True,
        connections: int = 0,
    ) -> None:
        self.registry = registry
        registry.moved = _tell_of_move
        registry.apps = tuple(apps)
        self._visitor = INSIDER
        self._lanes = Turnstile(connections)
        self._fsync = fsync
        self._apps = apps
        self._patience = patience
        self._digests = Digests(self.read, registry.keep_digest, registry.digest) if digest else NoDigests()
        handlers = {name: app.handlers for name, app in apps.items()}
        self._outbox = Outbox(registry, handlers, self._notice, self._answered)
        self._watermarks = Watermarks(self._sync_arrived)
        self._completing: set[str] = set()
        self._looking: set[str] = set()
        self._completions = offload.Crew(_COMPLETIONS, "completion")
        self._stopped = threading.Event()
        self._called = threading.Event()
        registry.began_anew = self._called.set
        self._resting = threading.Event()
        self._made_at = time.monotonic()
        self._orphans_sought_at = self._made_at

    # -- life of the process --------------------------------------------------------------------------------

    def start(self) -> None:
        """Deliver what is due and look after what is left lying, in the background."""
        self._outbox.start()
        offload.background(self._keep, name="keeper")

    def rest(self) -> None:
        """Leave to others what they can do as well, until :meth:`resume`: hand-overs, and what is left lying."""
        self._resting.set()
        self._outbox.rest()

    def resume(self) -> None:
        self._resting.clear()
        self._outbox.resume()

    @property
    def is_busy(self) -> bool:
        """Whether uploads are being completed or handed over."""
        return bool(self._completing) or self._outbox.is_busy

    def close(self) -> None:
        """Begin nothing new and let go of the registry. To say it twice does no harm."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._called.set()
        self._outbox.stop()
        self.registry.close()

    def seen_by(self, visitor: Visitor) -> Receiver:
        """This same receiver, as a visitor may use it: what they do counts for them."""
        view = Receiver.__new__(Receiver)
        view.__dict__.update(self.__dict__)
        view._visitor = visitor  # noqa: SLF001 (of ourselves)
        return view

    # -- tickets --------------------------------------------------------------------------------------------

    def create(
        self,
        app: str,
        *,
        target: str = "",
        base_url: str = "http://localhost",
        secret: str = "",
        dest: str = "",
        remove_file_when_finished: bool = True,
        max_length: int | None = None,
        length: int | None = None,
        owner: str = "",
        name: str = "",
        metadata: Mapping[str, str] | None = None,
        client: str = "",
        by_backend: bool = False,
        terms: Terms | None = None,
    ) -> Upload:
        """A new upload of an app; its id is the ticket.

        :param target: who gets the file: empty for the callable, an absolute path of the wrapped app, or a URL.
        :param dest: the storage for it; see :meth:`App.destination`.
        :param max_length: bytes; never more than the app's own limit.
        :param length: bytes that the file has, where that is known.
        :param owner: a label of whoever will upload.
        :param name: what the file is called, whatever the client says.
        :param client: the address that it counts for, where it is known already.
        :param by_backend: whether the HTTP API asks for it.
        :param terms: what the ticket is bound to.
        :raises BadRequest: there is nobody to hand the file to, or no such storage.
        :raises OverQuota: the owner, the address or the app has too much open, or was too quick.
        :raises TooLarge: the file is longer than is allowed.
        """
        if handler_for(target) not in self._apps[app].handlers:
            raise BadRequest("There is nobody to hand the file to: give signalFinishURL, or on_finish to Incoming.")
        now = self.registry.now()
        upload = Upload(
            app=app,
            dest_type=self._apps[app].destination(dest),
            target=target,
            base_url=base_url,
            secret=secret,
            remove_file_when_finished=remove_file_when_finished,
            max_length=max_length,
            length=length,
            owner=owner,
            client=client,
            filename_from_browser=name,
            metadata=dict(metadata or {}),
            event_id=f"msg_{uuid.uuid4().hex}",
            active_at=now,
            **(terms or Terms()).fields(now),
        )
        self._refuse_other_file(upload, length, "")
        allowance = self._apps[app].allowance
        rates = allowance.rates(upload, by_backend=by_backend)
        created = self.registry.create(upload, quotas=allowance.quotas(upload), rates=rates)
        self.registry.sync()  # in both modes: a page that holds a ticket which nobody knows could not go on
        return created

    def create_part(self, whole_id: str, length: int = 0) -> Upload:
        """A new upload that will be a part of another one; see :meth:`join`.

        :param length: bytes that it will have, as far as that is known.
        :raises UnknownUpload, Cancelled, Expired, AlreadyComplete: that other one takes no more bytes.
        :raises BadRequest: it has too many parts, or is a part itself.
        :raises TooLarge: all its parts together are longer than the ticket, or the app, allows.
        :raises OverQuota: so many bytes are more than may be open.
        """
        whole = self._known(whole_id)
        self._refuse_if_over(whole)
        if whole.state not in OPEN_STATES:
            raise AlreadyComplete
        self._visitor.refuse_opening(whole)
        parts = self.registry.parts_of(whole.id)
        if whole.part_of or len(parts) >= _MOST_PARTS:
            raise BadRequest("This upload can't have one more part.")
        together, limit = length + sum(part.length or part.received for part in parts), self.limit(whole)
        if together > limit:
            raise TooLarge(f"The parts have {together} bytes together; {limit} are allowed.")
        part = Upload(
            app=whole.app,
            owner=whole.owner,
            client=whole.client or self._visitor.client,
            max_length=whole.max_length,
            max_connections=whole.max_connections,
            bound_cookie=whole.bound_cookie,
            bound_network=whole.bound_network,
            part_of=whole.id,
            dest_type=whole.dest_type,
            active_at=self.registry.now(),
        )
        self._refuse_over_quota(part, length)
        return self.registry.create(part)

    def status(self, upload_id: str, app: str | None = None) -> Upload:
        """The upload as it is now, and as may be told to anybody.

        :param app: whose it must be.
        :raises UnknownUpload: there is none, or it is another app's.
        """
        upload = self._known(upload_id, app)
        self._settle()
        return upload

    def standing(self, upload_id: str) -> Upload:
        """As :meth:`status`, of an upload that has not come to a bad end.

        :raises UnknownUpload, Cancelled, Expired, Damaged, Undeliverable: it has.
        """
        upload = self.status(upload_id)
        self._refuse_if_over(upload)
        return upload

    def _known(self, upload_id: str, app: str | None = None) -> Upload:
        return self._admitted(self.registry.get(upload_id) if is_ticket(upload_id) else None, app)

    def _admitted(self, upload: Upload | None, app: str | None = None) -> Upload:
        if upload is None or upload.app not in self._apps or app not in (None, upload.app):
            raise UnknownUpload
        if upload.bound_cookie or upload.bound_network:
            self._visitor.refuse_unbound(upload)
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
        opening: str = "",
    ) -> Session | None:
        """Take an upload over: from now on only the session that this gives can change it.

        :param length: bytes that the file has; ``None`` where this opening does not say.
        :param name: the file's name as the client gave it.
        :param is_creation: whether it is this dialect's way to create an upload.
        :param client_metadata: what else the client says of the file; like the name, what was said first counts.
        :param notes: what the dialect has to remember.
        :param opening: how the client tells its openings apart, ``NAME.NUMBER``: one that was held up on its way, by a
            machine that could not reach the registry, say, does not take the upload from a later one; and one that
            comes twice is one.
        :returns: ``None`` where all bytes are here already and the upload is beyond taking any.
        :raises UnknownUpload, Cancelled, Expired, Damaged, Undeliverable: there is nothing to open any more.
        :raises FileChanged: an earlier opening was for another file.
        :raises TooLarge: the file is longer than the ticket, or the app, allows.
        :raises OverQuota: too much is open already.
        :raises Forbidden, UnsupportedMediaType: the ticket, or the app, does not allow it.
        :raises BadRequest: ``opening`` is malformed.
        :raises Replaced: the same client has opened it since.
        """
        if opening and not _OPENING.fullmatch(opening):
            raise BadRequest("Openings are numbered: NAME.NUMBER.")
        file = _File(length, name, fingerprint, protocol, is_creation, client_metadata or {}, notes or {}, opening)
        claimed = _insist(lambda: self._claim(upload_id, file))
        if claimed is None:
            return None
        storage = self._storage(claimed)
        if not claimed.received:
            storage.create(claimed)
        storage.opened(claimed)
        if self._fsync and not claimed.received:
            storage.sync(claimed)
        self._settle()
        self._remove_if_ended(claimed)
        session = self.lane(claimed)
        try:
            if not claimed.part_of and storage.reads_arriving:
                self._digests.start(claimed)
        except BaseException:
            session.close()
            raise
        return session

    def _claim(self, upload_id: str, file: _File) -> Upload | None:
        upload = self._known(upload_id)
        self._refuse_if_over(upload)
        self._refuse_other_file(upload, file.length, file.fingerprint)
        if upload.state not in OPEN_STATES:
            return None
        last = upload.notes.get(_LAST_OPENING, "")
        if _is_late(file.opening, last):
            raise Replaced
        if file.opening == last != "" and upload.session and upload.state is State.RECEIVING:
            return upload  # a proxy has asked two machines
        self._refuse_by_terms(upload, file.name, file.client_metadata)
        opened = self._opened(upload, State.RECEIVING, file)
        return self.registry.save(upload, opened, quotas=self._quotas(opened))

    def shut_out(self, upload_id: str) -> Upload:
        """End whatever writes to an upload: the offset that this gives stays, until the next opening."""

        def attempt() -> Upload:
            upload = self.status(upload_id)
            if upload.state not in OPEN_STATES or not upload.session:
                return upload
            return self.registry.save(upload, upload.but(epoch=upload.epoch + 1, session=""))

        upload = _insist(attempt)
        self._settle()
        return upload

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
        if upload.state is not State.WAITING or upload.part_of or not bulk:
            return None
        self._refuse_by_terms(upload, file.name, file.client_metadata)
        whole = b"".join(bulk.blocks())
        if self._is_to_be_seen(upload):
            self._look(upload, FirstBytes(whole[:FIRST_BYTES]))
        try:
            claimed = self._claim_whole(upload, whole, file)
        except (FileNotFoundError, FileExistsError):
            claimed = None  # a cancel has removed it, or somebody has died over other bytes
        if claimed is None:
            self._remove_if_ended(upload)
            return None
        self._completing.add(claimed.id)
        self._roll_forward(claimed, self._give_whole_away)
        self._settle()
        return claimed

    def _claim_whole(self, upload: Upload, data: bytes, file: _File) -> Upload | None:
        """Store all bytes, and record that they are here; ``None`` if somebody else was faster."""
        digest = self._digests.of(data)
        with self._storage(upload).keeping_whole(upload.but(length=file.length)) as keep:
            # Within the lock, as a session does: who opens it from now on writes after us, or finds that it is taken.
            if self.registry.get(upload.id) != upload:
                return None
            keep(data)
            claimed = self._opened(
                upload, State.COMPLETING, file, holder=self.registry.holder, sha256=digest or upload.sha256
            )
            return self._save_quietly(upload, claimed, all_came=True)

    def _opened(self, upload: Upload, state: State, file: _File, **changes: object) -> Upload:
        """The upload as an opening makes it."""
        return upload.to(
            state,
            epoch=upload.epoch + 1,
            client=upload.client or self._visitor.client,
            protocol=file.protocol,
            created_with=upload.created_with or (file.protocol if file.is_creation else ""),
            length=upload.length if file.length is None else file.length,
            fingerprint=upload.fingerprint or file.fingerprint,
            filename_from_browser=upload.filename_from_browser or file.name,
            client_metadata=upload.client_metadata or dict(file.client_metadata),
            notes=_notes(upload, file),
            active_at=self.registry.now(),
            **{"session": secrets.token_urlsafe(16), **changes},
        )

    def owned(self, upload_id: str, token: str) -> Upload:
        """The upload, for a lane of the client that opened it last: at a glance, which may be older than others'.

        :raises Replaced: somebody else has opened it since.
        :raises AlreadyComplete, Cancelled, Expired, Damaged, Undeliverable: it takes no more bytes.
        """
        with suppress(IncomingError):  # nothing is refused because of a glance
            upload = self._admitted(self.registry.glance(upload_id) if is_ticket(upload_id) else None)
            refuse_writing(upload, token)
            return upload
        upload = self._known(upload_id)
        refuse_writing(upload, token)
        return upload

    def lane(self, upload: Upload) -> Session:
        """A lane into an upload, for who has just had it from :meth:`owned`, or has opened it.

        :raises IncomingError: the upload has ended meanwhile, or its bytes are gone.
        """
        try:
            writer = self._storage(upload).open(upload)
        except (FileNotFoundError, Damaged) as error:
            refuse_writing(self._known(upload.id), upload.session)
            reason = str(error) if isinstance(error, Damaged) else "The stored bytes of this upload are gone."
            self._move(upload, State.DAMAGED, reason=reason)
            raise Damaged(reason) from None
        # Parts share the connections of their whole: there may be a thousand of them.
        lane = (upload.part_of, "") if upload.part_of else (upload.id, upload.session)
        try:
            limit = min(self.limit(upload), self._room_for(upload))
            self._lanes.enter(lane, upload.max_connections or None)
        except BaseException:
            writer.close()
            raise
        session = Session(
            upload, self.registry, writer, self._arrived, limit, quotas=self._quotas(upload), fsync=self._fsync
        )
        session.closed = lambda: self._lanes.leave(lane)
        session.remember = self._storage(upload).remember
        return session

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
        :raises Cancelled: the file is not welcome, as its first bytes show.
        """
        if upload.state in _HELD_STATES and upload.holder:
            self._take_up(upload)
        if upload.state not in OPEN_STATES or upload.part_of:
            return upload
        if not upload.is_complete:
            raise NotReady("Some bytes of this upload are still missing.")
        if self._is_to_be_seen(upload):
            upload = self._known(upload.id)  # the look may be over since the caller has read it
            if self._is_to_be_seen(upload):
                upload = self._see(upload)
            if upload.state not in OPEN_STATES:
                self._refuse_if_over(upload)
                return upload
        try:
            saved = self.registry.save(upload, upload.to(State.COMPLETING, holder=self.registry.holder))
        except Conflict:
            return self.status(upload.id)
        self._roll_forward_in_background(saved)
        return saved

    def join(
        self,
        upload_id: str,
        part_ids: Sequence[str],
        *,
        name: str = "",
        protocol: str = "incoming",
        client_metadata: Mapping[str, str] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> Upload:
        """Make an upload of its parts, in order; in the background, as :meth:`complete`. Saying it twice does no harm.

        :param part_ids: each made by :meth:`create_part` for this upload, and complete; a part may come more than once.
        :param name: like the rest, as for :meth:`open`.
        :raises BadRequest: something is no part of this upload, or there are none.
        :raises NotReady: bytes of a part are missing.
        :raises AlreadyComplete: it has bytes of its own, or was made of other parts.
        :raises TooLarge: all together they are longer than the ticket, or the app, allows.
        :raises Cancelled: the file is not welcome.
        """
        file = _File(None, name, "", protocol, True, client_metadata or {}, notes or {})
        return _insist(lambda: self._begin_to_join(upload_id, tuple(part_ids), file))

    def _begin_to_join(self, upload_id: str, part_ids: tuple[str, ...], file: _File) -> Upload:
        upload = self._known(upload_id)
        self._refuse_if_over(upload)
        if upload.parts == part_ids and part_ids:
            return upload
        if upload.state not in OPEN_STATES or upload.received or upload.parts:
            raise AlreadyComplete
        length = self._joined_length(upload, part_ids)
        self._refuse_other_file(upload, length, "")
        self._refuse_by_terms(upload, file.name, file.client_metadata)
        is_to_be_seen = self._is_to_be_seen(upload)
        if is_to_be_seen:  # recorded only with the parts: others could be joined in their place
            self._look(upload, self._first_bytes(map(self._known, part_ids)))
        joining = self._opened(
            upload,
            State.JOINING,
            replace(file, length=length),
            session="",
            holder=self.registry.holder,
            parts=part_ids,
            was_seen=is_to_be_seen or upload.was_seen,
        )
        saved = self.registry.save(upload, joining)
        self._settle()
        self._storage(saved).remember(saved)
        self._roll_forward_in_background(saved)
        return saved

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

    def renew(self, upload_id: str, expires_in: float | None, app: str | None = None) -> Upload:
        """Give an upload that owes bytes more time: its idle time begins anew.

        :param expires_in: seconds from now after which its ticket ends; ``None`` leaves that as it is.
        :raises UnknownUpload, Cancelled, Expired, Damaged, Undeliverable: there is nothing to renew.
        :raises AlreadyComplete: it needs none.
        """

        def attempt() -> Upload:
            upload = self.status(upload_id, app)
            self._refuse_if_over(upload)
            if upload.state not in OPEN_STATES:
                raise AlreadyComplete
            now = self.registry.now()
            expires_at = upload.expires_at if expires_in is None else now + checked_life(expires_in)
            return self.registry.save(upload, upload.but(active_at=now, expires_at=expires_at))

        renewed = _insist(attempt)
        self._settle()
        return renewed

    def done(self, upload_id: str, app: str | None = None) -> Upload:
        """The app has the file (``finish_upload``); may come before its own ``wait`` is heard, and more than once.

        :raises NotReady: the file is not being handed over.
        """

        def attempt() -> Upload:
            upload = self.status(upload_id, app)
            if upload.state is State.FINISHED:
                return upload
            if State.FINISHED not in _moves(upload):
                raise NotReady
            return self._finish(upload, self.registry.due(upload.id))

        return _insist(attempt)

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

    def sweep(self, *, expire: bool = True) -> bool:
        """Expire what is idle, go on with what was left in the middle, forget what is long closed.

        Idempotent, for any process at any time; nothing is ever deleted that is not closed.

        :param expire: whether this process has been there for clients long enough to say that they are idle.
        :returns: whether there is more to do: it ends after a while, so that others get to work, too.
        """
        now = self.registry.now()
        left = (upload for upload in self.registry.find_complete() if upload.active_at <= now - _GRACE)
        self._each(left, self.complete)
        self._each(self.registry.find(_HELD_STATES), self._take_up)
        find, until = self.registry.find, time.monotonic() + _SWEEP_SLICE
        over = functools.partial(self.registry.find_expired, now)
        more = self._work_off(over, lambda one: self._end(one, now), until)
        for app in self._apps:
            if expire:
                idle = functools.partial(find, OPEN_STATES, idle_since=now - self._patience.idle, app=app)
                more |= self._work_off(idle, lambda one: self._expire(one, now - self._patience.idle), until)
            closed = functools.partial(find, CLOSED_STATES, idle_since=now - _TOMBSTONE, app=app)
            more |= self._work_off(closed, self._bury, until)
        self._digests.prune()
        if time.monotonic() - self._orphans_sought_at >= _ORPHAN_INTERVAL:
            self._orphans_sought_at = time.monotonic()
            self.quarantine_orphans()
        return more

    def _work_off(
        self, find: Callable[..., list[Upload]], step: Callable[[Upload], Upload | None], until: float
    ) -> bool:
        """Take what is found, some at a time, until a time of the monotonic clock; says whether there may be more.

        :param step: what is to be done with each; gives those that have ended by it, whose bytes are to go.
        """
        seen: set[str] = set()
        most = _SLICE
        while time.monotonic() < until:
            listed = find(limit=most)
            found = [upload for upload in listed if upload.id not in seen]
            if not found and len(listed) < most:
                return False
            if not found:
                most += _SLICE  # those that are listed first live on
                continue
            seen.update(upload.id for upload in found)
            ended = self._each(found, step)
            if ended:
                self.registry.sync()  # once for all of them
                self._each(ended, self._clear_away)
                self._outbox.wake()
        return True

    def _each(self, uploads: Iterable[Upload], work: Callable[[Upload], Upload | None]) -> list[Upload]:
        """Do something for those uploads that are ours; trouble with one must not keep it from the others.

        :returns: what that has given.
        """
        given = []
        for upload in uploads:
            if upload.app not in self._apps:
                continue
            time.sleep(0)  # on an event loop: others first
            try:
                result = work(upload)
                given += [] if result is None else [result]
            except (IncomingError, OSError) as error:
                log.warning("upload %s could not be cleaned up; trying again: %s", shortened(upload.id), error)
        return given

    def quarantine_orphans(self) -> None:
        """Put aside what has lain in a storage for a day and belongs to no upload; nothing is deleted.

        Only what was still arriving: a complete file without a record is one that the app wanted to keep.
        """
        for storage in self._storages:
            for upload_id in storage.arriving_since(_ORPHAN_AGE):
                if self.registry.get(upload_id) is None:
                    log.warning("nobody knows the upload %s; its bytes are put aside", shortened(upload_id))
                    with suppress(FileNotFoundError):
                        storage.quarantine(upload_id)

    def find(self, app: str | None = None) -> list[Upload]:
        """All uploads that are known (for an operator), the longest idle first."""
        return self.registry.find(set(State), app=app, limit=100_000)

    def recover(self) -> Iterator[tuple[Upload, bool]]:
        """Make the records anew of uploads that lie in the storages, where the registry has lost them.

        What it knows stays as it is, so this may be done at any time, and again. Files that wait for the app are handed
        over, by whichever process serves it, with the event id that they had; bytes that were arriving are there for
        the next opening. Tickets of which nothing had come are lost.

        :returns: each upload that lies there, and whether its record was made anew.
        :raises Unavailable: somebody else is at it, or a storage can't be read.
        """
        with self.registry.alone("recover") as alone:
            if not alone:
                raise Unavailable("Somebody else recovers uploads at the moment.")
            for app in self._apps.values():
                loss = self.registry.lost(app.name)
                yield from self._restore(app, lambda _: False)
                if loss is not None:
                    self.registry.regained(app.name, loss.era)

    def _restore(self, app: App, is_known: Callable[[str], bool]) -> Iterator[tuple[Upload, bool]]:
        """Each as soon as it is found: somebody waits for it."""
        for name, storage in app.all_storages.items():
            for upload in _joining_last(storage.remembered(is_known)):
                if upload.app == app.name:
                    found = upload.but(dest_type=name, active_at=self.registry.now()).under(self.registry.boot_id)
                    if found.state is State.COMPLETING and not found.is_complete:
                        found = found.but(state=State.RECEIVING)  # some are in doubt: its client sends them again
                    is_anew = self.registry.restore(found)
                    if is_anew:
                        log.warning("the upload %s was lost, and is known again", shortened(upload.id))
                    yield found, is_anew

    def _regain(self, app: App) -> None:
        """Where the registry has begun anew: what an operator's ``recover`` would do.

        At once, so that uploads go on; and once more a little later, for what was just being stored. Until then nobody
        is told that there is no such upload.
        """
        loss = self.registry.lost(app.name)
        if loss is None:
            return
        try:
            found = [upload for upload, is_anew in self._restore(app, self.registry.has) if is_anew]
            self.registry.sync()
            if loss.seconds >= _SETTLED:
                self.registry.regained(app.name, loss.era)
        except (IncomingError, OSError) as error:
            log.warning("lost uploads of %s can't be sought now; trying again: %s", app.name, error)
        else:
            if found:
                log.warning("the registry was emptied; %d uploads of %s are known again", len(found), app.name)

    def _keep(self) -> None:
        while not self._stopped.is_set():
            more = False
            self._called.clear()
            for storage in self._storages:
                storage.tidy()
            try:
                with nullcontext(False) if self._resting.is_set() else self.registry.alone("sweep") as alone:
                    if alone:
                        for app in self._apps.values():
                            self._regain(app)
                        more = self.sweep(expire=self._was_there_for_clients)
                        self.registry.maintain()
            except IncomingError as error:
                log.warning("the sweep is put off: %s", error.__cause__ or error)
            except Exception:
                log.exception("the sweep failed; trying again")
            interval = _SWEEP_PAUSE if more else _SWEEP_INTERVAL
            self._called.wait(interval * random.uniform(0.8, 1.2))

    @property
    def _was_there_for_clients(self) -> bool:
        """Whether this process has run for a while: a server that was down must not take its absence for theirs."""
        return time.monotonic() - self._made_at >= min(_COMEBACK, self._patience.idle)

    def _expire(self, found: Upload, idle_since: float) -> Upload | None:
        with suppress(UnknownUpload, TooLate):  # it has come to life, or to its end
            upload = self._known(found.id)
            if upload.is_complete_by_length and not upload.part_of:
                return None
            if self._family_active_at(upload) <= idle_since:
                return self._record_end(upload, State.EXPIRED, "Nothing arrived for a long time.")
        return None

    def _end(self, found: Upload, now: float) -> Upload | None:
        """Its ticket has run out, however busy it is."""
        with suppress(UnknownUpload, TooLate):
            upload = self._known(found.id)
            if upload.expires_at <= now and not upload.is_complete_by_length:
                return self._record_end(upload, State.EXPIRED, _TIME_IS_OVER, if_idle=False)
        return None

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
            else:
                self._storage(upload).release(upload)
            self.registry.forget(upload.id)

    def _take_up(self, upload: Upload) -> None:
        """Go on with an upload that is being joined, or completed, by nobody."""
        if upload.id not in self._completing and not self._is_being_completed(upload):
            saved = self._save_quietly(upload, upload.but(holder=self.registry.holder))
            if saved is not None:
                self._roll_forward_in_background(saved)

    def _is_being_completed(self, upload: Upload) -> bool:
        return bool(upload.holder) and upload.holder != self.registry.holder and self.registry.is_alive(upload.holder)

    # -- from the last byte to the app ----------------------------------------------------------------------

    def _roll_forward_in_background(self, upload: Upload) -> None:
        self._completing.add(upload.id)
        step = self._join if upload.state is State.JOINING else self._hand_over
        self._completions.do(self._roll_forward, upload, step)

    def _roll_forward(self, upload: Upload, step: Callable[[Upload], None]) -> None:
        try:
            self._take_step(upload, step)
        except IncomingError as error:
            log.warning("upload %s can't be completed yet: %s", shortened(upload.id), error)
            self._give_back(upload)
        except Conflict:
            log.info("upload %s moved on while it was completed", shortened(upload.id))
            self._give_back(upload)
        finally:
            self._completing.discard(upload.id)

    def _take_step(self, upload: Upload, step: Callable[[Upload], None]) -> None:
        try:
            step(upload)
        except SyncFailed as error:
            self._take_back(upload, str(error), start_anew=bool(error.facts.get("start_anew")))
        except (Damaged, EOFError, FileNotFoundError) as error:
            self._give_up_as_damaged(upload, error)

    def _give_back(self, upload: Upload) -> None:
        """The next sweep tries again, anybody's: but nobody takes an upload from a process that lives."""
        while not self._stopped.is_set():
            try:
                if self._save_quietly(upload, upload.but(holder="")) is None:
                    self._know_again(upload)
            except IncomingError:
                self._stopped.wait(_GIVING_BACK)
            else:
                return

    def _know_again(self, upload: Upload) -> None:
        """Where a registry was emptied while we completed an upload: that it is complete, nobody else may know."""
        current = self.registry.get(upload.id)
        if current is None:
            self.registry.create(upload.but(version=0, session="", holder=""))
        elif current.is_to_be_reopened and current.taken_back == upload.taken_back and upload.state is State.COMPLETING:
            self._storage(upload).sync(upload)
            about = {"length": upload.length, "protocol": upload.protocol, "notes": upload.notes}
            self._save_quietly(current, current.to(State.COMPLETING, **about), all_came=True)

    def _join(self, upload: Upload) -> None:
        """Only when all is on the disk, and recorded so, do the parts go."""
        parts = {part.id: part for part in self.registry.parts_of(upload.id)}
        if not parts.keys() >= set(upload.parts):
            raise Damaged("A part of this upload is gone.")
        self._storage(upload).join(upload, [parts[part_id] for part_id in upload.parts])
        joined = self.registry.save(upload, upload.to(State.COMPLETING), all_came=True)
        self.registry.sync()
        self._storage(joined).remember(joined)
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
        storage.remember(upload)
        if not upload.length and storage.locate(upload) is None:
            storage.create(upload)  # who opened it may have died before; without a byte, nothing can be lost
        location = None if storage.reads_arriving else storage.complete(upload)
        if storage.is_remote:
            digest = self._digests.read_back(upload, storage.hashed(upload))
        else:
            digest = self._digests.finish(upload)
        self._refuse_other_bytes(upload, digest)
        self._refuse_broken_promise(upload, digest)
        storage.sync(upload)
        upload = self._move(upload, State.COMPLETING, sha256=digest or upload.sha256, synced=upload.extents)
        self.registry.sync()
        self._give_away(upload, location)
        storage.clear(upload)  # the app is told meanwhile

    def _give_whole_away(self, upload: Upload) -> None:
        self._storage(upload).remember(upload)
        self._give_away(upload)

    def _give_away(self, upload: Upload, location: str | None = None) -> None:
        """What is on the disk, as the records say, goes to its place, if it is not there, and into the outbox."""
        location = location or self._storage(upload).complete(upload)
        after = upload.to(State.HANDING_OVER, holder="", location=location, active_at=self.registry.now())
        with self._outbox.at_once(self._delivery(after, "finished")) as row:
            self.registry.save(upload, after, enqueue=row)
            self.registry.sync()

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
                current = self.registry.save(current, current.but(synced=NOTHING))
            # What comes again may be other bytes than those that were looked at.
            fresh = {"session": "", "holder": "", "sha256": "", "was_seen": False}
            after = current.to(State.RECEIVING, epoch=current.epoch + 1, **fresh)
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

    def _refuse_broken_promise(self, upload: Upload, digest: str) -> None:
        """:raises Damaged: the file is not what the client has said that it would be."""
        known = {"sha256": digest} if digest else {}
        for algorithm, promised in upload.promised.items():
            if (known.get(algorithm) or self._digest_by_reading(upload, algorithm)) != promised:
                raise Damaged(f"What has arrived does not have the {algorithm} that the client has promised.")

    def _digest_by_reading(self, upload: Upload, algorithm: str) -> str:
        try:
            with self.read(upload) as file:
                if self._storage(upload).is_remote:
                    digest = ALGORITHMS[algorithm]()
                    update_from(file, upload.length or 0, digest)
                    return digest.digest().hex()
                return offload.run(hash_of, file, upload.length or 0, algorithm)
        except FileNotFoundError:
            if upload.length:
                raise
            return hash_of(io.BytesIO(), 0, algorithm)

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
        self.registry.save(upload, upload.but(boot_id=self.registry.boot_id))
        return True

    def _answered(self, delivery: Delivery, outcome: Outcome) -> None:
        """Record what came of an attempt."""
        about = f"{outcome.word}: {outcome.error}" if outcome.error else outcome.word
        events.tell(
            "handed_over",
            "hand-over of %s (%s): %s",
            shortened(delivery.upload_id),
            delivery.kind,
            about,
            upload=shortened(delivery.upload_id),
            reason=outcome.error,
            answer=outcome.word,
        )
        upload = self.registry.get(delivery.upload_id)
        if upload is None or upload.state is State.DAMAGED:
            return
        if upload.state in _HELD_STATES | OPEN_STATES:
            return  # its record was lost and made anew: the app is told again, under the same event id
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
        if upload.remove_file_when_finished and self._storage(upload).locate(upload) is not None:
            self.registry.sync()
            self._storage(upload).remove(upload)
        else:
            self._settle()
            self._storage(upload).release(upload)
        return saved

    def _give_up(self, upload: Upload, state: State, reason: str) -> Upload:
        ended = self._record_end(upload, state, reason)
        if ended is None:
            return self.status(upload.id)
        self.registry.sync()
        self._clear_away(ended)
        self._outbox.wake()
        return ended

    def _clear_away(self, upload: Upload) -> None:
        """Delete the bytes of what has ended, once that is recorded for good."""
        self._storage(upload).remove(upload)
        self._remove_parts(upload)

    def _record_end(self, upload: Upload, state: State, reason: str, *, if_idle: bool = True) -> Upload | None:
        """:param if_idle: whether one that expires may live on if bytes are just coming.
        :returns: the upload as it has ended now; ``None`` where it had ended, or lives on.
        """
        if state is State.EXPIRED and if_idle:
            try:
                return self._record_this_end(upload, state, reason, if_nothing_came=True)
            except Conflict:
                return None  # it has come to life
        return _insist(lambda: self._record_this_end(self.status(upload.id), state, reason))

    def _record_this_end(
        self, upload: Upload, state: State, reason: str, *, if_nothing_came: bool = False
    ) -> Upload | None:
        if upload.state in (State.CANCELLED, State.EXPIRED):
            return None
        if state not in _moves(upload):
            raise TooLate
        after = upload.to(state, reason=reason, active_at=self.registry.now())
        kind = "cancelled" if state is State.CANCELLED else "expired"
        row = self._delivery(after, kind) if not after.part_of else None
        saved = self.registry.save(upload, after, enqueue=row, if_nothing_came=if_nothing_came)
        self._digests.drop(upload.id)
        return saved

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
        self.registry.save(current, current.but(moved_to=target))
        self.registry.sync()

    # -- helpers --------------------------------------------------------------------------------------------

    @property
    def _storages(self) -> Iterable[Storage]:
        """All of them, each once."""
        storages = [storage for app in self._apps.values() for storage in app.all_storages.values()]
        return {id(storage): storage for storage in storages}.values()

    def _storage(self, upload: Upload) -> Storage:
        return self._apps[upload.app].storage_of(upload)

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

    def _arrived(self, upload: Upload) -> None:
        """More of an upload is safe.

        :raises Cancelled: its first bytes show that it is not welcome.
        """
        is_much = upload.offset >= FIRST_BYTES or upload.is_complete
        if is_much and upload.id not in self._looking and self._is_to_be_seen(upload):
            self._see(upload)
        if self._storage(upload).reads_arriving:
            self._digests.advance(upload)
        if not self._fsync:
            self._watermarks.advance(upload)

    # -- first look -----------------------------------------------------------------------------------------

    def _is_to_be_seen(self, upload: Upload) -> bool:
        if upload.was_seen or upload.part_of or upload.state not in OPEN_STATES:
            return False
        return bool(upload.accept) or self._apps[upload.app].on_first_bytes is not None

    def _see(self, upload: Upload) -> Upload:
        """Show the first bytes that have arrived to the app, and remember that they were welcome.

        :raises Cancelled: they are not; the upload is given up.
        :raises Unavailable: the app has failed over them; nothing is decided.
        :raises SyncFailed: nobody knows which bytes count; they have to be sent again.
        """
        self._looking.add(upload.id)
        try:
            head = self._first_bytes([upload])
            if head is None:
                return upload
            self._look(upload, head)
            return self.registry.save(upload, upload.but(was_seen=True))
        except Conflict:
            return self._known(upload.id)  # somebody has moved it; whoever completes it looks again
        finally:
            self._looking.discard(upload.id)

    def _look(self, upload: Upload, head: FirstBytes | None) -> None:
        """As :meth:`_see`, of bytes that are not the upload's yet: that they are welcome is not remembered."""
        refusal = self._refusal_of(upload, head) if head is not None else None
        if refusal:
            self._give_up(upload, State.CANCELLED, refusal)
            raise Cancelled(refusal)

    def _refusal_of(self, upload: Upload, head: FirstBytes) -> str | None:
        if upload.accept and is_of_other_kind(upload.accept, head):
            return f"This file is {head.media_type}. Only these kinds may be uploaded here: {upload.accept}"
        on_first_bytes = self._apps[upload.app].on_first_bytes
        try:
            return on_first_bytes(upload, head) if on_first_bytes is not None else None
        except Exception as error:
            log.exception("on_first_bytes has failed over upload %s", shortened(upload.id))
            raise Unavailable("The app can't look at this file at the moment.", retry_after=5) from error

    def _first_bytes(self, uploads: Iterable[Upload]) -> FirstBytes | None:
        """Of one upload, or of several that will be one; ``None`` where they are gone: who completes it finds that.

        :raises SyncFailed: nobody knows which bytes count; they have to be sent again.
        """
        head = b""
        for upload in uploads:
            missing = min(FIRST_BYTES - len(head), upload.offset)
            try:
                head += self._storage(upload).first_bytes(upload, missing) if missing else b""
            except (FileNotFoundError, Damaged):
                return None
            except SyncFailed as error:
                self._take_back(upload, str(error), start_anew=bool(error.facts.get("start_anew")))
                raise
        return FirstBytes(head)

    def _remove_if_ended(self, upload: Upload) -> None:
        """A cancel that came between our opening and the making of the file has not seen the file."""
        current = self._known(upload.id)
        if current.state in (State.CANCELLED, State.EXPIRED):
            self._storage(upload).remove(upload)
            self._refuse_if_over(current)

    def _refuse_if_over(self, upload: Upload) -> None:
        error = ENDS.get(upload.state)
        if error is not None:
            raise error(upload.public_reason)
        if upload.expires_at and upload.state in OPEN_STATES and upload.expires_at <= self.registry.now():
            raise Expired(_TIME_IS_OVER)

    def _refuse_by_terms(self, upload: Upload, name: str, client_metadata: Mapping[str, str]) -> None:
        """:raises UnsupportedMediaType: the ticket is for files of other kinds.
        :raises Forbidden: the app does not let this visitor open the upload.
        """
        known = upload.filename_from_browser or name
        declared = (upload.client_metadata or client_metadata).get("filetype", "")
        if upload.accept and not accept_of(upload.accept).fits(known, declared):
            raise UnsupportedMediaType(f"Only files of these kinds may be uploaded here: {upload.accept}")
        if not upload.part_of:
            self._visitor.refuse_opening(upload)

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

    def _quotas(self, upload: Upload) -> tuple[Quota, ...]:
        return self._apps[upload.app].allowance.quotas(upload)

    def _refuse_over_quota(self, upload: Upload, length: int) -> None:
        """:raises OverQuota: ``length`` bytes, that will come soon, are too many."""
        for quota in self._quotas(upload):
            if quota.bytes:
                quota.refuse_growth(self.registry.usage(quota), Use(0, 0), Use(0, length))

    def _room_for(self, upload: Upload) -> float:
        """Bytes that an upload of unknown length may have, by what else is open now."""
        if upload.length is not None:
            return float("inf")
        quotas = [quota for quota in self._quotas(upload) if quota.bytes]
        used = [self.registry.usage(quota).bytes for quota in quotas]
        room = [quota.bytes - bytes_ for quota, bytes_ in zip(quotas, used, strict=True)]
        return upload.received + max(0, min(room)) if room else float("inf")

    def limit(self, upload: Upload) -> int:
        """Bytes that an upload may have at most."""
        limits = (upload.max_length, self._apps[upload.app].max_length)
        return min(limit for limit in limits if limit is not None)

    def expires_in(self, upload: Upload) -> float:
        """Seconds until an upload that owes bytes is given up, if nothing happens to it."""
        ends_at = upload.active_at + self._patience.idle
        return max(0.0, min(ends_at, upload.expires_at or ends_at) - self.registry.now())


def _tell_of_move(before: Upload | None, after: Upload) -> None:
    is_small = before is not None and (before.state, before.epoch) == (after.state, after.epoch)
    if is_small or not events.is_wanted():
        return
    name = shortened(after.id)
    about: dict[str, Any] = {"upload": name, "owner": after.owner, "reason": after.reason, "state": after.state.value}
    if before is None:
        events.tell("created", "upload %s was created", name, **about)
        return
    reason = f": {after.reason}" if after.reason else ""
    events.tell(
        "moved",
        "upload %s: %s → %s (%s, %d of %s bytes)%s",
        name,
        before.state.value,
        after.state.value,
        after.protocol,
        after.received,
        "?" if after.length is None else after.length,
        reason,
        **about,
    )


#: States that a process holds an upload in while it works on it.
_HELD_STATES = frozenset({State.JOINING, State.COMPLETING})


def _notes(upload: Upload, file: _File) -> dict[str, str]:
    """What an upload has from its first opening, and the name of the last one."""
    first = {name: value for name, value in upload.notes.items() if name != _LAST_OPENING} or dict(file.notes)
    return {**first, _LAST_OPENING: file.opening} if file.opening else first


def _is_late(opening: str, last: str) -> bool:
    """Whether one client has made the second opening after the first."""
    (client, _, number), (last_client, _, last_number) = opening.partition("."), last.partition(".")
    return bool(opening) and client == last_client and int(number) < int(last_number)


def _joining_last(uploads: Iterable[Upload]) -> Iterator[Upload]:
    """Whoever joins an upload needs its parts."""
    joining = []
    for upload in uploads:
        if upload.state is State.JOINING:
            joining.append(upload)
        else:
            yield upload
    yield from joining


def _moves(upload: Upload) -> frozenset[State]:
    return MOVES[upload.state]


def _insist(attempt: Callable[[], T]) -> T:
    """What an attempt gives; it is made again while somebody else moves the same upload.

    :raises Unavailable: there is no end of that.
    """
    for _ in range(_CONFLICTS):
        with suppress(Conflict):
            return attempt()
    raise Unavailable("This upload is changing too fast.", retry_after=1)
