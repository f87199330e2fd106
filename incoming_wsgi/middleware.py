"""``Incoming(app, storage=…, on_finish=…)``: the middleware, and what an app does with it from Python."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

from webob import Request, Response

from . import events, metrics, offload
from .backend import Backend, Client, checked_secret
from .delivery.handover import CallableHandler, OnCancel, OnFinish, PathHandler, URLHandler
from .delivery.targets import FinishHosts, parsed_target
from .draining import Drain, Mark
from .errors import Forbidden, IncomingError, NotFound, Unavailable, UnknownUpload
from .frontend import Frontend, Manners, refusal, tell_of_refusal
from .gates.clients import Proxies, network_of
from .gates.quotas import Allowance
from .gates.terms import Terms
from .protocols.websocket import Window
from .receiver import App, OnFirstBytes, Patience, Receiver
from .registry import from_url
from .settings import Settings, gather
from .signatures import key_of
from .storage import Storage, mounts
from .storage.bucket import is_bucket
from .storage.files import FileStorage
from .storage.s3 import S3Storage
from .upload import Upload
from .wire.responses import text_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("incoming_wsgi")

P = ParamSpec("P")
T = TypeVar("T")

#: Scheme, host and script name of the request that this thread is at, for the tickets that the app makes in it. It is
#: not taken back at the end of the call: an app's answer may be a generator, which makes a ticket only later.
_current_address: ContextVar[tuple[str, str, str] | None] = ContextVar("incoming_address", default=None)

#: What never stands in one of our addresses, raw or decoded, and could mean another address to a proxy.
_SUSPICIOUS = re.compile(r"//|/\.|\\|\0|;|%")
_SUSPICIOUS_RAW = re.compile(r"//|/\.|\\|;|%2f|%2e|%5c|%00|%25")

_GUARD_PAUSE = 0.005  # seconds between two looks whether another thread has made the engine


@dataclass(frozen=True, kw_only=True)
class Permission:
    """That somebody without a ticket may upload, and how; what ``authorize`` gives. See :meth:`Incoming.new_upload`.

    :ivar filename: what the file is called, whatever the client says.
    """

    signal_finish_url: str = ""
    backend_secret: str = ""
    dest: str = ""
    remove_file_when_finished: bool = True
    max_length: int | None = None
    owner: str = ""
    filename: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    accept: str = ""
    expires_in: float | None = None
    max_connections: int = 0
    bind_cookie: str = ""
    bind_network: str = ""

    @property
    def terms(self) -> Terms:
        """:raises BadRequest: they can't be kept."""
        return Terms(**{each.name: getattr(self, each.name) for each in fields(Terms)})


#: Decides about a request that would create an upload without a ticket, knowing what the client says of the file.
Authorize = Callable[[Request, Mapping[str, str]], Permission | None]

#: Decides whether the sender of a request may open an upload, by its ticket.
AuthorizeOpening = Callable[[Request, Upload], bool]


