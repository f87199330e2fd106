"""Storage: keeps the bytes of uploads. The contract.

Writes are by position, never appended, and there is no step that puts pieces together. A storage knows nothing of
registries: whoever writes holds :meth:`Writer.exclusive`, looks up what is safe already, and writes only the rest.
Every storage passes the suite in ``tests/storage/test_contract.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from hashlib import sha256
from typing import BinaryIO, TypeAlias

from ..errors import Unavailable
from ..extents import Extents
from ..relocate import RemoteFile
from ..upload import Upload
from ..wire.bulk import Buffer, Bulk
from ..wire.checksums import Hash

#: Bytes, in whatever object they came; :func:`~incoming_wsgi.wire.bulk.bulk_of` makes one thing of all of them.
Data: TypeAlias = Buffer | Bulk


class SyncFailed(Unavailable):
    """The disk could not keep what was written: nothing that came after the last successful sync can be trusted.

    Where ``facts["start_anew"]`` is true, nothing at all can be.
    """


class Writer(ABC):
    """One upload, open for writing. Several may be open at once, in several processes.

    :ivar grain: bytes; what ends at a multiple of it is kept for less.
    :cvar splices: whether bytes in a pipe are welcome, since they go into a file.
    :cvar is_durable: whether a power cut of this machine can't take what is kept, without a :meth:`sync`.
    :cvar keeps_others_out: whether what is looked up while :meth:`exclusive` is held stays true until its end. Where it
        does not, looking is no use.
    """

    grain = 1
    splices = False
    keeps_others_out = True
    is_durable = False

    @abstractmethod
    def exclusive(self) -> AbstractContextManager[None]:
        """While it is held nobody else, in any process, writes to this upload. Never hold it over a network read.

        A storage that can't keep others out has to notice, at the latest when it completes an upload, that bytes which
        were written twice differed: it never lets one of both count without knowing which of them did before.
        """

    @abstractmethod
    def write(self, position: int, data: Data) -> None:
        """Store ``data`` from byte ``position`` on, all of it.

        :raises NoSpace: the storage is full; how much was stored is not known, and must not be acknowledged.
        :raises Unavailable: any other trouble of the storage.
        """

    def hasten(self, position: int, length: int) -> None:  # noqa: B027 (not every storage can)
        """These bytes will be synced soon: begin to bring them to the disk, and wait for nothing."""

    def kept(self, written: Extents) -> Extents:
        """Of what was written, that which does not depend on this process any more; waits for nothing."""
        return written

    def flush(self, *, only_grains: bool = False) -> None:  # noqa: B027 (most storages hold nothing back)
        """Have all that was written kept, and wait for that.

        :param only_grains: leave out what does not reach the next multiple of :attr:`grain`, and will by what comes.
        :raises NoSpace, Unavailable: some of it is not; what is, :meth:`kept` knows.
        """

    def discard(self) -> None:  # noqa: B027 (most storages are written over)
        """What was written since :meth:`recorded` was called does not count: other bytes will come in its place."""

    def recorded(self, upload: Upload) -> None:  # noqa: B027 (most storages have nothing left to do)
        """The extents of ``upload`` are recorded: what can be tidied up because of that may be, in the background."""

    @abstractmethod
    def sync(self) -> None:
        """Make what was written survive a power cut, without holding up the event loop.

        :raises SyncFailed: it may be lost. This writer is of no use any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the upload; what was kept stays."""


class Storage(ABC):
    """:cvar reads_arriving: whether the bytes of an upload can be read while they arrive.
    :cvar is_remote: whether bytes are read by connections, which belong to the event loop: never off it.
    :cvar is_durable: whether a power cut of this machine can't take what is stored.
    """

    reads_arriving = True
    is_remote = False
    is_durable = False
    kind = "file"
    """What the HTTP API calls it (``destType``), where it has no other name."""

    def remote(self, upload: Upload) -> RemoteFile | None:  # noqa: ARG002
        """A complete file that has no path on this machine."""
        return None

    @abstractmethod
    def create(self, upload: Upload) -> None:
        """Make the place for the bytes of an upload; if it is there, leave it as it is.

        Where the back end has vouched for the length (``max_length``), take so much room in advance.

        :raises NoSpace: there is not so much; trying again later may help.
        """

    def opened(self, upload: Upload) -> None:  # noqa: B027 (for storages that can't keep a replaced writer out)
        """The upload was opened, and had these extents then: no writer of an earlier opening can record more."""

    @abstractmethod
    def remember(self, upload: Upload) -> None:
        """Keep beside the bytes of an upload, which is being completed or joined, what :meth:`remembered` needs.

        While bytes arrive the storage does so by itself.

        :raises NoSpace, Unavailable: it can't be kept; trying again later may help.
        """

    @abstractmethod
    def remembered(self, is_known: Callable[[str], bool] = lambda _: False) -> Iterator[Upload]:
        """The uploads whose files the app does not have yet, as far as the storage knows: for a registry that is lost.

        :param is_known: says of an id whether the registry has it, so that nothing need be read for it.

        One that was being completed or joined is in that state; any other is receiving, with the extents that are safe
        (in a storage that a power cut can harm, under the boot that it has), and its next opening gets an epoch that
        was not there before. One that can't be read is left out, and logged.
        """

    @abstractmethod
    def release(self, upload: Upload) -> None:
        """The app has the file, and may keep it where it is: forget what is remembered. Nothing there is fine."""

    @abstractmethod
    def open(self, upload: Upload) -> Writer:
        """A writer for an upload whose bytes are still arriving.

        :raises FileNotFoundError: there is no place for them: not made, complete by now, or removed.
        :raises Damaged: less is stored than has arrived; writing on would leave a hole of zeros.
        """

    def tidy(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Called every few seconds: let go of what is kept only to be faster, and was not needed since."""

    @contextmanager
    def keeping_whole(self, upload: Upload) -> Iterator[Callable[[bytes], None]]:
        """For a file that comes in one piece: gives what stores all its bytes, for good.

        Until the end of the block nobody else writes to the upload, or what they write takes the place of it.

        :param upload: with its length.
        :raises FileExistsError: other bytes are there, in one piece, too; storing says so.
        """
        self.create(upload)
        with closing(self.open(upload)) as writer, writer.exclusive():

            def keep(data: bytes) -> None:
                writer.write(0, data)
                self.sync(upload)

            yield keep

    @abstractmethod
    def read(self, upload: Upload) -> BinaryIO:
        """The complete file, or the bytes that have arrived so far where :attr:`reads_arriving`; unbuffered, to be
        closed by the caller.

        :raises FileNotFoundError: there are none.
        """

    def first_bytes(self, upload: Upload, size: int) -> bytes:
        """The first ``size`` bytes, at most 64 KiB, of an upload that has them; also where not all of them can be read.

        :raises FileNotFoundError: there are none.
        :raises SyncFailed: nobody knows which bytes count.
        """
        with self.read(upload) as file:
            return file.read(size)

    def hashed(self, upload: Upload) -> tuple[int, Hash]:  # noqa: ARG002
        """The SHA-256 of the first bytes of a complete upload, as far as the storage has computed it while they came:
        how many they are, and the hash, to go on with; asked once.
        """
        return 0, sha256()

    @abstractmethod
    def sync(self, upload: Upload) -> None:
        """Make all bytes of an upload that were written, by whomever, survive a power cut, without holding up the event
        loop.

        :raises FileNotFoundError: there are none.
        :raises SyncFailed: those that came after the last sync may be lost.
        """

    @abstractmethod
    def join(self, upload: Upload, parts: Sequence[Upload]) -> None:
        """Fill an upload with the bytes of its parts, in order, and make that survive a power cut; can be repeated.

        Where the storage can, no byte is copied: both share it.

        :raises Damaged: a part is gone, or too short.
        :raises NoSpace: there is no room for a copy; trying again later may help.
        :raises SyncFailed: the copy may not be on the disk; it can be made again.
        """

    @abstractmethod
    def complete(self, upload: Upload) -> str:
        """Put a complete upload, whose bytes are synced, to the place where the app finds it, for good; gives that.

        Can be repeated: after a crash in the middle it goes on, and for a complete file it only gives the place.

        :raises Damaged: what is stored is shorter than the upload's length, or gone.
        :raises SyncFailed: what is stored need not be what arrived: it has to be sent again.
        """

    def clear(self, upload: Upload) -> None:  # noqa: B027 (for storages that have more than the file)
        """Let go of what a complete upload has needed while it arrived; trouble with that is not raised."""

    @abstractmethod
    def locate(self, upload: Upload) -> str | None:
        """Where the complete file is; ``None`` if it is not there (any more)."""

    @abstractmethod
    def remove(self, upload: Upload) -> None:
        """Delete what is stored of an upload, complete or not. Nothing there is fine."""

    @abstractmethod
    def arriving_since(self, age: float) -> Iterable[str]:
        """Ids of the uploads, still arriving, whose bytes nobody has touched for ``age`` seconds."""

    @abstractmethod
    def quarantine(self, upload_id: str) -> None:
        """Put aside the arriving bytes of an upload that nobody knows; nothing is deleted."""
