"""A real CephFS, and two clients that have mounted it, each with caches of its own; what is stored is in memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.needs import need

from .s3_server import Ceph
from .waiting import eventually


class CephFS(Ceph):
    """:ivar mounts: where each client has it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.mounts = (folder / "one", folder / "two")

    def _serve(self) -> None:
        ceph, server, client = need("ceph"), need("ceph-mds"), need("ceph-fuse")
        if os.geteuid() != 0 or not Path("/dev/fuse").exists():
            pytest.skip("only root can mount a CephFS, and only where there is /dev/fuse")
        (self.folder / "mds").mkdir()
        for pool in ("names", "bytes"):
            self._run(ceph, "osd", "pool", "create", pool, "4")
        self._run(ceph, "fs", "new", "shared", "names", "bytes")
        self._begin(server, "-i", "a", "-f")
        eventually(lambda: "up:active" in self._run(ceph, "mds", "stat"), timeout=60, what="a metadata server")
        for mount in self.mounts:
            mount.mkdir()
            self._begin(client, "-n", "client.admin", "-f", str(mount))
            eventually(lambda mount=mount: os.path.ismount(mount), timeout=60, what="a mount")  # type: ignore[misc]

    def stop(self) -> None:
        for mount in self.mounts:
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        super().stop()

    def _configuration(self, cluster: str, monitor: str) -> str:
        # Of itself the server of names looks every five seconds whether anybody waits for what is not written yet.
        names = f"[mds]\nmds data = {self.folder}/mds\nmds tick interval = 0.1\n"
        return super()._configuration(cluster, monitor) + names
