"""The IETF's "Resumable Uploads for HTTP" (draft-ietf-httpbis-resumable-upload): any request can be gone on with.

A request that creates an upload says by ``Upload-Complete`` whether its body is all of the file. ``HEAD`` tells how
much of it is here, ``PATCH`` appends, ``DELETE`` cancels. The client's word completes an upload, never its length.
What the drafts have in different ways is in :mod:`incoming_wsgi.wire.interop`.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from webob import Request, Response

from ..errors import (
    BadRequest,
    Damaged,
    DigestMismatch,
    FileChanged,
    IncomingError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TooLate,
    Unavailable,
    UnsupportedMediaType,
)
from ..filenames import name_in_disposition
from ..intake import Body, Door, complete, status_of, store
from ..receiver import Receiver
from ..session import Session
from ..upload import OPEN_STATES, PROMISE, State, Upload
from ..wire import fields
from ..wire.bulk import Bulk
from ..wire.headers import has_any
from ..wire.interop import Interop, interop_of
from ..wire.responses import json_response

_PARTIAL = "application/partial-upload"
_VERSION = "Upload-Draft-Interop-Version"
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"

_RECORD_SECONDS = 1.0  # a client of another worker's that is cut off, and asks there, has lost this much at most
_PROGRESS_BYTES, _PROGRESS_SECONDS = 16 * 2**20, 5.0  # between two interim responses
_DIGEST_SECONDS = 20.0  # that the final answer waits for a digest which somebody wants to know
_LONGEST_TEXT = 4096  # characters of a header that the app gets

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS = (
    "Content-Type",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Digest",
    "Repr-Digest",
    "Unencoded-Digest",
    "Want-Repr-Digest",
    "Upload-Complete",
    "Upload-Draft-Interop-Version",
    "Upload-Incomplete",
    "Upload-Length",
    "Upload-Offset",
)
RESPONSE_HEADERS = (
    "Location",
    "Repr-Digest",
    "Retry-After",
    "Upload-Complete",
    "Upload-Draft-Interop-Version",
    "Upload-Incomplete",
    "Upload-Length",
    "Upload-Limit",
    "Upload-Offset",
)


def is_spoken(request: Request) -> bool:
    """Whether a request has what only clients of the drafts send."""
    headers = request.headers
    if has_any(request, "Tus-Resumable"):
        return False
    if not has_any(request, "Upload-Complete", "Upload-Incomplete", _VERSION):
        return bool(request.content_type == _PARTIAL)
    says = fields.boolean(headers.get("Upload-Complete")), fields.boolean(headers.get("Upload-Incomplete"))
    return says != (None, None) or _VERSION in headers or request.content_type == _PARTIAL


def discovery(door: Door) -> Mapping[str, str]:
    """Headers of the answer to ``OPTIONS``."""
    return {"Upload-Limit": fields.dictionary({"max-size": door.max_length}), "Accept-Patch": _PARTIAL}


def respond(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    """The answer to a request for the resource of an upload; without an id, to one that creates an upload.

    :raises IncomingError: the request is refused; see :func:`refusal` for the answer.
    """
    return Exchange(request, receiver, door).respond(upload_id)


def refusal(error: IncomingError, request: Request, upload: Upload | None, door: Door) -> Response:
    """An error as problem details (RFC 9457), with the offset of an upload that can be gone on with."""
    spoken = _spoken(request)
    kind = str(error.facts.get("problem", ""))
    if kind == "completed-upload" and not spoken.has_completed_problem:
        kind = ""
    status = 409 if isinstance(error, TooLate) else error.status  # 412 is for If-Match and its like, which nobody sent
    response = _problem(status, kind, str(error), error=error.as_json())
    response.headers.update(error.headers.items())
    if upload is not None and upload.state in OPEN_STATES:
        response.headers.update(_state_of(upload, spoken).items())
    if isinstance(error, TooLarge) and spoken.lifetime:
        limit = min(
            door.max_length, door.max_length if upload is None or upload.max_length is None else upload.max_length
        )
        response.headers["Upload-Limit"] = fields.dictionary({"max-size": limit})
    return _signed(response, spoken)


@dataclass(frozen=True)
class Wish:
    """What a request says of its upload.

    :ivar offset: where its body goes.
    :ivar is_complete: whether that is the last of the file; ``None`` where it is not said.
    :ivar length: bytes of the file.
    """

    offset: int | None
    is_complete: bool | None
    length: int | None


class Exchange:
    """One request and its answer."""

    def __init__(self, request: Request, receiver: Receiver, door: Door) -> None:
        self._request = request
        self._receiver = receiver
        self._door = door
        self._spoken = _spoken(request)

    def respond(self, upload_id: str) -> Response:
        """:raises IncomingError: the request is refused."""
        method = self._request.method
        if method not in METHODS:
            raise MethodNotAllowed(allow=(*METHODS, "OPTIONS"))
        if method in ("POST", "PUT") or (method == "PATCH" and not upload_id):
            return _signed(self._create(upload_id), self._spoken)
        if not upload_id:
            raise NotFound
        answers = {"HEAD": self._tell, "GET": self._tell, "PATCH": self._append, "DELETE": self._cancel}
        return _signed(answers[method](upload_id), self._spoken)

    # -- methods ------------------------------------------------------------------------------------------------

    def _create(self, upload_id: str) -> Response:
        wish, body = self._wish(), self._body()
        if wish.is_complete is None:
            raise BadRequest(f"To create an upload takes {self._spoken.completeness}: ?1, or ?0 if more will come.")
        if wish.offset is not None:
            raise BadRequest("An upload is created at its beginning, without Upload-Offset.")
        length = _length(wish, 0, body)
        name, metadata = self._metadata()
        upload = self._door.admit(upload_id, metadata)
        self._refuse_other_length(upload, length)
        if (body.length or 0) > self._receiver.limit(upload):
            raise TooLarge(f"The body has {body.length} bytes; {self._receiver.limit(upload)} are allowed.")
        self._door.interrupt(upload.id)
        session = self._receiver.open(
            upload.id,
            length=length,
            name=name,
            protocol="ietf",
            is_creation=True,
            client_metadata=metadata,
            notes=self._promises(),
        )
        if session is None:
            return self._again(self._receiver.status(upload.id), wish, 0, body)
        with session:
            if body.length != 0:
                self._inform({"Location": self._door.location(upload.id), **self._limit(session.upload)})
            take = self._take_again if session.upload.offset else self._take
            response = take(session, wish, 0, body)
        if not wish.is_complete:
            response.status = 201
            response.headers["Location"] = self._door.location(upload.id)
        return response

    def _append(self, upload_id: str) -> Response:
        if self._spoken.needs_media_type and self._request.content_type != _PARTIAL:
            raise UnsupportedMediaType(f"What is appended is sent as {_PARTIAL}.")
        wish, body = self._wish(), self._body()
        if wish.offset is None:
            raise BadRequest("Upload-Offset must say where these bytes go.")
        if wish.is_complete is None:
            raise BadRequest("Upload-Complete must say whether these bytes are the last: ?1 or ?0.")
        upload = self._take_over(upload_id)
        if upload.state not in OPEN_STATES:
            return self._again(upload, wish, wish.offset, body)
        if upload.offset != wish.offset:
            return self._mismatch(upload, wish.offset)
        self._refuse_excess(upload, wish.offset + (body.length or 0))
        length = _length(wish, wish.offset, body)
        self._refuse_other_length(upload, length)
        session = self._receiver.open(upload_id, length=length, protocol="ietf")
        if session is None:
            return self._again(self._receiver.status(upload_id), wish, wish.offset, body)
        with session:
            if session.upload.offset != wish.offset:  # somebody was faster
                return self._mismatch(session.upload, wish.offset)
            return self._take(session, wish, wish.offset, body)

    def _tell(self, upload_id: str) -> Response:
        self._refuse_stray_fields()
        upload = self._take_over(upload_id)
        response = Response(status=204)
        if self._request.method == "GET":
            response = json_response(status_of(upload, self._door))
        response.headers.update({**self._state(upload), **self._limit(upload)}.items())
        if upload.length is not None:
            response.headers["Upload-Length"] = str(upload.length)
        return response

    def _cancel(self, upload_id: str) -> Response:
        self._refuse_stray_fields()
        self._receiver.status(upload_id)  # whom the ticket is not for interrupts nobody
        self._door.interrupt(upload_id)
        self._refuse_over(self._receiver.status(upload_id))
        self._receiver.cancel(upload_id, "cancelled by the client")
        return Response(status=204)

    # -- bytes --------------------------------------------------------------------------------------------------

    def _take_over(self, upload_id: str) -> Upload:
        """End who else brings bytes; what they have brought stays, and its end with it.

        :raises IncomingError: the upload is over, and not well, or the ticket is for somebody else.
        """
        self._receiver.status(upload_id)  # before anybody is interrupted
        self._door.interrupt(upload_id)
        return self._refuse_over(self._receiver.shut_out(upload_id))

    def _take(self, session: Session, wish: Wish, position: int, body: Body) -> Response:
        """Store a body, and answer."""
        expected = fields.checksum(self._request.headers.get("Content-Digest"))
        progress = Progress(self, position) if self._spoken.tells_progress else (lambda _: None)
        try:
            upload = store(session, position, body, expected, seconds=_RECORD_SECONDS, recorded=progress)
        except TooLarge:
            self._refuse_excess(session.upload, (session.upload.length or 0) + 1)
            raise
        if body.was_cut:
            raise BadRequest("The request ended before its body did; what has arrived is kept.")
        if wish.is_complete and upload.length is None:
            upload = session.declare_length(upload.offset)
        if not wish.is_complete:
            response = Response(status=self._spoken.appended)
            response.headers.update({**self._state(upload), **self._limit(upload)}.items())
            return response
        if not upload.is_complete:
            raise _inconsistent(f"The upload ends at {upload.offset}, of {upload.length} bytes.")
        return self._final(complete(upload, self._receiver))

    def _take_again(self, session: Session, wish: Wish, position: int, body: Body) -> Response:
        """Store a body that begins with bytes which are here already."""
        with self._receiver.read(session.upload) as file:
            stored = io.BufferedReader(cast("io.FileIO", file))
            return self._take(session, wish, position, Repetition(body, stored, session.upload.offset))

    def _again(self, upload: Upload, wish: Wish, offset: int, body: Body) -> Response:
        """The final answer again, to a repetition of the request that had it: nothing of its body is looked at.

        :raises BadRequest: it is no repetition; there is nothing that more bytes could be appended to.
        """
        if wish.is_complete and body.length is not None and offset + body.length == upload.length:
            return self._final(complete(upload, self._receiver))
        raise BadRequest("This upload is complete; nothing can be appended.", problem="completed-upload")

    def _final(self, upload: Upload) -> Response:
        """The answer of what the file was sent to: how it is getting on there.

        :raises DigestMismatch, Damaged, Unavailable: nothing was handed over.
        """
        wants = fields.is_wanted(self._request.headers.get("Want-Repr-Digest"), "sha-256")
        if upload.promised or wants:
            upload = self._door.poll(upload.id, lambda found: found.state is not State.COMPLETING, _DIGEST_SECONDS)
        if upload.state is State.DAMAGED:
            raise DigestMismatch("The file is not what its digest says.") if upload.promised else Damaged
        if upload.state in OPEN_STATES:
            raise Unavailable("Somebody else asked for this upload meanwhile, or some bytes are lost.", retry_after=1)
        self._refuse_over(upload)
        response = json_response(status_of(upload, self._door))
        response.headers.update(self._state(upload).items())
        if wants and upload.sha256:
            response.headers["Repr-Digest"] = fields.dictionary({"sha-256": bytes.fromhex(upload.sha256)})
        return response

    def _mismatch(self, upload: Upload, offset: int) -> Response:
        about = {"expected-offset": upload.offset, "provided-offset": offset}
        response = _problem(409, "mismatching-upload-offset", f"The next byte is {upload.offset}.", **about)
        response.headers.update(self._state(upload).items())
        return response

    # -- what stands against it ---------------------------------------------------------------------------------

    def _refuse_over(self, upload: Upload) -> Upload:
        """:raises Cancelled, Expired, Damaged, Undeliverable: it is over, and not well."""
        return self._receiver.standing(upload.id) if upload.phase in ("cancelled", "failed") else upload

    def _refuse_stray_fields(self) -> None:
        headers = self._request.headers
        stray = [name for name in ("Upload-Offset", self._spoken.completeness, "Upload-Length") if name in headers]
        if stray and self._spoken.refuses_stray_fields:
            raise BadRequest(f"{self._request.method} takes no {stray[0]}.")

    def _refuse_other_length(self, upload: Upload, length: int | None) -> None:
        if length is not None and upload.length not in (None, length):
            raise _inconsistent(f"The length is {upload.length} bytes, not {length}.")

    def _refuse_excess(self, upload: Upload, end: int) -> None:
        """:raises BadRequest: more than the length comes, or may have come: such an upload can't be trusted."""
        if upload.length is None or end <= upload.length:
            return
        if self._spoken.excess_kills:
            self._receiver.cancel(upload.id, "more bytes came than the client had said")
        raise BadRequest(f"The length is {upload.length} bytes; more were sent.")

    # -- headers ------------------------------------------------------------------------------------------------

    def _wish(self) -> Wish:
        """:raises BadRequest: a field is malformed, and the version minds."""
        headers, spoken = self._request.headers, self._spoken
        is_complete = spoken.means(fields.boolean(headers.get(spoken.completeness)))
        wish = Wish(
            offset=fields.integer(headers.get("Upload-Offset")),
            is_complete=is_complete,
            length=fields.integer(headers.get("Upload-Length")),
        )
        read = {"Upload-Offset": wish.offset, spoken.completeness: is_complete, "Upload-Length": wish.length}
        malformed = [name for name, value in read.items() if value is None and name in headers]
        if malformed and not spoken.ignores_malformed:
            raise BadRequest(f"{malformed[0]} is malformed.")
        if is_complete is None and spoken.ends_by_silence and wish.offset is not None:
            return Wish(wish.offset, True, wish.length)
        return wish

    def _body(self) -> Body:
        if self._door.body is None:
            raise LengthRequired
        return self._door.body

    def _metadata(self) -> tuple[str, dict[str, str]]:
        """The file's name, and all that the request says of the file."""
        headers = self._request.headers
        disposition = headers.get("Content-Disposition", "")[:_LONGEST_TEXT]
        name = name_in_disposition(disposition)
        said = {
            "filename": name,
            "filetype": headers.get("Content-Type", ""),
            "content-encoding": headers.get("Content-Encoding", ""),
            "content-disposition": disposition,
        }
        return name, {key: value[:_LONGEST_TEXT] for key, value in said.items() if value}

    def _promises(self) -> dict[str, str]:
        """What the file's digest will be, as a note. Without ``Content-Encoding``, ``Unencoded-Digest`` is the same."""
        headers = self._request.headers
        promised = fields.checksum(headers.get("Repr-Digest"))
        if promised is None and not headers.get("Content-Encoding"):
            promised = fields.checksum(headers.get("Unencoded-Digest"))
        return {PROMISE + promised.algorithm: promised.value.hex()} if promised else {}

    def _state(self, upload: Upload) -> dict[str, str]:
        return _state_of(upload, self._spoken)

    def _limit(self, upload: Upload) -> dict[str, str]:
        """What is allowed and how long the upload lives; nothing where the version does not know of that."""
        if not self._spoken.lifetime or upload.state not in OPEN_STATES:
            return {}
        limit = {
            "max-size": self._receiver.limit(upload),
            self._spoken.lifetime: int(self._receiver.expires_in(upload)),
        }
        return {"Upload-Limit": fields.dictionary(limit)}

    def tell_progress(self, offset: int) -> None:
        """That so many bytes are safe."""
        self._inform({"Upload-Offset": str(offset)})

    def _inform(self, headers: Mapping[str, str]) -> None:
        """By an interim response; only a client that said which version it speaks may get one."""
        if self._spoken.number is not None:
            self._door.interim({**headers, _VERSION: str(self._spoken.number)})


