from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from incoming_wsgi.storage import mounts
from incoming_wsgi.storage.mounts import Mount, mount_of, refuse_forgetful

NFS = "nfs4 10.0.0.1:/ rw,vers=4.2,hard,local_lock=none"

MountedAs = Callable[[str], None]


@pytest.fixture
def mounted_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountedAs:
    """Have the file system of ``tmp_path`` be another one, by what the kernel says of it."""
    device = tmp_path.stat().st_dev
    table = tmp_path / "mountinfo"

    def mounted(system: str) -> None:
        table.write_text(
            f"22 28 0:0 / /elsewhere rw,nosuid shared:7 - tmpfs tmpfs rw\n"
            f"36 28 {os.major(device)}:{os.minor(device)} / /shared\\040folder rw,relatime master:1 - {system}\n"
        )
        monkeypatch.setattr(mounts, "_MOUNTS", table)

    return mounted


def test_what_is_there(tmp_path: Path) -> None:
    """The machine's own file systems are nobody else's."""
    assert not mount_of(tmp_path).is_shared
    assert mount_of("/proc").kind == "proc"


@pytest.mark.parametrize("system", [NFS, "nfs nas:/x rw,vers=3", "ceph a:/ rw", "fuse.ceph-fuse ceph-fuse rw"])
def test_shared(tmp_path: Path, mounted_as: MountedAs, system: str) -> None:
    """Also where the folder will be made only."""
    mounted_as(system)
    for folder in (tmp_path, tmp_path / "new" / "one"):
        assert mount_of(folder).kind == system.split(maxsplit=1)[0]
        assert mount_of(folder).is_shared
        refuse_forgetful(str(folder), fsync=True)
        with pytest.raises(ValueError, match="durability='fsync'"):
            refuse_forgetful(str(folder), fsync=False)


@pytest.mark.parametrize("option", ["nolock", "local_lock=all", "local_lock=flock", "nocto"])
def test_machines_that_would_not_notice_each_other(tmp_path: Path, mounted_as: MountedAs, option: str) -> None:
    mounted_as(f"nfs nas:/x rw,vers=3,{option},addr=10.0.0.1")
    with pytest.raises(ValueError, match=f"mounted with {option}:"):
        refuse_forgetful(str(tmp_path), fsync=True)


@pytest.mark.parametrize("system", ["ext4 /dev/sda1 rw", "overlay  rw", "fuse.sshfs x rw"])
def test_not_known_to_be_shared(tmp_path: Path, mounted_as: MountedAs, system: str) -> None:
    mounted_as(system)
    refuse_forgetful(str(tmp_path), fsync=False)
    assert mount_of(tmp_path).kind == system.split(maxsplit=1)[0]


def test_nothing_can_be_told(tmp_path: Path, mounted_as: MountedAs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "none")
    assert mount_of(tmp_path) == Mount()
    mounted_as(NFS)
    assert mount_of("/proc") == Mount()
