"""Decisions read from bytes: from chance, or from a fuzzer that watches which lines they reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """:param data: when it has run out, each decision is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def below(self, limit: int) -> int:
        """A number from 0 on."""
        size = (limit.bit_length() + 7) // 8
        return int.from_bytes(self.take(size), "big") % limit

    def chance(self, one_in: int) -> bool:
        return self.below(one_in) == one_in - 1

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def make(self, makers: Sequence[Callable[[], T]]) -> T:
        return self.pick(makers)()

    def take(self, count: int) -> bytes:
        """Up to so many bytes."""
        found = self._data[self._place : self._place + count]
        self._place += count
        return found

    def some(self, most: int) -> bytes:
        return self.take(self.below(most + 1))
