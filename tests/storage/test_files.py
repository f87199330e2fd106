from __future__ import annotations

import errno
import fcntl
import grp
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi.errors import IncomingError, NoSpace, Unavailable
from incoming_wsgi.storage import SyncFailed, files, write_back
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import Upload


@pytest.fixture
def upload() -> Upload:
    return Upload(length=5)


@pytest.fixture
def loose_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def stored(storage: FileStorage, upload: Upload) -> Path:
    """A complete file of five bytes."""
    storage.create(upload)
    writer = storage.open(upload)
    writer.write(0, b"12345")
    writer.close()
    return Path(storage.complete(upload))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_whole_life(tmp_path: Path, upload: Upload) -> None:
    storage = FileStorage(tmp_path / "deep" / "down")
    place = stored(storage, upload)
    assert place == tmp_path / "deep" / "down" / "complete" / upload.id
    assert place.read_bytes() == b"12345"
    assert not (tmp_path / "deep" / "down" / "arriving" / upload.id).exists()


@pytest.mark.usefixtures("loose_umask")
@pytest.mark.parametrize(("mode", "folder"), [(0o640, 0o750), (0o600, 0o700), (0o660, 0o770), (0o644, 0o755)])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, upload: Upload, mode: int, folder: int) -> None:
    place = stored(FileStorage(tmp_path, mode=mode), upload)
    assert mode_of(place) == mode
    assert mode_of(place.parent) == folder
    assert mode_of(tmp_path / "arriving") == folder


def test_the_group(tmp_path: Path, upload: Upload) -> None:
    mine = os.getgid()
    for name in (str(mine), grp.getgrgid(mine).gr_name):
        place = stored(FileStorage(tmp_path / name, group=name), upload)
        assert place.stat().st_gid == mine
        assert place.parent.stat().st_gid == mine
    with pytest.raises(ValueError, match="no group"):
        FileStorage(tmp_path, group="nobody-is-in-this-group")


def test_a_group_that_is_not_ours(tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path, group=str(os.getgid()))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(Unavailable):
        storage.create(upload)
    assert not list((tmp_path / "arriving").iterdir()), "a file that the others may not read"
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_foreign_is_touched(tmp_path: Path, upload: Upload) -> None:
    """Neither at the start nor in the whole life of an upload; the folder is the user's."""
    strangers = [
        tmp_path / "notes.txt",
        tmp_path / "arriving" / "other.bin",
        tmp_path / "complete" / Upload().id,
        tmp_path / "arriving" / Upload().id,
        tmp_path / "complete" / "folder" / "file",
    ]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        path.chmod(0o604)
    (tmp_path / "arriving").chmod(0o711)
    storage = FileStorage(tmp_path)
    stored(storage, upload)
    storage.remove(upload)
    assert [path.read_text() for path in strangers] == ["mine"] * len(strangers)
    assert {mode_of(path) for path in strangers} == {0o604}
    assert mode_of(tmp_path / "arriving") == 0o711
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(strangers)


