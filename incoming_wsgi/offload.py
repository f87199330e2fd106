"""Blocking work off the event loop, and threads that run in the background.

Under gevent the thread of a request is a greenlet: work that blocks in C (a hash, a copy, an fsync) would stop every
other upload of the process, so it goes to gevent's native threads. Elsewhere a request has a thread of its own and
simply does the work.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Native threads for such work, in one process under gevent.
_THREADS = 8

log = logging.getLogger("incoming_wsgi")


def under_gevent() -> bool:
    """Whether gevent has replaced threads by greenlets in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``function(…)``, its result or exception, without holding up the event loop.

    Only for work that computes or moves bytes. Under gevent it must touch no lock that requests use, not even by
    logging: gevent's locks are for greenlets of one thread, and between threads they forget who waits.
    """
    if not under_gevent() or _is_native_thread():
        return function(*args, **kwargs)
    outcome = _pool().spawn(_caught, functools.partial(function, *args, **kwargs)).get()
    if isinstance(outcome, _Raised):
        raise outcome.error
    result: T = outcome
    return result


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


class Crew:
    """Does jobs in the background, a few at a time. One that waits its turn costs no thread; a greenlet has 16 KiB.

    :param size: jobs that are done at the same time.
    :param name: of the jobs, for the log.
    """

    def __init__(self, size: int, name: str) -> None:
        self._free = size
        self._name = name
        self._waiting: deque[Callable[[], object]] = deque()
        self._guard = threading.Lock()

    def do(self, function: Callable[..., object], *args: Any) -> None:
        """``function(*args)`` soon; a crash is logged."""
        with self._guard:
            self._waiting.append(functools.partial(function, *args))
            if not self._free:
                return
            self._free -= 1
        background(self._work, name=self._name)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:
                log.exception("%s stopped with an error", self._name)

    def _next(self) -> Callable[[], object] | None:
        with self._guard:
            if self._waiting:
                return self._waiting.popleft()
            self._free += 1
            return None


@functools.cache
def _pool() -> Any:
    from gevent.threadpool import ThreadPool

    return ThreadPool(_THREADS)


#: The native threads that are at work, by their numbers.
_native_threads: set[int] = set()


@functools.cache
def _ident() -> Callable[[], int]:
    """What gives the number of a native thread."""
    from gevent.monkey import get_original

    ident: Callable[[], int] = get_original("_thread", "get_ident")
    return ident


def _is_native_thread() -> bool:
    return bool(_native_threads) and _ident()() in _native_threads


class _Raised:
    """An exception as a value: gevent prints the traceback of one that leaves a pool's function."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _caught(call: Callable[[], Any]) -> Any:
    _native_threads.add(_ident()())
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 (it is raised again, in the thread that waits)
        return _Raised(error)
    finally:
        _native_threads.discard(_ident()())
