"""Which bytes of an upload are which part of a multipart upload: a pure function, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

from ..errors import TooLarge

MIB = 2**20

#: Limits of S3: bytes of a part but the last, bytes of any part, and parts of one object.
LEAST, MOST, COUNT = 5 * MIB, 5 * 2**30, 10_000

#: Parts of one size, where the length is unknown; the next ones are larger.
_STEP = 500


@dataclass(frozen=True)
class Part:
    """The bytes ``[start, end)``, under the number that S3 knows them by."""

    number: int
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Plan:
    """How an upload is cut.

    Where its length is known, into equal parts; the last one is what is left. Where it is not, 500 parts of
    ``part_size`` bytes, 500 of twice that, 500 of three times that and so on: with 16 MiB up to 1.6 TiB in all.
    """

    part_size: int
    length: int | None

    @classmethod
    def of(cls, length: int | None, part_size: int) -> Plan:
        """:param part_size: bytes that a part has where the length does not ask for more.

        :raises TooLarge: no 10,000 parts can have so many bytes.
        """
        if length is not None and length > part_size * COUNT:
            part_size = -(-length // (COUNT * MIB)) * MIB
        if part_size > MOST:
            raise TooLarge(f"The file has {length} bytes; the storage takes {COUNT * MOST}.")
        return cls(part_size, length)

    def at(self, position: int) -> Part:
        """The part that has the byte at ``position``.

        :raises TooLarge: none has.
        """
        step = 0 if self.length is not None else self._step(position)
        size = self.part_size * (step + 1)
        before = self.part_size * _STEP * (step * (step + 1) // 2)
        index = (position - before) // size
        number, start = _STEP * step + index + 1, before + index * size
        if number > COUNT or size > MOST or (self.length is not None and position >= self.length):
            raise TooLarge("The storage takes no byte at this position.")
        return Part(number, start, start + size if self.length is None else min(start + size, self.length))

    def numbered(self, number: int) -> Part:
        """The part of that number."""
        if self.length is not None:
            return self.at((number - 1) * self.part_size)
        step, index = divmod(number - 1, _STEP)
        return self.at(self.part_size * (_STEP * (step * (step + 1) // 2) + index * (step + 1)))

    def parts(self, length: int) -> Iterator[Part]:
        """All parts of a file that turned out to have ``length`` bytes."""
        position = 0
        while position < length:
            part = self.at(position)
            position = min(part.end, length)
            yield Part(part.number, part.start, position)

    def _step(self, position: int) -> int:
        """The largest ``n`` with ``n * (n + 1) / 2`` steps of the first size at or before ``position``."""
        return (isqrt(8 * (position // (self.part_size * _STEP)) + 1) - 1) // 2
