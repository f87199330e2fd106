from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.storage.mounts import mount_of

from .machines import Machines

_FOLDERS = os.environ.get("SHARED_FOLDERS", "")

collect_ignore_glob = [] if _FOLDERS else ["test_*.py"]


@dataclass(frozen=True)
class Mounts:
    """The same folder, as each machine has it."""

    one: Path
    two: Path

    @property
    def both(self) -> tuple[Path, Path]:
        return self.one, self.two

    @property
    def are_nfs(self) -> bool:
        return mount_of(self.one).kind == "nfs4"


@pytest.fixture(scope="session")
def mounts() -> Mounts:
    return Mounts(*map(Path, _FOLDERS.split(":")))


@pytest.fixture
def folders(mounts: Mounts) -> Mounts:
    """A new folder, on both."""
    name = uuid.uuid4().hex
    (mounts.one / name).mkdir()
    return Mounts(mounts.one / name, mounts.two / name)


@pytest.fixture
def storages(folders: Mounts) -> tuple[FileStorage, FileStorage]:
    """One on each machine, of the same folder."""
    return FileStorage(folders.one), FileStorage(folders.two)


@pytest.fixture(scope="module")
def machines(mounts: Mounts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A server on each of them."""
    with Machines(tmp_path_factory.mktemp("machines"), mounts.both) as machines:
        yield machines
