"""Bytes on their way to the disk before anybody waits for them."""

from __future__ import annotations

import ctypes

#: Begin to write dirty pages that are not being written yet (linux/fs.h). Without the flags that wait it looks at no
#: error: one that happens is still told to the next fsync.
_WRITE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = getattr(_libc, "sync_file_range", None)


def begin_write_back(descriptor: int, position: int, length: int) -> None:
    """Have the kernel write a part of a file to the disk; where it can't, nothing happens. It may block a little."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, ctypes.c_int64(position), ctypes.c_int64(length), ctypes.c_uint(_WRITE))
