"""Advisory locks on files: between the processes of one machine by the kernel, inside a process by a plain lock.

The kernel gives a lock back when its holder dies, however it dies. Waiting never blocks the event loop. In a folder
that machines share it is the server of the files that keeps them apart; for a machine that has died it waits a while.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from . import offload

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds for which a lock is mostly held, and seconds of rest between two looks whether it is free when it is not.
#: Shorter than a millisecond nobody rests under gevent: until then who waits only lets the others go first.
_SHORT = 0.0005
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.01

# flock() belongs to an open file, so two threads that share a descriptor would both get in.
_inside: weakref.WeakValueDictionary[tuple[int, int], threading.Lock] = weakref.WeakValueDictionary()
_inside_guard = threading.Lock()


def _begin_anew() -> None:
    """After a fork: what another thread of the parent held would never be given back here."""
    global _inside, _inside_guard
    _inside, _inside_guard = weakref.WeakValueDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)


class FileLock:
    """An exclusive lock on an open file; a context manager.

    :param descriptor: an open file; the caller keeps it open while the lock is in use.
    :param is_remote: whether a server keeps it: then it is waited for to take the lock, and to give it back, which is
        also when the server gets what was written meanwhile.
    """

    def __init__(self, descriptor: int, *, is_remote: bool = False) -> None:
        self._descriptor = descriptor
        self._call = offload.run if is_remote else _call
        self._thread_lock = _lock_of_file(descriptor)

    @classmethod
    def on(cls, path: str | os.PathLike[str]) -> FileLock:
        """The lock on a file of that name, made if it is not there; to be given back by :meth:`close`."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> None:
        self._thread_lock.acquire()
        try:
            if self._descriptor < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._wait_for_flock(self._descriptor)
        except BaseException:
            self._thread_lock.release()
            raise

    def close(self) -> None:
        """Close the file that :meth:`on` has opened.

        Who waits for the lock, or asks for it later, gets an :class:`OSError`: never the lock of another file that has
        got the same number.
        """
        with self._thread_lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(fcntl.flock, self._descriptor, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()

    def _wait_for_flock(self, descriptor: int) -> None:
        if self._call(try_flock, descriptor):
            return
        if not offload.under_gevent():
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return
        pause = 0.0
        deadline = time.monotonic() + _SHORT
        while not self._call(try_flock, descriptor):
            time.sleep(pause)
            if time.monotonic() > deadline:
                pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Here and now; as :func:`~incoming_wsgi.offload.run` elsewhere."""
    return function(*args, **kwargs)


def try_flock(descriptor: int) -> bool:
    """Take the kernel's lock on an open file if nobody has it; give it back by closing the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_of_file(descriptor: int) -> threading.Lock:
    status = os.fstat(descriptor)
    with _inside_guard:
        key = (status.st_dev, status.st_ino)
        lock = _inside.get(key)
        if lock is None:
            lock = _inside[key] = threading.Lock()
        return lock
