"""What WSGI leaves out: the socket under a request, the bytes that the server read ahead, how many requests may wait.

The only room that knows a server's insides. ``tests/test_servers.py`` tries each adapter against the real server, so
that a release which moves its furniture is noticed there. Where an adapter finds nothing, the plain WSGI way is used.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import offload
from .errors import TooSlow

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Requests that may wait at the same time under a server with threads whose number can't be seen.
_UNKNOWN_POOL = 2

#: Sizes of one read of a body, in bytes, and the times, in seconds, between which it is right.
_SMALLEST_READ, _LARGEST_READ = 1024, 256 * 1024
_QUICK_READ, _SLOW_READ = 0.05, 0.5

#: Bytes gathered before they are written, and seconds after which fewer are.
_GATHER_BYTES, _GATHER_SECONDS = 1024 * 1024, 1.0


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


# -- the server -------------------------------------------------------------------------------------------------


def is_stopping() -> bool:
    """Whether the worker process that this is has been told to end, or has lost its master; only gunicorn says so."""
    worker = _gunicorn_worker()
    return worker is not None and (not worker.alive or worker.ppid != os.getppid())


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


# -- bodies -----------------------------------------------------------------------------------------------------


class RequestBody:
    """The body of one request, read through ``wsgi.input`` in pieces that suit the link.

    :param length: its bytes, from ``Content-Length``.
    :param patience: seconds that one read may take. Reads shrink to 1 KiB on a slow link: this is a lowest rate, too.
    """

    def __init__(self, environ: WSGIEnvironment, length: int, patience: float) -> None:
        self.length = length
        self._input = environ["wsgi.input"]
        self._socket = socket_of(environ)
        self._patience = patience
        self._left = length
        self._size = 16 * 1024
        longest = longest_request(environ)
        self._deadline = time.monotonic() + longest / 2 if longest else None
        self._ended = False
        self._was_too_slow = False

    @property
    def was_cut(self) -> bool:
        """Whether it ended before its length."""
        return self._ended and self._left > 0

    def read(self) -> bytes:
        """The next bytes, up to 1 MiB; empty at the end, wherever that is.

        :raises TooSlow: nothing came for too long.
        """
        pieces: list[bytes] = []
        gathered, began = 0, time.monotonic()
        while gathered < _GATHER_BYTES and time.monotonic() - began < _GATHER_SECONDS:
            piece = self._piece()
            if not piece:
                break
            pieces.append(piece)
            gathered += len(piece)
        if not pieces and self._was_too_slow and self._left:
            raise TooSlow  # only now: what came before has been given away
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """Let it end here, as if it had been cut; from another thread. What has come so far counts."""
        if self._socket is not None:
            stop_reading(self._socket.fileno())

    def drain(self, seconds: float) -> bool:
        """Read and forget the rest, so that the sender gets to read our answer.

        :returns: whether all of it has come, so that the connection can be used again.
        """
        deadline = time.monotonic() + seconds
        self._patience = min(self._patience, seconds / 2)  # who sends nothing more waits for our answer
        while time.monotonic() < deadline and self._piece():
            pass
        return self._left == 0

    def _piece(self) -> bytes:
        if self._left == 0 or self._ended or self._is_late():
            self._ended = True
            return b""
        wanted = min(self._size, self._left)
        began = time.monotonic()
        piece = self._read(wanted)
        took = time.monotonic() - began
        self._left -= len(piece)
        self._ended = len(piece) < wanted
        if took < _QUICK_READ:
            self._size = min(2 * self._size, _LARGEST_READ)
        elif took > _SLOW_READ:
            self._size = max(self._size // 4, _SMALLEST_READ)
        return piece

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _read(self, size: int) -> bytes:
        patience = self._patience
        if self._deadline is not None:
            patience = min(patience, max(1.0, self._deadline - time.monotonic()))
        with watchdog.watch(self._socket, patience) as watched:
            try:
                piece: bytes = self._input.read(size)
            except OSError:
                piece = b""  # gevent's pywsgi raises where others give a short read
        self._was_too_slow = watched.bit
        return piece


@dataclass(eq=False)
class Watched:
    """A read that is under way.

    :ivar bit: whether it took too long, and was ended.
    """

    descriptor: int
    deadline: float
    bit: bool = False


class Watchdog:
    """Ends reads that take too long, by shutting the reading half of their socket.

    A timeout on the socket would start anew with each byte, and a sender of one byte in ten seconds could hold a
    worker for a day.
    """

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._guard = threading.Lock()
        self._process = 0

    @contextlib.contextmanager
    def watch(self, sock: socket.socket | None, seconds: float) -> Iterator[Watched]:
        """:param sock: the socket that is read in the block; without one nothing is watched."""
        watched = Watched(sock.fileno() if sock is not None else -1, time.monotonic() + seconds)
        if sock is None:
            yield watched
            return
        self._start()
        with self._guard:
            self._watched.add(watched)
        try:
            yield watched
        finally:
            with self._guard:
                self._watched.discard(watched)

    def _start(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._guard = threading.Lock()
            self._watched = set()
            offload.background(self._run, name="watchdog")

    def _run(self) -> None:
        while True:
            time.sleep(0.5)
            with self._guard:
                late = [one for one in self._watched if one.deadline < time.monotonic()]
                for watched in late:
                    watched.bit = True
                    self._watched.discard(watched)
                    stop_reading(watched.descriptor)


def stop_reading(descriptor: int) -> None:
    """Make a read that waits on this socket, in whichever thread, come back with an end of file.

    On a duplicate of the descriptor: shutting an ``SSLSocket`` itself would take its encryption off.
    """
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RD)


watchdog = Watchdog()
