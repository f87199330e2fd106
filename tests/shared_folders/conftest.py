from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.storage.mounts import mount_of
from tests.support.chunk_client import ChunkClient

from .machines import Machine, Machines

_FOLDERS = os.environ.get("SHARED_FOLDERS", "")

DATA = random.Random(1).randbytes(12_500_001)

#: Bytes of a chunk. No boundary between two is one between two pages.
PIECE = 700_001

Connect = Callable[[Machine], ChunkClient]

Storages = tuple[FileStorage, FileStorage]


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


collect_ignore_glob = ["test_*.py"]
if _FOLDERS:
    is_nfs = mount_of(_FOLDERS.partition(":")[0]).kind == "nfs4"
    collect_ignore_glob = [] if is_nfs else ["test_nfs.py"]


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
def storages(folders: Mounts) -> Storages:
    """One on each machine, of the same folder."""
    return FileStorage(folders.one), FileStorage(folders.two)


@pytest.fixture(scope="session")
def machines(mounts: Mounts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A server on each of them."""
    with Machines(tmp_path_factory.mktemp("machines"), mounts.both) as machines:
        yield machines


@pytest.fixture
def ticket(machines: Machines) -> str:
    machines.revive()
    return machines.two.ticket()


@pytest.fixture
def connect(ticket: str) -> Iterator[Connect]:
    """Connects clients that have :data:`DATA` to send."""
    with ExitStack() as stack:

        def client(machine: Machine) -> ChunkClient:
            made = ChunkClient(machine.url, ticket, DATA)
            stack.callback(made.http.close)
            return made

        yield client
