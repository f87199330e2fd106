"""The upload record and its life: states, and the one table of moves between them."""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from .extents import Extents
from .filenames import safe_filename


class State(str, Enum):
    WAITING = "waiting"  # a ticket; no byte yet
    RECEIVING = "receiving"
    PAUSED = "paused"
    JOINING = "joining"  # its bytes came as uploads of their own, its parts; being put together
    COMPLETING = "completing"  # all bytes are here; being synced, hashed, renamed
    HANDING_OVER = "handing_over"
    WAITING_FOR_APP = "waiting_for_app"  # the app answered `wait`
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DAMAGED = "damaged"  # stored bytes do not match the record; kept for the operator
    UNDELIVERABLE = "undeliverable"  # nobody took the file; kept for the operator


#: Rule 1: every move of an upload from state to state stands here, and only here.
MOVES: Mapping[State, frozenset[State]] = {
    # Straight to completing: a small file that came in one piece.
    State.WAITING: frozenset({State.RECEIVING, State.JOINING, State.COMPLETING, State.CANCELLED, State.EXPIRED}),
    State.RECEIVING: frozenset(
        {State.RECEIVING, State.PAUSED, State.JOINING, State.COMPLETING}
        | {State.CANCELLED, State.EXPIRED, State.DAMAGED}
    ),
    State.PAUSED: frozenset(
        {State.RECEIVING, State.JOINING, State.COMPLETING, State.CANCELLED, State.EXPIRED, State.DAMAGED}
    ),
    State.JOINING: frozenset({State.COMPLETING, State.DAMAGED}),
    # Back to receiving: the power, or the disk, failed before all was synced, and bytes are owed again.
    State.COMPLETING: frozenset({State.COMPLETING, State.HANDING_OVER, State.RECEIVING, State.DAMAGED}),
    State.HANDING_OVER: frozenset({State.WAITING_FOR_APP, State.FINISHED, State.UNDELIVERABLE, State.DAMAGED}),
    State.WAITING_FOR_APP: frozenset({State.HANDING_OVER, State.FINISHED, State.UNDELIVERABLE}),
    State.UNDELIVERABLE: frozenset({State.HANDING_OVER, State.FINISHED}),
    State.FINISHED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
    State.DAMAGED: frozenset(),
}

#: Bytes are still owed: the states in which an upload can be opened, paused, cancelled and can expire.
OPEN_STATES = frozenset({State.WAITING, State.RECEIVING, State.PAUSED})

#: Nothing more will happen; the record is a tombstone for those who ask again.
CLOSED_STATES = frozenset({State.FINISHED, State.CANCELLED, State.EXPIRED})

#: Dialects in which the last byte completes an upload. In the others the client has to say so.
ENDING_BY_LENGTH = frozenset({"incoming", "tus"})

#: What the names of notes begin with that hold such a digest.
PROMISE = "digest-"

_PHASES = {
    State.WAITING: "uploading",
    State.RECEIVING: "uploading",
    State.PAUSED: "uploading",
    State.JOINING: "processing",
    State.COMPLETING: "processing",
    State.HANDING_OVER: "processing",
    State.WAITING_FOR_APP: "processing",
    State.FINISHED: "finished",
    State.CANCELLED: "cancelled",
    State.EXPIRED: "cancelled",
    State.DAMAGED: "failed",
    State.UNDELIVERABLE: "failed",
}

#: No byte at all.
NOTHING = Extents()

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_ticket(text: str) -> bool:
    """Whether ``text`` has the form of a ticket; only such text ever reaches a registry or a file system."""
    return _ID.fullmatch(text) is not None


def new_ticket() -> str:
    """128 random bits, written as a UUID as 0.1 back ends expect.

    ``uuid4`` would fix six of the bits.
    """
    return str(uuid.UUID(bytes=secrets.token_bytes(16)))


def shortened(ticket: str) -> str:
    """A ticket as it may stand in a log: enough to find it, too little to use it."""
    return ticket[:8] + "…"


class ForbiddenMove(Exception):
    """An upload was asked to make a move that :data:`MOVES` does not have."""

    def __init__(self, upload: Upload, to: State) -> None:
        super().__init__(f"upload {shortened(upload.id)} can't go from {upload.state.value} to {to.value}")
        self.upload = upload
        self.to = to


