"""Connections that bring bytes, counted in this process: of a client, and in all."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from .. import events
from ..errors import OverQuota

_RETRY_AFTER = 5.0  # seconds


class Turnstile:
    """Lets in so many at a time.

    :param most: of one kind; 0 for any number.
    :param total: of all kinds; 0 for any number.
    """

    def __init__(self, most: int, total: int = 0) -> None:
        self._most = most
        self._total = total
        self._inside: dict[Hashable, int] = {}
        self._all = 0
        self._guard = threading.Lock()

    @contextmanager
    def let_in(self, kind: Hashable) -> Iterator[None]:
        """While the block lasts one more of a kind is inside; an empty kind counts only in all.

        :raises OverQuota: there are too many.
        """
        self.enter(kind)
        events.count("connected", 1)
        try:
            yield
        finally:
            self.leave(kind)
            events.count("connected", -1)

    def enter(self, kind: Hashable, most: int | None = None) -> None:
        """:param most: in place of the one for all kinds. :raises OverQuota: there are too many."""
        most = self._most if most is None else most
        with self._guard:
            if self._total and self._all >= self._total:
                raise OverQuota("This server has too many connections.", retry_after=_RETRY_AFTER, limit="connections")
            inside = self._inside.get(kind, 0)
            if kind != "" and most and inside >= most:
                raise OverQuota("Too many connections at once.", retry_after=_RETRY_AFTER, limit="connections")
            self._inside[kind] = inside + 1
            self._all += 1

    def leave(self, kind: Hashable) -> None:
        with self._guard:
            self._all -= 1
            inside = self._inside.pop(kind) - 1
            if inside:
                self._inside[kind] = inside
