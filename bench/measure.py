"""What a server costs, seen from outside: processor time and memory of its whole process tree; and medians of it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from statistics import median

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_LOOK = 0.05  # seconds between two looks at the memory


class ProcessTree:
    """A process and all that descend from it."""

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self.pid = pid
        self._proc = proc

    def pids(self) -> list[int]:
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += self._children(pid)
        return found

    def cpu(self) -> float:
        """Seconds of user and system time so far; those of children that have ended are in their parent's."""
        return sum(map(self._ticks, self.pids())) * _TICK

    def memory(self) -> int:
        """Bytes in memory now; what several processes share is counted once (PSS), the page cache is not."""
        return sum(map(self._resident, self.pids()))

    def _children(self, pid: int) -> list[int]:
        found: list[int] = []
        with contextlib.suppress(OSError):
            for task in (self._proc / str(pid) / "task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found

    def _ticks(self, pid: int) -> int:
        with contextlib.suppress(OSError):
            fields = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15]))
        return 0

    def _resident(self, pid: int) -> int:
        with contextlib.suppress(OSError):
            for line in (self._proc / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return 0


class Watch:
    """``with Watch(pid) as watch:`` measures a server while the block runs.

    :ivar cpu: seconds of processor time that the block cost it.
    :ivar memory: bytes of memory at the peak.
    """

    def __init__(self, pid: int) -> None:
        self._tree = ProcessTree(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.cpu = 0.0
        self.memory = 0

    def __enter__(self) -> Watch:
        self._began = self._tree.cpu()
        self.memory = self._tree.memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu = self._tree.cpu() - self._began
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            self.memory = max(self.memory, self._tree.memory())


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round: both have had the same weather."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def middle(values: Sequence[float]) -> float:
    """The median."""
    return float(median(values))
