"""The browser's door: which address is what, who may knock (Origin, CORS), and the life of a WebSocket."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from webob import Request, Response

from . import assets, events
from .errors import (
    BadRequest,
    Forbidden,
    ForbiddenOrigin,
    IncomingError,
    MethodNotAllowed,
    NotFound,
    NotImplementedHere,
    Replaced,
    Unavailable,
    UnknownUpload,
    UpgradeRequired,
)
from .gates.clients import network_of
from .gates.turnstile import Turnstile
from .gates.visitors import Visitor
from .intake import Dialect, Door, ticket_of
from .protocols import chunks, resumable, tus
from .protocols.websocket import (
    GOING_AWAY,
    LONGEST_TEXT,
    RESTART,
    WINDOW_OF_0_1,
    Close,
    Conversation,
    Send,
    Window,
)
from .receiver import Receiver
from .upload import Upload, is_ticket, shortened
from .wire import servers
from .wire.bodies import RequestBody, body_of
from .wire.channel import Channel, handshake
from .wire.frames import Event
from .wire.headers import content_length, refuse_malformed
from .wire.responses import json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger("incoming_wsgi")

#: By the name that uploads remember them by; our own is spoken where none of the others is.
_DIALECTS: Mapping[str, Dialect] = {"tus": tus, "ietf": resumable, "incoming": chunks}


def _together(lists: Iterable[Sequence[str]]) -> str:
    """What stands in several lists, once each, as a header has it."""
    return ", ".join(dict.fromkeys(name for names in lists for name in names))


_METHODS = _together([*(dialect.METHODS for dialect in _DIALECTS.values()), ("OPTIONS",)])
_REQUEST_HEADERS = _together([*(dialect.REQUEST_HEADERS for dialect in _DIALECTS.values()), ("Incoming-Ticket",)])
_RESPONSE_HEADERS = _together(dialect.RESPONSE_HEADERS for dialect in _DIALECTS.values())
_OF_PROXIES = ("HTTP_VIA", "HTTP_FORWARDED", "HTTP_X_FORWARDED_", "HTTP_X_REAL_IP")
_ORIGIN = re.compile(r"(https?)://([^/?#@\\\s]+)")
_PREFLIGHT_AGE = "7200"  # seconds; the longest that Chromium keeps one

_LOOK = 1.0  # seconds between two looks, of who waits for news, whether the process ends
_INTERRUPTION_LOOK = 0.01  # seconds between two looks whether they have ended
_LONGEST_INTERRUPTION = 1.0  # seconds that a request waits for those that it ends
_INTERIM = "104 Upload Resumption Supported"
_DRAIN_SECONDS = 2.0  # for the rest of a body that is refused
_PING_INTERVAL = 25.0  # seconds, while a front end waits for the app
_PAUSE = 1.0  # seconds without a byte after which a front end may wait for acknowledgements that are held back
_DEAD_AFTER = 80.0  # seconds without a pong


@dataclass(frozen=True)
class Manners:
    """What the front end is told and allowed.

    :ivar allow_origins: origins of other sites' pages that may upload here; ``*`` for any.
    :ivar public_url: scheme and host that browsers know this server by; empty to go by the request.
    :ivar chunk_size: bytes of a chunk over HTTP, at most.
    :ivar window: what may be sent over a WebSocket by our own library.
    :ivar lanes: chunks of one client that may be on their way at the same time.
    :ivar websocket: whether WebSockets are offered.
    :ivar max_length: bytes of the longest file that is taken.
    :ivar receive_timeout: seconds of silence after which a sender is cut off; what has arrived is kept.
    :ivar interim_responses: whether clients may be sent one that tells them how to resume.
    :ivar address_connections: that may bring bytes from one address at the same time; 0 for any number.
    :ivar total_connections: that may bring bytes at the same time; 0 for any number.
    """

    allow_origins: Collection[str]
    public_url: str
    chunk_size: int
    window: Window
    lanes: int
    websocket: bool
    max_length: int
    receive_timeout: float
    interim_responses: bool = False
    address_connections: int = 0
    total_connections: int = 0


#: Asks the app whether the sender of a request, given without its body, may open an upload.
Gatekeeper = Callable[[Request, Upload], bool]

#: Asks the app whether somebody without a ticket may create an upload, given the client's metadata; makes it.
Permit = Callable[[Request, Mapping[str, str]], Upload]


class Frontend:
    """:param receiver: gives the engine of this process.
    :param permit: the app's decision about uploads without a ticket; where there is none, nobody creates any.
    :param gatekeeper: the app's decision about each opening; where there is none, a ticket is enough.
    """

    def __init__(
        self,
        receiver: Callable[[], Receiver],
        manners: Manners,
        permit: Permit | None = None,
        gatekeeper: Gatekeeper | None = None,
    ) -> None:
        self._receiver = receiver
        self._manners = manners
        self._permit = permit
        self._gatekeeper = gatekeeper
        self._seats = servers.Seats()
        self._turnstile = Turnstile(manners.address_connections, manners.total_connections)
        self._channels: set[Channel] = set()
        self._bodies: dict[RequestBody, str] = {}  # those that are being read, and the uploads that they are for
        self._interrupted: set[RequestBody] = set()  # of these, those that a newer request has ended
        self._guard = threading.Lock()
        self.is_draining = False
        self.is_closed = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse, path: str) -> Iterable[bytes]:
        """The answer to a request for ``path`` below the front end's address.

        :raises IncomingError: a WebSocket can't be had.
        """
        if path == "upload_ws":
            refuse_malformed(environ)
            return self._websocket(environ)
        request = _as_meant(Request(environ))
        try:
            refuse_malformed(environ)
        except IncomingError as error:
            response = self._refusal(error, request)
            response.headers["Connection"] = "close"  # where it ends is anybody's guess
        else:
            response = self._response(request, path)
        if servers.may_hide_a_length(environ) or self.is_draining:
            response.headers["Connection"] = "close"
        if tus.is_spoken(request):
            tus.mark(response)
        self._add_cors(request, response)
        return response(environ, start_response)

    def drain(self) -> None:
        """Send away, to another process, whoever can go there without losing anything. Bytes that come are taken."""
        self.is_draining = True
        self._wake_channels()

    def resume(self) -> None:
        """Take everybody again."""
        self.is_draining = False

    @property
    def is_quiet(self) -> bool:
        """Whether nobody brings bytes."""
        return not self._bodies and not self._channels

    def close(self) -> None:
        """The process ends: send everybody away, to come back to another one. What has arrived counts."""
        self.is_closed = True
        self._wake_channels()
        with self._guard:
            for body in self._bodies:
                body.end()

    def _wake_channels(self) -> None:
        with self._guard:
            for channel in self._channels:
                channel.wake()

    # -- HTTP -----------------------------------------------------------------------------------------------

    def _response(self, request: Request, path: str) -> Response:
        try:
            return self._respond(request, path)
        except IncomingError as error:
            return self._refusal(error, request)

    def _respond(self, request: Request, path: str) -> Response:
        if path in assets.NAMES:
            return assets.respond(request, path)
        kind, _, rest = path.partition("/")
        upload_id, _, action = rest.partition("/")
        if kind != "uploads" or action not in ("", "pause") or (upload_id and path.endswith("/")):
            raise NotFound
        if request.method == "OPTIONS":
            return self._discovery(request, upload_id)
        return self._upload(request, upload_id, action)

    def _refusal(self, error: IncomingError, request: Request) -> Response:
        """Where no upload is concerned."""
        tell_of_refusal(error, request.method)
        return (_spoken(request) or chunks).refusal(error, request, None, self._door(request, None))

    def _discovery(self, request: Request, upload_id: str) -> Response:
        """What may be done, within the limits of the upload that the request is about, if it names one."""
        response = Response(status=204, headerlist=[("Allow", _METHODS)])
        door = self._door(request, None)
        upload = self._known(upload_id or ticket_of(request), self._receiver_for(request.environ))
        if upload is not None:
            door = replace(door, max_length=self._receiver().limit(upload))
        for dialect in _DIALECTS.values():
            response.headers.update(dialect.discovery(door).items())
        return response

    def _upload(self, request: Request, upload_id: str, action: str) -> Response:
        body = self._body(request)
        with self._reading(body, upload_id):
            response = self._respond_with(request, upload_id, action, body)
            if body is None or not body.drain(_DRAIN_SECONDS):
                response.headers["Connection"] = "close"
        response.headers["Cache-Control"] = "no-store"
        return response

    def _respond_with(self, request: Request, upload_id: str, action: str, body: RequestBody | None) -> Response:
        door = self._door(request, body)
        receiver = self._receiver_for(request.environ)
        dialect = self._dialect_of(request, upload_id, receiver)
        try:
            if upload_id and not is_ticket(upload_id):
                raise UnknownUpload
            looks_only = request.method in ("GET", "HEAD")
            if not looks_only or dialect is not chunks:  # in the others whoever asks for the offset ends a sender
                self._refuse_foreign_origin(request)
            if not looks_only:
                self._refuse_while_closing()
            if request.method == "POST" and not action and body is not None and body.length == 0:
                self._refuse_while_draining()  # what has a body could not be passed on by a proxy
            respond = chunks.pause if action else dialect.respond
            with self._room_for(request, body):
                response = respond(request, upload_id, receiver, door)
            if body is not None and body.was_cut:
                self._refuse_what_was_ended(body)  # what has come is safe, but it was not all: that must not look so
        except IncomingError as error:
            upload = self._known(upload_id, receiver)
            tell_of_refusal(error, request.method, upload_id, upload.owner if upload else "")
            return dialect.refusal(error, request, upload, door)
        if body is not None and body.path and body.length != 0:
            log.debug("%s %s: %s bytes by %s", request.method, shortened(upload_id), body.length, body.path)
        return response

    def _room_for(self, request: Request, body: RequestBody | None) -> AbstractContextManager[None]:
        if body is None or body.length == 0:
            return nullcontext()
        return self._turnstile.let_in(network_of(request.environ))

    def _dialect_of(self, request: Request, upload_id: str, receiver: Receiver) -> Dialect:
        """By what the request has, or else the dialect that its upload was created in, or else last opened in."""
        dialect = _spoken(request) or self._remembered(upload_id, request.method, receiver)
        return chunks if dialect is tus and request.method == "GET" else dialect  # tus has none: it is for the status

    def _remembered(self, upload_id: str, method: str, receiver: Receiver) -> Dialect:
        upload = self._known(upload_id, receiver)
        dialect = _DIALECTS.get(upload.created_with or upload.protocol, chunks) if upload is not None else chunks
        return dialect if method in dialect.METHODS else chunks

    def _door(self, request: Request, body: RequestBody | None) -> Door:
        environ = request.environ

        def poll(upload_id: str, until: Callable[[Upload], bool], seconds: float) -> Upload:
            with self._seats.sit(environ) as seated:
                return self._wait(upload_id, until, seconds if seated else 0)

        manners = self._manners
        return Door(
            chunk_size=manners.chunk_size,
            lanes=manners.lanes,
            websocket=manners.websocket and servers.can_take(environ) and servers.seats(environ) != 0,
            max_length=manners.max_length,
            body=body,
            poll=poll,
            location=lambda upload_id: self._location(request, upload_id),
            admit=lambda ticket, metadata: self._admit(request, body, ticket, metadata),
            interrupt=lambda upload_id: self._interrupt(upload_id, body),
            trailers=servers.trailers(environ),
            interim=lambda headers: self._inform(environ, headers),
        )

    def _location(self, request: Request, upload_id: str) -> str:
        """In the path form that the request came by. Absolute: not every client can follow another one."""
        origin = _origin_of(self._manners.public_url) if self._manners.public_url else request.host_url
        above = request.path.partition("/frontend/")[0]
        return f"{origin}{above}/frontend/uploads/{upload_id}"

    def _admit(self, request: Request, body: RequestBody | None, ticket: str, metadata: Mapping[str, str]) -> Upload:
        """The upload that a creating request is for; its body counts as that upload's from now on.

        :raises UnknownUpload: there is none with this ticket.
        :raises Forbidden: it has no ticket, and may do nothing without one.
        """
        upload = self._admitted(request, ticket or ticket_of(request), metadata)
        with self._guard:
            if body is not None and body in self._bodies:
                self._bodies[body] = upload.id
        return upload

    def _admitted(self, request: Request, ticket: str, metadata: Mapping[str, str]) -> Upload:
        if ticket:
            if not is_ticket(ticket):
                raise UnknownUpload
            return self._receiver_for(request.environ).status(ticket)
        if self._permit is None:
            raise Forbidden("To upload here takes a ticket of the app.")
        return self._permit(request, metadata)

    def _interrupt(self, upload_id: str, own: RequestBody | None) -> None:
        """End the bodies of an upload but for the request's own, and wait until they are recorded."""
        deadline = time.monotonic() + _LONGEST_INTERRUPTION
        with self._guard:
            others = {body for body, of in self._bodies.items() if of == upload_id and body is not own}
            self._interrupted |= others
        for body in others:
            body.end()
        while not self._bodies_of(upload_id).isdisjoint(others) and time.monotonic() < deadline:
            time.sleep(_INTERRUPTION_LOOK)

    def _inform(self, environ: WSGIEnvironment, headers: Mapping[str, str]) -> None:
        """Not where a proxy is seen: some take an interim response that they don't know for the answer."""
        if self._manners.interim_responses and not any(key.startswith(_OF_PROXIES) for key in environ):
            servers.send_interim(environ, _INTERIM, headers)

    def _bodies_of(self, upload_id: str) -> set[RequestBody]:
        with self._guard:
            return {body for body, of in self._bodies.items() if of == upload_id}

    def _body(self, request: Request) -> RequestBody | None:
        length = content_length(request.environ)
        is_chunked = "Transfer-Encoding" in request.headers
        if length is None and request.method == "PUT" and not is_chunked:
            return None
        return body_of(request.environ, None if is_chunked else length or 0, self._manners.receive_timeout)

    def _wait(self, upload_id: str, until: Callable[[Upload], bool], seconds: float) -> Upload:
        """As :meth:`Receiver.wait`, but not beyond the end of the process."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            upload = self._receiver().wait(upload_id, until, min(left, _LOOK))
            if left <= _LOOK or self.is_closed or self.is_draining or until(upload):
                return upload

    @contextmanager
    def _reading(self, body: RequestBody | None, upload_id: str) -> Iterator[None]:
        """While it lasts, :meth:`close` ends the body."""
        if body is None or body.length == 0:
            yield
            return
        with self._guard:
            self._bodies[body] = upload_id
        if self.is_closed:  # since it was asked
            body.end()
        try:
            yield
        finally:
            with self._guard:
                self._bodies.pop(body, None)
                self._interrupted.discard(body)
            body.close()

    def _refuse_what_was_ended(self, body: RequestBody) -> None:
        self._refuse_while_closing()
        if body in self._interrupted:
            raise Replaced

    def _refuse_while_closing(self) -> None:
        if self.is_closed:
            raise Unavailable("The server restarts; come again.", retry_after=1)

    def _refuse_while_draining(self) -> None:
        if self.is_draining:
            raise Unavailable("This server takes no more uploads; another one does.", retry_after=1)

    def _receiver_for(self, environ: WSGIEnvironment) -> Receiver:
        """The receiver as the sender of a request may use it."""
        return self._receiver().seen_by(
            Visitor(
                client=network_of(environ),
                address=environ.get("REMOTE_ADDR") or "",
                cookies=environ.get("HTTP_COOKIE", ""),
                may_open=partial(self._gatekeeper, Request(environ)) if self._gatekeeper is not None else None,
            )
        )

    def _known(self, upload_id: str, receiver: Receiver) -> Upload | None:
        try:
            return receiver.status(upload_id)
        except IncomingError:
            return None

    # -- Origin ---------------------------------------------------------------------------------------------

    def _refuse_foreign_origin(self, request: Request) -> None:
        """:raises ForbiddenOrigin: a browser says that the page is of another site, which is not allowed.

        Only browsers send ``Origin``. They can't be made to leave it out but of a GET or HEAD, by an image, say; then
        ``Sec-Fetch-Site`` tells.
        """
        origin = request.headers.get("Origin")
        if origin is None and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise ForbiddenOrigin
        if origin is not None and not self._is_same_origin(request, origin) and not self._is_allowed(origin):
            raise ForbiddenOrigin

    def _is_same_origin(self, request: Request, origin: str) -> bool:
        """``Sec-Fetch-Site`` is the browser's own word, and true also behind proxies that rewrite ``Host``."""
        if request.headers.get("Sec-Fetch-Site") == "same-origin":
            return True
        if self._manners.public_url:
            return origin == _origin_of(self._manners.public_url)
        found = _ORIGIN.fullmatch(origin)
        return found is not None and _with_port(found[2], found[1]) == _with_port(request.host, found[1])

    def _is_allowed(self, origin: str) -> bool:
        return origin in self._manners.allow_origins or ("*" in self._manners.allow_origins and origin != "null")

    def _add_cors(self, request: Request, response: Response) -> None:
        origin = request.headers.get("Origin")
        if origin is None or "Access-Control-Allow-Origin" in response.headers:
            return
        response.headers.add("Vary", "Origin")
        if self._is_allowed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _RESPONSE_HEADERS
            if request.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = _METHODS
                response.headers["Access-Control-Allow-Headers"] = _REQUEST_HEADERS
                response.headers["Access-Control-Max-Age"] = _PREFLIGHT_AGE

    # -- WebSocket ------------------------------------------------------------------------------------------

    def _websocket(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        request = Request(environ)
        if request.method != "GET":
            raise MethodNotAllowed(allow=("GET",))
        if "websocket" not in environ.get("HTTP_UPGRADE", "").lower():
            raise UpgradeRequired
        self._refuse_foreign_origin(request)
        if request.headers.get("Sec-WebSocket-Version", "13") != "13":
            raise UpgradeRequired
        has_body = bool(content_length(environ)) or "Transfer-Encoding" in request.headers
        if environ.get("SERVER_PROTOCOL") != "HTTP/1.1" or has_body:
            raise BadRequest("A WebSocket begins with a GET by HTTP/1.1, without a body.")
        if not self._manners.websocket or not servers.can_take(environ):
            raise NotImplementedHere("WebSockets can't be had on this server; upload over HTTP.")
        response = handshake(environ)
        if response.status_code != 101:
            raise BadRequest("The WebSocket handshake is malformed.")
        with self._turnstile.let_in(network_of(environ)), self._seats.sit(environ) as seated:
            self._refuse_while_draining()
            if not seated or self.is_closed:
                raise Unavailable("No further WebSocket can be opened now; upload over HTTP.", retry_after=5)
            connection = servers.take(environ)
            if connection is None:
                raise NotImplementedHere("WebSockets can't be had on this server; upload over HTTP.")
            channel = Channel(
                connection,
                response,
                longest_text=LONGEST_TEXT,
                longest_binary=max(self._manners.window.chunk_size, WINDOW_OF_0_1.chunk_size),
            )
            self._converse(channel, self._receiver_for(environ))
        return connection.leave()

    def _converse(self, channel: Channel, receiver: Receiver) -> None:
        conversation = Conversation(receiver, self._manners.window)
        with self._guard:
            self._channels.add(channel)
        if self.is_draining or self.is_closed:  # since it was asked
            channel.wake()
        try:
            Dialogue(channel, conversation, receiver, self._manners.receive_timeout).run()
        except Exception:
            log.exception("a WebSocket failed")
            channel.close(RESTART)
        finally:
            with self._guard:
                self._channels.discard(channel)
            conversation.close()


class Dialogue:
    """Moves messages between a channel and a conversation until one of them is over."""

    def __init__(
        self, channel: Channel, conversation: Conversation, receiver: Receiver, receive_timeout: float
    ) -> None:
        self._channel = channel
        self._conversation = conversation
        self._receiver = receiver
        self._receive_timeout = receive_timeout
        self._unsubscribe: Callable[[], None] | None = None

    def run(self) -> None:
        try:
            close = None
            while close is None:
                close = self._step()
            self._channel.close(close.code, close.reason)
        finally:
            if self._unsubscribe is not None:
                self._unsubscribe()

    def _step(self) -> Close | None:
        try:
            events = self._channel.receive(self._patience)
        except TimeoutError:
            return self._silent()
        if not events:
            return self._perform(self._conversation.changed()) or Close(RESTART, "The server restarts.")
        for event in events:
            close = self._perform(self._hear(event))
            if close is not None:
                return close
        return self._perform(self._conversation.flush()) or self._follow()

    def _hear(self, event: Event) -> Iterable[Send | Close]:
        if isinstance(event, str):
            return self._conversation.text(event)
        return self._conversation.binary(event.data, last=event.last)

    @property
    def _patience(self) -> float:
        if self._conversation.holds_back:
            return _PAUSE
        return self._receive_timeout if self._conversation.owes_bytes else _PING_INTERVAL

    def _silent(self) -> Close | None:
        if self._conversation.holds_back:
            return self._perform(self._conversation.settle())
        if self._conversation.owes_bytes or self._channel.silence > _DEAD_AFTER:
            return Close(GOING_AWAY, "Nothing was heard for too long.")
        self._channel.ping()
        return None

    def _follow(self) -> Close | None:
        """From the moment on that we know which upload it is, wake up when that is over."""
        upload_id = self._conversation.upload_id
        if upload_id is None or self._unsubscribe is not None:
            return None
        self._unsubscribe = self._receiver.subscribe(upload_id, self._wake_if_over)
        return self._perform(self._conversation.changed())

    def _wake_if_over(self) -> None:
        with suppress(IncomingError):  # the records can't be read now; who tells of changes tells again then
            if self._conversation.is_over:
                self._channel.wake()

    def _perform(self, actions: Iterable[Send | Close]) -> Close | None:
        """Send what is to be sent, in one go; gives the close, where there is one."""
        texts: list[str] = []
        close = None
        for action in actions:
            if isinstance(action, Send):
                texts.append(action.text)
            else:
                close = action
        if texts:
            self._channel.send(*texts)
        return close


def tell_of_refusal(error: IncomingError, method: str, upload_id: str = "", owner: str = "") -> None:
    name = shortened(upload_id) if upload_id else ""
    events.tell(
        "refused",
        "refused %s %r: %d %s",
        method,
        name,
        error.status,
        error.name,
        upload=name,
        owner=owner,
        reason=error.name,
    )


def refusal(error: IncomingError, environ: WSGIEnvironment) -> Response:
    """The answer where an error stands in the way of any other."""
    response = json_response({"error": error.as_json()}, error)
    if tus.is_spoken(Request(environ)):
        tus.mark(response)
    return response


def _as_meant(request: Request) -> Request:
    """With the method that the client means; the server, which knows another one, goes on by its own."""
    method = tus.method_of(request)
    return request if method == request.method else Request({**request.environ, "REQUEST_METHOD": method})


def _spoken(request: Request) -> Dialect | None:
    return next((dialect for dialect in _DIALECTS.values() if dialect.is_spoken(request)), None)


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _with_port(netloc: str, scheme: str) -> str:
    """Host and port, the port also where it goes without saying."""
    host = netloc.lower()
    if host.rpartition(":")[2].isdecimal() and not host.endswith("]"):
        return host
    return f"{host}:{443 if scheme == 'https' else 80}"
