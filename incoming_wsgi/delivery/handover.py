"""The three ways to give a file away: a Python callable, a request into the wrapped app, a call over HTTP."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit

from webob import Request

from .. import offload
from ..errors import NotImplementedHere
from ..registry import Delivery
from ..relocate import RemoteFile, fetch, relocate, stays_within, take_home
from ..signatures import sign
from ..upload import Upload, shortened
from ..wire.sockets import stop_reading

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from requests import Response
    from requests.adapters import HTTPAdapter

log = logging.getLogger("incoming_wsgi")

P = ParamSpec("P")
T = TypeVar("T")

#: The longest answer of a back end that is looked at, in bytes. ``done`` and ``wait`` are four.
_LONGEST_ANSWER = 4096

#: Seconds that it may take to connect to a back end.
_LONGEST_CONNECT = 10

#: The longest time that a back end's ``Retry-After`` can put off the next attempt, in seconds.
_LONGEST_RETRY_AFTER = 6 * 3600.0


@dataclass(frozen=True)
class Notice:
    """What the app is to hear: an upload, what happened to it, and where the complete file is.

    :ivar remote: the file, where it is not on this machine.
    """

    upload: Upload
    delivery: Delivery
    path: str
    remote: RemoteFile | None = None

    @property
    def is_cancelled(self) -> bool:
        """Cancelled or expired: there is no file."""
        return self.delivery.kind != "finished"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: ``done``, ``wait`` or ``failed``.

    :ivar retry_after: seconds that the back end asked to be left alone for.
    """

    word: str
    error: str = ""
    retry_after: float | None = None


DONE = Outcome("done")


class Handler(ABC):
    """One way to hand over."""

    @abstractmethod
    def deliver(self, notice: Notice) -> Outcome:
        """Make one attempt. What it raises counts as a failed one."""


