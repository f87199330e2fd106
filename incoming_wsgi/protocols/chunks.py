"""Our own dialect over plain HTTP: an upload is a resource, a chunk is a partial ``PUT`` (RFC 9110, section 14.5).

``POST`` opens it, ``PUT`` with ``Content-Range`` is a chunk, ``GET`` its status, ``DELETE`` cancels it. Several chunks
may be on their way at once, in any order, to any process; a repeated one is harmless.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import unquote_to_bytes

from webob import Request, Response

from ..errors import (
    AlreadyComplete,
    BadRequest,
    IncomingError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from ..intake import Body, Door, complete, status_of, store, with_patience
from ..receiver import Receiver
from ..session import is_session_of, refuse_writing
from ..upload import Upload
from ..wire.bulk import NOTHING, Blocks, Bulk
from ..wire.checksums import Checksum
from ..wire.headers import query_of
from ..wire.responses import json_response

_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_FINGERPRINT = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DIGEST = re.compile(r"(sha-256|sha-512)=:([A-Za-z0-9+/=]+):")

_LONGEST_NAME = 4096  # bytes of UTF-8
_LONGEST_WAIT = 25.0  # seconds; below the time after which proxies lose patience
_SMALL = 256 * 1024  # bytes of a file that may be waited for before it is opened
_PROMPT = 1.0  # seconds for which they are


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
REQUEST_HEADERS = (
    "Content-Type",
    "Content-Range",
    "Content-Digest",
    "Incoming-Length",
    "Incoming-Name",
    "Incoming-Fingerprint",
    "Incoming-Opening",
    "Incoming-Session",
    "Incoming-Reason",
)
RESPONSE_HEADERS = ("Retry-After",)


def is_spoken(request: Request) -> bool:
    """Whether a request has what only ours have."""
    waits = request.method == "GET" and "wait" in query_of(request)
    return waits or any(key == "HTTP_CONTENT_RANGE" or key.startswith("HTTP_INCOMING_") for key in request.environ)


def discovery(door: Door) -> Mapping[str, str]:  # noqa: ARG001 (others have more to say)
    """Headers of the answer to ``OPTIONS``: none."""
    return {}


def respond(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    """The answer to a request for the resource of an upload.

    :raises IncomingError: the request is refused; see :func:`refusal` for the answer.
    """
    if not upload_id and request.method != "POST":
        raise NotFound
    if not upload_id:
        raise BadRequest("Uploads are created by tus (Tus-Resumable), or as RFC drafts say (Upload-Complete).")
    methods: Mapping[str, Callable[[Request, str, Receiver, Door], Response]] = {
        "GET": _status,
        "HEAD": _status,
        "POST": _open,
        "PUT": _chunk,
        "DELETE": _cancel,
    }
    if request.method not in methods:
        raise MethodNotAllowed(allow=(*METHODS, "OPTIONS"))
    return methods[request.method](request, upload_id, receiver, door)


def pause(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    """The answer to ``POST …/pause``."""
    if request.method != "POST":
        raise MethodNotAllowed(allow=("POST", "OPTIONS"))
    return _answer(receiver.pause(upload_id, request.headers.get("Incoming-Session", "")), door)


def refusal(error: IncomingError, request: Request, upload: Upload | None, door: Door) -> Response:  # noqa: ARG001
    """An error as a front end reads it, with the status of the upload where there is one."""
    about = status_of(upload, door) if upload is not None else {}
    return json_response({"error": error.as_json(), **about}, error)


# -- methods ----------------------------------------------------------------------------------------------------


def _status(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    query = query_of(request)
    seconds = _seconds(query.get("wait", "0"))
    since = query.get("since", "")
    upload = receiver.status(upload_id)
    if upload.is_complete_by_length:
        upload = receiver.complete(upload)  # whoever had the last byte may not have lived to do it
    if seconds and re.fullmatch("[0-9]{1,19}", since):
        upload = door.poll(upload_id, lambda found: found.version != int(since), seconds)
    return _answer(upload, door)


def _open(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    length = _natural(request.headers.get("Incoming-Length"), "Incoming-Length")
    name = _name(request.headers.get("Incoming-Name"))
    fingerprint = request.headers.get("Incoming-Fingerprint", "")
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        raise BadRequest("Incoming-Fingerprint is malformed.")
    body, size = _checked_body(request, door)
    if size > length:
        raise TooLarge(f"The body has {size} bytes, the file {length}.")
    expected = _digest(request)  # before the opening: what is malformed takes nothing over
    first = _promptly(body) if length == size <= _SMALL and not expected else NOTHING
    if len(first) == length > 0:
        whole = receiver.take_whole(upload_id, first, name=name, fingerprint=fingerprint)
        if whole is not None:
            return _answer(with_patience(whole, receiver), door, session=whole.session)
    opening = request.headers.get("Incoming-Opening", "")
    session = receiver.open(upload_id, length=length, name=name, fingerprint=fingerprint, opening=opening)
    if session is None:
        return _answer(receiver.status(upload_id), door)
    with session:
        if first:
            session.write(0, first)
        upload = store(session, len(first), body, expected)
    if upload.is_complete:
        upload = complete(upload, receiver)
    return _answer(upload, door, session=session.token)


def _chunk(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    start, end, total = _content_range(request)
    (body, size), expected = _checked_body(request, door), _digest(request)
    if size != end - start:
        raise BadRequest("Content-Length and Content-Range do not agree.")
    token = request.headers.get("Incoming-Session", "")
    wanted = _wanted(receiver, upload_id, token, (start, end, total))
    upload = wanted or receiver.status(upload_id)
    if wanted is None:
        if total != upload.length and upload.length is not None:
            raise BadRequest(f"Content-Range speaks of {total} bytes; the file has {upload.length}.")
        is_over = upload.phase in ("cancelled", "failed")
        if upload.extents.contains(start, end) and is_session_of(upload, token) and not is_over:
            return _answer(upload, door)  # it has arrived already; the server drains what is on its way
        refuse_writing(upload, token)
    try:
        with receiver.lane(upload) as session:
            upload = store(session, start, body, expected)
    except AlreadyComplete:
        upload = receiver.status(upload_id)  # another lane brought the rest of these bytes meanwhile
        if not is_session_of(upload, token) or not upload.extents.contains(start, end):
            raise
    if upload.is_complete:
        upload = complete(upload, receiver)
    return _answer(upload, door)


def _wanted(receiver: Receiver, upload_id: str, token: str, where: tuple[int, int, int]) -> Upload | None:
    """The upload of a chunk, where at a glance nothing stands against it."""
    start, end, total = where
    try:
        upload = receiver.owned(upload_id, token)
    except IncomingError:
        return None
    return upload if upload.length == total and not upload.extents.contains(start, end) else None


def _cancel(request: Request, upload_id: str, receiver: Receiver, door: Door) -> Response:
    reason = _name(request.headers.get("Incoming-Reason", "")) or "cancelled by the front end"
    return _answer(receiver.cancel(upload_id, reason), door)


def _promptly(body: Body) -> Bulk:
    """The bytes of a short body that come without much waiting; a slow one is opened first, and then read."""
    blocks: list[bytes] = []
    deadline = time.monotonic() + _PROMPT
    while not body.has_ended and time.monotonic() < deadline:
        blocks += map(bytes, body.read().blocks())
    return Blocks(blocks)


def _answer(upload: Upload, door: Door, **more: str) -> Response:
    return json_response({**status_of(upload, door), **more})


# -- headers ----------------------------------------------------------------------------------------------------


def _checked_body(request: Request, door: Door) -> tuple[Body, int]:
    """The body, and the bytes that it has.

    :raises LengthRequired, UnsupportedMediaType, TooLarge: it can't be taken.
    """
    if door.body is None or door.body.length is None:
        raise LengthRequired
    if door.body.length and request.content_type not in ("application/octet-stream", ""):
        raise UnsupportedMediaType("The bytes of a file are sent as application/octet-stream.")
    if door.body.length > door.chunk_size:
        raise TooLarge(f"A chunk may have {door.chunk_size} bytes at most.")
    return door.body, door.body.length


def _content_range(request: Request) -> tuple[int, int, int]:
    """First position, position after the last, and length of the file.

    :raises BadRequest: the header is missing or malformed.
    :raises TooLarge: the range goes beyond the length that it states.
    """
    found = _RANGE.fullmatch(request.headers.get("Content-Range", ""))
    if found is None:
        raise BadRequest("Content-Range must read «bytes FIRST-LAST/LENGTH».")
    first, last, total = map(int, found.groups())
    if last < first or total >= 2**63:
        raise BadRequest("Content-Range is no range of bytes.")
    if last >= total:
        raise TooLarge("Content-Range goes beyond the end of the file.")
    return first, last + 1, total


def _digest(request: Request) -> Checksum | None:
    """What ``Content-Digest`` says (RFC 9530, section 2).

    :raises BadRequest: it is malformed, or of an algorithm that we do not check.
    """
    header = request.headers.get("Content-Digest")
    if header is None:
        return None
    found = _DIGEST.fullmatch(header.strip())
    if found is None:
        raise BadRequest("Content-Digest must be sha-256 or sha-512.")
    try:
        return Checksum(found[1].replace("-", ""), base64.b64decode(found[2], validate=True))
    except binascii.Error:
        raise BadRequest("Content-Digest is not base64.") from None


def _natural(text: str | None, header: str) -> int:
    if text is None or not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise BadRequest(f"{header} must be a whole number of bytes.")
    return int(text)


def _name(text: str | None) -> str:
    """A percent-encoded header value.

    :raises BadRequest: it is missing, too long or not UTF-8.
    """
    if text is None:
        raise BadRequest("Incoming-Name is missing.")
    raw = unquote_to_bytes(text)
    if len(raw) > _LONGEST_NAME:
        raise BadRequest(f"A name may have {_LONGEST_NAME} bytes at most.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadRequest("A name is not UTF-8.") from None


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text):
        raise BadRequest("wait must be a number of seconds.")
    return min(float(text), _LONGEST_WAIT)
