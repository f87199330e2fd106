"""Bytes on their way from a socket into a file: blocks of memory, or a pipe of the kernel that Python never looks into.

Buffers and pipes are lent for one piece at a time and belong to no connection: who is slow holds none while waiting.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

#: What a block is made of.
Buffer: TypeAlias = bytes | bytearray | memoryview

#: Bytes of one piece, at most: what a pipe can hold that nobody has to ask root for (``fs.pipe-max-size``).
PIECE = 1024 * 1024

_MOST_BLOCKS = 512  # of one system call; IOV_MAX is 1024
_HELD = 64 * 1024  # bytes that are worth a system call of their own
_KEPT = 4  # free buffers, and free pipes, of a process; but where it is said

#: A socket or a file that can't be spliced says one of these.
CAN_NOT_SPLICE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Bulk(ABC):
    """A piece of a file. It is used once, from its beginning to its end."""

    @abstractmethod
    def __len__(self) -> int:
        """Bytes of it."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Bulk:
        """Its bytes from ``start`` up to ``stop``; parts are taken in order, and what lies between them is dropped."""

    @abstractmethod
    def into(self, descriptor: int, position: int) -> None:
        """Write all of it into a file, from byte ``position`` on.

        :raises OSError: how much was written is not known.
        """

    @abstractmethod
    def blocks(self) -> Iterator[Buffer]:
        """Its bytes, for whom they are not to be written into a file."""

    def release(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Give back what was lent; the bytes are gone from then on."""


class Blocks(Bulk):
    """Bytes in memory."""

    def __init__(self, blocks: Iterable[Buffer]) -> None:
        self._blocks = [memoryview(block) for block in blocks]
        self._length = sum(map(len, self._blocks))

    def __len__(self) -> int:
        return self._length

    def part(self, start: int, stop: int) -> Bulk:
        if (start, stop) == (0, self._length):
            return self
        kept, begin = [], 0
        for block in self._blocks:
            end = begin + len(block)
            if begin < stop and end > start:
                kept.append(block[max(start - begin, 0) : stop - begin])
            begin = end
        return Blocks(kept)

    def into(self, descriptor: int, position: int) -> None:
        rest = self._blocks
        while rest:
            written = os.pwritev(descriptor, rest[:_MOST_BLOCKS], position)
            position += written
            rest = _beyond(rest, written)

    def blocks(self) -> Iterator[Buffer]:
        return iter(self._blocks)


class Chain(Bulk):
    """Several pieces that follow one another."""

    def __init__(self, pieces: Sequence[Bulk]) -> None:
        self._pieces = pieces
        self._length = sum(map(len, pieces))

    def __len__(self) -> int:
        return self._length

    def part(self, start: int, stop: int) -> Bulk:
        if (start, stop) == (0, self._length):
            return self
        kept, begin = [], 0
        for piece in self._pieces:
            end = begin + len(piece)
            if begin < stop and end > start:
                kept.append(piece.part(max(start - begin, 0), min(stop, end) - begin))
            begin = end
        return Chain(kept)

    def into(self, descriptor: int, position: int) -> None:
        write_blocks(descriptor, position, self.blocks())

    def blocks(self) -> Iterator[Buffer]:
        for piece in self._pieces:
            yield from piece.blocks()


def write_blocks(descriptor: int, position: int, blocks: Iterable[Buffer]) -> None:
    """Write blocks that are made as they are asked for: few are held at a time, and small ones are written together."""
    held: list[Buffer] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += len(block)
        if size >= _HELD or len(held) >= _MOST_BLOCKS:
            _write_all(descriptor, position, held, size)
            held, position, size = [], position + size, 0
    _write_all(descriptor, position, held, size)


def _write_all(descriptor: int, position: int, blocks: Sequence[Buffer], size: int) -> None:
    """:param size: bytes of these blocks, of which one call can write as many as they are."""
    written = os.pwritev(descriptor, blocks, position) if size else 0
    if written < size:
        Blocks(blocks).part(written, size).into(descriptor, position + written)


def bulk_of(data: Buffer | Bulk) -> Bulk:
    return Blocks((data,)) if isinstance(data, (bytes, bytearray, memoryview)) else data


NOTHING = Blocks(())


def _beyond(blocks: list[memoryview], count: int) -> list[memoryview]:
    """What follows the first ``count`` bytes."""
    for number, block in enumerate(blocks):
        if count < len(block):
            return [block[count:], *blocks[number + 1 :]]
        count -= len(block)
    return []


# -- what is lent -----------------------------------------------------------------------------------------------


class Pool(Generic[T]):
    """Things that are lent again and again; a few are kept, and none over a fork: two processes would share them.

    :param make: a new one.
    :param dispose: what becomes of one too many.
    :param keep: how many are kept that nobody needs just now.
    """

    def __init__(
        self, make: Callable[[], T], dispose: Callable[[T], object] = lambda _: None, keep: int = _KEPT
    ) -> None:
        self._make = make
        self._dispose = dispose
        self._keep = keep
        self._free: deque[T] = deque()  # appending and popping are atomic
        self._unneeded = 0  # that were free all the time since they were tidied
        os.register_at_fork(after_in_child=self._begin_anew)

    def lend(self) -> T:
        with suppress(IndexError):
            thing = self._free.pop()
            self._unneeded = min(self._unneeded, len(self._free))
            return thing
        self._unneeded = 0
        return self._make()

    def tidy(self) -> None:
        """Let go of what nobody has needed since this was said last."""
        for _ in range(self._unneeded):
            with suppress(IndexError):
                self._dispose(self._free.popleft())
        self._unneeded = len(self._free)

    def give_back(self, thing: T) -> None:
        if len(self._free) < self._keep:
            self._free.append(thing)
        else:
            self._dispose(thing)

    @property
    def kept(self) -> tuple[T, ...]:
        """What is lent to nobody."""
        return tuple(self._free)

    def _begin_anew(self) -> None:
        for thing in self._free:
            self._dispose(thing)
        self._free = deque()
        self._unneeded = 0


class Lent(Blocks):
    """The beginning of a lent buffer."""

    def __init__(self, buffer: memoryview, length: int) -> None:
        super().__init__((buffer[:length],))
        self._buffer: memoryview | None = buffer

    def release(self) -> None:
        if self._buffer is not None:
            buffers.give_back(self._buffer)
            self._buffer, self._blocks = None, []


def new_buffer() -> memoryview:
    """Of :data:`PIECE` bytes. What is never used of it takes no memory, as it would of a ``bytearray`` (zeros)."""
    return memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


#: A new one each time would cost more than what it is for: the kernel zeroes its pages.
buffers: Pool[memoryview] = Pool(new_buffer)


# -- pipes ------------------------------------------------------------------------------------------------------


class Pipe:
    """A pipe of the kernel.

    :ivar held: bytes in it.
    :raises OSError: there can't be one more.
    """

    def __init__(self) -> None:
        self.held = 0
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with suppress(OSError):  # where pages for pipes are short, it works as it is
            fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, PIECE)

    def fill(self, descriptor: int, most: int) -> int:
        """Take up to ``most`` bytes from a socket; none at its end.

        :raises BlockingIOError: there are none yet.
        """
        count = os.splice(descriptor, self.writing, most, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        self.held += count
        return count

    def into(self, descriptor: int, position: int, count: int) -> None:
        """Write ``count`` bytes of what is held into a file."""
        while count:
            try:
                moved = os.splice(self.reading, descriptor, count, offset_dst=position)
            except OSError as error:
                if error.errno not in CAN_NOT_SPLICE:
                    raise
                moved = self._copy(descriptor, position, count)
            self.held -= moved
            position, count = position + moved, count - moved

    def read(self, most: int) -> bytes:
        data = os.read(self.reading, most)
        self.held -= len(data)
        return data

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)

    def _copy(self, descriptor: int, position: int, count: int) -> int:
        """For a file system that takes nothing from a pipe."""
        data = os.read(self.reading, count)
        Blocks((data,)).into(descriptor, position)
        return len(data)


class Piped(Bulk):
    """Bytes that pipes hold, one after the other.

    :param lent: the pipes.
    """

    def __init__(self, lent: Sequence[Pipe]) -> None:
        self._lent = lent
        self._length = sum(pipe.held for pipe in lent)
        self._taken = 0

    def __len__(self) -> int:
        return self._length

    def part(self, start: int, stop: int) -> Bulk:
        for block in self._read(start - self._taken):
            del block  # what is safe already, or wanted by nobody
        self._taken = stop
        return _PipedPart(self._lent, stop - start)

    def into(self, descriptor: int, position: int) -> None:
        self.part(0, self._length).into(descriptor, position)

    def blocks(self) -> Iterator[Buffer]:
        return self._read(self._length)

    def release(self) -> None:
        for pipe in self._lent:
            if pipe.held:
                pipe.close()  # what is left in it must not get into another file
            else:
                pipes.give_back(pipe)
        self._lent = ()

    def _read(self, count: int) -> Iterator[Buffer]:
        """The next ``count`` bytes."""
        for pipe in self._lent:
            while count and pipe.held:
                data = pipe.read(min(count, pipe.held))
                count -= len(data)
                yield data


class _PipedPart(Piped):
    """The next bytes of a piece that lies in pipes, which stay lent to it."""

    def __init__(self, lent: Sequence[Pipe], length: int) -> None:
        super().__init__(lent)
        self._length = length

    def into(self, descriptor: int, position: int) -> None:
        left = self._length
        for pipe in self._lent:
            count = min(left, pipe.held)
            pipe.into(descriptor, position, count)
            position, left = position + count, left - count

    def release(self) -> None: ...


pipes: Pool[Pipe] = Pool(Pipe, Pipe.close)
