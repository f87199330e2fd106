"""The server's side of the WebSocket protocol of Incoming!! 0.1, and nothing else of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from websockets.speedups import apply_mask
from websockets.utils import accept_key

_CHUNK_KIB, _SEND_AHEAD = 512, 4
_LONGEST_FRAME = 8 * 2**20
_CONTINUATION, _BINARY, _CLOSE = 0, 2, 8

#: Takes so many masked bytes, their mask and their position in the file.
Taker = Callable[[int, bytes, int], None]


def greet(sock: socket.socket, key: str) -> None:
    """Answer the handshake."""
    lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
    accept = f"Sec-WebSocket-Accept: {accept_key(key)}"
    sock.sendall("".join(f"{line}\r\n" for line in (*lines, accept, "")).encode())


def converse(sock: socket.socket, file: int | None) -> None:
    """Take one file.

    :param file: descriptor of where it goes; ``None``: nowhere.
    """
    take = _discarder(sock) if file is None else _writer(sock, file)
    _, _, length, mask = _frame_head(sock)
    request = json.loads(apply_mask(_exactly(sock, length), mask))["MsgData"]
    _say(sock, "MsgUploadConf", ChunkSizeKB=_CHUNK_KIB, SendAhead=_SEND_AHEAD, FilePos=0)
    position, acknowledged, end = 0, 0, request["LengthBytes"]
    while acknowledged < end:
        is_last, opcode, length, mask = _frame_head(sock)
        if opcode == _CLOSE:
            return
        if opcode not in (_BINARY, _CONTINUATION):
            _exactly(sock, length)
            continue
        take(length, mask, position)
        position += length
        if is_last:
            _say(sock, "MsgChunkAck", ChunkSize=position - acknowledged)
            acknowledged = position
    _say(sock, "MsgAllDone", Success=True)


def _writer(sock: socket.socket, file: int) -> Taker:
    buffer = memoryview(bytearray(_LONGEST_FRAME))

    def take(length: int, mask: bytes, position: int) -> None:
        _fill(sock, buffer[:length])
        os.pwrite(file, apply_mask(buffer[:length], mask), position)

    return take


def _discarder(sock: socket.socket) -> Taker:
    buffer = memoryview(bytearray(_LONGEST_FRAME))

    def take(length: int, mask: bytes, position: int) -> None:  # noqa: ARG001
        _fill(sock, buffer[:length], socket.MSG_TRUNC)

    return take


def _frame_head(sock: socket.socket) -> tuple[bool, int, int, bytes]:
    """Whether it is the last of a message, opcode, length and mask."""
    head = _exactly(sock, 2)
    length = head[1] & 0x7F
    if length > 125:
        length = int.from_bytes(_exactly(sock, 2 if length == 126 else 8), "big")
    return head[0] & 0x80 != 0, head[0] & 0x0F, length, _exactly(sock, 4)


def _exactly(sock: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    _fill(sock, memoryview(buffer))
    return bytes(buffer)


def _fill(sock: socket.socket, buffer: memoryview, flags: int = socket.MSG_WAITALL) -> None:
    while buffer:
        count = sock.recv_into(buffer, len(buffer), flags)
        if not count:
            raise ConnectionError
        buffer = buffer[count:]


def _say(sock: socket.socket, kind: str, **data: Any) -> None:
    text = json.dumps({"MsgType": kind, "MsgData": data}).encode()
    sock.sendall(bytes((0x81, len(text))) + text)
