"""Moving a file to its last place, so that a move that was cut short can simply be asked for again.

The target is recorded before anything happens. Whoever repeats the move finds by the record, and by what lies where,
how far it came.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from typing import BinaryIO, Protocol

from . import offload
from .disk import sync_folders
from .filenames import numbered


class RemoteFile(Protocol):
    """A complete file that has no path on this machine."""

    def exists(self) -> bool: ...

    def open(self) -> BinaryIO:
        """For reading, from any position."""

    def presigned_url(self, seconds: int, filename: str) -> str:
        """Where whoever has this URL may download it, for so long and by that name."""

    def move_to(self, wanted: str, name: str, *, overwrite: bool, recorded: str, record: Callable[[str], None]) -> str:
        """As :func:`relocate`, within the storage."""

    def remove(self) -> None:
        """Delete it; nothing there is fine."""


#: A hard link can't be made here: another file system, or one that has no links.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES})


_PIECE = 256 * 1024  # bytes that are downloaded in one go


def relocate(
    source: str,
    wanted: str,
    name: str,
    *,
    overwrite: bool,
    recorded: str,
    record: Callable[[str], None],
) -> str:
    """Move ``source`` to ``wanted``; into it, under the first free form of ``name``, where it is a folder.

    :param recorded: the target of an earlier attempt, or empty.
    :param record: is called with the target before it is touched.
    :returns: the file's path now.
    :raises FileExistsError: there is a file at ``wanted`` already, and ``overwrite`` is false.
    :raises FileNotFoundError: the source is gone, and not to the recorded target.
    """
    if recorded and offload.run(_arrived, source, recorded):
        return recorded
    for target in _targets(wanted, name):
        record(target)
        try:
            offload.run(_move, source, target, overwrite)
        except FileExistsError:
            if target == os.path.abspath(wanted):
                raise
        else:
            return target
    raise AssertionError("names never run out")


def fetch(file: RemoteFile, path: str) -> None:
    """Download a file, and have it on the disk, before it takes the place of what is at ``path``."""
    copy = f"{path}.incoming"
    with file.open() as source, open(copy, "wb", buffering=0) as target:
        while piece := source.read(_PIECE):
            target.write(piece)
    offload.run(_sync_file, copy)
    os.replace(copy, path)
    offload.run(sync_folders, os.path.dirname(os.path.abspath(path)))


def take_home(
    file: RemoteFile,
    ticket: str,
    wanted: str,
    name: str,
    *,
    overwrite: bool,
    recorded: str,
    record: Callable[[str], None],
) -> str:
    """As :func:`relocate`, from another machine: downloaded beside its place, put there, and then deleted there."""
    if recorded and os.path.exists(recorded) and not file.exists():
        return recorded
    folder = wanted if _is_folder(wanted) else os.path.dirname(os.path.abspath(wanted))
    os.makedirs(folder, exist_ok=True)
    copy = os.path.join(folder, f".{ticket}.incoming-fetched")
    fetch(file, copy)
    try:
        target = relocate(copy, wanted, name, overwrite=overwrite, recorded=recorded, record=record)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
    file.remove()
    return target


def stays_within(folder: str, path: str) -> bool:
    """Whether what is moved to ``path`` ends, with all links resolved, inside ``folder``."""
    inside, outside = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([inside, outside]) == outside and (inside != outside or _is_folder(path))


def _is_folder(wanted: str) -> bool:
    return wanted.endswith(os.sep) or os.path.isdir(wanted)


def _targets(wanted: str, name: str) -> Iterator[str]:
    path = os.path.abspath(wanted)
    if not _is_folder(wanted):
        yield path
        return
    os.makedirs(path, exist_ok=True)
    yield os.path.join(path, name)
    yield from (os.path.join(path, numbered(name, number)) for number in count(2))


def _arrived(source: str, recorded: str) -> bool:
    """Whether an earlier attempt got as far as having all bytes at ``recorded``; clears the source away if so."""
    if not os.path.exists(recorded):
        return False
    if os.path.exists(source):
        if not (os.path.samefile(source, recorded) or filecmp.cmp(source, recorded, shallow=False)):
            return False
        for leaving in (_copy_of(source, recorded), source):
            with contextlib.suppress(FileNotFoundError):  # NFS may show for a while what another machine has taken
                os.unlink(leaving)
    return True


def _move(source: str, target: str, overwrite: bool) -> None:
    if overwrite:
        _replace(source, target)
    else:
        _link(source, target)
    sync_folders(os.path.dirname(target))


def _replace(source: str, target: str) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with _copied_beside(source, target) as copy:
            os.replace(copy, target)
        os.unlink(source)


def _link(source: str, target: str) -> None:
    """A link and an unlink instead of a rename: it never overwrites what somebody else put there meanwhile."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        with _copied_beside(source, target) as copy:
            _link_or_rename(copy, target)
    os.unlink(source)


def _link_or_rename(copy: str, target: str) -> None:
    try:
        os.link(copy, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(copy, target)


@contextlib.contextmanager
def _copied_beside(source: str, target: str) -> Iterator[str]:
    """A synced copy in the target's folder, under a name of ours that a repeated attempt overwrites."""
    copy = _copy_of(source, target)
    try:
        shutil.copy2(source, copy)
        _sync_file(copy)
        yield copy
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)


def _copy_of(source: str, target: str) -> str:
    return os.path.join(os.path.dirname(target), f".{os.path.basename(source)}.incoming")


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
