"""The kernel's write-back, played: while a process writes, parts of what it wrote reach the disk, in any order."""

from __future__ import annotations

import ctypes
import errno
import os
import random
from pathlib import Path

from .laboratory import Case

_WRITE_AND_WAIT = 7  # SYNC_FILE_RANGE_WAIT_BEFORE | _WRITE | _WAIT_AFTER of sync_file_range(2)

#: Seconds between two things that it does, at most.
_PAUSE = 0.02

_libc = ctypes.CDLL(None, use_errno=True)


class Flusher:
    """:param root: of the file system; a flusher keeps to a few of its habits, or does nothing at all."""

    def __init__(self, case: Case, root: Path) -> None:
        self._case = case
        self._chance = random.Random(case.random.random())
        self._root = root
        habits = (self._part_of_a_file, self._file, self._another_file, self._everything)
        self._habits = self._chance.sample(habits, self._chance.choice((0, 1, 1, 2)))

    def pause(self) -> float:
        """Seconds until the next thing."""
        return self._chance.random() * _PAUSE

    def step(self) -> None:
        if self._habits:
            habit = self._chance.choice(self._habits)
            try:
                habit()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EIO):  # a file is on its way, or the power is gone
                    raise
            else:
                self._case.injected(f"write-back: {habit.__name__.strip('_').replace('_', ' ')}")

    def _part_of_a_file(self) -> None:
        descriptor = self._open_any()
        try:
            size = os.fstat(descriptor).st_size
            start = self._chance.randrange(size + 1)
            length = self._chance.randint(1, max(1, size // 4))
            _libc.sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(length), _WRITE_AND_WAIT)
        finally:
            os.close(descriptor)

    def _file(self) -> None:
        descriptor = self._open_any()
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def _another_file(self) -> None:
        """Somebody else syncs: on a journalled file system that takes the names and sizes of all files along."""
        descriptor = os.open(self._root / "of somebody else", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, self._chance.randbytes(4096), 4096 * self._chance.randrange(100))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _everything(self) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _libc.syncfs(descriptor)
        finally:
            os.close(descriptor)

    def _open_any(self) -> int:
        """:raises FileNotFoundError: there is none."""
        files = sorted(Path(parent, name) for parent, _, names in os.walk(self._root) for name in names)
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.open(self._chance.choice(files), os.O_RDONLY | os.O_CLOEXEC)
