"""Makes one call of a process fail, by strace: also where Python does not call, as inside SQLite and ctypes."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually

from .dying import Fork
from .system_calls import is_traced

#: A line of strace's: the process, the call and its arguments.
_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_UNLOCK = re.compile(r"F_UNLCK|LOCK_UN")
_INJECTED = "(INJECTED)"


@dataclass(frozen=True)
class Call:
    """A call on a file.

    :ivar name: of the system call.
    :ivar nth: it is the so many-th of that name in its process, counted from 1.
    :ivar path: what it is made on, within the folder that was asked for.
    """

    name: str
    nth: int
    path: str


@dataclass(frozen=True)
class Failure:
    """A call that fails, once: it is not made, and this error is what its caller hears."""

    call: Call
    error: str

    def __str__(self) -> str:
        return f"{self.error} at {self.call.name}"


def calls_of(work: Callable[[], None], folder: Path, log: Path, until: str) -> list[Call]:
    """The calls that ``work()`` makes on what is in a folder, in order; it is done in a forked process.

    Giving locks back is not among them: no kernel refuses that.

    :param until: what is among the words, as strace shows them, of the first call that does not matter any more.
    """
    lines = _traced(work, [], log)
    count: Counter[str] = Counter()
    found: list[Call] = []
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        name, words = match.groups()
        if until in words:
            return found
        count[name] += 1
        path = _path(words, folder)
        if path and not _UNLOCK.search(words):
            found.append(Call(name, count[name], path))
    raise AssertionError(f"it has never written {until!r}")


def fail(failure: Failure, work: Callable[[], None], folder: Path, log: Path) -> Call | None:
    """Do ``work()`` in a forked process, where that call fails; gives the call that has failed.

    :param folder: where it should have been.
    :raises AssertionError: the work failed, or the process has died.
    """
    call = failure.call
    inject = f"inject={call.name}:error={failure.error}:when={call.nth}"
    lines = _traced(work, ["-e", f"trace={call.name}", "-e", inject], log)
    for line in lines:
        match = _CALL.match(line)
        if match is not None and _INJECTED in line:
            return Call(match[1], call.nth, _path(match[2], folder))
    return None


def _path(words: str, folder: Path) -> str:
    """The first path in that folder that is named in the arguments, or in the result, as seen from there."""
    _, found, path = words.partition(f"{folder}/")
    return re.split(r'["<>]', path)[0] if found else ""


def _traced(work: Callable[[], None], options: list[str], log: Path) -> list[str]:
    trace = log.with_suffix(".strace")
    with Fork(work, log, held=True) as fork, _strace(fork, [*options, "-o", str(trace)], log):
        fork.go()
        assert not fork.end(), "a process that was to live has died"
    return trace.read_text(errors="replace").splitlines()


@contextlib.contextmanager
def _strace(fork: Fork, options: list[str], log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        tracer = subprocess.Popen(["strace", "-f", "-q", "-y", "-p", str(fork.pid), *options], stderr=output)
    try:
        eventually(lambda: is_traced(fork.pid) or tracer.poll() is not None, what="strace")
        assert tracer.poll() is None, f"strace ended: {log.read_text()}"
        yield
    finally:
        if fork.has_ended:
            tracer.wait(20)  # it has all to write down yet
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
