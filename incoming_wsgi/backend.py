"""The app's HTTP door: tickets, cancelling, finishing as back ends of Incoming!! 0.1 know it, and the file itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from webob import Request, Response
from webob.multidict import MultiDict

from . import events
from .delivery.targets import FinishHosts, checked_target
from .downloads import file_response
from .errors import (
    BadRequest,
    IncomingError,
    LengthRequired,
    MethodNotAllowed,
    NotFound,
    NotReady,
    TooLarge,
    Unauthorized,
    UnknownUpload,
    UnsupportedMediaType,
    WrongSecret,
)
from .gates.terms import Terms
from .receiver import Receiver
from .upload import Upload
from .wire.headers import content_length, query_of, refuse_malformed
from .wire.responses import json_response, text_response

#: Booleans as Go's strconv.ParseBool takes them, which 0.1 used.
_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}

_LONGEST_FORM = 64 * 1024  # bytes
_LONGEST_SECRET = 1024  # bytes
_FORM_TYPES = ("application/x-www-form-urlencoded", "")


@dataclass(frozen=True)
class Client:
    """A back end that may use this door.

    :ivar app: name of the app whose uploads it sees.
    :ivar key: what it shows to be let in; empty where the address alone is protection enough.
    :ivar finish_hosts: where it may have files announced.
    """

    app: str
    key: str
    finish_hosts: FinishHosts


class Backend:
    """:param clients: who may come in; with a key each, or a single one without."""

    def __init__(self, receiver: Callable[[], Receiver], clients: Collection[Client]) -> None:
        self._receiver = receiver
        self._clients = tuple(clients)

    def __call__(self, request: Request, path: str) -> Response:
        """The answer to a request for ``path`` below the back end's address; errors are text, as in 0.1."""
        try:
            response = self._respond(request, path)
        except IncomingError as error:
            events.tell("refused", "refused a back end's %s: %s", request.method, error.name, reason=error.name)
            response = text_response(str(error), error)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _respond(self, request: Request, path: str) -> Response:
        calls: Mapping[str, Callable[[Client, Request], Response]] = {
            "new_upload": self._new_upload,
            "cancel_upload": self._cancel_upload,
            "renew_upload": self._renew_upload,
            "finish_upload": self._finish_upload,
        }
        refuse_malformed(request.environ)
        client = self._identify(request)
        if path in calls:
            _refuse_other_methods(request, "POST")
            return calls[path](client, request)
        kind, _, rest = path.partition("/")
        upload_id, _, part = rest.partition("/")
        if kind == "uploads" and part in ("", "file") and not path.endswith("/"):
            _refuse_other_methods(request, "GET", "HEAD")
            return (self._file if part else self._status)(client, request, upload_id)
        raise NotFound

    # -- calls ----------------------------------------------------------------------------------------------

    def _new_upload(self, client: Client, request: Request) -> Response:
        values = _form(request)
        upload = self._receiver().create(
            client.app,
            target=checked_target(_value(values, "signalFinishURL"), client.finish_hosts, request.remote_addr),
            base_url=request.application_url,
            secret=_secret(values),
            dest=_dest(values),
            remove_file_when_finished=_boolean(values, "removeFileWhenFinished", True),
            max_length=_number(values, "maxLength"),
            length=_number(values, "length"),
            owner=_value(values, "owner", ""),
            by_backend=True,
            terms=_terms(values),
        )
        return text_response(upload.id)

    def _cancel_upload(self, client: Client, request: Request) -> Response:
        values = _form(request)
        upload = self._upload_of(client, values)
        self._receiver().cancel(upload.id, _value(values, "reason", "cancelled by the back end"), client.app)
        return text_response("ok")

    def _renew_upload(self, client: Client, request: Request) -> Response:
        values = _form(request)
        self._receiver().renew(self._upload_of(client, values).id, _number(values, "expiresIn"), client.app)
        return text_response("ok")

    def _finish_upload(self, client: Client, request: Request) -> Response:
        upload = self._upload_of(client, _form(request))
        self._receiver().done(upload.id, client.app)
        return text_response("ok")

    def _status(self, client: Client, _request: Request, upload_id: str) -> Response:
        upload = self._receiver().status(upload_id, client.app)
        return json_response(_as_json(upload))

    def _file(self, client: Client, request: Request, upload_id: str) -> Response:
        """The complete file, for a back end that does not share the folder; with its secret, and in ranges."""
        upload = self._receiver().status(upload_id, client.app)
        _check_secret(upload, request.headers.get("Incoming-Secret") or query_of(request).get("backendSecret", ""))
        if not upload.location:
            raise NotReady("The file is not complete.")
        try:
            file = self._receiver().read(upload)
        except FileNotFoundError:
            raise UnknownUpload("The file has been taken away.") from None
        response = file_response(file, upload.length or 0)
        response.etag = upload.sha256
        return response

    # -- who and what ---------------------------------------------------------------------------------------

    def _identify(self, request: Request) -> Client:
        """:raises Unauthorized: no key, or a wrong one. Every key is compared, in constant time."""
        shown = _key(request)
        found = None
        for client in self._clients:
            if not client.key or compare_digest(client.key.encode(), shown.encode()):
                found = client
        if found is None:
            raise Unauthorized
        return found

    def _upload_of(self, client: Client, values: MultiDict[str, str]) -> Upload:
        upload_id = _value(values, "id")
        try:
            upload = self._receiver().status(upload_id, client.app)
        except UnknownUpload as error:
            raise BadRequest(str(error)) from None  # 0.1 says 400, where HTTP would say 404
        _check_secret(upload, _secret(values))
        return upload


