"""The body of a request, piece by piece: straight from the socket where the server lets us, else by ``wsgi.input``."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING

from .. import offload
from ..errors import TooSlow
from . import servers
from .bulk import NOTHING, PIECE, Blocks, Bulk, Piped
from .sockets import Inlet, stop_reading

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("incoming_wsgi")

#: Seconds after which what has come is given away, however little it is, be it nothing.
_LONGEST_WAIT = 2.0

#: Bytes that must come within the patience: the lowest rate.
_LEAST = 1024

#: Bytes of one read by ``wsgi.input``, and the times, in seconds, between which their number is right.
_SMALLEST_READ, _LARGEST_READ = _LEAST, 256 * 1024
_QUICK_READ, _SLOW_READ = 0.05, 0.5

#: Bytes that are left of a body which does not say how long it is.
_ENDLESS = 2**63


class RequestBody(ABC):
    """:param length: its bytes, from ``Content-Length``; ``None`` where they come in chunked coding.
    :param patience: seconds in which at least 1 KiB must come.
    :ivar path: how its bytes came: ``splice``, ``socket`` or ``wsgi.input``; for those who wonder about speed.
    """

    path = ""

    def __init__(self, environ: WSGIEnvironment, length: int | None, patience: float) -> None:
        self.length = length
        self._left = _ENDLESS if length is None else length
        self._ended = False
        self._patience = patience
        longest = servers.longest_request(environ)
        self._deadline = time.monotonic() + longest / 2 if longest else None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended or not self._left

    @property
    def was_cut(self) -> bool:
        """Whether it ended before its length."""
        return self._ended and self._left > 0

    @abstractmethod
    def read(self, *, splice: bool = False) -> Bulk:
        """The next bytes, a few MiB at most, to be used before the next call; none at the end, or if none come in time.

        :param splice: whether they may come in a pipe.
        :raises TooSlow: nothing came for too long.
        """

    @abstractmethod
    def end(self) -> None:
        """Let it end here, as if it had been cut; from another thread. What has come so far counts."""

    def drain(self, seconds: float) -> bool:
        """Read and forget the rest, so that the sender gets to read our answer.

        :returns: whether all of it has come, so that the connection can be used again. It is of no use otherwise: no
            server may look in it for the next request.
        """
        deadline = time.monotonic() + seconds
        self._patience = min(self._patience, seconds / 2)  # who sends nothing more waits for our answer
        with contextlib.suppress(TooSlow):
            while time.monotonic() < deadline and not self.has_ended:
                self.read()
        if self._left:
            self.end()
        return self._left == 0

    def close(self) -> None:  # noqa: B027 (there may be nothing to do)
        """Nobody wants more of it."""

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


def body_of(environ: WSGIEnvironment, length: int | None, patience: float) -> RequestBody | None:
    """The body of a request of which nothing was read yet; ``None`` where the server does not tell its end."""
    if length is None:
        return ChunkedBody(environ, None, patience) if environ.get("wsgi.input_terminated") else None
    raw = servers.take_body(environ, length) if length else None
    if raw is None:
        return InputBody(environ, length, patience)
    return SocketBody(environ, length, patience, raw)


class SocketBody(RequestBody):
    """Read from the socket itself, never beyond the body's end.

    :param raw: what the server has given away.
    """

    def __init__(self, environ: WSGIEnvironment, length: int, patience: float, raw: servers.RawBody) -> None:
        super().__init__(environ, length, patience)
        self._raw = raw
        self._read_ahead = raw.read_ahead
        self._inlet = Inlet(raw.socket)
        self._lent: Bulk = NOTHING
        self._came, self._waited = 0, 0.0  # bytes, and seconds waited for them, since they were enough

    def read(self, *, splice: bool = False) -> Bulk:
        self._give_back()
        self._refuse_if_too_slow()
        self._ended = self.has_ended or self._is_late()
        piece = None if self._ended else self._piece(splice)
        if piece is None:
            return NOTHING
        self._lent = piece
        self._note(piece)
        return piece

    def end(self) -> None:
        self._ended = True
        stop_reading(self._raw.socket.fileno())

    def close(self) -> None:
        self._give_back()
        self._inlet.close()

    def _piece(self, splice: bool) -> Bulk | None:
        if self._read_ahead:
            piece, self._read_ahead = Blocks((self._read_ahead,)), b""
            return piece
        began = time.monotonic()
        has_come = self._inlet.wait(self._left, min(_LONGEST_WAIT, self._patience))
        self._waited += time.monotonic() - began
        return self._take(splice) if has_come else None

    def _take(self, splice: bool) -> Bulk | None:
        try:
            taken = self._inlet.take(self._left, splice=splice)
        except OSError:
            return NOTHING  # the connection is broken: what has come so far counts
        if taken is not None:
            self._raw.count(len(taken))
        return taken

    def _note(self, piece: Bulk) -> None:
        self._left -= len(piece)
        self._ended = self._ended or not len(piece)
        self._came += len(piece)
        if self._came >= _LEAST:
            self._came, self._waited = 0, 0.0
        self.path = "splice" if isinstance(piece, Piped) else self.path or "socket"

    def _refuse_if_too_slow(self) -> None:
        if self._waited > self._patience:
            self._ended = True
            raise TooSlow

    def _give_back(self) -> None:
        self._lent.release()
        self._lent = NOTHING


class InputBody(RequestBody):
    """Read by ``wsgi.input``, in pieces that suit the link."""

    path = "wsgi.input"

    def __init__(self, environ: WSGIEnvironment, length: int | None, patience: float) -> None:
        super().__init__(environ, length, patience)
        self._input = environ["wsgi.input"]
        self._socket = servers.socket_of(environ)
        self._size = 16 * 1024
        self._was_too_slow = False
        self._was_broken = False

    def read(self, *, splice: bool = False) -> Bulk:  # noqa: ARG002 (a pipe never saves anything here)
        pieces: list[bytes] = []
        gathered, began = 0, time.monotonic()
        while gathered < PIECE and time.monotonic() - began < _LONGEST_WAIT:
            piece = self._piece()
            if not piece:
                break
            pieces.append(piece)
            gathered += len(piece)
        if not pieces and self._was_too_slow and self._left:
            raise TooSlow  # only now: what came before has been given away
        return Blocks(pieces)

    def end(self) -> None:
        if self._socket is not None:
            stop_reading(self._socket.fileno())

    def _piece(self) -> bytes:
        if self.has_ended or self._is_late():
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

    def _read(self, size: int) -> bytes:
        patience = self._patience
        if self._deadline is not None:
            patience = min(patience, max(1.0, self._deadline - time.monotonic()))
        with watchdog.watch(self._socket, patience) as watched:
            try:
                piece: bytes = self._input.read(size)
            except Exception as error:  # noqa: BLE001 (servers have classes of their own for a broken body)
                log.debug("a body ended early: %r", error)
                piece, self._was_broken = b"", True
        self._was_too_slow = watched.bit
        return piece


class ChunkedBody(InputBody):
    """In chunked coding (RFC 9112, section 7.1), which the server has decoded: its end shows only when it is there."""

    def _piece(self) -> bytes:
        wanted = self._size
        piece = super()._piece()
        # A server may give what it has; only nothing means the end. It raises where the last chunk is missing.
        if piece and len(piece) < wanted:
            self._ended = self._was_broken
        elif not piece and not self._was_broken and not self._was_too_slow and not self._is_late():
            self._left = 0
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
    def watch(self, sock: socket | None, seconds: float) -> Iterator[Watched]:
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


watchdog = Watchdog()
