"""SHA-256 of a file while it arrives: follows the safe bytes, off the event loop, and can go on in another process.

Python's own hash objects can't be saved. OpenSSL's ``SHA256_CTX`` can: a plain structure of 112 bytes, reached through
the library that Python's ``_hashlib`` is linked to. Where it is not to be had, a process that takes over reads the file
from the beginning again.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol

from . import offload
from .upload import Upload
from .wire.bulk import buffers
from .wire.checksums import Hash

_PIECE = 256 * 1024  # bytes read and hashed in one go
_STEP = 64 * 1024 * 1024  # bytes hashed between two saved states
_SHORT = 64 * 1024  # bytes that are hashed before another thread would have heard of them
_CONTEXT_SIZE = 112  # sizeof(SHA256_CTX), openssl/sha.h
_PATIENCE = 300.0  # seconds without a byte after which a follower is dropped
_BEHIND = 8 * 1024 * 1024  # bytes that may wait before a follower is started


class ResumableHash(Protocol):
    """What :func:`sha256` gives."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...

    def state(self) -> bytes:
        """From which :func:`sha256` goes on; empty where that is not possible."""


class _OpenSSLHash:
    def __init__(self, library: ctypes.CDLL, state: bytes) -> None:
        self._library = library
        self._context = ctypes.create_string_buffer(state, _CONTEXT_SIZE)
        if not state:
            library.SHA256_Init(self._context)

    def update(self, data: memoryview, /) -> None:
        buffer = (ctypes.c_char * len(data)).from_buffer(data)
        self._library.SHA256_Update(self._context, buffer, ctypes.c_size_t(len(data)))

    def hexdigest(self) -> str:
        digest = ctypes.create_string_buffer(32)
        final = ctypes.create_string_buffer(self._context.raw, _CONTEXT_SIZE)
        self._library.SHA256_Final(digest, final)
        return digest.raw.hex()

    def state(self) -> bytes:
        return self._context.raw


class _PlainHash:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, data: memoryview, /) -> None:
        self._hash.update(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> bytes:
        return b""


def _find_openssl() -> ctypes.CDLL | None:
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import _hashlib

        library = ctypes.CDLL(_hashlib.__file__)
        if _works(library):
            return library
    return None


def _works(library: ctypes.CDLL) -> bool:
    """Whether the functions are there and the structure is the one we think it is."""
    sample = memoryview(bytearray(b"incoming" * 100))
    first = _OpenSSLHash(library, b"")
    first.update(sample[:99])
    second = _OpenSSLHash(library, first.state())
    second.update(sample[99:])
    return second.hexdigest() == hashlib.sha256(sample).hexdigest()


_openssl = _find_openssl()


def sha256(state: bytes = b"") -> ResumableHash:
    """A SHA-256 from the beginning, or going on from a saved ``state``.

    :raises ValueError: the state can't be used on this machine.
    """
    if _openssl is not None and len(state) in (0, _CONTEXT_SIZE):
        return _OpenSSLHash(_openssl, state)
    if state:
        raise ValueError("a saved SHA-256 can't be taken up here")
    return _PlainHash()


class Follower:
    """The digest of one upload, kept up with its safe bytes.

    :param read: opens the upload's bytes.
    :param save: remembers position and state of the hash.
    :param saved: what was remembered last.
    """

    def __init__(
        self,
        read: Callable[[], BinaryIO],
        save: Callable[[int, bytes], None],
        saved: tuple[int, bytes] | None,
    ) -> None:
        self._read = read
        self._save = save
        self._guard = threading.Lock()  # held while hashing
        self._position, self._hash = self._resumed(saved)

    @staticmethod
    def _resumed(saved: tuple[int, bytes] | None) -> tuple[int, ResumableHash]:
        if saved is not None:
            with contextlib.suppress(ValueError):
                return saved[0], sha256(saved[1])
        return 0, sha256()

    @property
    def busy(self) -> bool:
        """Whether somebody is hashing right now."""
        return self._guard.locked()

    def behind(self, offset: int) -> int:
        """How many safe bytes are not hashed yet."""
        return offset - self._position

    def follow(self, offset: Callable[[], int]) -> None:
        """Hash until no more than a few MiB are left; does nothing if somebody is at it already."""
        if not self._guard.acquire(blocking=False):
            return
        try:
            # The file may go away under us: when the upload is cancelled, or completed by another process.
            with contextlib.suppress(FileNotFoundError, EOFError):
                self._catch_up(offset)
        finally:
            self._guard.release()

    def _catch_up(self, offset: Callable[[], int]) -> None:
        while self.behind(offset()) >= _BEHIND:
            self._advance(min(offset(), self._position + _STEP))
            self._remember()

    def finish(self, length: int) -> str:
        """Hash what is left, and give the digest of all ``length`` bytes in hexadecimal."""
        with self._guard:
            while self._position < length:
                self._advance(min(length, self._position + _STEP))
            return self._hash.hexdigest()

    def _advance(self, end: int) -> None:
        if end - self._position <= _SHORT:
            self._hash_up_to(end)
        else:
            offload.run(self._hash_up_to, end)

    def _hash_up_to(self, end: int) -> None:
        with self._read() as file:
            file.seek(self._position)
            buffer = buffers.lend()
            try:
                self._hash_from(file, buffer, end)
            finally:
                buffers.give_back(buffer)

    def _hash_from(self, file: BinaryIO, buffer: memoryview, end: int) -> None:
        while self._position < end:
            wanted = buffer[: min(_PIECE, end - self._position)]
            count = file.readinto(wanted)  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"the stored bytes end at {self._position} of {end}")
            self._hash.update(wanted[:count])
            self._position += count

    def _remember(self) -> None:
        state = self._hash.state()
        if state:
            self._save(self._position, state)


