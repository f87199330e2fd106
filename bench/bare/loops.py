"""The loops: each takes the body of a request from the socket, and puts it where it goes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_PIPE = _BUFFER = 2**20
_LONGEST_DISCARD = 8 * 2**20
_PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Body:
    """The body of a request, still in the socket.

    :ivar file: descriptor of where it goes.
    """

    socket: socket.socket
    file: int
    position: int
    length: int

    def pieces(self, buffer: memoryview, flags: int = 0) -> Callable[[], int]:
        """A function that reads the next piece into ``buffer`` and gives its length, 0 at the end."""
        left = self.length

        def next_piece() -> int:
            nonlocal left
            if not left:
                return 0
            count = self.socket.recv_into(buffer, min(len(buffer), left), flags)
            if not count:
                raise ConnectionError
            left -= count
            return count

        return next_piece


Loop = Callable[[Body], None]
#: Is told up to which position of the file bytes have come.
Moved = Callable[[int], None]


def discard(body: Body) -> None:
    """The kernel throws the bytes away (tcp(7), MSG_TRUNC): nothing takes them in faster."""
    next_piece = body.pieces(memoryview(bytearray(_LONGEST_DISCARD)), socket.MSG_TRUNC)
    while next_piece():
        pass


def write(body: Body, moved: Moved = lambda _: None) -> None:
    buffer, position = memoryview(bytearray(_BUFFER)), body.position
    next_piece = body.pieces(buffer, socket.MSG_WAITALL)
    while count := next_piece():
        position += os.pwrite(body.file, buffer[:count], position)
        moved(position)


def write_and_sync(body: Body, moved: Moved = lambda _: None) -> None:
    write(body, moved)
    os.fdatasync(body.file)


def write_sync_and_hash(body: Body) -> None:
    _hashing_beside(write_and_sync, body)


def splice(body: Body, moved: Moved = lambda _: None) -> None:
    """From socket to file through a pipe; the bytes never come into this process."""
    with _pipe() as (out, into):
        position, end = body.position, body.position + body.length
        while position < end:
            count = os.splice(body.socket.fileno(), into, min(_PIPE, end - position))
            if not count:
                raise ConnectionError
            while count:
                done = os.splice(out, body.file, count, offset_dst=position)
                count -= done
                position += done
            moved(position)


def splice_and_hash(body: Body) -> None:
    _hashing_beside(splice, body)


def splice_then_hash(body: Body) -> None:
    """SHA-256 of each piece before the next one is taken."""
    splice(body, _Hasher(body).take)


def _hashing_beside(loop: Callable[[Body, Moved], None], body: Body) -> None:
    """SHA-256 in a thread of its own, which reads behind the writer what is in the page cache."""
    hasher = _Hasher(body)
    thread = threading.Thread(target=hasher.run)
    thread.start()
    loop(body, hasher.go_to)
    thread.join()


class _Hasher:
    def __init__(self, body: Body) -> None:
        self._file, self._position = body.file, body.position
        self._end = body.position + body.length
        self._buffer = memoryview(bytearray(_BUFFER))
        self._hash = hashlib.sha256()
        self._may_go_to = body.position
        self._moved = threading.Condition()

    def go_to(self, position: int) -> None:
        with self._moved:
            self._may_go_to = position
            self._moved.notify()

    def run(self) -> None:
        while self._position < self._end:
            with self._moved:
                self._moved.wait_for(lambda: self._may_go_to > self._position, _PATIENCE)
            self.take(self._may_go_to)

    def take(self, end: int) -> None:
        while self._position < end:
            count = os.preadv(self._file, [self._buffer[: end - self._position]], self._position)
            self._hash.update(self._buffer[:count])
            self._position += count


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
    try:
        yield out, into
    finally:
        os.close(out)
        os.close(into)


LOOPS: Mapping[str, Loop] = {
    "discard": discard,
    "write": write,
    "write-and-sync": write_and_sync,
    "write-sync-and-hash": write_sync_and_hash,
    "splice": splice,
    "splice-and-hash": splice_and_hash,
    "splice-then-hash": splice_then_hash,
}
