"""Where the bytes of a part are gathered until it can be stored, and how much memory that may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TypeAlias

from ..errors import Unavailable
from ..wire.bulk import PIECE, Pool, new_buffer
from .parts import Part, Plan

#: Bytes of one upload that a process holds; where parts are large, two of them. With what else an upload takes it stays
#: below 64 MiB.
_ROOM = 56 * 2**20

_PATIENCE = 60.0  # seconds that a writer waits for room

#: Blocks of :data:`PIECE` bytes. What was needed a while ago is kept: new memory has to be zeroed first.
memory: Pool[memoryview] = Pool(new_buffer, keep=_ROOM // PIECE)


class Gathered:
    """Bytes that follow one another, of one part, in blocks that are lent.

    For boto3 it is a file. To read takes no size seriously: urllib3 would ask for 16 KiB at a time, and copy them.
    """

    def __init__(self, part: Part, start: int) -> None:
        self.part = part
        self.start = start
        self._blocks: list[memoryview] = []
        self._length = 0
        self._position = 0

    def __len__(self) -> int:
        return self._length

    @property
    def end(self) -> int:
        return self.start + self._length

    @property
    def is_whole_part(self) -> bool:
        return self._length == len(self.part)

    def fitting(self, block: memoryview) -> memoryview:
        """Of the bytes that follow, those of this part."""
        return block[: self.part.end - self.end]

    def add(self, data: memoryview) -> None:
        while len(data):
            filled = self._length % PIECE
            if not filled:
                self._blocks.append(memory.lend())
            count = min(len(data), PIECE - filled)
            self._blocks[-1][filled : filled + count] = data[:count]
            self._length += count
            data = data[count:]

    def blocks(self) -> Iterator[memoryview]:
        for number, block in enumerate(self._blocks):
            yield block[: self._length - number * PIECE]

    def release(self) -> None:
        """Give the memory back; the bytes are gone."""
        for block in self._blocks:
            memory.give_back(block)
        self._blocks, self._length = [], 0

    # -- as a file ------------------------------------------------------------------------------------------

    def read(self, size: int = -1) -> memoryview:  # noqa: ARG002 (see above)
        """The rest of the block that the position is in."""
        if self._position >= self._length:
            return memoryview(b"")
        number, offset = divmod(self._position, PIECE)
        data = self._blocks[number][offset : self._length - number * PIECE]
        self._position += len(data)
        return data

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


#: What can be stored as a part.
Body: TypeAlias = bytearray | Gathered


def blocks_of(body: Body) -> Iterator[memoryview]:
    """All of it, wherever a reader has got to."""
    return iter((memoryview(body),)) if isinstance(body, bytearray) else body.blocks()


class Room:
    """The memory that one upload may take in this process, shared by its writers.

    What is on its way to S3 leaves by itself. What is still being gathered leaves only when its part is full: so when
    little room is left, one part at a time grows, and there is always enough for it to become full.
    """

    def __init__(self, plan: Plan) -> None:
        self._most = max(_ROOM, 2 * plan.part_size)
        self._little = plan.part_size
        self._taken = 0
        self._flying = 0
        self._growing: object = None  # the one that may, when little room is left
        self._change = threading.Condition()

    def take(self, whose: object, size: int) -> None:
        """:raises Unavailable: there is none for a while."""
        deadline = time.monotonic() + _PATIENCE
        with self._change:
            while not self._is_room_for(whose, size):
                if not self._change.wait(deadline - time.monotonic()):
                    self._let_others(whose)
                    raise Unavailable("The server's storage is slow at the moment.", retry_after=5)
            self._taken += size

    def _is_room_for(self, whose: object, size: int) -> bool:
        if self._taken + size <= self._most - self._little:
            return True
        self._growing = self._growing or whose
        # More than there ever is, where parts have grown: then as soon as nothing else is on its way.
        return self._growing is whose and (self._taken + size <= self._most or not self._flying)

    def send(self, whose: object, size: int) -> None:
        """Of what was taken so much is on its way."""
        with self._change:
            self._flying += size
            self._let_others(whose)

    def give_back(self, whose: object, size: int, *, has_flown: bool = False) -> None:
        with self._change:
            self._taken -= size
            self._flying -= size if has_flown else 0
            self._let_others(whose)

    def _let_others(self, whose: object) -> None:
        if self._growing is whose:
            self._growing = None
        self._change.notify_all()
