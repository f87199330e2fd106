"""A folder that two machines have mounted from a CephFS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.cephfs import CephFS
from tests.support.processes import ROOT

from .test_nfs import PATIENCE, THERE


def test_cephfs(tmp_path: Path) -> None:
    with CephFS(tmp_path / "ceph") as ceph:
        (tmp_path / "shared").mkdir()
        env = {"SHARED_FOLDERS": ":".join(map(str, ceph.mounts)), "SHARED_AT": str(tmp_path / "shared")}
        outcome = subprocess.run(
            [sys.executable, *THERE, f"--basetemp={tmp_path / 'there'}"],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout
