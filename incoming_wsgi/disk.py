"""Data onto the disk, on every kind of system; waiting for it does not hold up the event loop.

Only the one call that waits goes to another thread: each further one would hand Python's lock to and fro.
"""

from __future__ import annotations

import fcntl
import os

from . import offload


def sync_data(descriptor: int) -> None:
    """Put what was written to an open file onto the disk, with its size.

    :raises OSError: it may be lost; trying again would only seem to help.
    """
    if hasattr(os, "fdatasync"):
        offload.run(os.fdatasync, descriptor)
    elif hasattr(fcntl, "F_FULLFSYNC"):
        offload.run(fcntl.fcntl, descriptor, fcntl.F_FULLFSYNC)  # macOS: fsync(2) leaves it in the cache of the drive
    else:
        offload.run(os.fsync, descriptor)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Put the names in a folder onto the disk.

    :raises OSError: some may be lost.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        offload.run(os.fsync, descriptor)
    finally:
        os.close(descriptor)
