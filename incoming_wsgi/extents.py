"""Extents: the byte ranges of one upload that have arrived and are safe."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Extents:
    """Sorted, disjoint, non-adjacent half-open ranges ``[start, end)`` of byte positions. A value: never changes."""

    ranges: tuple[tuple[int, int], ...] = ()

    def add(self, start: int, end: int) -> Extents:
        """These extents and ``[start, end)``. An empty range adds nothing.

        :raises ValueError: for a negative start or an end before it.
        """
        if not 0 <= start <= end:
            raise ValueError(f"no byte range: {start} to {end}")
        if start == end:
            return self
        first = bisect_left(self.ranges, start, key=lambda extent: extent[1])
        last = first
        while last < len(self.ranges) and self.ranges[last][0] <= end:
            start = min(start, self.ranges[last][0])
            end = max(end, self.ranges[last][1])
            last += 1
        return Extents((*self.ranges[:first], (start, end), *self.ranges[last:]))

    def merge(self, other: Extents) -> Extents:
        """These extents and those."""
        merged = self
        for start, end in other.ranges:
            merged = merged.add(start, end)
        return merged

    def missing(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The gaps within ``[start, end)``, in order."""
        for safe_start, safe_end in self.ranges:
            if safe_start >= end:
                break
            if safe_start > start:
                yield start, safe_start
            start = max(start, safe_end)
        if start < end:
            yield start, end

    def minus(self, other: Extents) -> Extents:
        """These extents without those."""
        return Extents(tuple(gap for start, end in self.ranges for gap in other.missing(start, end)))

    def contains(self, start: int, end: int) -> bool:
        """Whether every byte of ``[start, end)`` is safe."""
        return next(self.missing(start, end), None) is None

    @property
    def offset(self) -> int:
        """End of the extent that begins at 0: where a sequential sender goes on."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0

    @property
    def received(self) -> int:
        """How many bytes are safe in all."""
        return sum(end - start for start, end in self.ranges)

    @property
    def end(self) -> int:
        """End of the last extent: how far the stored bytes reach."""
        return self.ranges[-1][1] if self.ranges else 0

    def complete(self, length: int | None) -> bool:
        """Whether all of ``length`` bytes are safe; never while the length is unknown."""
        return length is not None and self.offset >= length

    def to_json(self) -> str:
        return "[" + ",".join(f"[{start},{end}]" for start, end in self.ranges) + "]"

    @classmethod
    def from_json(cls, text: str) -> Extents:
        """The other way round; for text that :meth:`to_json` has made."""
        return cls() if text == "[]" else cls.of((start, end) for start, end in json.loads(text))

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> Extents:
        """Extents of ranges that are sorted and apart already.

        :raises ValueError: when they are not.
        """
        extents = tuple(ranges)
        if any(not 0 <= start < end for start, end in extents):
            raise ValueError("extents hold an empty or reversed range")
        if any(end >= start for (_, end), (start, _) in pairwise(extents)):
            raise ValueError("extents overlap, touch or are out of order")
        return cls(extents)
