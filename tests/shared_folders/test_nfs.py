"""What can happen to an NFS server, and to a machine on its network. The kernel that these run in has nothing else."""

from __future__ import annotations

import itertools
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from incoming_wsgi.errors import NoSpace
from incoming_wsgi.storage import SyncFailed
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import Upload
from tests.helpers import Child
from tests.storage.test_contract import write
from tests.support.chunk_client import ChunkClient, Refused
from tests.support.waiting import eventually

from .conftest import DATA, PIECE, Connect, Mounts, Storages
from .machines import Machines

MIB = 2**20


@pytest.mark.parametrize("is_synced", [False, True])
def test_no_room_is_heard_of_when_it_is_synced(mounts: Mounts, is_synced: bool) -> None:
    """A client of NFS has taken the bytes by then: without syncing they would be acknowledged, and lost."""
    storage = FileStorage(mounts.one / "small")  # 4 MiB
    upload, data = Upload(length=8 * MIB), random.Random(4).randbytes(MIB)
    storage.create(upload)
    taken = pieces_taken(storage, upload, data, is_synced)
    with storage.read(upload) as file:
        kept = sum(file.read(MIB) == data for _ in range(8))
    storage.remove(upload)
    assert (taken <= kept) is is_synced


def pieces_taken(storage: FileStorage, upload: Upload, piece: bytes, is_synced: bool) -> int:
    """How often a piece could be written, one behind the other."""
    with closing(storage.open(upload)) as writer:
        for number in range(8):
            try:
                with writer.exclusive():
                    writer.write(number * MIB, piece)
                if is_synced:
                    writer.sync()
            except (NoSpace, SyncFailed):
                return number
    raise AssertionError("there was room for all of it")


#: Writes under the lock, tells of it, and gets it onto the disk when it is told to.
ZOMBIE = """
import sys
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import Upload
writer = FileStorage(sys.argv[1]).open(Upload(id=sys.argv[2], length=5000))
try:
    with writer.exclusive():
        writer.write(1000, b"Z" * 3000)
        print("written", flush=True)
        sys.stdin.readline()
        writer.sync()
    print("synced", flush=True)
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def test_a_machine_that_is_cut_off(storages: Storages, folders: Mounts) -> None:
    """While it writes. The other gets the lock when the server has not heard of the first for the lease, 10 s here; and
    what the first writes when it is back does not get into the file.
    """
    upload = Upload(length=5000)
    write(storages[1], upload, 0, b"a" * 1000)
    with Child(ZOMBIE, [folders.one, upload.id]) as zombie, closing(storages[1].open(upload)) as writer:
        assert zombie.line() == "written"
        with cut_off("one"):
            began = time.monotonic()
            with writer.exclusive():
                assert 1 < time.monotonic() - began < 25
                writer.write(1000, b"b" * 500)
            writer.sync()
        zombie.say("sync")
        assert zombie.line() == "SyncFailed"
    assert (folders.two / "arriving" / upload.id).read_bytes() == b"a" * 1000 + b"b" * 500


@contextmanager
def cut_off(machine: str) -> Iterator[None]:
    run("ip", "link", "set", machine, "down")
    try:
        yield
    finally:
        run("ip", "link", "set", machine, "up")


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def test_the_server_of_the_files_restarts(machines: Machines, ticket: str, connect: Connect) -> None:
    """It has forgotten who held which lock. All wait for it; at most a chunk has to be sent again."""
    clients = [connect(machine) for machine in machines.both]
    sending = threading.Thread(target=send_by_turns, args=(clients,))
    sending.start()
    looking = connect(machines.one)
    for size in (len(DATA) // 5, len(DATA) // 2):
        eventually(lambda size=size: looking.status()["received"] >= size, 60, "some bytes")  # type: ignore[misc]
        run("rpc.nfsd", "0")
        run("rpc.nfsd", "--no-nfs-version", "3", "--no-udp", "4")
        Path("/proc/fs/nfsd/v4_end_grace").write_text("Y")
    sending.join(90)
    machines.assert_arrived_once(ticket, DATA)


def send_by_turns(clients: list[ChunkClient]) -> None:
    """Each chunk to another machine; after a refusal it is opened anew."""
    missing: list[list[int]] = [[0, 0]]
    for client in itertools.cycle(clients):
        if not client.session:
            with suppress(Refused):
                status = client.open()
                missing, clients[0].session, clients[1].session = status["missing"], client.session, client.session
            continue
        if not missing:
            return
        start, end = missing[0]
        answer = client.put(start, min(start + PIECE, end))
        if answer.status_code == 200:
            missing = answer.json()["missing"]
        else:
            assert answer.status_code == 503, answer.text
            time.sleep(0.1)
            clients[0].session = clients[1].session = ""
