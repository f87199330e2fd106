"""Data onto the disk, on every kind of system; waiting for it does not hold up the event loop.

Only calls that wait go to another thread: each further one would hand Python's lock to and fro.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from . import offload


def sync_data(descriptor: int, folder: str | os.PathLike[str] = "") -> None:
    """Put what was written to an open file onto the disk, with its size.

    :param folder: the one that it is in, if its name is to get there, too.
    :raises OSError: it may be lost; trying again would only seem to help.
    """
    if not folder:
        offload.run(_sync_data, descriptor)
        return
    with _opened(folder) as (names,):
        offload.run(_sync_both, descriptor, names)


def sync_folders(*paths: str | os.PathLike[str]) -> None:
    """Put the names in these folders onto the disk.

    :raises OSError: some may be lost.
    """
    with _opened(*paths) as folders:
        offload.run(_sync_each, folders)


@contextmanager
def _opened(*paths: str | os.PathLike[str]) -> Iterator[Sequence[int]]:
    with ExitStack() as opened:
        descriptors = []
        for path in paths:
            descriptors.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            opened.callback(os.close, descriptors[-1])
        yield descriptors


def _sync_both(descriptor: int, folder: int) -> None:
    _sync_data(descriptor)
    os.fsync(folder)


def _sync_each(folders: Sequence[int]) -> None:
    for folder in folders:
        os.fsync(folder)


def _sync_data(descriptor: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    elif hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # macOS: fsync(2) leaves it in the cache of the drive
    else:
        os.fsync(descriptor)
