"""The reading side of a socket that a server has given away: in large pieces, without copies where that can be.

A frame or a body that is read as it trickles in costs a wake-up, a lock and a write for each packet. So a reader sleeps
until much has come, or a while has passed (``SO_RCVLOWAT``, socket(7)); ``MSG_WAITALL`` would do nothing here, since
gevent's sockets do not block.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from .. import offload
from .bulk import CAN_NOT_SPLICE, PIECE, Bulk, Lent, Pipe, Piped, buffers, pipes

#: Bytes that are worth waking up for; the kernel makes the receive buffer twice as large.
_MUCH = 512 * 1024

#: Pipes of one piece.
_MOST_PIPES = 4

#: There are too many open files: without a pipe it works, too.
_NO_PIPE = frozenset({errno.EMFILE, errno.ENFILE})

#: Whether this system and this Python have splice(2).
_HAS_SPLICE = hasattr(os, "splice")


class Inlet:
    """:param sock: plain, TLS or gevent's; nobody else reads from it meanwhile."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._descriptor = sock.fileno()
        self._encrypted = hasattr(sock, "pending")
        self._enough = 1
        # To poll a Unix socket is to be woken by any byte, and then a blocking read would wait for the others.
        self._much = _MUCH if sock.family in (socket.AF_INET, socket.AF_INET6) else 1
        self._is_readable, self._let_go = _readiness(self._descriptor)
        self._blocks = os.get_blocking(self._descriptor)
        self._can_splice = _HAS_SPLICE and not self._encrypted

    def wait(self, wanted: int, seconds: float) -> bool:
        """Sleep until ``wanted`` bytes are here, or as many as are worth waking up for, or the end, or so long.

        :returns: whether to look for some; where none are there, :meth:`take` says so.
        """
        if self._encrypted:
            pending: int = self._socket.pending()  # type: ignore[attr-defined]
            return bool(pending) or self._is_readable(seconds)
        if not seconds:
            return self._is_readable(0.0)  # of what is here already, all is enough
        self._set_enough(min(max(wanted, 1), self._much))
        if self._is_readable(seconds):
            return True
        self._set_enough(1)
        return self._is_readable(0.0)

    def take(self, most: int, *, splice: bool = False) -> Bulk | None:
        """Up to ``most`` bytes, empty at the end; ``None`` where there are none yet. To be released.

        :param splice: whether they may come in a pipe; where that can't be, they come in a buffer.
        :raises OSError: the connection is broken.
        """
        if splice and self._can_splice:
            return self._splice(most)
        return self._receive(min(most, PIECE))

    def take_into(self, buffer: memoryview) -> int | None:
        """As :meth:`take`, into a buffer of the caller's; gives how many bytes.

        :raises OSError: the connection is broken.
        """
        if self._encrypted:
            return self._decrypt_into(buffer)
        with suppress(BlockingIOError):
            return os.readv(self._descriptor, [buffer])
        return None

    def _splice(self, most: int) -> Bulk | None:
        """Each piece costs a lock and a look at the records: where much has come, it fills several pipes."""
        filled: list[Pipe] = []
        try:
            while most and len(filled) < _MOST_PIPES and self._has_more(filled):
                filled.append(pipes.lend())
                most -= filled[-1].fill(self._descriptor, min(most, PIECE))
        except OSError as error:
            if filled and not filled[-1].held:
                pipes.give_back(filled.pop())
            if not filled:
                return self._without_pipe(error, min(most, PIECE))
        return Piped(filled)

    def _has_more(self, filled: Sequence[Pipe]) -> bool:
        """Whether to go on; a socket that blocks must be known to have more.

        A pipe may be full before it holds so much: a page that is sent in part takes a whole place of it.
        """
        return not filled or (filled[-1].held >= PIECE // 2 and (not self._blocks or self._is_readable(0.0)))

    def _without_pipe(self, error: OSError, most: int) -> Bulk | None:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
            return None
        if error.errno in CAN_NOT_SPLICE:
            self._can_splice = False
        elif error.errno not in _NO_PIPE:
            raise error
        return self._receive(most)

    def _receive(self, most: int) -> Bulk | None:
        buffer = buffers.lend()
        try:
            count = self.take_into(buffer[:most])
        except BaseException:
            buffers.give_back(buffer)
            raise
        if count is None:
            buffers.give_back(buffer)
            return None
        return Lent(buffer, count)

    def close(self) -> None:
        """Leave the socket as the server knows it."""
        with suppress(OSError):
            self._set_enough(1)
        self._let_go()

    def _set_enough(self, count: int) -> None:
        if count != self._enough:
            with suppress(OSError):  # it is only better with it
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._enough = count

    def _decrypt_into(self, buffer: memoryview) -> int | None:
        """One record has 16 KiB at most: gather what is there."""
        timeout = self._socket.gettimeout()
        self._socket.settimeout(0)
        count = 0
        try:
            while count < len(buffer):
                more = self._socket.recv_into(buffer[count:])
                count += more
                if not more:
                    return count
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return count or None
        finally:
            self._socket.settimeout(timeout)
        return count


#: Sleeps until a socket can be read, for so many seconds at most, and says whether it can.
_Readiness: TypeAlias = Callable[[float], bool]


def _readiness(descriptor: int) -> tuple[_Readiness, Callable[[], None]]:
    """The way to wait for a descriptor, and what to do when that is over."""
    if offload.under_gevent():
        return _readiness_under_gevent(descriptor)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda seconds: bool(poll.poll(seconds * 1000)), lambda: None


def _readiness_under_gevent(descriptor: int) -> tuple[_Readiness, Callable[[], None]]:
    from gevent import get_hub
    from gevent.socket import wait

    watcher = get_hub().loop.io(descriptor, 1)

    def is_readable(seconds: float) -> bool:
        if seconds:
            with suppress(TimeoutError):
                wait(watcher, seconds)
        return True  # or not: the socket does not block, and says so itself

    return is_readable, watcher.close


def stop_reading(descriptor: int) -> None:
    """Make a read that waits on this socket, in whichever thread, come back with an end of file.

    On a duplicate of the descriptor: shutting an ``SSLSocket`` itself would take its encryption off.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RD)
