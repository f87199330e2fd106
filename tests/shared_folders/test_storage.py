"""The storage of files on a folder that two machines share: each has caches of its own."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi import Incoming
from incoming_wsgi.extents import Extents
from incoming_wsgi.locks import FileLock
from incoming_wsgi.relocate import relocate
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import Upload
from tests.storage.test_contract import ExclusiveContract, stored, write

from .conftest import Mounts, Storages

MIB = 2**20

#: No boundary between two pieces is one between two pages.
PIECE = 1000
PIECES = 300


class Named(FileStorage):
    """Places by the names of their files: each machine has other paths here."""

    def complete(self, upload: Upload) -> str:
        return Path(super().complete(upload)).name

    def locate(self, upload: Upload) -> str | None:
        place = super().locate(upload)
        return place and Path(place).name


class TestOnBothMachines(ExclusiveContract):
    """Each storage that is opened is the other machine's."""

    @pytest.fixture
    def opened(self, folders: Mounts) -> Callable[[], FileStorage]:
        turn = itertools.cycle(folders.both)
        return lambda: Named(next(turn))


def test_it_is_known_to_be_shared(folders: Mounts) -> None:
    """A folder where an acknowledged byte may be in the memory of one machine only; also one that is not there yet."""
    with pytest.raises(ValueError, match="durability='fsync'"):
        app_on(folders.one / "new" / "folder", registry="redis://127.0.0.1:1/0")
    with pytest.raises(ValueError, match="SQLite"):
        app_on(folders.one, durability="fsync")
    app_on(folders.one, durability="fsync", registry="redis://127.0.0.1:1/0")


def app_on(folder: Path, **options: Any) -> Incoming:
    return Incoming(lambda _environ, _start_response: [], storage=folder, **options)


# -- pages that two machines write to -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["by turns", "at the same time"])
def test_pieces_that_share_pages(folders: Mounts, how: str) -> None:
    """A client of NFS writes whole pages back, but drops what it knows of a file when it gets a lock, and has written
    all of it when the lock is given back: nothing is lost.
    """
    assert lost_pieces(folders, FileLock, how) == 0


def test_without_the_lock_pieces_are_lost(folders: Mounts, mounts: Mounts) -> None:
    """This is how the test above would fail."""
    lost = sum(lost_pieces(folders, Unlocked, how) for how in ("by turns", "at the same time"))
    assert bool(lost) is mounts.are_nfs  # CephFS takes a page from one machine before the other writes to it


class Unlocked:
    def __init__(self, descriptor: int) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def lost_pieces(folders: Mounts, lock: type[FileLock | Unlocked], how: str) -> int:
    """How many pieces of a file are not what was written there, where each machine writes every second one."""
    data = random.Random(1).randbytes(PIECE * PIECES)
    (folders.one / how).touch()
    with ExitStack() as stack:
        files = [stack.enter_context(opened(folder / how)) for folder in folders.both]

        def write_piece(number: int) -> None:
            start, descriptor = number * PIECE, files[number % 2]
            for each in files if how == "by turns" else []:
                os.pread(each, 65536, start // 4096 * 4096)  # as who hashes the file does
            with lock(descriptor):
                os.pwrite(descriptor, data[start : start + PIECE], start)

        if how == "by turns":
            for number in range(PIECES):
                write_piece(number)
        else:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda first: [*map(write_piece, range(first, PIECES, 2))], (0, 1)))
    contents = {(folder / how).read_bytes() for folder in folders.both}
    pieces = [slice(start, start + PIECE) for start in range(0, len(data), PIECE)]
    return max(sum(content[piece] != data[piece] for piece in pieces) for content in contents)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open for writing, and synced at the end."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- what one machine knows of a file is old ------------------------------------------------------------------


def test_a_file_that_has_grown_on_the_other(storages: Storages) -> None:
    """It is not taken for damaged."""
    here, there = storages
    upload, data = Upload(length=5000), random.Random(2).randbytes(5000)
    write(here, upload, 0, data[:10])
    there.open(upload).close()  # from now on this machine knows how long the file is
    write(here, upload, 10, data[10:])
    whole = replace(upload, extents=Extents().add(0, 5000))
    here.remember(whole)
    assert [found.extents for found in there.remembered()] == [whole.extents]
    there.open(whole).close()
    there.complete(upload)
    assert stored(here, upload) == data


def test_a_file_that_was_not_there_a_moment_ago(storages: Storages) -> None:
    """Who takes it for gone may take the app for having it."""
    here, there = storages
    upload = Upload(length=3)
    write(here, upload, 0, b"abc")
    assert there.locate(upload) is None
    here.complete(upload)
    assert there.locate(upload) is not None
    here.remove(upload)
    assert there.locate(upload) is None


def test_a_reader_follows_what_both_write(storages: Storages) -> None:
    """As the digest does: on one machine, a byte behind what is recorded, with pieces that share pages."""
    here, there = storages
    upload, data = Upload(length=60_000), random.Random(3).randbytes(60_000)
    here.create(upload)
    writers = (here.open(upload), there.open(upload))
    for number, start in enumerate(range(0, 60_000, PIECE)):
        with writers[number % 2].exclusive():
            writers[number % 2].write(start, data[start : start + PIECE])
        writers[number % 2].sync()
        with writers[0].exclusive():
            """As whoever records what has arrived."""
        with here.read(upload) as file:
            file.seek(max(0, start - PIECE))
            assert file.read() == data[max(0, start - PIECE) : start + PIECE]
    for writer in writers:
        writer.close()


def test_what_is_removed_while_it_is_open(storages: Storages, folders: Mounts) -> None:
    """NFS keeps it under another name until it is closed; that is no upload."""
    here, there = storages
    upload = Upload(length=3)
    write(here, upload, 0, b"abc")
    with here.read(upload):
        here.remove(upload)
        assert list(here.arriving_since(-3600)) == list(there.arriving_since(-3600)) == []
        assert list(there.remembered()) == []
    assert os.listdir(folders.one / "arriving") == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_moving_on_the_other(storages: Storages, folders: Mounts, overwrite: bool) -> None:
    """And once more, by a machine that has not heard of it."""
    here, there = storages
    upload = Upload(length=3)
    write(here, upload, 0, b"abc")
    here.complete(upload)
    source, target = Path("complete") / upload.id, "taken"
    recorded: list[str] = []
    for folder in (folders.two, folders.one):
        there.locate(upload)
        earlier = str(folder / target) if recorded else ""
        how = {"overwrite": overwrite, "recorded": earlier, "record": recorded.append}
        relocate(str(folder / source), str(folder / target), "name", **how)  # type: ignore[arg-type]
    assert [(folder / target).read_bytes() for folder in folders.both] == [b"abc", b"abc"]
    assert here.locate(upload) is there.locate(upload) is None
