"""Blocking work off the event loop, and threads that run in the background.

Under gevent the thread of a request is a greenlet: work that blocks in C (a hash, a copy, an fsync) would stop every
other upload of the process, so it goes to gevent's native threads. Elsewhere a request has a thread of its own and
simply does the work.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("incoming_wsgi")


def under_gevent() -> bool:
    """Whether gevent has replaced threads by greenlets in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


class Pool:
    """Native threads for one kind of blocking work, so that one kind can't starve another.

    :param size: how many pieces of work may run at once under gevent.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._native: Any = None

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)``, its result or exception, without holding up the event loop."""
        if not under_gevent() or _is_native_thread():
            return function(*args)
        if self._native is None:
            from gevent.threadpool import ThreadPool

            self._native = ThreadPool(self._size)
        outcome = self._native.spawn(_call, function, args).get()
        if isinstance(outcome, _Raised):
            raise outcome.error
        result: T = outcome
        return result


#: For hashing, syncing and copying.
_work = Pool(4)


def run(function: Callable[..., T], *args: Any) -> T:
    """``function(*args)`` on the pool that is shared by all work that only computes or moves bytes."""
    return _work.run(function, *args)


def background(function: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """Start ``function(*args)`` beside the requests. It never keeps the process alive; a crash is logged."""

    def guarded() -> None:
        try:
            function(*args)
        except Exception:
            log.exception("%s stopped with an error", name)

    thread = threading.Thread(target=guarded, name=f"incoming-{name}", daemon=True)
    thread.start()
    return thread


class _Raised:
    """An exception as a value: gevent prints the traceback of one that leaves a pool's function."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_native_threads: set[int] = set()


def _native_ident() -> int:
    from gevent.monkey import get_original

    ident: int = get_original("_thread", "get_ident")()
    return ident


def _is_native_thread() -> bool:
    return _native_ident() in _native_threads


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    _native_threads.add(_native_ident())
    try:
        return function(*args)
    except BaseException as error:  # noqa: BLE001 (it is raised again, in the thread that waits)
        return _Raised(error)
    finally:
        _native_threads.discard(_native_ident())