def test_what_ends_while_the_folder_is_looked_through(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    for _ in range(3):
        storage.create(Upload(length=5))
    found = storage.arriving_since(-60)
    first = next(found)
    for path in (tmp_path / "arriving").iterdir():
        path.unlink()
    assert list(found) == []
    assert first


def test_no_room_passes(tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path)
    storage.create(upload)
    writer = storage.open(upload)
    for number, error in (
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EFBIG, NoSpace),
        (errno.EIO, Unavailable),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", failing(number))
            with pytest.raises(error) as caught:
                writer.write(0, b"12345")
        assert caught.value.retryable
        assert caught.value.retry_after is not None
    writer.write(0, b"12345")
    writer.close()
    assert Path(storage.complete(upload)).read_bytes() == b"12345"


def test_what_arrived_again_takes_the_place_of_an_older_attempt(tmp_path: Path, upload: Upload) -> None:
    """A power cut may undo the record of a file that was put into its place: its bytes are sent once more."""
    storage = FileStorage(tmp_path)
    (tmp_path / "complete" / upload.id).write_bytes(b"other")
    assert stored(storage, upload).read_bytes() == b"12345"
    assert Path(storage.complete(upload)).read_bytes() == b"12345"
    assert not (tmp_path / "arriving" / upload.id).exists()


@pytest.mark.parametrize("moment", ["_trim", "rename"])
def test_two_put_a_file_into_its_place(
    tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Both have found that the process which was at it has died."""
    storage, other = FileStorage(tmp_path), FileStorage(tmp_path)
    place = stored(storage, upload)
    os.rename(place, tmp_path / "arriving" / upload.id)
    module = files if moment == "_trim" else os
    call = getattr(module, moment)

    def too_late(*args: object) -> object:
        monkeypatch.setattr(module, moment, call)
        other.complete(upload)
        return call(*args)

    monkeypatch.setattr(module, moment, too_late)
    assert Path(storage.complete(upload)).read_bytes() == b"12345"


def test_short_writes_go_on(tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may take less than it is given."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda descriptor, data, position: write(descriptor, data[0][:2], position))
    assert stored(FileStorage(tmp_path), upload).read_bytes() == b"12345"


@pytest.mark.parametrize(("call", "number"), [("fsync", errno.EIO), ("rename", errno.EACCES), ("rename", errno.ENOSPC)])
def test_completing_can_be_tried_again(
    tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    storage = FileStorage(tmp_path)
    storage.create(upload)
    writer = storage.open(upload)
    writer.write(0, b"12345")
    writer.close()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(IncomingError) as caught:
            storage.complete(upload)
    assert caught.value.retryable
    assert Path(storage.complete(upload)).read_bytes() == b"12345"


def test_the_folder_may_be_gone(tmp_path: Path, upload: Upload) -> None:
    storage = FileStorage(tmp_path)
    (tmp_path / "arriving").rmdir()
    with pytest.raises(Unavailable):
        storage.create(upload)


@pytest.mark.parametrize(
    ("call", "does"),
    [
        ("open", FileStorage.open),
        ("fstat", FileStorage.open),
        ("stat", FileStorage.create),
        ("stat", FileStorage.locate),
        ("unlink", FileStorage.remove),
    ],
)
def test_no_trouble_is_told_in_pythons_words(
    tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch, call: str, does: Callable[..., object]
) -> None:
    storage = FileStorage(tmp_path)
    storage.create(upload)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EIO))
        with pytest.raises(Unavailable):
            does(storage, upload)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_can_not_be_read(tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path)
    with pytest.raises(FileNotFoundError):
        storage.read(upload)
    storage.create(upload)
    monkeypatch.setattr("builtins.open", failing(errno.EIO))
    with pytest.raises(Unavailable):
        storage.read(upload)


def test_a_lock_that_fails(tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path)
    storage.create(upload)
    writer = storage.open(upload)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", failing(errno.ENOLCK))
        with pytest.raises(Unavailable), writer.exclusive():
            raise AssertionError("this is not locked")
    with writer.exclusive():
        writer.write(0, b"12345")
    writer.close()


def failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


# -- what nobody knows ------------------------------------------------------------------------------------------


def test_what_has_lain_untouched_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, old, new = FileStorage(tmp_path), Upload(length=5), Upload(length=5)
    arriving = tmp_path / "arriving"
    storage.create(old)
    (arriving / "notes.txt").write_text("of somebody")
    (arriving / Upload().id.upper()).write_text("of somebody")
    (arriving / Upload().id).symlink_to(arriving / "notes.txt")
    (arriving / Upload().id).mkdir()
    made_at = os.stat(arriving / old.id).st_ctime
    monkeypatch.setattr("time.time", lambda: made_at + 3600)
    assert list(storage.arriving_since(3600)) == [old.id]
    assert list(storage.arriving_since(3601)) == []
    monkeypatch.undo()
    storage.create(new)
    assert list(storage.arriving_since(3600)) == []


def test_what_is_put_aside_is_kept(tmp_path: Path, upload: Upload) -> None:
    storage = FileStorage(tmp_path)
    storage.create(upload)
    writer = storage.open(upload)
    writer.write(0, b"123")
    writer.close()
    storage.quarantine(upload.id)
    assert (tmp_path / "quarantine" / upload.id).read_bytes() == b"123"
    assert not list((tmp_path / "arriving").iterdir())
    with pytest.raises(FileNotFoundError):
        storage.quarantine(upload.id)


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_sync_that_fails_is_told_from_other_trouble(
    tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whether it was the data or the folder: nothing since the last sync can be trusted."""
    storage = FileStorage(tmp_path)
    storage.create(upload)
    for number in (errno.EIO, errno.ENOSPC):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(number))
            with pytest.raises(SyncFailed):
                storage.sync(upload)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EMFILE))
        with pytest.raises(Unavailable) as caught:
            storage.sync(upload)
        assert not isinstance(caught.value, SyncFailed)
    storage.sync(upload)


def test_a_folder_that_can_not_be_made_may_be_there_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrapped app must go on meanwhile; the operator reads in the log what is wrong."""
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as caught:
        FileStorage(tmp_path / "file" / "folder")
    assert isinstance(caught.value.__cause__, NotADirectoryError)
    assert str(tmp_path / "file") in caplog.text
    (tmp_path / "file").unlink()
    FileStorage(tmp_path / "file" / "folder")


def test_write_back_that_is_begun_early(tmp_path: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing that can be seen; and is not missed where the system has none."""
    storage = FileStorage(tmp_path)
    storage.create(upload)
    writer = storage.open(upload)
    writer.write(0, b"12345")
    writer.hasten(0, 5)
    monkeypatch.setattr(write_back, "_sync_file_range", None)
    writer.hasten(0, 5)
    writer.sync()
    writer.close()
    assert Path(storage.complete(upload)).read_bytes() == b"12345"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP])
def test_where_the_file_system_can_not_copy_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    storage, whole, parts = FileStorage(tmp_path), Upload(length=3_000_000), [Upload(length=1_500_000) for _ in "ab"]
    for part in parts:
        storage.create(part)
        (tmp_path / "arriving" / part.id).write_bytes(part.id[:1].encode() * 1_500_000)

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    storage.join(whole, parts)
    expected = b"".join(part.id[:1].encode() * 1_500_000 for part in parts)
    assert (tmp_path / "arriving" / whole.id).read_bytes() == expected


def test_a_full_disk_while_joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, part = FileStorage(tmp_path), Upload(length=5)
    storage.create(part)
    (tmp_path / "arriving" / part.id).write_bytes(b"12345")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with pytest.raises(NoSpace):
        storage.join(Upload(length=5), [part])
