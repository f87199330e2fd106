"""What the dialects of HTTP have in common: how the bytes of a request get into an upload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from webob import Request, Response

from .errors import DigestMismatch, IncomingError, Replaced
from .receiver import Receiver
from .session import Session
from .upload import Upload
from .wire.bulk import Bulk
from .wire.checksums import Expectation
from .wire.headers import query_of

_WAIT_FOR_END = 2.0  # seconds that the answer to the last byte waits for the app
_MOST_GAPS = 64


class Body(Protocol):
    """The bytes of a request; how they come from the server is not the protocol's business."""

    length: int | None
    """``None`` where the request does not say it: then :attr:`was_cut` is known at the end only."""

    def read(self, *, splice: bool = False) -> Bulk:
        """The next bytes, to be used before the next call; none at the end, or if none come for a while.

        :param splice: whether they may come in a pipe.
        :raises TooSlow: they do not come, or too slowly.
        """

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""

    @property
    def was_cut(self) -> bool:
        """Whether it ended before its end: the client vanished, or the server had to stop listening."""


@dataclass(frozen=True)
class Door:
    """What the server side of a request can do and dictates.

    :ivar chunk_size: bytes of a chunk of our own dialect, at most.
    :ivar lanes: chunks of one client that may be on their way at the same time.
    :ivar websocket: whether a WebSocket may be tried here.
    :ivar max_length: bytes of the longest file that is taken.
    :ivar body: the request's body; ``None`` where the request does not say where it ends.
    :ivar poll: waits as :meth:`Receiver.wait` does, but not where that would hold up a server's other requests.
    :ivar location: the absolute URL of an upload, as the client of this request has to write it.
    :ivar admit: which upload a request that creates one is for, by its ticket (the first argument, or where the request
        has it) or by the app's decision (it is given the second, the client's metadata). Raises what stands against it.
    :ivar interrupt: end other requests of this process that bring bytes for an upload, and let them record these.
    :ivar trailers: the fields that have followed the body, by their names in small letters, once it has been read;
        ``None`` where the server loses them.
    :ivar interim: send an interim response 104 with these headers, where that is possible and wished.
    """

    chunk_size: int
    lanes: int
    websocket: bool
    max_length: int
    body: Body | None
    poll: Callable[[str, Callable[[Upload], bool], float], Upload]
    location: Callable[[str], str]
    admit: Callable[[str, Mapping[str, str]], Upload]
    interrupt: Callable[[str], None]
    trailers: Callable[[], Mapping[str, str]] | None = None
    interim: Callable[[Mapping[str, str]], None] = lambda _: None


class Dialect(Protocol):
    """A module that speaks one: what the browser's door asks of it."""

    @property
    def METHODS(self) -> Sequence[str]:  # noqa: N802 (a module's constant)
        """What it takes at the address of an upload."""

    @property
    def REQUEST_HEADERS(self) -> Sequence[str]:  # noqa: N802
        """What pages of other origins may send."""

    @property
    def RESPONSE_HEADERS(self) -> Sequence[str]:  # noqa: N802
        """What they may read."""

    def is_spoken(self, request: Request, /) -> bool:
        """Whether a request is certainly of this dialect."""

    def discovery(self, door: Door, /) -> Mapping[str, str]:
        """Headers of the answer to ``OPTIONS``."""

    def respond(self, request: Request, upload_id: str, receiver: Receiver, door: Door, /) -> Response:
        """The answer to a request for the resource of an upload; without an id, for that of all uploads.

        :raises IncomingError: the request is refused; :meth:`refusal` makes the answer.
        """

    def refusal(self, error: IncomingError, request: Request, upload: Upload | None, door: Door, /) -> Response:
        """The answer to a request that is refused.

        :param upload: as it is now, where there is one.
        """


def ticket_of(request: Request) -> str:
    """The ticket that a creating request has beside its address; empty where it has none.

    :raises BadRequest: the query is malformed.
    """
    return query_of(request).get("ticket") or request.headers.get("Incoming-Ticket", "")


def store(
    session: Session,
    position: int,
    body: Body,
    expected: Expectation | None = None,
    *,
    seconds: float | None = None,
    recorded: Callable[[Upload], None] = lambda _: None,
) -> Upload:
    """Write a body from byte ``position`` on; what has arrived when it is cut counts, but for one with a checksum.

    :param seconds: after which what has arrived is recorded at the latest, while more comes.
    :param recorded: is told, after each piece, of the upload as it was recorded last.
    :raises DigestMismatch: the checksum does not fit; nothing of the body counts.
    """
    checksum = expected.begin() if expected else None
    try:
        while not body.has_ended:
            piece = body.read(splice=session.splices and checksum is None)
            if checksum is not None:
                for block in piece.blocks():
                    checksum.update(block)
            session.write(position, piece)
            position += len(piece)
            if checksum is None:
                session.sync_if_due(idle=not piece, seconds=seconds)
                recorded(session.upload)
    except Replaced:
        raise
    except IncomingError:
        if checksum is None:
            session.sync()
        raise
    if checksum is not None and (body.was_cut or not checksum.fits()):
        session.discard()
        if not body.was_cut:
            raise DigestMismatch
    return session.sync()


def complete(upload: Upload, receiver: Receiver) -> Upload:
    """Complete an upload whose bytes are all here, and give the app a moment to take it."""
    upload = receiver.complete(upload)
    return upload if upload.part_of else with_patience(upload, receiver)


def with_patience(upload: Upload, receiver: Receiver) -> Upload:
    """The upload as it is when the app has taken it, or after a moment."""
    return receiver.wait(upload.id, lambda found: found.phase != "processing", _WAIT_FOR_END)


def status_of(upload: Upload, door: Door) -> dict[str, Any]:
    """The status of an upload as front ends read it. Neither secret nor path nor session is in it."""
    gaps = upload.extents.missing(0, upload.length) if upload.length is not None else iter(())
    return {
        "id": upload.id,
        "state": upload.state.value,
        "phase": upload.phase,
        "version": upload.version,
        "length": upload.length,
        "received": upload.received,
        "offset": upload.offset,
        "missing": list(islice(gaps, _MOST_GAPS)),
        "reopen": upload.is_to_be_reopened,
        "chunk_size": door.chunk_size,
        "lanes": door.lanes,
        "websocket": door.websocket,
        "reason": upload.public_reason,
    }
