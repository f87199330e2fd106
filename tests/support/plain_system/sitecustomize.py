"""Makes a Python on Linux as plain as one on macOS; found by ``PYTHONPATH``, before anything else is imported.

No system calls that only Linux has, no ``/proc``, and no OpenSSL functions to be reached through ``_hashlib``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import sys
from typing import Any

LINUX_ONLY = (
    "copy_file_range",
    "eventfd",
    "fdatasync",
    "getrandom",
    "memfd_create",
    "pidfd_open",
    "pipe2",
    "posix_fadvise",
    "posix_fallocate",
    "splice",
    "O_DIRECT",
    "O_TMPFILE",
    "SPLICE_F_MOVE",
    "SPLICE_F_MORE",
    "SPLICE_F_NONBLOCK",
)
OPENED = {"open", "os.listdir", "os.scandir", "os.chdir"}


def take_away() -> None:
    for name in [*LINUX_ONLY, *(name for name in dir(os) if name.startswith(("sched_", "SCHED_")))]:
        if hasattr(os, name):
            delattr(os, name)
    for name in [name for name in dir(select) if name.lower().startswith("epoll")]:
        delattr(select, name)
    sys.addaudithook(hide_proc)
    hide_openssl()


def hide_proc(event: str, args: tuple[Any, ...]) -> None:
    if event in OPENED and isinstance(args[0], str | bytes) and os.fsencode(args[0]).startswith(b"/proc"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), args[0])


def hide_openssl() -> None:
    find = ctypes.CDLL.__getattr__

    def find_other(library: ctypes.CDLL, name: str) -> Any:
        if name.startswith(("SHA256_", "EVP_")):
            raise AttributeError(f"dlsym: symbol not found: {name}")
        return find(library, name)

    ctypes.CDLL.__getattr__ = find_other  # type: ignore[method-assign]


take_away()