class Progress:
    """Tells of bytes that are safe, from time to time."""

    def __init__(self, exchange: Exchange, offset: int) -> None:
        self._exchange = exchange
        self._offset, self._at = offset, time.monotonic()

    def __call__(self, upload: Upload) -> None:
        more = upload.offset - self._offset
        if more >= _PROGRESS_BYTES or (more > 0 and time.monotonic() - self._at >= _PROGRESS_SECONDS):
            self._offset, self._at = upload.offset, time.monotonic()
            self._exchange.tell_progress(upload.offset)


class Repetition:
    """The body of a request that begins with bytes which are here already, of a client that could not know of that.

    If they were others, the rest of it would be of another file.

    :param stored: has the first ``length`` bytes.
    """

    def __init__(self, body: Body, stored: BinaryIO, length: int) -> None:
        self.length = body.length
        self._body = body
        self._stored = stored
        self._left = length

    def read(self, *, splice: bool = False) -> Bulk:
        """:raises FileChanged: they are others."""
        piece = self._body.read(splice=splice and not self._left)
        for block in piece.blocks() if self._left else ():
            count = min(self._left, len(block))
            if self._stored.read(count) != block[:count]:
                raise FileChanged
            self._left -= count
        return piece

    @property
    def has_ended(self) -> bool:
        return self._body.has_ended

    @property
    def was_cut(self) -> bool:
        return self._body.was_cut


