"""Group commit: many callers that want the same slow thing done share one run of it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Group:
    """:param work: what is done; a run of it serves everyone who asked before it began."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._turn = threading.Condition()
        self._asked = 0
        self._served = 0
        self._working = False

    def join(self) -> None:
        """Have the work done, by oneself or by somebody else; returns after a run that began after this call.

        :raises Exception: what the work raised, for the one who did it; the others try again.
        """
        with self._turn:
            self._asked += 1
            mine = self._asked
            while self._working and self._served < mine:
                self._turn.wait()
            if self._served >= mine:
                return
            self._working = True
            serving = self._asked
        try:
            self._work()
        except BaseException:
            self._end(self._served)
            raise
        self._end(serving)

    def _end(self, served: int) -> None:
        with self._turn:
            self._working = False
            self._served = served
            self._turn.notify_all()
