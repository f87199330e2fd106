"""``Incoming(app, storage=…, on_finish=…)``: the middleware, and what an app does with it from Python."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from webob import Request

from . import offload, servers
from .backend import Backend, Client, checked_secret
from .errors import Forbidden, IncomingError, NotFound, UnknownUpload
from .frontend import Frontend, Manners
from .handover import CallableHandler, OnCancel, OnFinish, PathHandler, URLHandler
from .protocols.websocket import Window
from .receiver import App, Patience, Receiver
from .registry import from_url
from .responses import json_response, text_response
from .settings import Settings, gather
from .signatures import key_of
from .storage import Storage
from .storage.bucket import is_bucket
from .storage.files import FileStorage
from .storage.s3 import S3Storage
from .targets import FinishHosts, parsed_target
from .upload import Upload

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("incoming_wsgi")

#: Scheme, host and script name of the request that this thread is at, for the tickets that the app makes in it. It is
#: not taken back at the end of the call: an app's answer may be a generator, which makes a ticket only later.
_current_address: ContextVar[tuple[str, str, str] | None] = ContextVar("incoming_address", default=None)

#: What never stands in one of our addresses, raw or decoded, and could mean another address to a proxy.
_SUSPICIOUS = ("//", "/.", "\\", "\0", ";", "%")
_SUSPICIOUS_RAW = ("//", "/.", "\\", ";", "%2f", "%2e", "%5c", "%00", "%25")

_GUARD_PAUSE = 0.005  # seconds between two looks whether another thread has made the engine
_WATCH_INTERVAL = 0.5  # seconds between two looks whether the server is stopping


@dataclass(frozen=True, kw_only=True)
class Permission:
    """That somebody without a ticket may upload, and how; what ``authorize`` gives. See :meth:`Incoming.new_upload`.

    :ivar filename: what the file is called, whatever the client says.
    """

    signal_finish_url: str = ""
    backend_secret: str = ""
    remove_file_when_finished: bool = True
    max_length: int | None = None
    owner: str = ""
    filename: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


#: Decides about a request that would create an upload without a ticket, knowing what the client says of the file.
Authorize = Callable[[Request, Mapping[str, str]], Permission | None]


class Incoming:
    """Wraps any WSGI app and takes uploads for it under ``/incoming/``; everything else passes through untouched.

    :param app: the WSGI app to wrap.
    :param on_finish: called with a :class:`FinishedUpload` for each complete file, beside the requests; returns
        ``None`` or ``"done"``, or ``"wait"`` if :meth:`finish_upload` will be called later.
    :param on_cancel: called with the :class:`Upload` and the reason when one is cancelled or expires.
    :param authorize: asked when a tus client, or one of the IETF's resumable uploads, wants to create an upload without
        a ticket: ``authorize(request, metadata)``, before a byte of the file is read, gives a :class:`Permission`, or
        ``None`` to refuse. Without it tickets are needed.
    :param options: see :class:`~incoming_wsgi.settings.Settings`; each can also come from ``INCOMING_…`` variables.
    :raises TypeError: an option is unknown, or there is no storage folder.
    :raises ValueError: a value can't be used.

    Nothing is opened and no thread runs before a process's first request, or :meth:`start`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        on_finish: OnFinish | None = None,
        on_cancel: OnCancel | None = None,
        authorize: Authorize | None = None,
        **options: Any,
    ) -> None:
        self._app = app
        self._on_finish = on_finish
        self._on_cancel = on_cancel
        self._authorize = authorize
        self.settings = gather(options)
        self._finish_hosts = FinishHosts(allowed=self.settings.finish_hosts, path=True, prefix=self.settings.prefix)
        self._engine = PerProcess(self._make_receiver)
        permit = self._permit if authorize is not None else None
        self._frontend = Frontend(self._engine.get, manners_of(self.settings), permit)
        self._backend = self._make_backend()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        is_ours = path == self.settings.prefix or path.startswith(self.settings.prefix + "/")
        try:
            self.start()
        except IncomingError as error:
            if is_ours:
                return refuse(error, environ, start_response)
            log.warning("uploads can't be taken: %s", error)  # the app itself goes on
        if is_ours:
            return route(environ, start_response, self.settings.prefix, self._frontend, self._backend)
        return self._pass_through(environ, start_response)

    # -- for the app ----------------------------------------------------------------------------------------

    def new_upload(
        self,
        *,
        signal_finish_url: str = "",
        backend_secret: str = "",
        remove_file_when_finished: bool = True,
        max_length: int | None = None,
        length: int | None = None,
        owner: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Get a ticket for one upload.

        :param signal_finish_url: who takes the file: empty for ``on_finish``, an absolute path of the wrapped app, or
            an http(s) URL.
        :param backend_secret: sent along with the hand-over, so that the app knows who calls.
        :param remove_file_when_finished: delete the file when the app is done with it, if it is still there.
        :param max_length: bytes that the file may have at most.
        :param length: bytes that it has, where the app knows; tus clients that are given the upload's URL ask for it.
        :param owner: a label of whoever uploads.
        :param metadata: text for ``on_finish``.
        :returns: the ticket, for ``incoming.Uploader(ticket, file)``.
        :raises BadRequest: the target is no URL, or there is no ``on_finish``.
        """
        permission = Permission(
            signal_finish_url=signal_finish_url,
            backend_secret=backend_secret,
            remove_file_when_finished=remove_file_when_finished,
            max_length=max_length,
            owner=owner,
            metadata=metadata or {},
        )
        return self._create(permission, length).id

    def _create(self, permission: Permission, length: int | None = None) -> Upload:
        if permission.signal_finish_url:
            parsed_target(permission.signal_finish_url, self.settings.prefix)
        return self._engine.get().create(
            self.settings.name,
            target=permission.signal_finish_url,
            base_url=self._base_url(),
            secret=checked_secret(permission.backend_secret),
            remove_file_when_finished=permission.remove_file_when_finished,
            max_length=permission.max_length,
            length=length,
            owner=permission.owner,
            name=permission.filename,
            metadata=permission.metadata,
        )

    def _permit(self, request: Request, metadata: Mapping[str, str]) -> Upload:
        """:raises Forbidden: the app does not want this upload."""
        _remember_address(request.environ)
        bare = Request({**request.environ, "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"})
        permission = self._authorize(bare, metadata) if self._authorize is not None else None
        if permission is None:
            raise Forbidden("The app does not allow this upload.")
        return self._create(permission)

    def cancel_upload(self, ticket: str, reason: str = "cancelled by the app") -> None:
        """Give an upload up and delete its bytes.

        :raises UnknownUpload: there is none with this ticket.
        :raises TooLate: its hand-over has begun.
        """
        self._engine.get().cancel(ticket, reason, self.settings.name)

    def finish_upload(self, ticket: str) -> None:
        """Say that the app is done with a file, after it has answered ``wait``. Saying it twice does no harm.

        :raises UnknownUpload: there is none with this ticket.
        :raises NotReady: the file is not being handed over.
        """
        self._engine.get().done(ticket, self.settings.name)

    def upload(self, ticket: str) -> Upload | None:
        """How an upload is getting on; ``None`` if there is none with this ticket, or not any more."""
        try:
            return self._engine.get().status(ticket, self.settings.name)
        except UnknownUpload:
            return None

    def start(self) -> None:
        """Begin to deliver and to clean up in this process; happens by itself with the first request."""
        self._engine.get()

    def close(self) -> None:
        """Stop what :meth:`start` began, and let go of all files. WebSockets are sent to another process."""
        self._frontend.close()
        self._engine.close()

    # -- wiring ---------------------------------------------------------------------------------------------

    def _pass_through(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["incoming"] = self
        _remember_address(environ)
        return self._app(environ, start_response)

    def _make_receiver(self) -> Receiver:
        settings = self.settings
        handlers = {
            "path": PathHandler(self._pass_through),
            "url": URLHandler(
                settings.handover_timeout, map(key_of, settings.signing_keys), self._finish_hosts.addresses_of
            ),
        }
        if self._on_finish is not None or self._on_cancel is not None:
            handlers["callable"] = CallableHandler(self._on_finish, self._on_cancel, self._record_move)
        app = App(settings.name, storage_of(settings), handlers, settings.max_length)
        receiver = make_receiver(settings, [app])
        receiver.start()
        offload.background(close_when_stopping, self._frontend, name="shutdown watch")
        return receiver

    def _make_backend(self) -> Backend | None:
        settings = self.settings
        if not settings.backend_key:
            return None
        return Backend(self._engine.get, [Client(settings.name, settings.backend_key, self._finish_hosts)])

    def _record_move(self, upload: Upload, target: str) -> None:
        self._engine.get().record_move(upload, target)

    def _base_url(self) -> str:
        scheme, host, script_name = _current_address.get() or ("http", "localhost", "")
        if self.settings.public_url:
            parts = urlsplit(self.settings.public_url)
            scheme, host = parts.scheme, parts.netloc
        return f"{scheme}://{host}{quote(script_name)}"


def _remember_address(environ: WSGIEnvironment) -> None:
    _current_address.set((environ["wsgi.url_scheme"], Request(environ).host, environ.get("SCRIPT_NAME", "")))


class PerProcess:
    """One receiver for each process: made when it is first asked for, never carried over a fork."""

    def __init__(self, make: Callable[[], Receiver]) -> None:
        self._make = make
        self._guard = threading.Lock()
        self._process = 0
        self._receiver: Receiver | None = None

    def get(self) -> Receiver:
        if self._receiver is not None and self._process == os.getpid():
            return self._receiver
        if self._process not in (0, os.getpid()):
            self._guard = threading.Lock()  # the parent's may have been held at the fork
        with self._alone():
            if self._receiver is None or self._process != os.getpid():
                self._receiver = self._make()
                self._process = os.getpid()
        return self._receiver

    def close(self) -> None:
        with self._alone():
            if self._receiver is not None and self._process == os.getpid():
                self._receiver.close()
            self._receiver = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The guard, without ever blocking in it.

        Under gunicorn --preload it was made before gevent patched threads: it is the kernel's lock, and a greenlet that
        blocked in it would stop the one that holds it, too.
        """
        while not self._guard.acquire(blocking=False):
            time.sleep(_GUARD_PAUSE)
        try:
            yield
        finally:
            self._guard.release()


def route(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    prefix: str,
    frontend: Frontend | None,
    backend: Backend | None,
) -> Iterable[bytes]:
    """Answer a request for one of our addresses; what is not offered here is not found."""
    try:
        door, rest = _split(environ, prefix)
        if door == "frontend" and frontend is not None:
            return frontend(environ, _nosniffing(start_response), rest)
        if door == "backend" and backend is not None:
            return backend(Request(environ), rest)(environ, _nosniffing(start_response))
        if door == "ready" and not rest:
            return text_response("ready\n")(environ, _nosniffing(start_response))
        raise NotFound
    except IncomingError as error:
        return refuse(error, environ, start_response)


def refuse(error: IncomingError, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The answer where an error stands in the way of any other."""
    return json_response({"error": error.as_json()}, error)(environ, _nosniffing(start_response))


def _split(environ: WSGIEnvironment, prefix: str) -> tuple[str, str]:
    """Which door, and the path behind it; both path forms, with the version and without.

    :raises NotFound: the path could mean another one to somebody in between.
    """
    path = environ.get("PATH_INFO", "").removeprefix(prefix)
    raw = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0].lower()
    if any(text in path for text in _SUSPICIOUS) or any(text in raw for text in _SUSPICIOUS_RAW if "://" not in raw):
        raise NotFound
    if path.startswith("/0.1/"):
        path = path.removeprefix("/0.1")
    door, _, rest = path.removeprefix("/").partition("/")
    return door, rest


def _nosniffing(start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, ("X-Content-Type-Options", "nosniff")], exc_info)

    return start


def close_when_stopping(frontend: Frontend) -> None:
    """Send WebSockets away as soon as the server is told to end: it would only cut them off."""
    while not servers.is_stopping() and not frontend.is_closed:
        time.sleep(_WATCH_INTERVAL)  # no event: under --preload it would be made before gevent patches threads
    frontend.close()


def manners_of(settings: Settings) -> Manners:
    return Manners(
        allow_origins=settings.allow_origins,
        public_url=settings.public_url,
        chunk_size=settings.chunk_size,
        window=Window(settings.websocket_chunk_size, settings.send_ahead),
        lanes=settings.lanes,
        websocket=settings.websocket,
        max_length=settings.max_length,
        receive_timeout=settings.receive_timeout,
    )


def patience_of(settings: Settings) -> Patience:
    return Patience(idle=settings.idle_timeout, wait=settings.wait_timeout)


def make_receiver(settings: Settings, apps: Iterable[App]) -> Receiver:
    """The engine for these apps; not started."""
    registry = from_url(registry_of(settings))
    by_name = {app.name: app for app in apps}
    fsync, digest = settings.durability == "fsync", settings.digest
    return Receiver(registry, by_name, patience_of(settings), fsync=fsync, digest=digest)


def storage_of(settings: Settings, place: str = "") -> Storage:
    """:param place: folder, or URL of a bucket; else the one of the settings."""
    place = place or settings.storage
    if is_bucket(place):
        return S3Storage(place)
    return FileStorage(
        place,
        mode=settings.file_mode,
        group=settings.file_group,
        floor=settings.free_space_floor,
    )


def registry_of(settings: Settings) -> str:
    """URL of the registry: the one that is set, or a file in the storage folder."""
    return settings.registry or f"sqlite://{Path(os.path.abspath(settings.storage)) / 'registry.sqlite3'}"
