"""Uploads as files of a local folder: ``arriving/{id}`` while bytes come in, ``complete/{id}`` from then on.

Bytes are written in place, and a rename moves the finished file. Nothing else in the folder is ever touched.
"""

from __future__ import annotations

import errno
import grp
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import BinaryIO

from .. import offload
from ..errors import Damaged, IncomingError, NoSpace, Unavailable
from ..locks import FileLock
from ..upload import Upload, is_ticket
from . import Data, Storage, Writer

#: These mean that there is no room, for us (quota) or for anybody.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileStorage(Storage):
    """:param folder: made if it is not there, with the folders above it.
    :param mode: permission bits of the files; the folders get the matching ones.
    :param group: name or number of the group that files and folders belong to, so that another Unix user can take
        them; default: the group of the process.
    """

    def __init__(self, folder: str | os.PathLike[str], *, mode: int = 0o640, group: str = "") -> None:
        self._folder = Path(os.path.abspath(folder))
        self._mode = mode
        self._group = _group_number(group)
        self._arriving = self._make_folder("arriving")
        self._complete = self._make_folder("complete")

    def create(self, upload: Upload) -> None:
        path = self._arriving / _name(upload)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._mode)
        except FileExistsError:
            return
        except OSError as error:
            raise _translated(error) from error
        try:
            self._permit(descriptor)
        except OSError as error:
            path.unlink()
            raise _translated(error) from error
        finally:
            os.close(descriptor)

    def open(self, upload: Upload) -> Writer:
        try:
            descriptor = os.open(self._arriving / _name(upload), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _translated(error) from error
        size, stored = os.fstat(descriptor).st_size, upload.extents.end
        if size < stored:
            os.close(descriptor)
            raise Damaged(f"Bytes up to {stored} had arrived, {size} are stored.")
        return FileWriter(descriptor)

    def read(self, upload: Upload) -> BinaryIO:
        try:
            return open(self._arriving / _name(upload), "rb", buffering=0)
        except FileNotFoundError:
            return open(self._complete / _name(upload), "rb", buffering=0)

    def complete(self, upload: Upload) -> str:
        source, target = self._arriving / _name(upload), self._complete / _name(upload)
        try:
            if not target.exists():
                offload.run(_sync_whole, source, upload.length)
                os.rename(source, target)
            offload.run(_sync_folders, self._arriving, self._complete)
        except FileNotFoundError as error:
            raise Damaged("The stored bytes of this upload are gone.") from error
        except OSError as error:
            raise _translated(error) from error
        return str(target)

    def locate(self, upload: Upload) -> str | None:
        path = self._complete / _name(upload)
        return str(path) if path.exists() else None

    def remove(self, upload: Upload) -> None:
        for folder in (self._arriving, self._complete):
            with suppress(FileNotFoundError):
                (folder / _name(upload)).unlink()

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
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = FileLock(descriptor)

    def exclusive(self) -> AbstractContextManager[None]:
        return self._lock

    def write(self, position: int, data: Data) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, position)
                view, position = view[written:], position + written
        except OSError as error:
            raise _translated(error) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _name(upload: Upload) -> str:
    """The file's name: only what has the form of a ticket ever becomes part of a path.

    :raises ValueError: for anything else.
    """
    if not is_ticket(upload.id):
        raise ValueError("not the id of an upload")
    return upload.id


def _sync_whole(path: Path, length: int | None) -> None:
    """Cut off what was written beyond the length and never acknowledged, and put the rest onto the disk.

    :raises Damaged: the file is too short.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if length is None or size < length:
            raise Damaged(f"Of {length} bytes that had arrived, {size} are stored.")
        if size > length:
            os.ftruncate(descriptor, length)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folders(*folders: Path) -> None:
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
