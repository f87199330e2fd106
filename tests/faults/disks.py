"""A small disk with a file system of its own, whose power can be cut: what nobody has synced is gone.

Linux only, for root.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.waiting import eventually

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN, _IOR('X', 125, __u32): the file system stops dead
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of unshare(2)
_MIB = 1024 * 1024

# Debian keeps these programs where the path of an ordinary user does not look.
_ENVIRON = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])}

#: How the power can go, and the flag of the kernel's for that.
CUTS: Mapping[str, int] = {
    "nothing more reaches the disk": 2,  # NOLOGFLUSH
    "the journal still reaches the disk, the data does not": 1,  # LOGFLUSH
}


@dataclass(frozen=True)
class FileSystem:
    """:ivar size: bytes; few of them are really taken.
    :ivar options: with which it is mounted.
    """

    name: str
    size: int
    make: tuple[str, ...]
    options: str = "defaults"


_EXT4 = ("mkfs.ext4", "-q", "-F")

#: Each, and what is different after a power cut.
FILE_SYSTEMS = (
    FileSystem("ext4", 64 * _MIB, _EXT4),
    FileSystem("ext4, data=writeback", 64 * _MIB, _EXT4, "data=writeback"),  # sizes are there before bytes are
    FileSystem("ext4, nodelalloc", 64 * _MIB, _EXT4, "nodelalloc"),  # the journal takes the bytes along
    FileSystem("XFS", 300 * _MIB, ("mkfs.xfs", "-q", "-f")),
)


class Disk:
    """A context manager: the file system is there while it lasts, for this process and for those that it starts.

    :param folder: for the image and for the mount point; not on the disk itself.

    :ivar root: where it is mounted.
    """

    def __init__(self, folder: Path, system: FileSystem) -> None:
        self.system = system
        self.root = folder / "disk"
        self._image = folder / "disk.image"

    def __enter__(self) -> Disk:
        _have_own_mounts()
        self.root.mkdir()
        with self._image.open("wb") as image:
            image.truncate(self.system.size)
        _run(*self.system.make, os.fspath(self._image))
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        if self.root.is_mount():
            # Lazily: a process that has outlived a failed case must not keep the device. It goes with the last file.
            _run("umount", "--lazy", os.fspath(self.root))

    def cut_power(self, how: str) -> None:
        """From now on nothing is written or read; ``how`` is one of :data:`CUTS`."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", CUTS[how]))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """The power is back: what is there now is what was on the disk. Nobody may have a file of it open."""
        _run("umount", os.fspath(self.root))
        eventually(lambda: not self._is_in_use(), what="the end of the file system")
        self._mount()

    def _mount(self) -> None:
        # The kernel lets go of the loop device by itself when this is unmounted.
        _run("mount", "-o", f"loop,{self.system.options}", os.fspath(self._image), os.fspath(self.root))

    def _is_in_use(self) -> bool:
        """Whether the kernel still knows it: mounted again, it would be the one whose power is gone."""
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if path.read_text().strip() == os.fspath(self._image):
                    return True
        return False


@functools.cache
def _have_own_mounts() -> None:
    """Mount for this process only: else anybody who starts something with mounts of its own gets a copy, and keeps it.

    The kernel unmounts all when the process has died, however it did.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "this process can't have mounts of its own")
    _run("mount", "--make-rprivate", "/")


def _run(*command: str) -> None:
    """:raises OSError: it did not work."""
    done = subprocess.run(command, env=_ENVIRON, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@functools.cache
def missing() -> str:
    """What this machine lacks for such disks; empty when there is nothing."""
    for program in ("mount", *(system.make[0] for system in FILE_SYSTEMS)):
        if shutil.which(program, path=_ENVIRON["PATH"]) is None:
            return f"the command {program} is not installed"
    if os.geteuid():
        return "only root can mount file systems"
    tried = subprocess.run([sys.executable, "-m", __name__], cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no disks whose power can be cut: {tried.stderr.strip()[-300:]}"


def _try(system: FileSystem) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="incoming-disk-")))
        disk = stack.enter_context(Disk(folder, system))
        disk.cut_power("nothing more reaches the disk")
        disk.restart()


if __name__ == "__main__":
    for one in FILE_SYSTEMS:
        _try(one)
