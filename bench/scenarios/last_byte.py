"""H: from the last byte until the app is told."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

from ..load import send
from ..peers.ours import Ours
from ..report import Goal, Report, Table
from ..setting import Setting
from .streams import OURS

_MEMORY, _DISK = "In memory", "On disk"
_DELAY, _DIRTY, _BARE = "last byte to on_finish, ms", "still dirty, MiB", "bare fdatasync of as much, ms"
_MOST_IN_MEMORY, _MOST_ON_DISK = 200, 100  # ms
_LOOK = 0.02  # seconds
_MIB = 2**20


def last_byte(setting: Setting) -> Report:
    memory, disk = Table(_MEMORY, [_DELAY]), Table(_DISK, [_DELAY, _DIRTY, _BARE])
    with Ours(OURS, setting.room("last-byte")) as server:
        for number in range(setting.rounds + 1):
            delay, _ = _deliver(server, setting.size)
            if number:
                memory.add(OURS, delay)
    folder = setting.room_on_disk("last-byte")
    with Ours(OURS, folder / "server") as server:
        for _ in range(setting.rounds):
            delay, dirty = _deliver(server, setting.size)
            disk.add(OURS, delay, dirty / _MIB, _bare_sync(folder / "bare", dirty))
    delays, bare = disk.values(OURS, _DELAY), disk.values(OURS, _BARE)
    return Report(
        letter="H",
        title="From the last byte to the app",
        about="A file as in A, with SHA-256: the time from the moment at which its last byte was sent until "
        "on_finish is called. On disk beside an fdatasync, right after, of a file with as many bytes as "
        "were dirty at that moment.",
        tables=[memory, disk],
        goals=[
            Goal(
                f"in memory, at most {_MOST_IN_MEMORY} ms",
                memory.values(OURS, _DELAY),
                _MOST_IN_MEMORY,
                "ms",
                at_least=False,
            ),
            Goal(
                f"on disk, at most {_MOST_ON_DISK} ms more than the bare fdatasync",
                [delay - sync for delay, sync in zip(delays, bare, strict=True)],
                _MOST_ON_DISK,
                "ms",
                at_least=False,
            ),
        ],
        remarks=["What is dirty is asked of the kernel (Dirty and Writeback in /proc/meminfo), for the whole machine."],
    )


def _deliver(server: Ours, length: int) -> tuple[float, int]:
    """Milliseconds until the app was told, and how many bytes were dirty at the last byte."""
    os.sync()
    ticket = server.ticket()
    lane = server.lane(ticket, length)
    with _DirtyWatch() as watch:
        sent = send(server.port, [lane])
        told = server.told(ticket)
    server.clear()
    return 1000 * (told - sent.last_byte), watch.at(sent.last_byte)


def _bare_sync(path: Path, length: int) -> float:
    """Milliseconds."""
    piece = os.urandom(_MIB)
    os.sync()
    with path.open("wb", buffering=0) as file:
        for _ in range(0, length, _MIB):
            file.write(piece)
        began = time.monotonic()
        os.fdatasync(file.fileno())
        took = time.monotonic() - began
    path.unlink()
    return 1000 * took


class _DirtyWatch:
    """How many bytes are dirty, moment by moment."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _DirtyWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def at(self, moment: float) -> int:
        return min(self._looks, key=lambda look: abs(look[0] - moment))[1]

    def _look(self) -> None:
        while True:
            self._looks.append((time.monotonic(), _dirty()))
            if self._over.wait(_LOOK):
                return


def _dirty() -> int:
    text = Path("/proc/meminfo").read_text()
    return sum(int(kib) * 1024 for kib in re.findall(r"^(?:Dirty|Writeback): +(\d+) kB$", text, re.MULTILINE))
