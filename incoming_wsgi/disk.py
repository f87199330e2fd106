"""Data onto the disk, on every kind of system."""

from __future__ import annotations

import fcntl
import os


def sync_data(descriptor: int) -> None:
    """Put what was written to an open file onto the disk, with its size.

    :raises OSError: it may be lost; trying again would only seem to help.
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    elif hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # macOS: fsync(2) leaves it in the cache of the drive
    else:
        os.fsync(descriptor)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Put the names in a folder onto the disk.

    :raises OSError: some may be lost.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