def update_from(file: BinaryIO, length: int, digest: Hash) -> None:
    """Hash the next ``length`` bytes of a file that is read over a network: by a connection that belongs to the event
    loop, so only the computing is off it.

    :raises EOFError: the file is shorter.
    """
    buffer = buffers.lend()
    try:
        while length:
            count = file.readinto(buffer[: min(length, len(buffer))])  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"the stored bytes end {length} bytes early")
            offload.run(digest.update, buffer[:count])
            length -= count
    finally:
        buffers.give_back(buffer)


class Digests:
    """The followers of this process, one for each upload that it has opened.

    :param read: opens the bytes of an upload.
    :param save: remembers position and state for an upload.
    :param saved: what was remembered last for an upload id.
    """

    def __init__(
        self,
        read: Callable[[Upload], BinaryIO],
        save: Callable[[Upload, int, bytes], None],
        saved: Callable[[str], tuple[int, bytes] | None],
    ) -> None:
        self._read = read
        self._save = save
        self._saved = saved
        self._followers: dict[str, Follower] = {}
        self._taken_back: dict[str, int] = {}  # as it was when the follower began: later on it has read what is gone
        self._offsets: dict[str, int] = {}
        self._touched: dict[str, float] = {}  # monotonic seconds

    def start(self, upload: Upload) -> None:
        """Follow an upload from now on."""
        if self._follower_of(upload) is None:
            self._followers[upload.id] = self._follower(upload)
            self._taken_back[upload.id] = upload.taken_back
            self._touched[upload.id] = time.monotonic()

    def advance(self, upload: Upload) -> None:
        """Tell the follower, if this process has one, how far the safe bytes reach."""
        follower = self._follower_of(upload)
        if follower is None:
            return
        self._offsets[upload.id] = upload.offset
        self._touched[upload.id] = time.monotonic()
        if not follower.busy and follower.behind(upload.offset) >= _BEHIND:
            offload.background(follower.follow, lambda: self._offsets.get(upload.id, 0), name="digest")

    def finish(self, upload: Upload) -> str:
        """The SHA-256 of a complete upload, in hexadecimal."""
        follower = self._follower_of(upload) or self._follower(upload)
        try:
            return follower.finish(upload.length or 0)
        finally:
            self.drop(upload.id)

    def of(self, data: bytes) -> str:
        """The SHA-256 of bytes that are here, in hexadecimal."""
        if len(data) <= _SHORT:
            return hashlib.sha256(data).hexdigest()
        return offload.run(hashlib.sha256, data).hexdigest()

    def read_back(self, upload: Upload, hashed: tuple[int, Hash]) -> str:
        """The SHA-256 of a complete upload in hexadecimal, where its bytes come over a network.

        :param hashed: how many bytes have been hashed already, and the hash.
        """
        position, digest = hashed
        left = (upload.length or 0) - position
        if left:
            with self._read(upload) as file:
                file.seek(position)
                update_from(file, left, digest)
        return digest.digest().hex()

    def drop(self, upload_id: str) -> None:
        """Stop following."""
        self._followers.pop(upload_id, None)
        self._taken_back.pop(upload_id, None)
        self._offsets.pop(upload_id, None)
        self._touched.pop(upload_id, None)

    def prune(self) -> None:
        """Drop what has had no bytes for a while: it may be arriving elsewhere by now."""
        long_ago = time.monotonic() - _PATIENCE
        for upload_id, touched in list(self._touched.items()):
            if touched < long_ago:
                self.drop(upload_id)

    def _follower_of(self, upload: Upload) -> Follower | None:
        return self._followers.get(upload.id) if self._taken_back.get(upload.id) == upload.taken_back else None

    def _follower(self, upload: Upload) -> Follower:
        def save(position: int, state: bytes) -> None:
            self._save(upload, position, state)

        return Follower(lambda: self._read(upload), save, self._saved(upload.id))


class NoDigests:
    """In place of :class:`Digests` where nobody wants to know."""

    def start(self, upload: Upload) -> None: ...

    def advance(self, upload: Upload) -> None: ...

    def finish(self, upload: Upload) -> str:  # noqa: ARG002
        """None: empty."""
        return ""

    def of(self, data: bytes) -> str:  # noqa: ARG002
        """None: empty."""
        return ""

    def read_back(self, upload: Upload, hashed: tuple[int, Hash]) -> str:  # noqa: ARG002
        """None: empty."""
        return ""

    def drop(self, upload_id: str) -> None: ...

    def prune(self) -> None: ...
