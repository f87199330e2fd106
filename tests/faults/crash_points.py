"""Crash points: a process that kills itself before, after, or in the middle of a call that it makes.

Only for a forked process: what is patched here stays so.
"""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import random
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Moment = Literal["before", "half way through", "after"]

#: The calls of a process that change something, or let others see it, and in which of them it is likely to be
#: found: roughly how often each is made while a few files arrive.
CALLS = {
    "pwritev": 30,
    "splice": 30,
    "rename": 5,
    "fsync": 8,
    "fdatasync": 12,
    "ftruncate": 1,
    "open": 40,
    "unlink": 5,
    "link": 1,
    "mkdir": 12,
    "flock": 200,
    "copy": 1,
    "BEGIN": 50,
    "COMMIT": 50,
    "UPDATE": 70,
    "INSERT": 8,
    "DELETE": 2,
    "SELECT": 250,
    "PRAGMA": 12,
}

#: The same where the registry is in Redis: what it is asked, and what it answers.
REDIS_CALLS = {"request": 300, "answer": 300, "pwritev": 30, "rename": 5}

#: All of them together.
_ANY = "call"


@dataclass(frozen=True)
class CrashPoint:
    """The ``nth`` call of its kind, counted from 1."""

    call: str
    nth: int
    moment: Moment

    def __str__(self) -> str:
        return f"kill {self.moment} {self.call}"

    def arm(self, end: Callable[[], None] | None = None) -> None:
        """From now on this process dies there.

        :param end: another way to die than :func:`die`.
        """
        _Trap(self, end or die).set()


def any_crash_point(chance: random.Random, calls: Mapping[str, int] = CALLS) -> CrashPoint:
    """One that a process which receives a few files is likely to come by."""
    call, most = chance.choice([*calls.items(), *[(_ANY, 500)] * 3])
    nth = int(most ** chance.random())  # the first ones are interesting, the last ones are not always reached
    moments: list[Moment] = ["before", "after", "half way through"]
    return CrashPoint(call, nth, chance.choice(moments if call in _HALVES else moments[:2]))


class _Trap:
    def __init__(self, point: CrashPoint, end: Callable[[], None]) -> None:
        self._point = point
        self._end = end
        self._count = itertools.count(1)  # one step, also between threads

    def set(self) -> None:
        for name in ("rename", "fsync", "fdatasync", "ftruncate", "open", "unlink", "link", "mkdir"):
            setattr(os, name, self._trapped(name, getattr(os, name)))
        os.pwritev = self._trapped("pwritev", os.pwritev, _write_half)
        os.splice = self._trapped("splice", os.splice, _splice_half)
        shutil.copy2 = self._trapped("copy", shutil.copy2, _copy_half)
        fcntl.flock = self._trapped("flock", fcntl.flock)
        if "redis" in sys.modules:
            self._set_in_redis()
        sqlite3.connect = functools.partial(sqlite3.connect, factory=self._connection())  # type: ignore[assignment]

    def _set_in_redis(self) -> None:
        from redis.connection import AbstractConnection

        AbstractConnection.send_packed_command = self._trapped(
            "request", AbstractConnection.send_packed_command, _send_half
        )
        for kind in (AbstractConnection, *AbstractConnection.__subclasses__()):
            if "read_response" in vars(kind):
                kind.read_response = self._trapped("answer", kind.read_response)

    def _connection(self) -> type[sqlite3.Connection]:
        trap = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                cursor: sqlite3.Cursor = trap._call(sql.split(maxsplit=1)[0], super().execute, None, sql, *values)
                return cursor

        return Connection

    def _trapped(self, name: str, call: Callable[..., Any], half: Callable[..., Any] | None = None) -> Any:
        @functools.wraps(call)
        def trapped(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, call, half, *args, **kwargs)

        return trapped

    def _call(
        self, name: str, call: Callable[..., Any], half: Callable[..., Any] | None, *args: Any, **kwargs: Any
    ) -> Any:
        if self._point.call not in (name, _ANY) or next(self._count) != self._point.nth:
            return call(*args, **kwargs)
        try:
            if self._point.moment == "half way through" and half is not None:
                half(call, *args, **kwargs)
            elif self._point.moment == "after":
                call(*args, **kwargs)
        finally:
            self._end()
        return None


def die() -> None:
    """As by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def _write_half(pwritev: Callable[..., Any], descriptor: int, blocks: list[memoryview], position: int) -> None:
    pwritev(descriptor, [blocks[0][: len(blocks[0]) // 2]], position)


def _splice_half(splice: Callable[..., Any], source: int, target: int, count: int, *, offset_dst: int) -> None:
    splice(source, target, count // 2, offset_dst=offset_dst)


def _send_half(send: Callable[..., Any], connection: Any, command: list[bytes], *_: Any, **__: Any) -> None:
    data = b"".join(command)
    connection._sock.sendall(data[: len(data) // 2])


def _copy_half(copy: Callable[..., Any], source: str, target: str) -> None:
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: len(data) // 2])


#: The calls that can be found half way through.
_HALVES: Mapping[str, Callable[..., None]] = {
    "pwritev": _write_half,
    "splice": _splice_half,
    "copy": _copy_half,
    "request": _send_half,
}
