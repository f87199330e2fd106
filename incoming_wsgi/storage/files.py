"""Uploads as files of a local folder: ``arriving/{id}`` while bytes come in, ``complete/{id}`` from then on.

Bytes are written in place, and a rename moves the finished file. What arrived for an upload that nobody knows ends in
``quarantine/{id}``; what a registry would have to know of an upload is in ``records/{id}``, until the app has the file.
Nothing else in the folder is ever touched.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from .. import offload
from ..disk import sync_data, sync_folders
from ..errors import Damaged, IncomingError, NoSpace, Unavailable
from ..locks import FileLock
from ..upload import NOTHING, State, Upload, is_ticket, shortened
from ..wire.bulk import bulk_of
from . import Data, Storage, SyncFailed, Writer
from .mounts import mount_of
from .records import Records
from .space import Floor, reserve
from .write_back import begin_write_back

log = logging.getLogger("incoming_wsgi")

#: These mean that there is no room, for us (quota) or for anybody.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

#: File systems that can't copy by themselves say one of these.
_CAN_NOT_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

_COPY_STEP = 256 * 1024 * 1024  # bytes that the system copies in one go: others want native threads, too
_COPY_BYTES = 1024 * 1024  # that we copy in one go, where it can't


class FileStorage(Storage):
    """:param folder: made if it is not there, with the folders above it.
    :param mode: permission bits of the files; the folders get the matching ones.
    :param group: name or number of the group that files and folders belong to, so that another Unix user can take
        them; default: the group of the process.
    :param floor: bytes of the disk that uploads leave free; what was reserved for one before does not count.
    :raises NoSpace, Unavailable: the folder can't be used, now.
    """

    def __init__(self, folder: str | os.PathLike[str], *, mode: int = 0o640, group: str = "", floor: int = 0) -> None:
        self._folder = Path(os.path.abspath(folder))
        self._mode = mode
        self._group = _group_number(group)
        try:
            self._arriving = self._make_folder("arriving")
            self._complete = self._make_folder("complete")
            self._records = Records(self._folder / "records")
        except OSError as error:
            log.warning("the storage folder %s can't be used: %s", self._folder, error)
            raise _translated(error) from error
        self._floor = Floor(self._folder, floor)
        self._is_shared = mount_of(self._folder).is_shared

    def create(self, upload: Upload) -> None:
        path = _place(self._arriving, upload)
        expected = upload.length or 0 if upload.max_length is not None else 0
        try:
            if not _exists(path):
                self._floor.refuse_below(expected)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
        except FileExistsError:
            return
        except OSError as error:
            raise _translated(error) from error
        try:
            self._permit(descriptor)
            if expected:
                offload.run(reserve, descriptor, expected)
        except OSError as error:
            with _translating():
                os.unlink(path)
            raise _translated(error) from error
        finally:
            os.close(descriptor)

    def opened(self, upload: Upload) -> None:
        self.remember(upload)

    def remember(self, upload: Upload) -> None:
        with _translating():
            self._records.write(upload)

    def release(self, upload: Upload) -> None:
        with _translating():
            self._records.drop(upload)

    def remembered(self, is_known: Callable[[str], bool] = lambda _: False) -> Iterator[Upload]:
        for upload in self._records:
            if is_known(upload.id):
                continue
            size = _size(_place(self._complete, upload))
            if size is not None and upload.length is not None:
                all_of_it = NOTHING.add(0, upload.length)
                yield upload.but(state=State.COMPLETING, extents=all_of_it, synced=all_of_it)
                continue
            size = _size(_place(self._arriving, upload))
            if size is None and upload.state is not State.JOINING:
                log.warning("the upload %s was known, and its bytes are gone", shortened(upload.id))
            elif size is not None and size < upload.extents.end:
                yield upload.but(state=State.RECEIVING, extents=NOTHING, synced=NOTHING)
            else:
                yield upload

    def open(self, upload: Upload) -> Writer:
        with _translating():
            descriptor = os.open(_place(self._arriving, upload), os.O_RDWR | os.O_CLOEXEC)
            try:
                size, stored = os.fstat(descriptor).st_size, upload.extents.end
                if size < stored:
                    raise Damaged(f"Bytes up to {stored} had arrived, {size} are stored.")
                floor = self._floor if upload.max_length is None else None
                return FileWriter(descriptor, floor, self._records, is_shared=self._is_shared)
            except BaseException:
                os.close(descriptor)
                raise

    def read(self, upload: Upload) -> BinaryIO:
        with _translating():
            try:
                return _open_to_read(_place(self._arriving, upload))
            except FileNotFoundError:
                return _open_to_read(_place(self._complete, upload))

    def sync(self, upload: Upload) -> None:
        try:
            with _translating():
                descriptor = os.open(_place(self._arriving, upload), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if self.locate(upload) is None:
                raise
            return  # it was synced before it got there
        try:
            with _failing():
                sync_data(descriptor, self._arriving)
        finally:
            os.close(descriptor)

    def join(self, upload: Upload, parts: Sequence[Upload]) -> None:
        self.create(upload)
        try:
            with _translating(), _opened(_place(self._arriving, upload)) as target:
                self._copy_all(parts, target)
                with _failing():
                    sync_data(target, self._arriving)
        except FileNotFoundError as error:
            raise Damaged("The stored bytes of a part are gone.") from error

    def _copy_all(self, parts: Sequence[Upload], target: int) -> None:
        position = 0
        for part in parts:
            self._floor.refuse_below()
            _copy(_place(self._arriving, part), target, position, part.length or 0)
            position += part.length or 0

    def complete(self, upload: Upload) -> str:
        source, target = _place(self._arriving, upload), _place(self._complete, upload)
        try:
            with _translating():
                _put_into_place(source, target, upload.length)
        except FileNotFoundError as error:
            raise Damaged("The stored bytes of this upload are gone.") from error
        return target

    def locate(self, upload: Upload) -> str | None:
        path = _place(self._complete, upload)
        with _translating():
            return path if _exists(path) else None

    def remove(self, upload: Upload) -> None:
        self.release(upload)  # first: what is half removed is not to be made anew
        for folder in (self._arriving, self._complete):
            with suppress(FileNotFoundError), _translating():
                os.unlink(_place(folder, upload))

    def arriving_since(self, age: float) -> Iterator[str]:
        with os.scandir(self._arriving) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # it has just ended
                    if is_ticket(entry.name) and entry.is_file(follow_symlinks=False) and _age(entry) >= age:
                        yield entry.name

    def quarantine(self, upload_id: str) -> None:
        os.rename(self._arriving / upload_id, self._make_folder("quarantine") / upload_id)

    def _permit(self, descriptor: int) -> None:
        """Set mode and group of a new file; the umask may have taken bits of the mode away."""
        os.fchmod(descriptor, self._mode)
        if self._group is not None:
            os.fchown(descriptor, -1, self._group)

    def _make_folder(self, name: str) -> Path:
        folder = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(_folder_mode(self._mode))
            if self._group is not None:
                os.chown(folder, -1, self._group)
        return folder


class FileWriter(Writer):
    """:param floor: of free space that this writer must not go below; ``None`` where it has its room already.
    :param is_shared: whether the file is on a file system that several machines have in common.
    """

    splices = True

    def __init__(self, descriptor: int, floor: Floor | None, records: Records, *, is_shared: bool = False) -> None:
        self._descriptor = descriptor
        self._floor = floor
        self._records = records
        self._lock = FileLock(descriptor, is_remote=is_shared)
        self._failed = False

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with _translating(), self._lock:
            yield

    def write(self, position: int, data: Data) -> None:
        self._refuse_if_failed()
        try:
            if self._floor is not None:
                self._floor.refuse_below()
            bulk_of(data).into(self._descriptor, position)
        except OSError as error:
            raise _translated(error) from error

    def recorded(self, upload: Upload) -> None:
        if not upload.is_complete:  # whoever completes it says more
            self._records.refresh(upload)

    def hasten(self, position: int, length: int) -> None:
        offload.run(begin_write_back, self._descriptor, position, length)

    def sync(self) -> None:
        self._refuse_if_failed()
        try:
            _sync_or_fail(self._descriptor)
        except SyncFailed:
            self._failed = True
            raise

    def _refuse_if_failed(self) -> None:
        """A further sync of this descriptor would say that all is well."""
        if self._failed:
            raise Unavailable("The server's disk has failed; come again.", retry_after=5)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _place(folder: Path, upload: Upload) -> str:
    """The path of an upload's file: only what has the form of a ticket ever becomes part of one.

    :raises ValueError: for anything else.
    """
    if not is_ticket(upload.id):
        raise ValueError("not the id of an upload")
    return f"{folder}/{upload.id}"


def _size(path: str) -> int | None:
    """Bytes of a file; ``None`` where there is none."""
    with _translating():
        try:
            with _open_to_read(path) as file:
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return None


def _exists(path: str) -> bool:
    """``os.path.exists`` would take any trouble for a no."""
    _look_anew(os.path.dirname(path))
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _open_to_read(path: str) -> BinaryIO:
    _look_anew(os.path.dirname(path))
    return open(path, "rb", buffering=0)


def _look_anew(folder: str) -> None:
    """Have a client of NFS ask which names there are, as it does whenever a folder is opened: what another machine has
    made or removed it would else not see for up to a minute (acdirmax).
    """
    os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy(path: str, target: int, position: int, length: int) -> None:
    """Copy the first ``length`` bytes of a file; what starts and ends at blocks is shared, where the disk can do that.

    :raises Damaged: there are not so many.
    """
    with _opened(path) as source:
        copied = 0
        while copied < length:
            step = min(length - copied, _COPY_STEP)
            count = offload.run(_copy_some, source, target, copied, position + copied, step)
            if not count:
                raise Damaged(f"Of {length} bytes of a part, {copied} are stored.")
            copied += count


def _copy_some(source: int, target: int, start: int, position: int, count: int) -> int:
    """Copy up to ``count`` bytes from byte ``start`` to byte ``position``; gives how many it were."""
    try:
        return os.copy_file_range(source, target, count, start, position)
    except OSError as error:
        if error.errno not in _CAN_NOT_COPY:
            raise
    return os.pwrite(target, os.pread(source, min(count, _COPY_BYTES), start), position)


def _put_into_place(source: str, target: str, length: int | None) -> None:
    try:
        # Also where there is a target: it is of an attempt that a power cut has undone in the records.
        _trim(source, length)
        os.rename(source, target)
    except FileNotFoundError:
        if not _exists(target):
            raise
    sync_folders(*map(os.path.dirname, (source, target)))


def _trim(path: str, length: int | None) -> None:
    """Cut off what was written beyond the length and never acknowledged, and give reserved room back.

    :raises Damaged: the file is too short.
    """
    with _opened(path) as descriptor:  # a client of NFS asks for the size when a file is opened
        size = os.fstat(descriptor).st_size
        if length is None or size < length:
            raise Damaged(f"Of {length} bytes that had arrived, {size} are stored.")
        if size > length:
            offload.run(_cut, descriptor, length)


def _cut(descriptor: int, length: int) -> None:
    os.ftruncate(descriptor, length)
    _sync_or_fail(descriptor)


def _sync_or_fail(descriptor: int) -> None:
    with _failing():
        sync_data(descriptor)


@contextmanager
def _failing() -> Iterator[None]:
    """A sync that fails is not to be tried again: the kernel forgets what it could not write."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise SyncFailed("The server has no space for this file at the moment.", retry_after=10) from error
        raise SyncFailed("The server's disk failed; some bytes are needed again.", retry_after=5) from error


def _age(entry: os.DirEntry[str]) -> float:
    """Seconds since anybody touched a file."""
    status = entry.stat(follow_symlinks=False)
    return time.time() - max(status.st_mtime, status.st_ctime)


class _Translating:
    """What the system raises, as we call it. Entered with each call: it holds nothing.

    What is not there is not trouble: who asks for it says what that means.
    """

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise _translated(error) from error


_TRANSLATING = _Translating()


def _translating() -> _Translating:
    return _TRANSLATING


def _translated(error: OSError) -> IncomingError:
    if error.errno in _FULL:
        return NoSpace(retry_after=10)
    return Unavailable("The server's storage has trouble; what has arrived is kept.", retry_after=5)


def _folder_mode(mode: int) -> int:
    """Who may read the files may enter the folder; who may write them may take them away."""
    return mode | 0o700 | (mode & 0o444) >> 2


def _group_number(group: str) -> int | None:
    if not group:
        return None
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r} on this machine") from None
