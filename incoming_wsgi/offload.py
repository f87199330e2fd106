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
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

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
        from gevent import get_hub

        result: T = _result(self._native.spawn(_call, get_hub(), functools.partial(function, *args)).get())
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


def in_greenlet(function: Callable[P, T]) -> Callable[P, T]:
    """Have ``function`` run where requests run, also when it is called in a native thread of a :class:`Pool`.

    gevent's locks and events are for greenlets of one thread: between threads, they forget who waits. So work in a
    native thread touches none of ours; what has to, such as an app's call from ``on_finish``, comes back by this.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(function, *args, **kwargs)
        if under_gevent() and _is_native_thread():
            result: T = _result(_in_greenlet_of(_native_threads[_native_ident()], call))
            return result
        return call()

    return wrapper


def _in_greenlet_of(hub: Any, call: Callable[[], Any]) -> Any:
    from gevent import spawn
    from gevent.monkey import get_original

    done = get_original("queue", "SimpleQueue")()
    hub.loop.run_callback_threadsafe(spawn, lambda: done.put(_caught(call)))
    return done.get()


class _Raised:
    """An exception as a value: gevent prints the traceback of one that leaves a pool's function."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _caught(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 (it is raised again, in the thread that waits)
        return _Raised(error)


def _result(outcome: Any) -> Any:
    if isinstance(outcome, _Raised):
        raise outcome.error
    return outcome


#: For each native thread at work, by its number, the hub of the greenlet that waits for it.
_native_threads: dict[int, Any] = {}


def _native_ident() -> int:
    from gevent.monkey import get_original

    ident: int = get_original("_thread", "get_ident")()
    return ident


def _is_native_thread() -> bool:
    return _native_ident() in _native_threads


def _call(hub: Any, call: Callable[[], Any]) -> Any:
    _native_threads[_native_ident()] = hub
    try:
        return _caught(call)
    finally:
        del _native_threads[_native_ident()]
