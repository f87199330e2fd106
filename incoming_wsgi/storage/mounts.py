"""What kind of file system a folder is on: one of this machine's, or one that several machines have in common.

There a process's death and a machine's are two things: what was written may be in the memory of one machine only, which
can also forget, later and silently, what the server had no room for. :func:`refuse_forgetful` holds what
docs/deployment.rst says of shared folders.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

#: As the kernel calls them. Others may be shared, too; of these we know how they behave.
_SHARED = frozenset({"nfs", "nfs4", "ceph", "fuse.ceph-fuse"})

#: Options of NFS with which a machine has locks of its own, or does not ask what others have done to a file.
_LONELY = frozenset({"nolock", "local_lock=all", "local_lock=flock", "nocto"})

_MOUNTS = Path("/proc/self/mountinfo")  # proc(5)


@dataclass(frozen=True)
class Mount:
    """:ivar kind: of the file system, as the kernel calls it; empty where that can't be told.
    :ivar options: that it was mounted with.
    """

    kind: str = ""
    options: frozenset[str] = frozenset()

    @property
    def is_shared(self) -> bool:
        return self.kind in _SHARED


def mount_of(folder: str | os.PathLike[str]) -> Mount:
    """What a folder is on, or will be as soon as it is made."""
    device = _device_of(Path(os.path.abspath(folder)))
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return Mount()  # no Linux
    for line in lines:
        about, _, system = line.partition(" - ")
        if about.split()[2] == device:
            kind, _, options = system.split(" ", 2)
            return Mount(kind, frozenset(options.split(",")))
    return Mount()


def _device_of(folder: Path) -> str:
    """The number of the file system of a folder, or of the first one above it that is there."""
    for path in (folder, *folder.parents):
        try:
            device = path.stat().st_dev
        except OSError:
            continue
        return f"{os.major(device)}:{os.minor(device)}"
    return ""


def refuse_forgetful(place: str, *, fsync: bool) -> None:
    """Whether uploads are safe in a folder.

    :param fsync: whether each acknowledgement waits until what it speaks of is stored.
    :raises ValueError: they are not.
    """
    mount = mount_of(place)
    if not mount.is_shared:
        return
    if not fsync:
        raise ValueError(f"{place} is on a shared file system ({mount.kind}): that needs durability='fsync'")
    for option in sorted(mount.options & _LONELY):
        raise ValueError(f"{place} is mounted with {option}: machines would not notice what others do there")
