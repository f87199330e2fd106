"""Processes that are forked to be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

#: A killed process, as ``waitpid`` tells of it.
_KILLED = -signal.SIGKILL

#: Seconds in which a process must stop when it is told to.
_PATIENCE = 20.0


class Fork:
    """``work()`` in a forked process; a context manager that leaves none behind.

    :param log: a file that gets what it prints.
    :param held: whether it waits for :meth:`go` before it begins.
    :ivar has_ended: whether its end has been waited for.
    """

    def __init__(self, work: Callable[[], None], log: Path, *, held: bool = False) -> None:
        self._words, words = os.pipe()
        gate, self._gate = os.pipe()
        self.has_ended = False
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            _be_born(log)
            if held:
                os.read(gate, 1)
            _live(work, words)
        os.close(words)
        os.close(gate)

    def go(self) -> None:
        """Let it begin."""
        os.write(self._gate, b"!")

    def kill(self) -> None:
        """As ``kill -9`` does; nothing happens to one that has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """From now on it does nothing more. What the kernel is doing for it goes on, but it will not hear of that."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + _PATIENCE
        while not self._is_frozen():
            assert time.monotonic() < deadline, "a process that can't be frozen"
            os.sched_yield()

    def _is_frozen(self) -> bool:
        return all(state in "TtDZX" for state in _states(self.pid))

    def end(self) -> bool:
        """Wait for its end; says whether it was killed.

        :raises AssertionError: its work failed.
        """
        words = b""
        while piece := os.read(self._words, 65536):
            words += piece
        code = self._wait()
        assert code in (0, _KILLED), f"a process ended with {code}:\n{words.decode()}"
        return code == _KILLED

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.has_ended = True
        return os.waitstatus_to_exitcode(status)

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended:
            self.kill()
            self._wait()
        os.close(self._words)
        os.close(self._gate)


def live(work: Callable[[], None], log: Path) -> None:
    """``work()`` in a process of its own that must come to its end.

    :raises AssertionError: it failed, or was killed.
    """
    with Fork(work, log) as fork:
        assert not fork.end(), "a process that was to live has been killed"


def _states(pid: int) -> Iterator[str]:
    """Of each thread of a process, the letter that proc(5) has for what it is doing."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            yield (thread / "stat").read_text().rpartition(")")[2].split()[0]


def _be_born(log: Path) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _live(work: Callable[[], None], words: int) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001 (it is told to the parent, which raises)
        os.write(words, traceback.format_exc().encode()[-60_000:])
        os._exit(1)
    os._exit(0)
