"""Kills a process as it enters a system call, by strace: also where Python does not call, as inside SQLite."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import eventually

from .dying import Fork

#: System calls, and roughly how often each is made while a few files arrive.
_CALLS = {
    "pwrite64": 120,
    "pwritev2": 40,
    "splice": 40,
    "write": 60,
    "fsync": 12,
    "fdatasync": 4,
    "rename": 4,
    "unlink": 8,
    "openat": 60,
    "ftruncate": 4,
    "flock": 150,
    "fcntl": 150,
    "mmap": 20,
    "close": 60,
}


@dataclass(frozen=True)
class SystemCall:
    """The ``nth`` system call of its kind that a process enters, counted from 1."""

    call: str
    nth: int

    def __str__(self) -> str:
        return f"kill at system call {self.call}"


def any_system_call(chance: random.Random) -> SystemCall:
    call, most = chance.choice(list(_CALLS.items()))
    return SystemCall(call, max(1, int(most ** chance.random())))


@contextlib.contextmanager
def killing_at(point: SystemCall, victim: Fork, log: Path) -> Iterator[None]:
    """While it lasts, a held process dies at that call once it goes on."""
    command = ["strace", "-f", "-q", "-o", os.devnull, "-p", str(victim.pid)]
    inject = f"inject={point.call}:signal=KILL:when={point.nth}"
    with log.open("ab") as output:
        tracer = subprocess.Popen([*command, "-e", f"trace={point.call}", "-e", inject], stderr=output)
    try:
        eventually(lambda: is_traced(victim.pid) or tracer.poll() is not None, what="strace")
        assert tracer.poll() is None, f"strace ended: {log.read_text()}"
        yield
    finally:
        tracer.send_signal(signal.SIGINT)  # it lets go of a process that still lives
        tracer.wait()


def missing() -> str:
    """Why strace can't be used here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    child = subprocess.Popen(["sleep", "60"])
    try:
        command = ["strace", "-q", "-o", os.devnull, "-e", "inject=all:signal=KILL:when=1", "-p", str(child.pid)]
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            eventually(lambda: is_traced(child.pid) or tracer.poll() is not None, what="strace")
        finally:
            tracer.terminate()
            _, words = tracer.communicate()
        return "" if tracer.returncode <= 0 else f"strace is not allowed: {words.strip()}"
    finally:
        child.kill()
        child.wait()


def is_traced(pid: int) -> bool:
    """Whether strace, or another, has a process in its hands."""
    status = Path(f"/proc/{pid}/status").read_text()
    return "\nTracerPid:\t0\n" not in status