def _check_secret(upload: Upload, shown: str) -> None:
    if not compare_digest(upload.secret.encode(), shown.encode()):
        raise WrongSecret


def _key(request: Request) -> str:
    """The key as a Bearer token, or as the password of Basic credentials: ``http://x:KEY@host/…`` sends those."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # neither base64 nor UTF-8
            return ""
    return ""


def _form(request: Request) -> MultiDict[str, str]:
    """The parameters, from query string and body.

    :raises BadRequest, TooLarge, UnsupportedMediaType: they are not as they should be.
    """
    length = content_length(request.environ)
    if length is None and "Transfer-Encoding" in request.headers:
        raise LengthRequired
    if length and length > _LONGEST_FORM:
        raise TooLarge("The form is too long.")
    if length and request.content_type not in _FORM_TYPES:
        raise UnsupportedMediaType("Parameters are sent in the query string or as application/x-www-form-urlencoded.")
    if request.content_type and (request.charset or "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("Parameters are sent in UTF-8.")
    try:
        values = MultiDict((name, str(value)) for name, value in request.params.items())
    except UnicodeDecodeError:
        raise BadRequest("The parameters are not UTF-8.") from None
    except OSError:  # webob's word for it
        raise BadRequest("The parameters ended before their length.") from None
    repeated = [name for name in values if len(values.getall(name)) > 1]
    if repeated:
        raise BadRequest("A parameter is given twice.")
    return values


def _value(values: MultiDict[str, str], name: str, default: str | None = None) -> str:
    value = values.get(name, default)
    if value is None:
        raise BadRequest(f"{name} is missing.")
    return str(value)


def _secret(values: MultiDict[str, str]) -> str:
    """The secret, by its name or its older one."""
    secret = _value(values, "backendSecret", "") or _value(values, "signalFinishSecret", "")
    return checked_secret(secret)


def checked_secret(secret: str) -> str:
    """:raises BadRequest: it is too long or has control characters."""
    if not secret.isprintable() or len(secret.encode()) > _LONGEST_SECRET:
        raise BadRequest(f"backendSecret may have {_LONGEST_SECRET} bytes of printable characters at most.")
    return secret


def _dest(values: MultiDict[str, str]) -> str:
    dest = values.get("destType")
    if dest == "":
        raise BadRequest("destType must name a storage.")
    return dest or ""


def _terms(values: MultiDict[str, str]) -> Terms:
    return Terms(
        accept=_value(values, "accept", ""),
        expires_in=_number(values, "expiresIn"),
        max_connections=_number(values, "maxConnections") or 0,
        bind_cookie=_value(values, "bindCookie", ""),
        bind_network=_value(values, "bindNetwork", ""),
    )


def _boolean(values: MultiDict[str, str], name: str, default: bool) -> bool:
    text = values.get(name)
    if text is None:
        return default
    if text not in _BOOLEANS:
        raise BadRequest(f"{name} must be true or false.")
    return _BOOLEANS[text]


def _number(values: MultiDict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) >= 2**63:
        raise BadRequest(f"{name} must be a whole number.")
    return int(text)


def _refuse_other_methods(request: Request, *allowed: str) -> None:
    if request.method not in allowed:
        raise MethodNotAllowed(allow=allowed)


def _as_json(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "state": upload.state.value,
        "phase": upload.phase,
        "length": upload.length,
        "received": upload.received,
        "filename": upload.location,
        "filenameFromBrowser": upload.filename_from_browser,
        "owner": upload.owner,
        "clientMetadata": dict(upload.client_metadata),
        "sha256": upload.sha256,
        "reason": upload.reason,
        "created_at": upload.created_at,
        "active_at": upload.active_at,
    }