class FinishedUpload:
    """What ``on_finish`` gets.

    :ivar id: the ticket.
    :ivar path: where the complete file is; in S3 ``s3://bucket/key``.
    :ivar filename: the browser's name for the file, made safe to use as a file name.
    :ivar filename_from_browser: the same as it came: data from a stranger, never a path.
    :ivar length: bytes.
    :ivar sha256: of the file, in hexadecimal; empty where digests are switched off.
    :ivar event_id: the same in every attempt to hand this file over.
    :ivar attempt: 1 for the first.
    :ivar metadata: what came with the ticket, from the app.
    :ivar client_metadata: what the client says of the file, where its protocol has it: data from a stranger.
    :ivar owner: of the ticket, or of the permission.
    :ivar secret: the ``backend_secret`` of the ticket.
    """

    def __init__(self, notice: Notice, record_move: Callable[[Upload, str], None]) -> None:
        upload = notice.upload
        self._upload = upload
        self._record_move = record_move
        self._remote = notice.remote
        self.id = upload.id
        self.path = notice.path
        self.filename = upload.filename
        self.filename_from_browser = upload.filename_from_browser
        self.length = upload.length or 0
        self.sha256 = upload.sha256
        self.event_id = notice.delivery.event_id
        self.attempt = notice.delivery.attempt + 1
        self.metadata: Mapping[str, str] = dict(upload.metadata)
        self.client_metadata: Mapping[str, str] = dict(upload.client_metadata)
        self.owner = upload.owner
        self.secret = upload.secret

    def open(self) -> BinaryIO:
        """The file, for reading; from S3 it comes as it is read."""
        remote = self._still_remote
        return open(self.path, "rb") if remote is None else remote.open()

    def download_to(self, path: str | os.PathLike[str]) -> None:
        """Copy the file to a path on this machine; what is there is replaced when all of it has come."""
        remote = self._still_remote
        if remote is None:
            offload.run(shutil.copyfile, self.path, path)
        else:
            fetch(remote, os.fspath(path))

    def presigned_url(self, seconds: int = 3600) -> str:
        """A URL by which whoever has it may download the file from S3, for so long, without an account there.

        :raises NotImplementedHere: the file is not in S3.
        """
        remote = self._still_remote
        if remote is None:
            raise NotImplementedHere("Only a file in S3 has such a URL.")
        return remote.presigned_url(seconds, self.filename)

    @property
    def _still_remote(self) -> RemoteFile | None:
        """The file where it was handed over, if that is not on this machine and nobody has moved it."""
        return self._remote if self.path == self._upload.location else None

    def move_to(
        self, path: str | os.PathLike[str], *, within: str | os.PathLike[str] | None = None, overwrite: bool = False
    ) -> str:
        """Take the file away: renamed where possible, else copied, off the event loop.

        ``path`` is a folder (it exists, or ends in ``/``), where the file goes by its safe name or the next free
        form of it, or the file's new path. Can be repeated after a crash, also in another process.

        A file in S3 can be moved to another key of its bucket (``photos/cat.jpg``, or ``photos/``), and to another
        bucket there (``s3://bucket/key``), without coming here. To an absolute path it is downloaded.

        :param within: refuse a path that leads out of this folder.
        :returns: the file's path now, which is also ``upload.path`` from here on.
        :raises ValueError: the path leads out of ``within``.
        :raises FileExistsError: the path is taken, and ``overwrite`` is false.
        """
        wanted = os.fspath(path)
        if within is not None and not stays_within(os.fspath(within), wanted):
            raise ValueError(f"{path} is not inside {within}")
        how: dict[str, Any] = {"overwrite": overwrite, "recorded": self._upload.moved_to, "record": self._record}
        if self._remote is None:
            self.path = relocate(self._upload.location, wanted, self.filename, **how)
        elif os.path.isabs(wanted):
            self.path = take_home(self._remote, self.id, wanted, self.filename, **how)
        else:
            self.path = self._remote.move_to(wanted, self.filename, **how)
        return self.path

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(…)`` off the event loop: for work on the file that blocks, as reading and hashing all of it does.

        Under gevent it runs in a native thread, where gevent's locks do not work: it must not log, nor use a database.
        """
        return offload.run(function, *args, **kwargs)

    def _record(self, target: str) -> None:
        self._record_move(self._upload, target)
        self._upload = self._upload.but(moved_to=target)


OnFinish = Callable[[FinishedUpload], Any]
OnCancel = Callable[[Upload, str], Any]


class CallableHandler(Handler):
    """Calls functions of the app's, beside the requests and as those are: in a thread, or in a greenlet under gevent.

    Not in a native thread under gevent: what they share with the app's views, be it only logging, has gevent's locks,
    and those hang for ever when a native thread takes part.

    :param record_move: remembers where :meth:`FinishedUpload.move_to` takes a file, before it does.
    """

    def __init__(
        self,
        on_finish: OnFinish | None,
        on_cancel: OnCancel | None,
        record_move: Callable[[Upload, str], None],
    ) -> None:
        self._on_finish = on_finish
        self._on_cancel = on_cancel
        self._record_move = record_move

    def deliver(self, notice: Notice) -> Outcome:
        if notice.is_cancelled:
            if self._on_cancel is not None:
                self._on_cancel(notice.upload, notice.upload.reason)
            return DONE
        if self._on_finish is None:
            return Outcome("failed", "there is no on_finish in this process")
        answer = self._on_finish(FinishedUpload(notice, self._record_move))
        return _outcome_of_word("done" if answer is None else str(answer))


class PathHandler(Handler):
    """Calls the wrapped app in this process, as if a ``POST`` had come in: no network, no port to know.

    The request carries host, scheme and script name of the request that made the ticket, and ``incoming.handover``
    in its environ, which nobody outside can set.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def deliver(self, notice: Notice) -> Outcome:
        request = Request.blank(notice.upload.target, base_url=notice.upload.base_url, method="POST", POST=form(notice))
        request.host = urlsplit(notice.upload.base_url).netloc  # word for word, without the :80 that webob adds
        request.environ["incoming.handover"] = True
        status, headers, pieces = request.call_application(self._app)
        try:
            body = b"".join(pieces)
        finally:
            getattr(pieces, "close", lambda: None)()
        retry_after = next((value for name, value in headers if name.lower() == "retry-after"), "")
        return _outcome_of_response(notice, int(status.split()[0]), body[:_LONGEST_ANSWER], retry_after)


