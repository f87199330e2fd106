"""HTTP and WebSocket written byte by byte, for what no client library would send."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPResponse
from types import TracebackType
from typing import Any

Header = tuple[str, str]

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


@dataclass(frozen=True)
class Answer:
    """:ivar headers: names in small letters; of repeated ones, the values joined by ``, ``."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Connection:
    """A TCP connection to a server on this machine; a context manager."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_nothing_more(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "GET") -> Answer:
        """The next answer."""
        response = HTTPResponse(self.socket, method=method)
        try:
            response.begin()
            names = {name.lower() for name in response.headers}
            headers = {name: ", ".join(response.headers.get_all(name) or ()) for name in names}
            return Answer(response.status, headers, response.read())
        finally:
            response.close()

    def everything(self) -> bytes:
        """All that the server says until it closes the connection, which it must."""
        pieces = []
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(65536):
                pieces.append(piece)
        return b"".join(pieces)

    def hang_up(self) -> None:
        """Nothing goes either way from now on, in whichever thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def request(
    method: str, path: str, headers: Iterable[Header] = (), body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """A request as it stands on the wire; ``Content-Length`` is added where there is a body."""
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers)]
    if not any(name.lower() == "host" for name, _ in headers):
        lines.insert(1, "Host: 127.0.0.1")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def ask(port: int, method: str, path: str, headers: Iterable[Header] = (), body: bytes | None = None) -> Answer:
    """One request on a connection of its own."""
    with Connection(port) as connection:
        connection.send(request(method, path, tuple(headers), body))
        return connection.answer(method)


# -- WebSocket (RFC 6455) ---------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame (RFC 6455, section 5.2), right or wrong.

    :param rsv: the three reserved bits.
    """
    return frame_head(opcode, len(payload), fin=fin, rsv=rsv, masked=masked) + (
        b"\0\0\0\0" + payload if masked else payload
    )


def frame_head(opcode: int, length: int, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A frame up to its mask, which is to follow."""
    first = fin << 7 | rsv << 4 | opcode
    bit = masked << 7
    if length < 126:
        return bytes((first, bit | length))
    if length < 2**16:
        return struct.pack("!BBH", first, bit | 126, length)
    return struct.pack("!BBQ", first, bit | 127, length)


def handshake_headers(origin: str | None = None) -> dict[str, str]:
    """What a browser sends to open a WebSocket; for tests to spoil."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    return headers if origin is None else {**headers, "Origin": origin}


UPLOAD_WS = "/incoming/0.1/frontend/upload_ws"


class WebSocket(Connection):
    """A WebSocket without a library; what it says is up to the test."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        super().__init__(port, timeout)
        self.send(request("GET", UPLOAD_WS, tuple(handshake_headers().items())))
        self._reader = self.socket.makefile("rb")
        status = self._reader.readline()
        assert b" 101 " in status, status
        while self._reader.readline() != b"\r\n":
            pass

    def say(self, kind: str, **data: object) -> None:
        """A message of the protocol."""
        self.text(json.dumps({"MsgType": kind, "MsgData": data}))

    def text(self, text: str) -> None:
        self.send(frame(TEXT, text.encode()))

    def chunk(self, data: bytes) -> None:
        self.send(frame(BINARY, data))

    def hear(self) -> tuple[str, Any]:
        """The next message, as type and data; ``close`` and the code for a close frame, ``end`` without one."""
        while True:
            try:
                opcode, payload = self._frame()
            except (EOFError, ConnectionResetError):
                return "end", None
            if opcode == CLOSE:
                return "close", int.from_bytes(payload[:2], "big") if payload else None
            if opcode == TEXT:
                message = json.loads(payload)
                return message["MsgType"], message["MsgData"]

    def hear_until_the_end(self) -> list[tuple[str, Any]]:
        """All messages up to the close frame, or the end."""
        heard = [self.hear()]
        while heard[-1][0] not in ("close", "end"):
            heard.append(self.hear())
        return heard

    def close(self) -> None:
        self._reader.close()
        super().close()

    def __enter__(self) -> WebSocket:
        return self

    def _frame(self) -> tuple[int, bytes]:
        first, second = self._exactly(2)
        length = second & 127
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        return first & 15, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise EOFError
        return data


def drip(connection: Connection, data: bytes, pause: float) -> None:
    """Send byte by byte until all is sent, or the server has hung up."""
    for byte in data:
        try:
            connection.send(bytes((byte,)))
        except OSError:
            return
        time.sleep(pause)