def _spoken(request: Request) -> Interop:
    headers = request.headers
    says_incomplete = "Upload-Incomplete" in headers and "Upload-Complete" not in headers
    return interop_of(fields.integer(headers.get(_VERSION)), says_incomplete=says_incomplete)


def _length(wish: Wish, position: int, body: Body) -> int | None:
    """Bytes of the file, as far as a request says that.

    :raises BadRequest: it says it in two ways.
    """
    end = None if body.length is None else position + body.length
    if end is not None and wish.length is not None and (end > wish.length or (wish.is_complete and end != wish.length)):
        raise _inconsistent(f"Upload-Length is {wish.length}, but these bytes end at {end}.")
    return end if wish.is_complete and end is not None else wish.length


def _inconsistent(message: str) -> BadRequest:
    return BadRequest(message, problem="inconsistent-upload-length")


def _state_of(upload: Upload, spoken: Interop) -> dict[str, str]:
    return {"Upload-Offset": str(upload.offset), **spoken.marks(complete=upload.state not in OPEN_STATES)}


def _problem(status: int, kind: str, detail: str, **members: Any) -> Response:
    """:param kind: a problem type that the drafts register; empty for any other problem."""
    about = {"type": _PROBLEMS + kind if kind else "about:blank", "status": status, "detail": detail, **members}
    if kind:
        about["title"] = kind.replace("-", " ")
    return Response(body=json.dumps(about).encode(), status=status, content_type="application/problem+json")


def _signed(response: Response, spoken: Interop) -> Response:
    """With the version that was spoken."""
    if spoken.number is not None:
        response.headers[_VERSION] = str(spoken.number)
    return response
