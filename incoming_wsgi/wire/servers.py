"""What WSGI leaves out: the socket under a request, the bytes that the server read ahead, how many requests may wait.

The only room that knows a server's insides. ``tests/end_to_end/test_servers.py`` tries each adapter against the real
server, so that a release which moves its furniture is noticed there. Where an adapter finds nothing, the plain WSGI way
is used.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import offload

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Seconds for what is under way at the end of a server that does not say how many there are.
_GRACE = 5.0

#: Requests that may wait at the same time under a server with threads whose number can't be seen.
_UNKNOWN_POOL = 2

#: Kinds of ``wsgi.input``, as :func:`_kind_of` tells them.
_GUNICORN_BODY, _PYWSGI_BODY, _WERKZEUG_BODY = "gunicorn.http.body.Body", "gevent.pywsgi.Input", "_io.BufferedReader"


# -- the socket -------------------------------------------------------------------------------------------------


@dataclass
class Connection:
    """A connection that is ours alone from now on.

    :ivar socket: the server's socket object: plain, TLS or gevent's.
    :ivar read_ahead: bytes that the server has taken from the socket already.
    :ivar is_upgraded: whether the server has answered the WebSocket handshake by itself.
    """

    socket: socket.socket
    read_ahead: bytes
    is_upgraded: bool
    _server: str
    _environ: WSGIEnvironment

    def leave(self) -> list[bytes]:
        """Return this, or let this raise, from the WSGI app: the server then lets the connection be.

        :raises StopIteration: is how gunicorn is told not to answer.
        :raises ConnectionError: is how werkzeug is.
        """
        if self._server == "gunicorn":
            raise StopIteration
        if self._server == "werkzeug":
            raise ConnectionError("the WebSocket has ended")
        if self._server == "geventwebsocket":
            self._environ["wsgi.websocket"].stream = None  # it would send a close frame of its own
        return []


def take(environ: WSGIEnvironment) -> Connection | None:
    """The connection under a request without a body, or ``None`` where this server does not give it away."""
    if environ.get("SERVER_PROTOCOL") not in ("HTTP/1.1", "HTTP/1.0"):
        return None  # HTTP/2: the connection carries other requests as well
    for adapter in (_take_geventwebsocket, _take_gunicorn, _take_werkzeug, _take_pywsgi):
        with contextlib.suppress(AttributeError, KeyError):
            return adapter(environ)
    return None


def can_take(environ: WSGIEnvironment) -> bool:
    """Whether :func:`take` would succeed."""
    return socket_of(environ) is not None and environ.get("SERVER_PROTOCOL") in ("HTTP/1.1", "HTTP/1.0")


def socket_of(environ: WSGIEnvironment) -> socket.socket | None:
    """The socket under a request, to watch it; ``None`` where it can't be had."""
    for key in ("gunicorn.socket", "werkzeug.socket", "gunicorn.sock"):
        if key in environ:
            found: socket.socket = environ[key]
            return found
    with contextlib.suppress(AttributeError, KeyError):
        under: socket.socket = _buffered_reader(environ).raw._sock
        return under
    return None


def _buffered_reader(environ: WSGIEnvironment) -> Any:
    """The reader behind ``wsgi.input`` of gevent's and of cheroot's server, or gevent's itself, at an upgrade."""
    body = environ["wsgi.input"]
    return getattr(body, "rfile", body)


def _take_geventwebsocket(environ: WSGIEnvironment) -> Connection:
    """GeventWebSocketWorker has answered the handshake before the app is called."""
    handler = environ["wsgi.websocket"].handler
    return Connection(handler.socket, _peek(handler.rfile, handler.socket), True, "geventwebsocket", environ)


def _take_gunicorn(environ: WSGIEnvironment) -> Connection:
    body = environ["wsgi.input"]
    unreader = body.reader.unreader
    read_ahead = body.buf.getvalue() + unreader.buf.getvalue()
    return Connection(environ["gunicorn.socket"], read_ahead, False, "gunicorn", environ)


