"""The outbox: delivers the hand-overs that are due, again and again until they are answered.

Rows live in the registry. A process leases a row before it delivers; when the process dies, another one takes the row
at once. So every hand-over is made at least once, always with the same event id.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from .. import offload
from ..errors import IncomingError
from ..registry import Delivery, Registry
from ..upload import shortened
from .handover import Handler, Notice, Outcome

log = logging.getLogger("incoming_wsgi")

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0

#: Seconds to wait after the first, second … failed attempt; the last goes on for ever.
PAUSES = (5.0, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR)

#: Seconds after which an unanswered hand-over is given up, and the file kept for the operator.
PATIENCE = 3 * _DAY

#: Deliveries that one process makes at the same time.
_AT_ONCE = 16

#: Longest time between two looks into the outbox, for rows that other processes put there, in seconds.
_LOOK = 1.0


class Outbox:
    """:param handlers: for each app that this process serves, its handlers by kind.
    :param notice: what the app is to hear of a row; ``None`` where nothing is left to tell.
    :param answered: is told how each attempt ended.
    """

    def __init__(
        self,
        registry: Registry,
        handlers: Mapping[str, Mapping[str, Handler]],
        notice: Callable[[Delivery], Notice | None],
        answered: Callable[[Delivery, Outcome], None],
    ) -> None:
        self._registry = registry
        self._handlers = handlers
        self._notice = notice
        self._answered = answered
        self._due = threading.Event()
        self._free = threading.Semaphore(_AT_ONCE)
        self._started = self._stopped = self._resting = False
        self._under_way: set[str] = set()

    def start(self) -> None:
        """Deliver from now on, in the background."""
        self._started = True
        offload.background(self._run, name="outbox")

    def wake(self) -> None:
        """Look into the outbox now: something has been put there."""
        self._due.set()

    @contextmanager
    def at_once(self, delivery: Delivery) -> Iterator[Delivery]:
        """Deliver a row as soon as the block has put it into the registry: nobody needs to look for it there.

        Gives the row to put there: leased by this process, if it has a hand free.
        """
        if not self._has_a_hand_free_for(delivery):
            yield delivery
            self.wake()
            return
        try:
            yield replace(delivery, holder=self._registry.holder, attempt=delivery.attempt + 1)
        except BaseException:
            self._free.release()
            offload.background(self._give_back, delivery, name="giving back")  # it may be there all the same
            raise
        self._begin(self._deliver, delivery)

    def rest(self) -> None:
        """Begin no further attempt, until :meth:`resume`: others do."""
        self._resting = True

    def resume(self) -> None:
        self._resting = False
        self.wake()

    @property
    def is_busy(self) -> bool:
        """Whether attempts are under way."""
        return bool(self._under_way)

    def stop(self) -> None:
        """Begin no further attempt."""
        self._stopped = True
        self._due.set()

    def _run(self) -> None:
        while not self._stopped:
            self._due.clear()
            try:
                self._deliver_due()
            except IncomingError as error:
                log.warning("the outbox can't be read at the moment: %s", error.__cause__ or error)
            except Exception:
                log.exception("the outbox could not be read; trying again")
            self._due.wait(_LOOK)

    def _deliver_due(self) -> None:
        for app, handlers in self._handlers.items():
            while not self._stopped and not self._resting:
                delivery = self._leased(app, tuple(handlers))
                if delivery is None:
                    break
                self._begin(self._deliver_synced, delivery)

    def _leased(self, app: str, handlers: tuple[str, ...]) -> Delivery | None:
        """A row that is due, with a hand kept free for it."""
        delivery = None
        self._free.acquire()
        try:
            delivery = self._registry.lease(app, handlers, self._registry.now())
        finally:
            if delivery is None:  # also where the registry can't be asked: hands that are lost never come back
                self._free.release()
        return delivery

    def _has_a_hand_free_for(self, delivery: Delivery) -> bool:
        serves = delivery.handler in self._handlers[delivery.app]
        works = self._started and not self._stopped and not self._resting
        return works and serves and self._free.acquire(blocking=False)

    def _begin(self, deliver: Callable[[Delivery, Handler], None], delivery: Delivery) -> None:
        handler = self._handlers[delivery.app][delivery.handler]
        self._under_way.add(delivery.event_id)
        offload.background(deliver, delivery, handler, name="hand-over")

    def _deliver_synced(self, delivery: Delivery, handler: Handler) -> None:
        """Whoever put the row there may not have synced it yet: a power cut must not undo what the app knows."""
        try:
            self._registry.sync()
        except IncomingError:
            self._free.release()
            self._give_back(delivery)
            self._under_way.discard(delivery.event_id)
        else:
            self._deliver(delivery, handler)

    def _deliver(self, delivery: Delivery, handler: Handler) -> None:
        try:
            outcome = self._attempt(delivery, handler)
            if outcome.word == "failed":
                log.warning("hand-over of %s failed: %s", shortened(delivery.upload_id), outcome.error)
            self._record(delivery, outcome)
        except Exception:
            self._give_back(later(delivery, Outcome("failed", "an error in the outbox"), self._registry.now()))
            raise
        finally:
            self._under_way.discard(delivery.event_id)
            self._free.release()

    def _record(self, delivery: Delivery, outcome: Outcome) -> None:
        """Until it is done: the app is not told again because its answer could not be recorded at that moment."""
        while True:
            try:
                return self._answered(delivery, outcome)
            except IncomingError:
                if self._stopped:
                    raise
                log.warning("the answer to the hand-over of %s can't be recorded yet", shortened(delivery.upload_id))
            time.sleep(_LOOK)

    def _give_back(self, delivery: Delivery) -> None:
        """A lease must not stay with a living process that has forgotten it."""
        while not self._stopped:
            try:
                self._registry.postpone(delivery)
            except IncomingError:
                time.sleep(_LOOK)
            else:
                return

    def _attempt(self, delivery: Delivery, handler: Handler) -> Outcome:
        notice = self._notice(delivery)
        if notice is None:
            return Outcome("done")
        try:
            return handler.deliver(notice)
        except Exception as error:
            log.warning("hand-over of %s raised", shortened(delivery.upload_id), exc_info=True)
            return Outcome("failed", f"{type(error).__name__}: {error}"[:200])


def later(delivery: Delivery, outcome: Outcome, now: float) -> Delivery:
    """The row after a failed attempt: due again after a pause that grows, jittered so that a herd spreads out.

    :param now: the time by the registry's clock.
    """
    pause = PAUSES[min(delivery.attempt, len(PAUSES) - 1)] * random.uniform(0.8, 1.2)
    return replace(
        delivery,
        attempt=delivery.attempt + 1,
        due_at=now + max(pause, outcome.retry_after or 0),
        error=outcome.error,
    )


def is_given_up(delivery: Delivery, now: float) -> bool:
    """Whether this row has been tried for as long as we try."""
    return now - delivery.created_at > PATIENCE
