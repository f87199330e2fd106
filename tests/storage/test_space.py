"""Room on the disk, with a real file system of a few MiB where that can be mounted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from incoming_wsgi.errors import NoSpace
from incoming_wsgi.storage import Writer, space
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.storage.space import Floor, reserve
from incoming_wsgi.upload import Upload

from ..support.small_disk import SmallDisk

MIB = 2**20


def test_reserving_takes_blocks_and_leaves_the_size(small_disk: SmallDisk) -> None:
    path = small_disk.folder / "file"
    before = small_disk.free()
    with path.open("wb") as file:
        assert reserve(file.fileno(), 4 * MIB)
    assert path.stat().st_size == 0
    assert before - small_disk.free() >= 4 * MIB


def test_there_is_not_so_much(small_disk: SmallDisk) -> None:
    with (small_disk.folder / "file").open("wb") as file, pytest.raises(OSError, match="No space") as caught:
        reserve(file.fileno(), 2**40)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_can_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No zeros are written instead."""
    monkeypatch.setattr(space._libc, "fallocate64", lambda *_: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: number)
    with (tmp_path / "file").open("wb") as file:
        assert not reserve(file.fileno(), 10 * MIB)
        assert os.fstat(file.fileno()).st_blocks == 0


def test_an_interrupted_call_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [-1, -1, 0]
    monkeypatch.setattr(space._libc, "fallocate64", lambda *_: answers.pop(0))
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINTR)
    with (tmp_path / "file").open("wb") as file:
        assert reserve(file.fileno(), 10)
    assert not answers


def test_an_empty_file_needs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert not reserve(file.fileno(), 0)


def test_a_vouched_length_is_reserved_and_given_back(small_disk: SmallDisk) -> None:
    """Another upload can't take what one was promised; a stranger's claim takes nothing."""
    storage, before = FileStorage(small_disk.folder), small_disk.free()
    vouched = Upload(length=4 * MIB, max_length=8 * MIB)
    storage.create(vouched)
    assert 4 * MIB <= before - small_disk.free() < 5 * MIB
    claimed = Upload(length=before)
    storage.create(claimed)
    assert before - small_disk.free() < 5 * MIB
    with pytest.raises(NoSpace):
        storage.create(Upload(length=before, max_length=before))
    assert len(list((small_disk.folder / "arriving").iterdir())) == 2
    storage.remove(vouched)
    assert before - small_disk.free() < MIB


def test_who_has_room_reserved_writes_on_a_full_disk(small_disk: SmallDisk) -> None:
    storage = FileStorage(small_disk.folder, floor=MIB)
    vouched, claimed = Upload(length=MIB, max_length=MIB), Upload(length=100 * MIB)
    storage.create(vouched)
    storage.create(claimed)
    writer = storage.open(claimed)
    with pytest.raises(NoSpace):
        write_on(writer, storage)
    writer.close()
    assert small_disk.free() > MIB // 2, "the floor"
    small_disk.fill()
    writer = storage.open(vouched)
    writer.write(0, b"x" * MIB)
    writer.close()
    storage.sync(vouched)
    assert Path(storage.complete(vouched)).read_bytes() == b"x" * MIB


def write_on(writer: Writer, storage: FileStorage) -> None:
    """Until there is no room for more."""
    for position in range(0, 100 * MIB, MIB // 4):
        storage._floor._looked_at = float("-inf")  # half a second later
        writer.write(position, bytes(MIB // 4))


def test_below_the_floor_nothing_begins(small_disk: SmallDisk) -> None:
    storage = FileStorage(small_disk.folder, floor=2**40)
    with pytest.raises(NoSpace) as caught:
        storage.create(Upload(length=1))
    assert caught.value.retry_after
    assert not list((small_disk.folder / "arriving").iterdir())


def test_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: 1 // 0)
    Floor(tmp_path, 0).refuse_below()