def _take_werkzeug(environ: WSGIEnvironment) -> Connection:
    sock = environ["werkzeug.socket"]
    return Connection(sock, _peek(environ["wsgi.input"], sock), False, "werkzeug", environ)


def _take_pywsgi(environ: WSGIEnvironment) -> Connection:
    """gevent's own server, by itself or as gunicorn's gevent_pywsgi worker."""
    if not environ["SERVER_SOFTWARE"].startswith("gevent/"):
        raise KeyError("another server with an input of the same shape")
    rfile = _buffered_reader(environ)
    sock = rfile.raw._sock
    return Connection(sock, _peek(rfile, sock), False, "pywsgi", environ)


def _peek(buffered: Any, sock: socket.socket) -> bytes:
    """What a buffered reader holds, without waiting for more."""
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        held: bytes = buffered.peek()
        return held
    finally:
        sock.settimeout(timeout)


def send_interim(environ: WSGIEnvironment, status: str, headers: Mapping[str, str]) -> None:
    """Send an interim response (RFC 9110, section 15.2) before the answer; where that can't be, nothing happens."""
    sock = socket_of(environ)
    if sock is None or environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return
    lines = (f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items()), "", "")
    with contextlib.suppress(OSError):  # who is gone reads no answer, either
        sock.sendall("\r\n".join(lines).encode("latin-1"))


# -- the body ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RawBody:
    """The body of one request, as it lies in the socket.

    :ivar socket: the server's socket object.
    :ivar read_ahead: the first bytes, which the server had taken from the socket already; it has them no more.
    :ivar count: is told of bytes taken from the socket, so that the server knows where the next request begins.
    """

    socket: socket.socket
    read_ahead: bytes
    count: Callable[[int], None]


def take_body(environ: WSGIEnvironment, length: int) -> RawBody | None:
    """The body of a request, of which nothing was read yet; ``None`` where it comes by ``wsgi.input`` only.

    :param length: its bytes, from ``Content-Length``.
    """
    if environ.get("SERVER_PROTOCOL") not in ("HTTP/1.1", "HTTP/1.0"):
        return None  # HTTP/2: other requests' frames lie between
    adapter = _BODIES.get(_kind_of(environ))
    if adapter is None:
        return None  # another server, or somebody has wrapped it to see the bytes
    with contextlib.suppress(AttributeError, KeyError):
        return adapter(environ, length)
    return None


def _kind_of(environ: WSGIEnvironment) -> str:
    """The full name of the class of ``wsgi.input``: by it the server is known, and that nobody has wrapped it."""
    kind = type(environ["wsgi.input"])
    return f"{kind.__module__}.{kind.__name__}"


def _take_gunicorn_body(environ: WSGIEnvironment, length: int) -> RawBody | None:
    body, sock = environ["wsgi.input"], environ["gunicorn.socket"]
    reader = body.reader
    if type(reader).__name__ != "LengthReader" or reader.length != length or body.buf.tell():
        return None
    held = reader.unreader.buf.getvalue()

    def count(taken: int) -> None:
        reader.length -= taken

    rest = io.BytesIO()
    rest.write(held[length:])  # the next request, of a client that does not wait for answers
    reader.unreader.buf = rest
    count(len(held[:length]))
    return RawBody(sock, held[:length], count)


def _take_pywsgi_body(environ: WSGIEnvironment, length: int) -> RawBody | None:
    body = environ["wsgi.input"]
    if body.content_length != length or body.position or body.chunked_input:
        return None
    sock = body.rfile.raw._sock
    body._send_100_continue()

    def count(taken: int) -> None:
        body.position += taken

    held: bytes = body.rfile.read(min(length, len(_peek(body.rfile, sock))))
    count(len(held))
    return RawBody(sock, held, count)


def _take_werkzeug_body(environ: WSGIEnvironment, length: int) -> RawBody | None:
    body, sock = environ["wsgi.input"], environ["werkzeug.socket"]
    held: bytes = body.read(min(length, len(_peek(body, sock))))
    return RawBody(sock, held, lambda _: None)  # it closes the connection after each request


