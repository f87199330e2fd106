"""A WebSocket on a raw socket: the sans-I/O protocol of ``websockets``, and the reading and writing it leaves out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from . import servers
from .sockets import stop_reading

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("incoming_wsgi")
_protocol_log = logging.getLogger("incoming_wsgi.websocket")

_READ = 256 * 1024  # bytes
_LOWEST_RATE = 256.0  # bytes per second that a message must come at
_MOST_FRAGMENTS = 1024  # frames of one message
_LINGER = 2.0  # seconds that a closed connection is kept, so that the peer gets to read why

_INVALID_DATA, _TOO_BIG = 1007, 1009  # close codes, RFC 6455, section 7.4.1


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
        self._longest = {Opcode.TEXT: longest_text, Opcode.BINARY: longest_binary}
        # A second protocol, open from the start: one that began with the handshake would parse HTTP from its input.
        self._protocol = ServerProtocol(state=OPEN, max_size=max(self._longest.values()), logger=_protocol_log)
        self._frames: deque[Frame] = deque()
        self._pieces: list[bytes] = []
        self._opcode = Opcode.BINARY
        self._heard_at = time.monotonic()
        self.was_woken = False
        if not connection.is_upgraded:
            self._write(response.serialize())
        self._take(connection.read_ahead)

    @property
    def silence(self) -> float:
        """Seconds since the peer was heard last."""
        return time.monotonic() - self._heard_at

    def receive(self, timeout: float) -> str | bytes | None:
        """The next message; ``None`` when the connection is over, or :meth:`wake` was called.

        :raises TimeoutError: none came within ``timeout`` seconds, and it is not coming at a decent rate either.
        """
        began, received = time.monotonic(), 0
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if self._protocol.close_expected() or self._protocol.eof_sent:
                return None
            left = timeout + received / _LOWEST_RATE - (time.monotonic() - began)
            if left <= 0:
                raise TimeoutError
            data = self._read(left)
            if data is None:
                continue
            if not data:
                return None
            received += len(data)
            self._take(data)

    def send(self, text: str) -> None:
        """Send a text message. A peer that has gone is noticed by the next :meth:`receive`."""
        if self._protocol.state is OPEN:
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
        self._linger()
        self._socket.close()

    def _next_message(self) -> str | bytes | None:
        while self._frames:
            frame = self._frames.popleft()
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._opcode = frame.opcode
            elif frame.opcode is not Opcode.CONT:
                continue  # pings are answered by the protocol
            self._pieces.append(bytes(frame.data))
            if self._is_too_big():
                return None
            if frame.fin:
                pieces, self._pieces = self._pieces, []
                return self._decoded(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return None

    def _is_too_big(self) -> bool:
        size = sum(map(len, self._pieces))
        if size <= self._longest[self._opcode] and len(self._pieces) <= _MOST_FRAGMENTS:
            return False
        self._fail(_TOO_BIG, "This message is too large.")
        return True

    def _decoded(self, data: bytes) -> str | bytes | None:
        if self._opcode is Opcode.BINARY:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            self._fail(_INVALID_DATA, "This text is not UTF-8.")
            return None

    def _fail(self, code: int, reason: str) -> None:
        self._frames.clear()
        self._protocol.fail(code, reason)
        self._flush()

    def _read(self, timeout: float) -> bytes | None:
        """Bytes; none at the end of the connection; ``None`` when none came in time."""
        self._socket.settimeout(max(timeout, 0.001))
        try:
            data = self._socket.recv(_READ)
        except TimeoutError:
            return None
        except OSError:
            return b""
        self._heard_at = time.monotonic()
        return data

    def _take(self, data: bytes) -> None:
        if not data:
            return
        with contextlib.suppress(ProtocolError):
            self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frames.append(event)
        self._flush()

    def _flush(self) -> None:
        self._write(b"".join(self._protocol.data_to_send()))

    def _write(self, data: bytes) -> None:
        try:
            self._socket.settimeout(10)
            self._socket.sendall(data)
        except OSError:
            log.debug("a peer went away while it was written to")

    def _linger(self) -> None:
        """Read on until the peer has said goodbye, too.

        Closing a socket with unread bytes resets the connection, and the peer would lose what we said last.
        """
        deadline = time.monotonic() + _LINGER
        with contextlib.suppress(OSError, ProtocolError):
            while self._protocol.close_rcvd is None and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                data = self._socket.recv(_READ)
                if data:
                    self._protocol.receive_data(data)
                    self._protocol.events_received()
                elif self.was_woken:
                    time.sleep(0.02)  # after wake() an empty read is no end of file
                else:
                    return


def _shortened(reason: str) -> str:
    """A close frame has room for 123 bytes (RFC 6455, section 5.5)."""
    return reason.encode()[:120].decode(errors="ignore")
