"""Watch: tells who waits for an upload that it has changed, in this process at once, from others by polling."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from .. import offload
from .subscribers import Subscribers

log = logging.getLogger("incoming_wsgi")

#: Asks the registry for the ids that have changed since a mark, and for the new mark.
Poll = Callable[[int], tuple[int, Iterable[str]]]

_INTERVAL = 0.1  # seconds between two polls while somebody waits
_LINGER = 5.0  # seconds that the poller stays after the last one has gone


class Watch:
    """:param poll: called from a thread of the watch's own, only while somebody waits."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._guard = threading.Lock()
        self._subscribers = Subscribers()
        self._polling = False
        self._closed = False

    def subscribe(self, key: str, changed: Callable[[], None]) -> Callable[[], None]:
        with self._guard:
            if not self._polling and not self._closed:
                # Within the guard: who waits must not look before it is known since when changes are told.
                mark, _ = self._poll(-1)
                offload.background(self._run, mark, name="watch")
                self._polling = True
            return self._subscribers.add(key, changed)

    def notify(self, key: str) -> None:
        """Call everyone who waits for ``key``."""
        self._subscribers.notify(key)

    def close(self) -> None:
        self._closed = True

    def _run(self, mark: int) -> None:
        last_wanted = time.monotonic()
        while True:
            time.sleep(_INTERVAL)
            try:
                mark, keys = self._poll(mark)
            except Exception:
                if not self._closed:
                    log.exception("changes by other processes could not be looked for; trying again")
                keys = ()
            if self._closed:
                return
            for key in keys:
                self.notify(key)
            with self._guard:
                if self._subscribers:
                    last_wanted = time.monotonic()
                elif time.monotonic() - last_wanted > _LINGER:
                    self._polling = False
                    return