@dataclass(frozen=True)
class Upload:
    """One file on its way in. A value: it changes by :meth:`to`, and a registry saves the change.

    Positions, lengths and limits are bytes. ``created_at`` is seconds since 1970, ``active_at`` seconds of the
    registry's own clock (:meth:`~incoming_wsgi.registry.Registry.now`).
    """

    id: str = field(default_factory=new_ticket)
    state: State = State.WAITING
    version: int = 0  # risen by the registry with every saved change, so that others can wait for one
    app: str = ""  # whose upload it is; a stand-alone server serves several apps
    owner: str = ""  # a label that the app gives to whoever uploads
    client: str = ""  # the address, or network, of whoever has opened it first: it counts for them
    created_with: str = ""  # the dialect that a client has created it by; empty where the app has
    protocol: str = "incoming"  # the dialect of the last opening
    created_at: float = field(default_factory=time.time)
    active_at: float = field(default_factory=time.time)  # last opening or arrival

    epoch: int = 0  # raised by each opening; a writer with an older one can change nothing
    session: str = ""  # the opening's random token: its lanes repeat it; no two openings share one

    accept: str = ""  # kinds of files that may come; empty for any
    expires_at: float = 0.0  # by the registry's clock, whatever happens until then; 0 for never
    max_connections: int = 0  # that may bring its bytes at the same time; 0 for what the server allows
    bound_cookie: str = ""  # NAME=SHA-256 of the value that a browser has to send
    bound_network: str = ""  # addresses that it may be opened from
    was_seen: bool = False  # its first bytes have been looked at, and found to be welcome

    length: int | None = None
    max_length: int | None = None
    extents: Extents = NOTHING
    synced: Extents = NOTHING  # of the extents, those that a power cut can't take
    boot_id: str = ""  # the boot of the machine under which the other extents were recorded
    taken_back: int = 0  # times that bytes were lost by a disk, and are owed again
    fingerprint: str = ""  # what the front end took of the file, to notice a changed one
    filename_from_browser: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)  # from the app
    client_metadata: Mapping[str, str] = field(default_factory=dict)  # from the client: data from a stranger
    notes: Mapping[str, str] = field(default_factory=dict)  # what a dialect has to remember of its requests

    part_of: str = ""  # the upload that this one is a part of; it is joined, never handed over by itself
    parts: tuple[str, ...] = ()  # the uploads that this one is joined from, in order

    target: str = ""  # hand-over: "" is the callable, "/…" a path of the wrapped app, else an http(s) URL
    base_url: str = ""  # scheme, host and script name that a hand-over into the wrapped app bears
    secret: str = ""
    remove_file_when_finished: bool = True
    dest_type: str = "file"

    holder: str = ""  # the process that completes it
    event_id: str = ""  # the same for every attempt to hand it over
    sha256: str = ""
    location: str = ""  # where the complete file is
    moved_to: str = ""  # where the app's move_to is taking it
    reason: str = ""  # why it was cancelled, expired, damaged or undeliverable

    def to(self, state: State, **changes: Any) -> Upload:
        """This upload after a move.

        :raises ForbiddenMove: when :data:`MOVES` does not allow it.
        """
        if state not in MOVES[self.state]:
            raise ForbiddenMove(self, state)
        return self.but(state=state, **changes)

    def but(self, **changes: Any) -> Upload:
        """This upload with other values in some fields: as :func:`dataclasses.replace`, in a tenth of its time.

        :raises TypeError: there is no such field.
        """
        if not changes.keys() <= _FIELDS:
            raise TypeError(f"an upload has no {', '.join(sorted(changes.keys() - _FIELDS))}")
        changed = object.__new__(Upload)
        changed.__dict__.update(self.__dict__)
        changed.__dict__.update(changes)
        return changed

    def under(self, boot_id: str) -> Upload:
        """This upload as it can be trusted under that boot of the machine: under another one only what was synced.

        After a power cut a file can have the right size and be full of zeros.
        """
        return self if boot_id == self.boot_id else self.but(extents=self.synced, was_seen=False)

    @property
    def phase(self) -> str:
        """The state as a person sees it: uploading, processing, finished, cancelled or failed."""
        return _PHASES[self.state]

    @property
    def public_reason(self) -> str:
        """The reason where somebody gave one; what went wrong inside is for the operator, and may name a path."""
        return self.reason if self.phase == "cancelled" else ""

    @property
    def is_to_be_reopened(self) -> bool:
        """Whether bytes were taken back, or its record made anew, and nobody has opened it since: what its senders know
        of it is wrong.
        """
        is_anew = self.version == 0 and self.state is not State.WAITING
        return bool(self.taken_back or is_anew) and not self.session and self.state in OPEN_STATES

    @property
    def offset(self) -> int:
        return self.extents.offset

    @property
    def received(self) -> int:
        return self.extents.received

    @property
    def is_complete(self) -> bool:
        """Whether every byte has arrived."""
        return self.extents.complete(self.length)

    @property
    def is_complete_by_length(self) -> bool:
        """Whether every byte has arrived, and nobody has to say so: the dialect it came in has no word for the end."""
        return self.is_complete and self.protocol in ENDING_BY_LENGTH

    @property
    def promised(self) -> Mapping[str, str]:
        """Digests in hex that the client has promised of the whole file, by algorithm: notes, with a prefix."""
        return {name.removeprefix(PROMISE): value for name, value in self.notes.items() if name.startswith(PROMISE)}

    @property
    def filename(self) -> str:
        """The browser's file name made safe to use as the name of a file: data from a stranger, tamed."""
        return safe_filename(self.filename_from_browser)


_FIELDS = frozenset(each.name for each in fields(Upload))
