"""Room on the disk: taken in advance for a file that is expected, and kept free for everybody else."""

from __future__ import annotations

import ctypes
import errno
import os
import time

from ..errors import NoSpace

#: Leave the file's size alone (linux/falloc.h): it tells how far bytes have been written.
_KEEP_SIZE = 1

#: File systems that can't reserve say one of these.
_CAN_NOT = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

_LOOK = 0.5  # seconds for which one look at the free space holds

_libc = ctypes.CDLL(None, use_errno=True)


def reserve(descriptor: int, length: int) -> bool:
    """Take ``length`` bytes of the disk for a file; says whether this file system can do it.

    ``os.posix_fallocate`` would write zeros where it can't: gigabytes of them.

    :raises OSError: there is not so much room.
    """
    fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
    if fallocate is None or not length:
        return False
    while fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        if number in _CAN_NOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True


class Floor:
    """The part of a disk that uploads leave free, for databases and logs that share it.

    :param folder: on that disk.
    :param size: bytes.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int) -> None:
        self._folder = folder
        self._size = size
        self._looked_at = float("-inf")

    def refuse_below(self, wanted: int = 0) -> None:
        """:raises NoSpace: with ``wanted`` bytes more, less than the floor would be free."""
        if (self._size and time.monotonic() - self._looked_at >= _LOOK) or wanted:
            disk = os.statvfs(self._folder)
            if disk.f_bavail * disk.f_frsize - wanted < self._size:
                raise NoSpace(retry_after=10)
            self._looked_at = time.monotonic()
