"""``python -m bench.bare LOOP PORT FOLDER``: listens on the loopback interface, a thread for each connection.

A request's body goes into a file named by its path, at the position that its Content-Range names; with ``discard``
nowhere. A WebSocket's bytes go into a file as well, by the one loop there is for them.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from . import websocket
from .loops import LOOPS, Body, Loop, discard

_LONGEST_HEAD = 64 * 1024
_PAGE = b'<!doctype html><title>page</title><input type="file" id="file"><script>incoming = {}</script>'


def main() -> None:
    loop, port, folder = LOOPS[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3])
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(sock, loop, folder), daemon=True).start()


def serve(sock: socket.socket, loop: Loop, folder: Path) -> None:
    """All requests of one connection."""
    with sock, contextlib.suppress(ConnectionError):
        while head := _head(sock):
            _answer(sock, head, loop, folder)


def _answer(sock: socket.socket, head: str, loop: Loop, folder: Path) -> None:
    method, path, _ = head.split(" ", 2)
    key = _header(head, "Sec-WebSocket-Key", "")
    with _file(folder, "" if loop is discard else path) as file:
        if key:
            websocket.greet(sock, key)
            websocket.converse(sock, None if loop is discard else file)
            return
        first = re.search(r"bytes (\d+)-", _header(head, "Content-Range", ""))
        length = int(_header(head, "Content-Length", "0"))
        loop(Body(sock, file, int(first[1]) if first else 0, length))
    page = _PAGE if method == "GET" else b""
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page) + page)


@contextlib.contextmanager
def _file(folder: Path, path: str) -> Iterator[int]:
    where = folder / path.strip("/").replace("/", "_") if path else os.devnull
    file = os.open(where, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _head(sock: socket.socket) -> str:
    """The head of a request, without a byte of its body; empty at the end."""
    while peeked := sock.recv(_LONGEST_HEAD, socket.MSG_PEEK):
        end = peeked.find(b"\r\n\r\n")
        if end >= 0:
            return sock.recv(end + 4, socket.MSG_WAITALL).decode("latin-1")
    return ""


def _header(head: str, name: str, default: str) -> str:
    found = re.search(rf"^{name}:[ ]*(.*?)\r$", head, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else default


main()
