"""What one upload must be like after any commands, in any order: a value, and what each command makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import OPEN_STATES, State

from .engine_process import Command, Result

IDLE = 1000.0  # seconds until an upload expires
_GRACE = 5.0  # seconds that whoever brought the last byte has to complete the upload

_GIVEN_UP = {State.CANCELLED: "Cancelled", State.EXPIRED: "Expired"}
_WITH_THE_APP = frozenset({State.HANDING_OVER, State.WAITING_FOR_APP})


@dataclass(frozen=True)
class Lane:
    """:ivar owner: number of the opening that it belongs to."""

    owner: int
    pending: Extents = field(default_factory=Extents)


@dataclass(frozen=True)
class Model:
    """:ivar disk: what is stored; of bytes that are not safe it does not matter.
    :ivar owner: number of the last opening.
    :ivar heard: hand-overs so far.
    :ivar is_due: whether the app is called at the next delivery.
    """

    length: int
    disk: bytes
    now: float
    active_at: float
    state: State = State.WAITING
    safe: Extents = field(default_factory=Extents)
    owner: int = 0
    lanes: Mapping[int, Lane] = field(default_factory=lambda: MappingProxyType({}))
    heard: int = 0
    is_due: bool = True
    heard_of_end: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def is_complete(self) -> bool:
        return self.owner > 0 and self.safe.complete(self.length)

    def after(self, command: Command) -> tuple[Model, Result]:
        """The upload after a command, and what must come of that."""
        what, *args = command
        after: tuple[Model, Result] = getattr(self, f"_{what}")(*args)
        return after

    def _with_lane(self, number: int, lane: Lane) -> Model:
        return replace(self, lanes={**self.lanes, number: lane})

    def _refusal(self, owner: int) -> str:
        """What stands against writing; empty if nothing does."""
        if self.state in _GIVEN_UP:
            return _GIVEN_UP[self.state]
        if owner != self.owner:
            return "Replaced"
        return "" if self.is_open else "AlreadyComplete"

    def _open(self, ticket: str, length: int, lane: int) -> tuple[Model, Result]:
        if self.state in _GIVEN_UP:
            return self, _GIVEN_UP[self.state]
        if length != self.length and self.owner:
            return self, "FileChanged"
        if not self.is_open:
            return self, "nothing to open"
        owner = self.owner + 1
        opened = replace(self, state=State.RECEIVING, owner=owner, active_at=self.now)
        return opened._with_lane(lane, Lane(owner)), "opened"

    def _take(self, ticket: str, data: bytes) -> tuple[Model, Result]:
        if self.state in _GIVEN_UP:
            return self, _GIVEN_UP[self.state]
        if self.state is not State.WAITING or not data:
            return self, "the longer way"
        safe = Extents().add(0, self.length)
        owner, state = self.owner + 1, State.HANDING_OVER
        return replace(self, state=state, owner=owner, safe=safe, disk=data, active_at=self.now), "taken"

    def _join(self, ticket: str, owner: int, lane: int) -> tuple[Model, Result]:
        refusal = self._refusal(owner)
        return (self, refusal) if refusal else (self._with_lane(lane, Lane(owner)), "opened")

    def _write(self, number: int, position: int, data: bytes) -> tuple[Model, Result]:
        lane = self.lanes[number]
        if refusal := self._refusal(lane.owner):
            return self, refusal
        end = position + len(data)
        if end > self.length:
            return self, "TooLarge"
        disk = bytearray(self.disk)
        for start, stop in self.safe.missing(position, end):
            disk[start:stop] = data[start - position : stop - position]
        written = replace(self, disk=bytes(disk))
        return written._with_lane(number, replace(lane, pending=lane.pending.add(position, end))), "written"

    def _sync(self, number: int) -> tuple[Model, Result]:
        lane = self.lanes[number]
        if not lane.pending.ranges:
            return self, None  # nothing to record; what it was told last is not looked at
        synced = self._with_lane(number, Lane(lane.owner))
        refusal = self._refusal(lane.owner)
        if refusal == "AlreadyComplete":
            return synced, self.safe  # its bytes are among those that others have brought
        if refusal:
            return synced, refusal
        safe = self.safe
        for start, end in lane.pending.ranges:
            safe = safe.add(start, end)
        return replace(synced, safe=safe, active_at=self.now), safe

    def _cut(self, number: int) -> tuple[Model, Result]:
        return replace(self, lanes={key: lane for key, lane in self.lanes.items() if key != number}), "cut"

    def _pause(self, ticket: str, owner: int) -> tuple[Model, Result]:
        if self.state is not State.RECEIVING:
            return self, "paused"
        if owner != self.owner:
            return self, "Replaced"
        return replace(self, state=State.PAUSED, active_at=self.now), "paused"

    def _cancel(self, ticket: str) -> tuple[Model, Result]:
        if self.state in _GIVEN_UP:
            return self, "cancelled"
        if not self.is_open:
            return self, "TooLate"
        return replace(self, state=State.CANCELLED), "cancelled"

    def _complete(self, ticket: str) -> tuple[Model, Result]:
        if not self.is_open:
            return self, "completed"
        if not self.is_complete:
            return self, "NotReady"
        return replace(self, state=State.HANDING_OVER), "completed"

    def _finish(self, ticket: str) -> tuple[Model, Result]:
        if self.state not in {*_WITH_THE_APP, State.FINISHED}:
            return self, "NotReady"
        return replace(self, state=State.FINISHED), "finished"

    def _deliver(self, answer: str) -> tuple[Model, Result]:
        if self.state in _GIVEN_UP:
            return replace(self, heard_of_end=1), "delivered"
        if self.state not in _WITH_THE_APP or not self.is_due:
            return self, "delivered"
        state = {"done": State.FINISHED, "wait": State.WAITING_FOR_APP}.get(answer, State.HANDING_OVER)
        return replace(self, state=state, heard=self.heard + 1, is_due=False), "delivered"

    def _sweep(self) -> tuple[Model, Result]:
        state = self.state
        if self.is_open and self.is_complete and self.active_at <= self.now - _GRACE:
            state = State.HANDING_OVER
        elif self.is_open and not self.is_complete and self.active_at <= self.now - IDLE:
            state = State.EXPIRED
        return replace(self, state=state), "swept"


def interleavings(first: Sequence[int], second: Sequence[int]) -> list[list[int]]:
    """All orders of both that leave each one's own order as it is."""
    if not first or not second:
        return [[*first, *second]]
    return [
        *([first[0], *rest] for rest in interleavings(first[1:], second)),
        *([second[0], *rest] for rest in interleavings(first, second[1:])),
    ]
