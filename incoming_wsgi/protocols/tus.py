"""tus 1.0.0: https://tus.io/protocols/resumable-upload, the core and its extensions.

``POST`` creates an upload, ``PATCH`` adds bytes at its end, ``HEAD`` tells where that is, ``DELETE`` gives it up. The
upload is the same as that of our own dialect: it can be gone on with in either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import urljoin, urlsplit

from webob import Request, Response

from ..errors import (
    AlreadyComplete,
    BadRequest,
    DigestMismatch,
    FileChanged,
    Forbidden,
    IncomingError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    NotReady,
    TooLarge,
    TooLate,
    UnsupportedMediaType,
)
from ..intake import Body, Door, complete, store, ticket_of
from ..receiver import Receiver
from ..upload import ENDING_BY_LENGTH, OPEN_STATES, State, Upload, is_ticket
from ..wire.checksums import ALGORITHMS, Expectation, Trailed
from ..wire.headers import has_any
from ..wire.responses import json_response
from ..wire.tus_headers import Final, Metadata, checksum_of, concatenation_of, declared_length, metadata_of, natural

VERSION = "1.0.0"
METHODS = ("POST", "HEAD", "PATCH", "DELETE", "GET")
REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Origin",
    "X-Requested-With",
    "X-Request-ID",
    "X-HTTP-Method-Override",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
)
RESPONSE_HEADERS = (
    "Location",
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Expires",
    "Tus-Version",
    "Tus-Resumable",
    "Tus-Max-Size",
    "Tus-Extension",
    "Tus-Checksum-Algorithm",
)

_EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)
_BYTES = "application/offset+octet-stream"
_TICKET = "ticket"  # the key of the metadata that it may come by
_RECORD_SECONDS = 1.0  # in which the offset of a long body becomes known to other processes

#: The protocol's own methods.
_OVERRIDES = ("POST", "HEAD", "PATCH", "DELETE", "OPTIONS")

#: Headers that say that a creation is of tus, and those that say that it is not, though it has one of the former.
_CREATING = ("Upload-Metadata", "Upload-Length", "Upload-Defer-Length", "Upload-Concat")
_OTHERS = ("Upload-Complete", "Upload-Incomplete", "Upload-Draft-Interop-Version")


class UnsupportedVersion(BadRequest):
    status = 412
    sentence = f"Tus-Resumable must be {VERSION}."

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Tus-Version": VERSION}


class WrongOffset(BadRequest):
    """``facts["offset"]``: where the upload really is."""

    status = 409
    sentence = "The upload has another offset."


#: What some errors are called here, where our own status would be misunderstood.
_STATUS: Mapping[type[IncomingError], str] = {
    DigestMismatch: "460 Checksum Mismatch",
    FileChanged: "400 Bad Request",  # 409 would mean: ask for the offset and go on
    AlreadyComplete: "403 Forbidden",
    # For these two, 412 would mean the version.
    NotReady: "400 Bad Request",
    TooLate: "409 Conflict",
}


@dataclass(frozen=True)
class _Call:
    """One request, and what it is answered with."""

    request: Request
    upload_id: str
    receiver: Receiver
    door: Door

    def header(self, name: str) -> str | None:
        value: str | None = self.request.headers.get(name)
        return value

    @property
    def has_bytes(self) -> bool:
        """Whether its body is bytes of a file."""
        return bool(self.request.content_type.lower() == _BYTES)


def is_spoken(request: Request) -> bool:
    """Whether a request is certainly of this dialect, also where the header that has to say so is missing."""
    if has_any(request, "Tus-Resumable"):
        return True
    if request.method not in ("POST", "PATCH") or has_any(request, *_OTHERS):
        return False
    is_creation = request.method == "POST" and has_any(request, *_CREATING)
    return is_creation or request.content_type.lower() == _BYTES


def method_of(request: Request) -> str:
    """What the client means: one whose environment has no ``PATCH`` or ``DELETE`` sends ``POST`` in their place.

    Only in place of ``POST``, and only to us: elsewhere nobody has asked for two methods of one request.
    """
    override = _override(request) if request.method == "POST" and is_spoken(request) else ""
    return override if override in _OVERRIDES else request.method


def _override(request: Request) -> str:
    return str(request.headers.get("X-HTTP-Method-Override", "")).strip().upper()


def mark(response: Response) -> None:
    """Every answer to a tus client has this, be it made by whomever."""
    response.headers["Tus-Resumable"] = VERSION


def discovery(door: Door) -> Mapping[str, str]:
    """Headers of the answer to ``OPTIONS``."""
    trailers = ("checksum-trailer",) if door.trailers is not None else ()
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": ",".join((*_EXTENSIONS, *trailers)),
        "Tus-Max-Size": str(door.max_length),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


def respond(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    """The answer to a request for the resource of an upload; without an id, for that of all uploads.

    :raises IncomingError: the request is refused; see :func:`refusal` for the answer.
    """
    _check_version(request)
    if _override(request) not in ("", *_OVERRIDES):
        raise BadRequest(f"X-HTTP-Method-Override can be one of {', '.join(_OVERRIDES)}.")
    methods: Mapping[str, Callable[[_Call], Response]] = {
        "POST": _create,
        "HEAD": _offset,
        "PATCH": _append,
        "DELETE": _terminate,
    }
    if request.method not in methods:
        raise MethodNotAllowed(allow=(*METHODS, "OPTIONS"))
    if not upload_id and request.method != "POST":
        raise NotFound
    return methods[request.method](_Call(request, upload_id, receiver, door))


def refusal(error: IncomingError, request: Request, upload: Upload | None, door: Door) -> Response:  # noqa: ARG001
    """An error, in words for people: the clients go by the status."""
    response = json_response({"error": error.as_json()}, error)
    response.status = _STATUS.get(type(error), response.status)
    mark(response)
    return response


def _check_version(request: Request) -> None:
    """:raises UnsupportedVersion: it is not ours; or none is named where something is to be changed."""
    if request.headers.get("Tus-Resumable", VERSION if request.method == "HEAD" else "") != VERSION:
        raise UnsupportedVersion


# -- creation ---------------------------------------------------------------------------------------------------


def _create(call: _Call) -> Response:
    concatenation = concatenation_of(call.header("Upload-Concat"))
    metadata = metadata_of(call.header("Upload-Metadata") or "")
    ticket = call.upload_id or metadata.values.get(_TICKET, "") or ticket_of(call.request)
    metadata = metadata.without(_TICKET)
    if concatenation and not ticket:
        raise Forbidden("Uploads in parts take a ticket of the app, the same for all parts.")
    if isinstance(concatenation, Final):
        return _create_final(call, concatenation, ticket, metadata)
    length = declared_length(call.header("Upload-Length"), call.header("Upload-Defer-Length"))
    body, expected = _first_bytes(call)
    _refuse_too_long_at_once(call, length, body)
    upload = call.door.admit(ticket, metadata.values)
    if concatenation:
        upload = call.receiver.create_part(upload.id, length or 0)
    try:
        upload = _begin(call, upload, length, metadata)
    except TooLarge:
        if not ticket:  # the app has allowed it for a shorter file: nobody will ever come for this
            call.receiver.cancel(upload.id, "The file is too long.")
        raise
    if body is not None:
        upload = _append_first(call, upload.id, body, expected)
    response = _created(call, _completed(upload, call.receiver))
    if body is not None:
        response.headers["Upload-Offset"] = str(upload.offset)
    return response


def _first_bytes(call: _Call) -> tuple[Body | None, Expectation | None]:
    """The body of a creation where that is bytes of the file, and what is to be checked of it."""
    if not call.has_bytes:
        return None, None
    if call.door.body is None:
        raise LengthRequired
    return call.door.body, _expected(call)


def _refuse_too_long_at_once(call: _Call, length: int | None, body: Body | None) -> None:
    """Before the app is asked, and anything is made."""
    longest = call.door.max_length
    if length is not None and length > longest:
        raise TooLarge(f"The file has {length} bytes; {longest} are allowed.")
    if body is not None and (body.length or 0) > (longest if length is None else length):
        raise TooLarge(f"The body has {body.length} bytes: more than the file may have.")


def _begin(call: _Call, upload: Upload, length: int | None, metadata: Metadata) -> Upload:
    """Note what is said of an upload. Who says the same again, having missed the answer, disturbs nobody.

    :raises FileChanged: it was begun with another length.
    """
    if upload.state is not State.WAITING and length in (None, upload.length):
        return call.receiver.standing(upload.id)
    session = call.receiver.open(
        upload.id,
        length=length,
        name=metadata.filename,
        protocol="tus",
        is_creation=True,
        client_metadata=metadata.values,
        notes=_notes(call, metadata),
    )
    if session is None:
        raise AlreadyComplete
    session.close()
    return session.upload


def _append_first(call: _Call, upload_id: str, body: Body, expected: Expectation | None) -> Upload:
    """Bytes from the first on; those that are here already are not written again."""
    call.door.interrupt(upload_id)
    session = call.receiver.open(upload_id, protocol="tus")
    if session is None:
        return call.receiver.standing(upload_id)
    with session:
        return store(session, 0, body, expected, seconds=_RECORD_SECONDS)


def _notes(call: _Call, metadata: Metadata) -> dict[str, str]:
    """What ``HEAD`` has to give back word for word."""
    notes = {"Upload-Metadata": metadata.header(), "Upload-Concat": call.header("Upload-Concat") or ""}
    return {name: value for name, value in notes.items() if value}


def _created(call: _Call, upload: Upload) -> Response:
    response = _empty(201)
    response.headers["Location"] = call.door.location(upload.id)
    _add_expiry(response, upload, call.receiver)
    return response


# -- concatenation ----------------------------------------------------------------------------------------------


def _create_final(call: _Call, final: Final, ticket: str, metadata: Metadata) -> Response:
    if call.header("Upload-Length") is not None or call.header("Upload-Defer-Length") is not None:
        raise BadRequest("The length of a final upload is that of its parts.")
    if call.has_bytes and (call.door.body is None or not call.door.body.has_ended):
        raise BadRequest("A final upload takes no bytes of its own.")
    parts = [_part_id(url, call) for url in final.urls]
    upload = call.receiver.join(
        call.door.admit(ticket, metadata.values).id,
        parts,
        name=metadata.filename,
        protocol="tus",
        client_metadata=metadata.values,
        notes=_notes(call, metadata),
    )
    return _created(call, complete(upload, call.receiver))


def _part_id(url: str, call: _Call) -> str:
    """The id of a part by its URL, absolute or relative.

    :raises BadRequest: it is no URL of an upload here. Nothing is ever fetched.
    """
    try:
        found = urlsplit(urljoin(call.request.path_url, url))
    except ValueError:
        raise BadRequest("A part's URL is malformed.") from None
    above, _, part_id = found.path.rpartition("/")
    hosts = (call.request.host, urlsplit(call.door.location("")).netloc)
    if not is_ticket(part_id) or not above.endswith("/frontend/uploads") or found.netloc not in hosts:
        raise BadRequest("Parts are given by their URLs on this server.")
    return part_id


# -- offset -----------------------------------------------------------------------------------------------------


def _offset(call: _Call) -> Response:
    upload = call.receiver.standing(call.upload_id)
    if call.header("Tus-Resumable") is not None:  # and not somebody who only looks
        call.door.interrupt(call.upload_id)
        upload = call.receiver.shut_out(call.upload_id)
    if upload.is_complete and upload.protocol in ENDING_BY_LENGTH:
        upload = call.receiver.complete(upload)  # whoever had the last byte may not have lived to do it
    response = _empty(200)
    for name, value in upload.notes.items():
        if name.startswith("Upload-"):  # others are of other dialects
            response.headers[name] = value
    if upload.state is not State.JOINING:
        response.headers["Upload-Offset"] = str(upload.offset)
    if upload.length is None:
        response.headers["Upload-Defer-Length"] = "1"
    else:
        response.headers["Upload-Length"] = str(upload.length)
    _add_expiry(response, upload, call.receiver)
    return response


def _add_expiry(response: Response, upload: Upload, receiver: Receiver) -> None:
    if upload.state in OPEN_STATES:
        at = time.time() + receiver.expires_in(upload)
        response.headers["Upload-Expires"] = formatdate(at, usegmt=True)


# -- bytes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """What a ``PATCH`` brings.

    :ivar length: of the whole file, where this tells it.
    """

    offset: int
    length: int | None
    body: Body
    expected: Expectation | None


def _append(call: _Call) -> Response:
    piece = _piece(call)
    upload = call.receiver.standing(call.upload_id)
    if upload.parts:
        raise Forbidden("A final upload takes no bytes of its own.")
    if piece.offset < upload.offset:
        raise WrongOffset(offset=upload.offset)  # it can't become right any more: nobody is disturbed
    _refuse_too_long(upload, piece, call.receiver.limit(upload))
    upload = _completed(_take_over(call, piece), call.receiver)
    response = _empty(204)
    response.headers["Upload-Offset"] = str(upload.offset)
    _add_expiry(response, upload, call.receiver)
    return response


def _piece(call: _Call) -> _Piece:
    if not call.has_bytes:
        raise UnsupportedMediaType(f"The bytes of a file are sent as {_BYTES}.")
    offset, length = call.header("Upload-Offset") or "", call.header("Upload-Length")
    if call.door.body is None:
        raise LengthRequired
    return _Piece(
        natural(offset, "Upload-Offset"),
        None if length is None else natural(length, "Upload-Length"),
        call.door.body,
        _expected(call),
    )


def _refuse_too_long(upload: Upload, piece: _Piece, limit: int) -> None:
    """:raises FileChanged: it has another length already, or more bytes.
    :raises TooLarge: the length, or the end of the body, is beyond what is allowed.
    """
    if piece.length is not None and (upload.length not in (None, piece.length) or piece.length < upload.extents.end):
        raise FileChanged("The length of this upload is known, or less than it has.")
    if upload.length is None and (piece.length or 0) > limit:
        raise TooLarge(f"The file has {piece.length} bytes; {limit} are allowed.")
    longest = next(length for length in (upload.length, piece.length, limit) if length is not None)
    end = piece.offset + (piece.body.length or 0)
    if piece.offset <= longest < end:
        raise TooLarge(f"These bytes end at {end}; {longest} are allowed.")


def _take_over(call: _Call, piece: _Piece) -> Upload:
    """Go on with an upload, in place of whoever has sent before: a connection that hangs must not be waited for.

    :raises WrongOffset: nothing was stored.
    """
    call.door.interrupt(call.upload_id)
    _refuse_other_offset(call.receiver.standing(call.upload_id), piece)
    session = call.receiver.open(call.upload_id, protocol="tus")
    if session is None:
        return _append_nothing(call.receiver.standing(call.upload_id), piece)
    with session:
        _refuse_other_offset(session.upload, piece)  # again, for behind the fence it stays
        if piece.length not in (None, session.upload.length):
            session.declare_length(piece.length or 0)
        return store(session, piece.offset, piece.body, piece.expected, seconds=_RECORD_SECONDS)


def _append_nothing(upload: Upload, piece: _Piece) -> Upload:
    """To an upload that is complete: clients do it, to be sure."""
    _refuse_other_offset(upload, piece)
    while not piece.body.has_ended:
        if piece.body.read():
            raise TooLarge("All bytes of this upload are here.")
    return upload


def _refuse_other_offset(upload: Upload, piece: _Piece) -> None:
    if piece.offset != upload.offset:
        raise WrongOffset(offset=upload.offset)


def _completed(upload: Upload, receiver: Receiver) -> Upload:
    """The last byte completes it."""
    return complete(upload, receiver) if upload.is_complete and upload.state in OPEN_STATES else upload


def _expected(call: _Call) -> Expectation | None:
    """What the body has to be, by the header or by what will follow it.

    :raises BadRequest: it is malformed, or announced where the server loses it.
    """
    header = call.header("Upload-Checksum")
    if header is not None:
        return checksum_of(header)
    announced = {name.strip().lower() for name in (call.header("Trailer") or "").split(",")}
    if "upload-checksum" not in announced:
        return None
    trailers = call.door.trailers
    if trailers is None:
        raise BadRequest("Trailers do not get here; send Upload-Checksum as a header.")
    return Trailed(lambda: checksum_of(trailers().get("upload-checksum", "")))


# -- termination ------------------------------------------------------------------------------------------------


def _terminate(call: _Call) -> Response:
    """:raises Forbidden: the app has the file: it is not ours to delete.
    :raises TooLate: it is just being given to the app; how that ends nobody knows yet.
    """
    if call.receiver.standing(call.upload_id).state is State.FINISHED:
        raise Forbidden("The app has been given this file.")
    call.receiver.cancel(call.upload_id, "cancelled by the front end")
    call.door.interrupt(call.upload_id)
    return _empty(204)


def _empty(status: int) -> Response:
    response = Response(status=status, headerlist=[] if status == 204 else [("Content-Length", "0")])
    mark(response)
    return response