#: By :func:`_kind_of`.
_BODIES: Mapping[str, Callable[[WSGIEnvironment, int], RawBody | None]] = {
    _GUNICORN_BODY: _take_gunicorn_body,
    _PYWSGI_BODY: _take_pywsgi_body,
    _WERKZEUG_BODY: _take_werkzeug_body,
}


def trailers(environ: WSGIEnvironment) -> Callable[[], dict[str, str]] | None:
    """What has followed the body in chunked coding (RFC 9112, section 7.1.2), by name in small letters, once the body
    has been read to its end; ``None`` where the server drops it, as all but gunicorn do.
    """
    if _kind_of(environ) != _GUNICORN_BODY:
        return None
    body = environ["wsgi.input"]

    def told() -> dict[str, str]:
        request = getattr(body.reader, "req", None)  # there only in chunked coding
        return {name.lower(): value for name, value in getattr(request, "trailers", ())}

    return told


def may_hide_a_length(environ: WSGIEnvironment) -> bool:
    """Whether there may have been a ``Content-Length`` beside the chunked coding that the server has followed.

    Such a connection must be closed (RFC 9112, section 6.1). gevent's own server drops the length without a word.
    """
    return _kind_of(environ) == _PYWSGI_BODY and "HTTP_TRANSFER_ENCODING" in environ


# -- the server -------------------------------------------------------------------------------------------------


def is_stopping() -> bool:
    """Whether the worker process that this is has been told to end, or has lost its master; only gunicorn says so."""
    worker = _gunicorn_worker()
    return worker is not None and (not worker.alive or worker.ppid != os.getppid())


def grace() -> float:
    """Seconds for what is under way when the server is told to end: a third of gunicorn's ``graceful_timeout``.

    Another third is for what comes after it, and the last for what takes longer than it should.
    """
    worker = _gunicorn_worker()
    return float(worker.cfg.graceful_timeout) / 3 if worker is not None else _GRACE


def listener(environ: WSGIEnvironment) -> tuple[str, int] | str | None:
    """The address that a request came in by, from the socket's own name: the environ's may be the client's words."""
    sock = socket_of(environ)
    if sock is None:
        return None
    name = sock.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else str(name)


def seats(environ: WSGIEnvironment) -> int | None:
    """How many requests of this process may sit and wait at the same time; ``None``: any number.

    Half of a thread pool, so that the other half goes on working.
    """
    if offload.under_gevent() or "werkzeug.socket" in environ:
        return None
    if not environ.get("wsgi.multithread"):
        return 0
    worker = _gunicorn_worker()
    return int(worker.cfg.threads) // 2 if worker is not None else _UNKNOWN_POOL


def longest_request(environ: WSGIEnvironment) -> float | None:
    """Seconds after which this server kills a worker that is still busy with one request, if it does that."""
    if environ.get("wsgi.multithread") or offload.under_gevent():
        return None
    worker = _gunicorn_worker()
    timeout = float(worker.cfg.timeout) if worker is not None else 0.0
    return timeout or None


def _gunicorn_worker() -> Any:
    """The worker object of this process: gunicorn makes a method of it the handler of SIGTERM."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return worker if hasattr(worker, "alive") and hasattr(worker, "cfg") else None


class Seats:
    """Counts those who sit and wait, WebSockets and long polls, in this process."""

    def __init__(self) -> None:
        self._taken = 0
        self._guard = threading.Lock()

    def is_free(self, environ: WSGIEnvironment) -> bool:
        limit = seats(environ)
        return limit is None or self._taken < limit

    @contextlib.contextmanager
    def sit(self, environ: WSGIEnvironment) -> Iterator[bool]:
        """Gives whether there was a free seat; it is taken until the end of the block."""
        with self._guard:
            free = self.is_free(environ)
            self._taken += free
        try:
            yield free
        finally:
            with self._guard:
                self._taken -= free