def resolve(host: str) -> list[str]:
    """The addresses of a host, in the order in which they are to be tried.

    :raises OSError: it can't be found.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class URLHandler(Handler):
    """Calls a back end over HTTP: no redirect is followed, no proxy of the environment used.

    :param timeout: seconds that the back end may take to answer.
    :param signing_keys: sign each call with these; a back end then knows who calls (see ``signatures.py``).
    :param addresses_of: the addresses that a host may be called at; raises :class:`OSError` where there are none. What
        it gives is connected to: nobody asks the DNS again, which might answer something else.
    """

    def __init__(
        self,
        timeout: float,
        signing_keys: Iterable[bytes] = (),
        addresses_of: Callable[[str], list[str]] = resolve,
    ) -> None:
        self._timeout = timeout
        self._signing_keys = tuple(signing_keys)
        self._addresses_of = addresses_of

    def deliver(self, notice: Notice) -> Outcome:
        import requests  # here, because it imports ssl, which gevent wants to patch first

        deadline = time.monotonic() + self._timeout
        target = urlsplit(notice.upload.target)
        try:
            *others, last = self._addresses_of(target.hostname or "")
            for address in others:
                with suppress(requests.ConnectionError):  # a host may listen at one of its addresses only
                    return self._deliver_to(address, target, notice, deadline)
            return self._deliver_to(last, target, notice, deadline)
        except requests.Timeout:
            return Outcome("failed", "the call ended with Timeout")
        except OSError as error:  # those of requests are of this kind, too
            # Its text has the URL in it, and that may have a secret in it.
            return Outcome("failed", f"the call ended with {type(error).__name__}")

    def _deliver_to(self, address: str, target: SplitResult, notice: Notice, deadline: float) -> Outcome:
        import requests

        with requests.Session() as session, _Cutter(deadline - time.monotonic()) as cutter:
            session.trust_env = False
            session.mount(f"{target.scheme}://", _as(target.hostname or "", cutter))
            call = self._call(notice)
            call["headers"]["Host"] = target.netloc
            response = session.post(
                _at(address, target),
                **call,
                timeout=(_LONGEST_CONNECT, self._timeout),
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = _short_body(response, deadline)
        return _outcome_of_response(notice, response.status_code, body, response.headers.get("Retry-After", ""))

    def _call(self, notice: Notice) -> dict[str, Any]:
        body = urlencode(form(notice)).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "User-Agent": "incoming-wsgi"}
        if self._signing_keys:
            headers |= sign(self._signing_keys, notice.delivery.event_id, body, time.time())
        return {"data": body, "headers": headers}


def _at(address: str, target: SplitResult) -> str:
    """The same target, by the address of its host."""
    host = f"[{address}]" if ":" in address else address
    return target._replace(netloc=host if target.port is None else f"{host}:{target.port}").geturl()


class _Cutter:
    """Ends a connection when its time is over, whatever is going on there: the time-outs of a socket begin anew with
    every byte, of a header without an end, say.

    :param seconds: after which, counted from the beginning of the block.
    :raises requests.Timeout: at the end of the block, if it was cut: what was heard is not all that was said.
    """

    def __init__(self, seconds: float) -> None:
        self._has_cut = False
        self._descriptors: list[int] = []
        self._guard = threading.Lock()
        self._timer = threading.Timer(max(0.0, seconds), self._cut)
        self._timer.daemon = True

    def watch(self, sock: socket.socket) -> None:
        """A new connection. It may be handed on to TLS, so a duplicate is kept."""
        with self._guard:
            self._descriptors.append(os.dup(sock.fileno()))

    def _cut(self) -> None:
        with self._guard:
            self._has_cut = True
            for descriptor in self._descriptors:
                stop_reading(descriptor)

    def __enter__(self) -> _Cutter:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        import requests

        self._timer.cancel()
        with self._guard:
            while self._descriptors:
                os.close(self._descriptors.pop())
        if self._has_cut:
            raise requests.Timeout


def _as(host: str, cutter: _Cutter) -> HTTPAdapter:
    """For calls by address: TLS asks for, and checks, the certificate of that host."""
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Watched(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            sock = super()._new_conn()
            cutter.watch(sock)
            return sock

    class WatchedTLS(Watched, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Watched

    class PoolTLS(HTTPSConnectionPool):
        ConnectionCls = WatchedTLS

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, server_hostname=host, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": PoolTLS}

    return Adapter()


def _short_body(response: Response, deadline: float) -> bytes:
    """The answer, up to a length and a time: a back end may drip, and each drop would begin the time-out anew.

    :raises requests.Timeout: it did not end in time.
    """
    import requests

    body = bytearray()
    for piece in response.iter_content(1):
        body += piece
        if len(body) >= _LONGEST_ANSWER:
            break
        if time.monotonic() > deadline:
            raise requests.Timeout
    return bytes(body)


def form(notice: Notice) -> dict[str, str]:
    """The fields of a hand-over call, by their names in Incoming!! 0.1, and those that are new since."""
    upload = notice.upload
    return {
        "id": upload.id,
        "filename": notice.path,
        "filenameFromBrowser": upload.filename_from_browser,
        "backendSecret": upload.secret,
        "signalFinishSecret": upload.secret,
        "cancelled": "yes" if notice.is_cancelled else "no",
        "cancelReason": upload.reason,
        "length": str(upload.length or 0),
        "sha256": upload.sha256,
        "eventId": notice.delivery.event_id,
        "attempt": str(notice.delivery.attempt + 1),
        "owner": upload.owner,
        "clientMetadata": json.dumps(dict(upload.client_metadata)),
    }


def handler_for(target: str) -> str:
    """Which kind of handler takes hand-overs to ``target``: ``callable``, ``path`` or ``url``."""
    if not target:
        return "callable"
    return "path" if target.startswith("/") else "url"


def _outcome_of_response(notice: Notice, status: int, body: bytes, retry_after: str) -> Outcome:
    if not 200 <= status < 300:
        log.warning("hand-over of %s was answered with %d", shortened(notice.upload.id), status)
        return Outcome("failed", f"answered with status {status}", _seconds(retry_after))
    if notice.is_cancelled:
        return DONE  # the body does not matter
    return _outcome_of_word(body.decode("utf-8", "replace"))


def _outcome_of_word(answer: str) -> Outcome:
    word = answer.strip()
    if word in ("done", "wait"):
        return Outcome(word)
    return Outcome("failed", f"answered {word[:40]!r}, which is neither done nor wait")


def _seconds(retry_after: str) -> float | None:
    """``Retry-After`` in seconds; its other form, a date, is taken as absent."""
    return min(float(retry_after), _LONGEST_RETRY_AFTER) if retry_after.isdecimal() else None
