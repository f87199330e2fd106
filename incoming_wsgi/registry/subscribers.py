"""Who waits for changes of uploads, each by the key of the one they wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Called when something has changed.
Changed = Callable[[], None]


class Subscribers:
    """True while somebody waits. Those who tell of a change never wait for those who come and go."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[str, tuple[Changed, ...]] = {}  # tuples: one that is gone through does not change

    def add(self, key: str, changed: Changed) -> Callable[[], None]:
        """:returns: takes it away again, if it is still there."""
        with self._guard:
            self._waiting[key] = (*self._waiting.get(key, ()), changed)
        return lambda: self._remove(key, changed)

    def notify(self, key: str) -> None:
        """Call everyone who waits for ``key``."""
        for changed in self._waiting.get(key, ()):
            changed()

    def notify_all(self) -> None:
        for key in tuple(self._waiting):
            self.notify(key)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def _remove(self, key: str, changed: Changed) -> None:
        with self._guard:
            waiting = list(self._waiting.get(key, ()))
            if changed in waiting:
                waiting.remove(changed)
            if waiting:
                self._waiting[key] = tuple(waiting)
            else:
                self._waiting.pop(key, None)
