"""A file system of a few MiB, of one's own, in memory; needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """:ivar folder: the root of the file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def free(self) -> int:
        """Bytes that are free."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize

    def fill(self) -> None:
        """Leave nothing free."""
        with (self.folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass


@contextlib.contextmanager
def mounted_tmpfs(folder: Path, size: int) -> Iterator[SmallDisk]:
    """:param size: bytes."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
