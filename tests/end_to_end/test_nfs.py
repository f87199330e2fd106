"""A folder that two machines have mounted by NFS: a real server, and two real clients, in a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.nfs import run_beside_nfs

#: The tests there; not those of this folder's conftest.py, which starts browsers.
THERE = (
    *("-m", "pytest", "tests/shared_folders", "--confcutdir=tests/shared_folders"),
    *("-p", "no:cacheprovider", "--quiet", "--color=no", "--durations=15"),
)

#: With how many files lanes are tried; more in ``make torture``.
FILES = int(os.environ.get("SHARED_FILES", "1"))

PATIENCE = 180 + 6 * FILES  # seconds


def test_nfs(tmp_path: Path) -> None:
    outcome = run_beside_nfs(tmp_path, *THERE, env={"SHARED_FILES": str(FILES)}, seconds=PATIENCE)
    print(outcome.said)
    assert outcome.status == 0, outcome.said
