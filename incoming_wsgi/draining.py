"""How a process is emptied without a failed upload: by an operator's mark, or because its server is told to end."""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from .frontend import Frontend
from .locks import try_flock
from .receiver import Receiver
from .wire import servers

log = logging.getLogger("incoming_wsgi")

_LOOK = 0.5  # seconds between two looks for the mark, and whether the server is stopping
_SHORT_LOOK = 0.05  # seconds between two looks whether the last bytes, or hand-overs, have come to their ends
_LAST_BYTES = 1.0  # seconds that bodies have at the end of a process, at most; what has come of them counts
_DRAINING = b"drain\n"


class Mark:
    """A file by which an operator tells all processes of a machine to empty themselves, and sees when they have.

    Each process has a shared lock on it until it is empty. The kernel takes that lock back where a process dies.

    :param path: on a local disk; made if it is not there. Its folder must be there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._held = -1  # a descriptor

    def is_set(self) -> bool:
        try:
            return self._path.read_bytes() == _DRAINING
        except FileNotFoundError:
            return False

    # -- the processes' side --------------------------------------------------------------------------------

    def hold(self) -> None:
        """Say that this process is not empty; whoever asks for it at this moment may miss it once.

        :raises OSError: the file can't be made.
        """
        if self._held >= 0 and self._is_still_there():
            return
        self.release()
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)  # an operator is looking; the next time
        else:
            self._held = descriptor

    def release(self) -> None:
        """Say that it is."""
        descriptor, self._held = self._held, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _is_still_there(self) -> bool:
        """Service managers empty such folders, and somebody may make the file anew."""
        try:
            return os.path.samestat(os.fstat(self._held), self._path.stat())
        except FileNotFoundError:
            return False

    # -- the operator's side --------------------------------------------------------------------------------

    def put(self, *, draining: bool) -> None:
        """:raises OSError: the file can't be written."""
        descriptor = self._open()
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _DRAINING if draining else b"")
        finally:
            os.close(descriptor)

    def is_everybody_empty(self) -> bool:
        """:raises OSError: the file can't be opened."""
        descriptor = self._open()
        try:
            return try_flock(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)


class Drain:
    """Empties this process when it is time: no new uploads, no new hand-overs; what is under way comes to its end.

    :param mark: the operator's, where there is one.
    """

    def __init__(self, frontend: Frontend, receiver: Receiver, mark: Mark | None) -> None:
        self._frontend = frontend
        self._receiver = receiver
        self._mark = mark
        self._process = os.getpid()
        self._warned = False
        atexit.register(self._leave)

    def watch(self) -> None:
        """Until the end of the process, or of the front end."""
        while not servers.is_stopping() and not self._frontend.is_closed:
            self.look()
            time.sleep(_LOOK)  # no event: under --preload it would be made before gevent patches threads
        if self._frontend.is_closed:  # the app has closed everything by itself
            atexit.unregister(self._leave)
            self._release()
            return
        self._begin()
        # Quiet or not: the server hears requests for a moment yet, and a chunk that is refused no proxy can pass on.
        time.sleep(min(_LAST_BYTES, servers.grace()))
        self._frontend.close()

    def look(self) -> None:
        """What does the mark say?"""
        if self._mark is None:
            return
        try:
            is_set = self._mark.is_set()
            if is_set != self._frontend.is_draining:
                log.info("this process is being drained" if is_set else "this process takes uploads again")
                self._begin() if is_set else self._resume()
            if is_set and self._is_empty:
                self._mark.release()
            else:
                self._mark.hold()
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("the drain file can't be used: %s", error)

    def _begin(self) -> None:
        self._receiver.rest()
        self._frontend.drain()

    def _resume(self) -> None:
        self._receiver.resume()
        self._frontend.resume()

    @property
    def _is_empty(self) -> bool:
        return self._frontend.is_quiet and not self._receiver.is_busy

    def _leave(self) -> None:
        """At the end of the process: others need not wait for its leases to end, nor repeat its hand-overs."""
        if os.getpid() != self._process:
            return  # of a fork
        self._begin()
        self._until(lambda: not self._receiver.is_busy, servers.grace())
        self._frontend.close()
        self._receiver.close()
        self._release()

    def _release(self) -> None:
        if self._mark is not None:
            self._mark.release()

    def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(_SHORT_LOOK)
