"""A WebSocket on a raw socket: the reading and writing that :mod:`.frames` and ``websockets`` leave out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from . import servers
from .bulk import buffers
from .frames import Event, Frames
from .sockets import Inlet, stop_reading

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("incoming_wsgi")
_protocol_log = logging.getLogger("incoming_wsgi.websocket")

_READ = 256 * 1024  # bytes, beside those of a frame under way: of small frames not more come at once
_MOST_EVENTS = 256  # that are given at once: a message may have a single byte
_LOWEST_RATE = 256.0  # bytes per second that a message must come at
_LONGEST_WAIT = 1.0  # seconds after which what has come of a frame is given away, however little it is
_SOON = 0.02  # seconds in which more may come that is worth waiting for, so that fewer writes are made
_LINGER = 2.0  # seconds that a closed connection is kept, so that the peer gets to read why


def handshake(environ: WSGIEnvironment) -> Response:
    """The answer to an upgrade request (RFC 6455, section 4.2): 101, or a refusal.

    No extension is ever negotiated: files do not deflate.
    """
    return ServerProtocol(logger=_protocol_log).accept(Request(environ.get("PATH_INFO", "/"), _headers(environ)))


def _headers(environ: WSGIEnvironment) -> Headers:
    names = {
        "HTTP_CONNECTION": "Connection",
        "HTTP_UPGRADE": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": "Sec-WebSocket-Key",
        "HTTP_SEC_WEBSOCKET_VERSION": "Sec-WebSocket-Version",
    }
    return Headers((name, environ[key]) for key, name in names.items() if key in environ)


class Channel:
    """The messages of one connection.

    :param longest_text: bytes of a text message, at most.
    :param longest_binary: bytes of a binary message, at most.
    """

    def __init__(
        self,
        connection: servers.Connection,
        response: Response,
        *,
        longest_text: int,
        longest_binary: int,
    ) -> None:
        self._socket = connection.socket
        self._descriptor = connection.socket.fileno()
        # A second protocol, open from the start: one that began with the handshake would parse HTTP from its input.
        self._protocol = ServerProtocol(state=OPEN, logger=_protocol_log)
        self._frames = Frames(self._protocol, longest_text=longest_text, longest_binary=longest_binary)
        self._inlet = Inlet(connection.socket)
        self._buffer: memoryview | None = None
        self._heard_at = time.monotonic()
        self._waited, self._received = 0.0, 0  # seconds and bytes, for the message under way
        self._has_ended = False
        self.was_woken = False
        if not connection.is_upgraded:
            self._write(response.serialize())
        self._coming = self._frames.receive(memoryview(connection.read_ahead))

    @property
    def silence(self) -> float:
        """Seconds since the peer was heard last."""
        return time.monotonic() - self._heard_at

    def receive(self, timeout: float) -> list[Event]:
        """What comes next: all that is there, up to 1 MiB. Nothing when it is over, or :meth:`wake` was called.

        Pieces of binary messages are good until the next call: they lie in a buffer that is lent for so long.

        :raises TimeoutError: no message came within ``timeout`` seconds, and none is coming at a decent rate either.
        """
        events = self._next_events()
        while not events and not self._is_over:
            self._give_back()
            left = timeout + self._received / _LOWEST_RATE - self._waited
            if left <= 0:
                self._begin_message()
                raise TimeoutError
            events = self._gather(left)
        if any(isinstance(event, str) or event.last for event in events):
            self._begin_message()
        return events

    def send(self, *texts: str) -> None:
        """Send text messages. A peer that has gone is noticed by the next :meth:`receive`."""
        if self._protocol.state is OPEN:
            for text in texts:
                self._protocol.send_text(text.encode())
            self._flush()

    def ping(self) -> None:
        """Make the peer say something."""
        if self._protocol.state is OPEN:
            self._protocol.send_ping(b"")
            self._flush()

    def wake(self) -> None:
        """Make a :meth:`receive` that waits in another thread come back. No message can be received after it."""
        self.was_woken = True
        stop_reading(self._descriptor)

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye, and give the peer a moment to hear it."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, _shortened(reason))
            self._flush()
        self._inlet.close()
        self._linger()
        self._give_back()
        self._socket.close()

    @property
    def _is_over(self) -> bool:
        return self._has_ended or self._protocol.state is not OPEN

    def _begin_message(self) -> None:
        """Be as patient as in the beginning."""
        self._waited, self._received = 0.0, 0

    # -- reading --------------------------------------------------------------------------------------------

    def _gather(self, patience: float) -> list[Event]:
        """Wait once, and read what comes then: until the buffer is full, or the socket has nothing more for now."""
        if not self._wait(patience):
            return []
        self._buffer = buffer = buffers.lend()
        events: list[Event] = []
        filled = 0
        deadline = time.monotonic() + _SOON
        while len(events) < _MOST_EVENTS and not self._is_over:
            room = buffer[filled : filled + self._frames.owed + _READ]
            count = self._read(room)
            if not count:
                break
            filled += count
            self._coming = self._frames.receive(room[:count])
            events += self._next_events()
            if filled == len(buffer) or not self._is_more_coming(count == len(room), len(buffer) - filled, deadline):
                break
        return events

    def _next_events(self) -> list[Event]:
        events = list(islice(self._coming, _MOST_EVENTS))
        self._flush()  # pongs, and why it is over
        return events

    def _wait(self, patience: float) -> bool:
        """Within a frame its rest is worth waiting for; between two, the peer may be waiting for us."""
        owed = self._frames.owed
        return self._sleep(owed, min(patience, _LONGEST_WAIT) if owed else patience)

    def _is_more_coming(self, was_much: bool, room: int, deadline: float) -> bool:
        """Whether to read on at once, which needs no waiting where much was there, or the peer owes nothing."""
        owed = self._frames.owed
        if was_much or not owed:
            return self._inlet.wait(1, 0.0)
        seconds = deadline - time.monotonic()
        return seconds > 0 and self._sleep(min(owed, room), seconds)

    def _sleep(self, wanted: int, seconds: float) -> bool:
        began = time.monotonic()
        has_come = self._inlet.wait(wanted, seconds)
        self._waited += time.monotonic() - began
        return has_come

    def _read(self, buffer: memoryview) -> int | None:
        """How many bytes; none at the end of the connection; ``None`` when there are none yet."""
        try:
            count = self._inlet.take_into(buffer)
        except OSError:
            count = 0
        if count:
            self._heard_at = time.monotonic()
            self._received += count
        elif count == 0:
            self._has_ended = True
        return count

    def _give_back(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffers.give_back(buffer)

    # -- writing --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        data = b"".join(self._protocol.data_to_send())
        if data:
            self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(10)
            sent = self._socket.send(data)  # mostly all of it; gevent's sendall() begins with a timer for what is left
            if sent < len(data):
                self._socket.sendall(data[sent:])
        except OSError:
            log.debug("a peer went away while it was written to")

    def _linger(self) -> None:
        """Read on until the peer has said goodbye, too.

        Closing a socket with unread bytes resets the connection, and the peer would lose what we said last.
        """
        self._drop(self._coming)
        deadline = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            while self._protocol.close_rcvd is None and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                data = self._socket.recv(_READ)
                if data:
                    self._drop(self._frames.receive(memoryview(data)))
                elif self.was_woken:
                    time.sleep(0.02)  # after wake() an empty read is no end of file
                else:
                    return

    def _drop(self, events: Iterator[Event]) -> None:
        for _ in events:
            pass
        self._protocol.data_to_send()


def _shortened(reason: str) -> str:
    """A close frame has room for 123 bytes (RFC 6455, section 5.5)."""
    return reason.encode()[:120].decode(errors="ignore")
