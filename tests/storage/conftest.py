from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.small_disk import SmallDisk, mounted_tmpfs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """16 MiB."""
    try:
        with mounted_tmpfs(tmp_path / "disk", 16 * 2**20) as disk:
            yield disk
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted: {error.stderr.decode().strip()}")
