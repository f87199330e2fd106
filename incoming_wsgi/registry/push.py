"""Push: tells who waits for an upload that it has changed, as a server tells us over one lasting connection.

After a connection was lost everybody is told: something may have changed that nobody has heard of.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from .. import offload
from ..errors import IncomingError
from .subscribers import Subscribers

log = logging.getLogger("incoming_wsgi")

#: Waits so many seconds for a change and gives its key, if there was one.
Next = Callable[[float], str | None]

_QUIET = 2.0  # seconds without a change after which the connection is looked after
_PAUSE = 0.5  # seconds between two attempts to connect


class Push:
    """:param listen: makes a connection, which has heard of all changes from then on; raises an ``IncomingError`` when
    it is lost. It is made when somebody first waits.
    """

    def __init__(self, listen: Callable[[], AbstractContextManager[Next]]) -> None:
        self._listen = listen
        self._guard = threading.Lock()
        self._subscribers = Subscribers()
        self._listening = False
        self._closed = False

    def subscribe(self, key: str, changed: Callable[[], None]) -> Callable[[], None]:
        with self._guard:
            if not self._listening and not self._closed:
                # Within the guard: who waits must not look before the connection has begun to hear.
                with ExitStack() as connection:
                    first = connection.enter_context(self._listen())
                    offload.background(self._run, first, connection.pop_all(), name="push")
                self._listening = True
            return self._subscribers.add(key, changed)

    def notify(self, key: str) -> None:
        """Call everyone who waits for ``key``."""
        self._subscribers.notify(key)

    def close(self) -> None:
        self._closed = True

    def _run(self, first: Next, connection: ExitStack) -> None:
        with self._outlived(), connection:
            self._hear(first)
        while not self._closed:
            with self._outlived(), self._listen() as following:
                self._subscribers.notify_all()
                self._hear(following)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        """Whatever happens to a connection, there will be another one."""
        try:
            yield
        except Exception as error:
            if self._closed:
                return
            if not isinstance(error, IncomingError):
                log.exception("changes by other processes could not be heard of; connecting again")
            self._subscribers.notify_all()  # they look for themselves meanwhile
            time.sleep(_PAUSE)

    def _hear(self, following: Next) -> None:
        while not self._closed:
            key = following(_QUIET)
            if key is not None:
                self.notify(key)