class Incoming:
    """Wraps any WSGI app and takes uploads for it under ``/incoming/``; everything else passes through untouched.

    :param app: the WSGI app to wrap.
    :param on_finish: called with a :class:`FinishedUpload` for each complete file, beside the requests; returns
        ``None`` or ``"done"``, or ``"wait"`` if :meth:`finish_upload` will be called later.
    :param on_cancel: called with the :class:`Upload` and the reason when one is cancelled or expires.
    :param on_first_bytes: called with an :class:`Upload` and its :class:`FirstBytes` (64 KiB, or a shorter file whole)
        where the request runs that has brought them: ``None``, or why the file is not welcome, in words for the person.
        Then it is cancelled. Called once, but again if processes die or several connections end at that moment.
    :param authorize: asked when a tus client, or one of the IETF's resumable uploads, wants to create an upload without
        a ticket: ``authorize(request, metadata)``, before a byte of the file is read, gives a :class:`Permission`, or
        ``None`` to refuse. Without it tickets are needed.
    :param authorize_opening: asked whenever somebody opens an upload, or goes on with it, in any dialect:
        ``authorize_opening(request, upload)``, before a byte is read, is true, or false to refuse. A ticket is still
        needed. What goes on within an opening (chunks, status, pause) is not asked about again.
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
        on_first_bytes: OnFirstBytes | None = None,
        authorize: Authorize | None = None,
        authorize_opening: AuthorizeOpening | None = None,
        **options: Any,
    ) -> None:
        self._app = app
        self._on_finish = on_finish
        self._on_cancel = on_cancel
        self._on_first_bytes = on_first_bytes
        self._authorize = authorize
        self._authorize_opening = authorize_opening
        self.settings = gather(options)
        refuse_forgetful(self.settings, (self.settings.storage, *self.settings.storages.values()))
        self._finish_hosts = FinishHosts(allowed=self.settings.finish_hosts, path=True, prefix=self.settings.prefix)
        self._proxies = Proxies(self.settings.trusted_proxies)
        self._engine = PerProcess(self._make_receiver)
        permit = self._permit if authorize is not None else None
        gatekeeper = self._may_open if authorize_opening is not None else None
        self._frontend = Frontend(self._engine.get, manners_of(self.settings), permit, gatekeeper)
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
            return route(
                self._proxies.behind(environ),
                start_response,
                self.settings.prefix,
                self._frontend,
                self._backend,
                is_draining=self._frontend.is_draining,
            )
        return self._pass_through(environ, start_response)

    # -- for the app ----------------------------------------------------------------------------------------

    def new_upload(
        self,
        *,
        signal_finish_url: str = "",
        backend_secret: str = "",
        dest: str = "",
        remove_file_when_finished: bool = True,
        max_length: int | None = None,
        length: int | None = None,
        owner: str = "",
        metadata: Mapping[str, str] | None = None,
        accept: str = "",
        expires_in: float | None = None,
        max_connections: int = 0,
        bind_cookie: str = "",
        bind_network: str = "",
    ) -> str:
        """Get a ticket for one upload.

        :param signal_finish_url: who takes the file: empty for ``on_finish``, an absolute path of the wrapped app, or
            an http(s) URL.
        :param backend_secret: sent along with the hand-over, so that the app knows who calls.
        :param dest: name of the storage that the file goes to, one of ``storages``; without it, to the default.
        :param remove_file_when_finished: delete the file when the app is done with it, if it is still there.
        :param max_length: bytes that the file may have at most.
        :param length: bytes that it has, where the app knows; tus clients that are given the upload's URL ask for it.
        :param owner: a label of whoever uploads.
        :param metadata: text for ``on_finish``.
        :param accept: kinds of files that may come, as HTML's ``accept`` has it, and patterns of names:
            ``.jpg, scan-*.tif, image/*``. Goes by what the file is called.
        :param expires_in: seconds after which the ticket ends, also in the middle of the upload; :meth:`renew_upload`.
        :param max_connections: that may bring its bytes at the same time, to each process.
        :param bind_cookie: ``NAME=VALUE`` of a cookie that the browser has to send along.
        :param bind_network: address or network that it may be used from: ``192.0.2.7``, ``2001:db8::/64``.
        :returns: the ticket, for ``incoming.Uploader(ticket, file)``.
        :raises BadRequest: the target is no URL, or there is no ``on_finish``, or no storage of that name.
        :raises OverQuota: the owner, or the app, has too much open, or was too quick.
        """
        permission = Permission(
            signal_finish_url=signal_finish_url,
            backend_secret=backend_secret,
            dest=dest,
            remove_file_when_finished=remove_file_when_finished,
            max_length=max_length,
            owner=owner,
            metadata=metadata or {},
            accept=accept,
            expires_in=expires_in,
            max_connections=max_connections,
            bind_cookie=bind_cookie,
            bind_network=bind_network,
        )
        return self._create(permission, length).id

    def _create(self, permission: Permission, length: int | None = None, client: str = "") -> Upload:
        if permission.signal_finish_url:
            parsed_target(permission.signal_finish_url, self.settings.prefix)
        return self._engine.get().create(
            self.settings.name,
            target=permission.signal_finish_url,
            base_url=self._base_url(),
            secret=checked_secret(permission.backend_secret),
            dest=permission.dest,
            remove_file_when_finished=permission.remove_file_when_finished,
            max_length=permission.max_length,
            length=length,
            owner=permission.owner,
            name=permission.filename,
            metadata=permission.metadata,
            client=client,
            terms=permission.terms,
        )

    def _permit(self, request: Request, metadata: Mapping[str, str]) -> Upload:
        """:raises Forbidden: the app does not want this upload."""
        _remember_address(request.environ)
        permission = _asked(self._authorize, _without_body(request), metadata) if self._authorize is not None else None
        if permission is None:
            raise Forbidden("The app does not allow this upload.")
        return self._create(permission, client=network_of(request.environ))

    def _may_open(self, request: Request, upload: Upload) -> bool:
        _remember_address(request.environ)
        return self._authorize_opening is None or bool(_asked(self._authorize_opening, _without_body(request), upload))

    def renew_upload(self, ticket: str, expires_in: float | None = None) -> None:
        """Give an upload more time while it waits or runs: its idle time begins anew.

        :param expires_in: seconds from now after which its ticket ends; without it that stays as it is.
        :raises UnknownUpload: there is none with this ticket.
        :raises Cancelled, Expired, AlreadyComplete: it takes no more bytes.
        """
        self._engine.get().renew(ticket, expires_in, self.settings.name)

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

    @property
    def metrics_app(self) -> WSGIApplication:
        """A WSGI app with the figures for Prometheus, where ``metrics`` is on: for an internal listener.

        :raises RuntimeError: it is off.
        """
        if not self.settings.metrics:
            raise RuntimeError("there are no figures without metrics=True")
        return metrics.app

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
        _remember_address(self._proxies.behind(environ))
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
        app = App(
            settings.name,
            storage_of(settings),
            handlers,
            settings.max_length,
            allowance_of(settings),
            self._on_first_bytes,
            storages_of(settings, settings.storages),
        )
        receiver = make_receiver(settings, [app])
        begin(receiver, self._frontend, settings)
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


def _asked(decide: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the app decides. If we let its errors through, the server would log them with the whole ticket.

    :raises Unavailable: it has failed; nothing is decided.
    """
    try:
        return decide(*args, **kwargs)
    except IncomingError:
        raise
    except Exception as error:
        log.exception("the app has failed to decide about an upload")
        raise Unavailable("The app can't decide about this upload at the moment.", retry_after=5) from error


def _without_body(request: Request) -> Request:
    return Request({**request.environ, "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"})


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
    *,
    is_draining: bool = False,
) -> Iterable[bytes]:
    """Answer a request for one of our addresses; what is not offered here is not found."""
    events.begin_request(environ.get("HTTP_X_REQUEST_ID", ""))
    try:
        door, rest = _split(environ, prefix)
        if door == "frontend" and frontend is not None:
            return frontend(environ, _nosniffing(start_response), rest)
        if door == "backend" and backend is not None:
            return backend(Request(environ), rest)(environ, _nosniffing(start_response))
        if door == "ready" and not rest:
            return _readiness(is_draining=is_draining)(environ, _nosniffing(start_response))
        raise NotFound
    except IncomingError as error:
        return refuse(error, environ, start_response)


def _readiness(*, is_draining: bool) -> Response:
    """What a load balancer goes by."""
    response = text_response("draining\n", Unavailable()) if is_draining else text_response("ready\n")
    response.headers["Cache-Control"] = "no-store"
    return response


def refuse(error: IncomingError, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The answer where an error stands in the way of any other."""
    tell_of_refusal(error, environ.get("REQUEST_METHOD", ""))
    return refusal(error, environ)(environ, _nosniffing(start_response))


def _split(environ: WSGIEnvironment, prefix: str) -> tuple[str, str]:
    """Which door, and the path behind it; both path forms, with the version and without.

    :raises NotFound: the path could mean another one to somebody in between.
    """
    path = environ.get("PATH_INFO", "").removeprefix(prefix)
    raw = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0].lower()
    if _SUSPICIOUS.search(path) or ("://" not in raw and _SUSPICIOUS_RAW.search(raw)):
        raise NotFound
    if path.startswith("/0.1/"):
        path = path.removeprefix("/0.1")
    door, _, rest = path.removeprefix("/").partition("/")
    return door, rest


def _nosniffing(start_response: StartResponse) -> StartResponse:
    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, ("X-Content-Type-Options", "nosniff")], exc_info)

    return start


def begin(receiver: Receiver, frontend: Frontend, settings: Settings) -> None:
    """Deliver and clean up from now on, until this process is drained or ends."""
    receiver.start()
    drain = Drain(frontend, receiver, Mark(settings.drain_file) if settings.drain_file else None)
    drain.look()  # before the first request is answered
    offload.background(drain.watch, name="drain")


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
        interim_responses=settings.interim_responses,
        address_connections=settings.address_connections,
        total_connections=settings.total_connections,
    )


def allowance_of(settings: Settings) -> Allowance:
    return Allowance(**{each.name: getattr(settings, each.name) for each in fields(Allowance)})


def patience_of(settings: Settings) -> Patience:
    return Patience(idle=settings.idle_timeout, wait=settings.wait_timeout)


def make_receiver(settings: Settings, apps: Iterable[App]) -> Receiver:
    """The engine for these apps; not started."""
    if settings.metrics:
        metrics.metrics()
    registry = from_url(registry_of(settings))
    by_name = {app.name: app for app in apps}
    return Receiver(
        registry,
        by_name,
        patience_of(settings),
        fsync=settings.durability == "fsync",
        digest=settings.digest,
        connections=settings.upload_connections,
    )


def refuse_forgetful(settings: Settings, places: Iterable[str]) -> None:
    """Whether a server may keep files there; where they are only looked at, it does not matter.

    :param places: folders, and URLs of buckets.
    :raises ValueError: a folder that machines share is used as if it were this one's own.
    """
    for place in places:
        if not is_bucket(place):
            mounts.refuse_forgetful(place, fsync=settings.durability == "fsync")
    registry = urlsplit(registry_of(settings))
    if registry.scheme == "sqlite" and mounts.mount_of(registry.path).is_shared:
        raise ValueError(f"{registry.path} is on a shared file system, where SQLite is not safe: registry='redis://…'")


def storage_of(settings: Settings, place: str = "") -> Storage:
    """:param place: folder, or URL of a bucket; else the one of the settings."""
    place = place or settings.storage
    if is_bucket(place):
        return S3Storage(place, digest=settings.digest)
    return FileStorage(
        place,
        mode=settings.file_mode,
        group=settings.file_group,
        floor=settings.free_space_floor,
    )


def storages_of(settings: Settings, places: Mapping[str, str]) -> dict[str, Storage]:
    """By their names."""
    return {name: storage_of(settings, place) for name, place in places.items()}


def registry_of(settings: Settings) -> str:
    """URL of the registry: the one that is set, or a file in the storage folder."""
    return settings.registry or f"sqlite://{Path(os.path.abspath(settings.storage)) / 'registry.sqlite3'}"
