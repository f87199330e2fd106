"""Campaign: clients race over one upload, on several processes; whatever comes of it must be what some order gives."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import hypothesis
from hypothesis import strategies as st
from hypothesis.internal.conjecture import engine as hypothesis_engine
from hypothesis.reporting import with_reporter
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from incoming_wsgi.upload import OPEN_STATES, State, Upload

from .engine_process import Command, EngineProcess, Result
from .laboratory import Campaign, Case
from .race_model import IDLE, Model, interleavings
from .witness import Witness

_RUNS = 20  # of one case
_STEPS = 30  # of one run, at most
_SHRINKING = 15  # seconds; what depends on who is faster can't be made smaller reliably, however long it takes
_LANES = 5  # of which one does something
_EARLY = 10  # numbers given out until which nothing ends an upload, so that there is something to race for
_LONGER_THAN_ANY_PAUSE = 4 * 3600.0  # seconds; the app fails no more than three times in a row
_MOST_FAILURES = 3

_engines = st.integers(0, 2)
_picks = st.integers(0, 10**6)
Step = TypeVar("Step", bound=Callable[..., None])

_answers = st.sampled_from(("done", "wait", "failed"))


def _when(possible: Callable[[Race], object]) -> Callable[[Step], Step]:
    """A step that does nothing where it is not possible.

    Not a precondition of hypothesis: by those it draws the next step, and who was faster must not decide that.
    """

    def decorated(step: Step) -> Step:
        @functools.wraps(step)
        def guarded(race: Race, **drawn: Any) -> None:
            if possible(race):
                step(race, **drawn)

        return cast("Step", guarded)

    return decorated


class Race(RuleBasedStateMachine):
    """:cvar case: whose runs these are."""

    case: ClassVar[Case]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.case.folder))
        self.engines: list[EngineProcess] = []
        self.where: dict[int, int] = {}  # lanes, and the engines that they are on
        self.tokens: dict[int, str] = {0: "none"}  # by owner
        self.count = 0
        self.history: list[str] = []

    @initialize(
        engines=st.integers(2, 3),
        length=st.sampled_from((0, 1, 7, 20, 64)),
        lanes=st.integers(0, 4),
        first=st.sampled_from(("open", "take", "cancel", "sweep", "")),
    )
    def begin(self, engines: int, length: int, lanes: int, first: str) -> None:
        now = time.time()
        self.engines = [EngineProcess(self.folder, now=now, idle=IDLE) for _ in range(engines)]
        self.ticket = self.engines[0].do("ticket")
        self.model = Model(length, bytes(length), now, now)
        if lanes:
            self.open(lanes)
        elif first:
            self.take_it_in_one_piece(engine=0, other=first)
        for engine in range(1, lanes):
            self.join(engine=engine, owner=0)

    # -- one after the other ------------------------------------------------------------------------------------

    @rule(engine=_engines)
    def open(self, engine: int) -> None:
        self._alone(engine, [self._opening()])

    @rule(engine=_engines)
    @_when(lambda self: self.model.owner)
    def open_with_another_file(self, engine: int) -> None:
        ticket, number = self.ticket, self._number()
        self._alone(engine, [("open", ticket, self.model.length + 1, number)])

    @rule(engine=_engines, owner=_picks)
    @_when(lambda self: self.model.owner)
    def join(self, engine: int, owner: int) -> None:
        """A lane with the token of the last opening, or of an older one."""
        owner = max(0, self.model.owner - owner % 3)
        self._alone(engine, [("join", self.ticket, owner, self._number())])

    @rule(lane=_picks, start=_picks, size=st.integers(0, 24), syncs=st.booleans())
    @_when(lambda self: self.where)
    def send(self, lane: int, start: int, size: int, syncs: bool) -> None:
        number = self._lane(lane)
        self._alone(self.where[number], self._sending(number, start, size, syncs=syncs))

    @rule(lane=_picks)
    @_when(lambda self: self.where)
    def send_what_is_missing(self, lane: int) -> None:
        number = self._lane(lane)
        commands: list[Command] = [
            ("write", number, start, self._bytes(end - start))
            for start, end in self.model.safe.missing(0, self.model.length)
        ]
        self._alone(self.where[number], [*commands, ("sync", number)])

    @rule(lane=_picks)
    @_when(lambda self: self.where)
    def sync(self, lane: int) -> None:
        number = self._lane(lane)
        self._alone(self.where[number], [("sync", number)])

    @rule(lane=_picks)
    @_when(lambda self: self.where)
    def cut(self, lane: int) -> None:
        number = self._lane(lane)
        self._alone(self.where[number], [("cut", number)])
        del self.where[number]

    @rule(lane=_picks, start=_picks, size=st.integers(1, 24), engine=_engines)
    @_when(lambda self: self.where and self.model.is_open)
    def open_between_writing_and_recording(self, lane: int, start: int, size: int, engine: int) -> None:
        number = self._lane(lane)
        written, recorded = self._sending(number, start, size, syncs=True)
        self._alone(self.where[number], [written])
        self.open(engine)
        self._alone(self.where[number], [recorded])

    @rule(engine=_engines, owner=_picks)
    def pause(self, engine: int, owner: int) -> None:
        self._alone(engine, [("pause", self.ticket, max(0, self.model.owner - owner % 3))])

    @rule(engine=_engines, what=st.sampled_from(("complete", "complete", "finish")))
    def end(self, engine: int, what: str) -> None:
        self._alone(engine, [(what, self.ticket)])

    @rule(engine=_engines)
    @_when(lambda self: self.count > _EARLY)
    def cancel(self, engine: int) -> None:
        self._alone(engine, [("cancel", self.ticket)])

    @rule(engine=_engines, answer=_answers)
    @_when(lambda self: not self.model.is_open)
    def deliver(self, engine: int, answer: str) -> None:
        self._make_due()
        self._alone(engine, [("deliver", self._answer(answer))])

    @rule(engine=_engines, seconds=st.sampled_from((0.0, 10.0, 10.0, IDLE + 1)))
    def sweep(self, engine: int, seconds: float) -> None:
        if self.model.state not in (State.HANDING_OVER, State.WAITING_FOR_APP):
            self._age(seconds)
        self._alone(engine, [("sweep",)])

    @rule(engine=_engines)
    @_when(lambda self: self.count > _EARLY)
    def kill(self, engine: int) -> None:
        self._kill(engine % len(self.engines))

    # -- at the same time ---------------------------------------------------------------------------------------

    @rule(first=_picks, second=_picks, start=_picks, sizes=st.tuples(st.integers(1, 24), st.integers(1, 24)))
    @_when(lambda self: len(set(self.where.values())) > 1)
    def two_send(self, first: int, second: int, start: int, sizes: tuple[int, int]) -> None:
        """Of the same owner or not, into the same place or not."""
        one = self._lane(first)
        others = [number for number in self.where if self.where[number] != self.where[one]]
        other = others[second % len(others)]
        self._settle(one, other)
        self._together(
            (self.where[one], self._sending(one, start, sizes[0], syncs=True)),
            (self.where[other], self._sending(other, start, sizes[1], syncs=True)),
        )

    @rule(
        lane=_picks,
        start=_picks,
        size=st.integers(1, 24),
        what=st.sampled_from(("open", "open", "open", "cancel", "complete", "sweep", "pause")),
    )
    @_when(lambda self: self.where)
    def send_while(self, lane: int, start: int, size: int, what: str) -> None:
        """Something befalls the upload while bytes come."""
        number = self._lane(lane)
        engine = self.where[number]
        other = (engine + 1) % len(self.engines)
        self._settle(number)
        command = self._befalling(what)
        self._together((engine, self._sending(number, start, size, syncs=True)), (other, [command]))

    @rule(
        first=st.sampled_from(("open", "cancel", "complete", "sweep", "deliver", "finish", "pause")),
        second=st.sampled_from(("open", "cancel", "complete", "sweep", "deliver", "finish")),
        answer=_answers,
    )
    @_when(lambda self: self.count > _EARLY)
    def two_change_it(self, first: str, second: str, answer: str) -> None:
        if "deliver" in (first, second):
            self._make_due()
        one, other = self._befalling(first, answer), self._befalling(second, answer)
        self._together((0, [one]), (1, [other]))

    @rule(first=_picks, second=_picks)
    @_when(lambda self: self.model.is_open and len(set(self.where.values())) > 1)
    def one_sends_while_the_other_has_sent_all(self, first: int, second: int) -> None:
        """Other bytes, at that: what has been hashed must not be written over."""
        one = self._lane(first)
        others = [number for number in self.where if self.where[number] != self.where[one]]
        other = others[second % len(others)]
        self._settle(one, other)
        for start, end in self.model.safe.missing(0, self.model.length):
            self._alone(self.where[one], [("write", one, start, self._bytes(end - start))])
        late: Command = ("write", other, 0, self._bytes(self.model.length))
        finish: list[Command] = [("sync", one), ("complete", self.ticket)]
        self._together((self.where[one], finish), (self.where[other], [late]))

    @rule(lane=_picks, start=_picks, size=st.integers(1, 24))
    @_when(lambda self: self.where)
    def kill_while_it_writes(self, lane: int, start: int, size: int) -> None:
        number = self._lane(lane)
        engine = self.where[number]
        self._settle(number)
        commands = self._sending(number, start, size, syncs=True)
        self.engines[engine].begin([self._told(command) for command in commands])
        possible = [self.model]
        for command in commands:
            possible.append(possible[-1].after(command)[0])
        self._kill(engine)
        fitting = [model for model in possible if not self._differences(model)]
        assert fitting, f"killed while it wrote: {self._differences(possible[0])}, {self._differences(possible[-1])}"
        self.model = replace(fitting[-1], lanes=self.model.lanes)

    @rule(engine=_engines, other=st.sampled_from(("take", "open", "open", "cancel", "sweep", "")))
    @_when(lambda self: self.model.state is State.WAITING)
    def take_it_in_one_piece(self, engine: int, other: str) -> None:
        """With the opening; while somebody else does something, or not."""
        befalling = [self._befalling(other)] if other else []
        self._together((engine, [self._taking()]), (engine + 1, befalling))

    # -- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def it_is_as_expected(self) -> None:
        if self.engines:
            assert not self._differences(self.model), self._differences(self.model)

    def teardown(self) -> None:
        for engine in self.engines:
            engine.kill()
        shutil.rmtree(self.folder)

    # -- commands -----------------------------------------------------------------------------------------------

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _bytes(self, size: int) -> bytes:
        """Other ones each time, so that whose bytes are stored can be seen."""
        number = self._number()
        return bytes((number * 37 + position) % 255 + 1 for position in range(size))

    def _lane(self, pick: int) -> int:
        newest = sorted(self.where)[-_LANES:]  # of many, most would be replaced ones
        return newest[pick % len(newest)]

    def _settle(self, *lanes: int) -> None:
        """Have nothing pending: several pieces are recorded one by one, and others may come in between."""
        for number in lanes:
            self._alone(self.where[number], [("sync", number)])

    def _opening(self) -> Command:
        return ("open", self.ticket, self.model.length, self._number())

    def _taking(self) -> Command:
        return ("take", self.ticket, self._bytes(self.model.length))

    def _sending(self, number: int, start: int, size: int, *, syncs: bool) -> list[Command]:
        commands: list[Command] = [("write", number, start % (self.model.length + 2), self._bytes(size))]
        return [*commands, ("sync", number)] if syncs else commands

    def _befalling(self, what: str, answer: str = "done") -> Command:
        if what == "open":
            return self._opening()
        if what == "take":
            return self._taking()
        if what == "pause":
            return ("pause", self.ticket, self.model.owner)
        if what == "deliver":
            return ("deliver", self._answer(answer))
        return ("sweep",) if what == "sweep" else (what, self.ticket)

    def _answer(self, answer: str) -> str:
        return "done" if self.model.heard >= _MOST_FAILURES else answer

    def _told(self, command: Command) -> Command:
        """The command as an engine gets it: an opening is known there by its token."""
        if command[0] in ("join", "pause"):
            what, ticket, owner, *rest = command
            return (what, ticket, self.tokens[owner], *rest)
        return command

    # -- doing, and judging -------------------------------------------------------------------------------------

    def _alone(self, engine: int, commands: Sequence[Command]) -> None:
        self._together((engine, commands), (engine + 1, ()))

    def _together(self, *parties: tuple[int, Sequence[Command]]) -> None:
        """Two engines at the same time; what comes of it must be what some order of their commands gives."""
        engines = [engine % len(self.engines) for engine, _ in parties]
        for engine, (_, commands) in zip(engines, parties, strict=True):
            self.engines[engine].begin([self._told(command) for command in commands])
        results = [result for engine in engines for result in self.engines[engine].end()]
        commands = [command for _, commands in parties for command in commands]
        where = [engine for engine, (_, commands) in zip(engines, parties, strict=True) for _ in commands]
        self._keep_lanes(commands, results, where)
        first = len(parties[0][1])
        self._judge(commands, results, interleavings(range(first), range(first, len(commands))))
        self.history.append(f"{parties} gave {results}")
        self._count(commands, first)

    def _keep_lanes(self, commands: Sequence[Command], results: Sequence[Result], where: Sequence[int]) -> None:
        for command, result, engine in zip(commands, results, where, strict=True):
            if result == "opened":
                self.where[command[-1]] = engine

    def _judge(self, commands: Sequence[Command], results: Sequence[Result], orders: Sequence[Sequence[int]]) -> None:
        reasons = []
        for order in orders:
            model, reason = self._replayed(commands, results, order)
            reason = reason or self._differences(model) or self._wrong_owner(commands, results, model)
            if not reason:
                self.model = model
                self._keep_tokens(commands, results)
                return
            reasons.append(reason)
        history = "\n".join(self.history)  # which orders happen is up to the machine: no other run may show them
        raise AssertionError(f"{commands} gave {results}; {'; or '.join(reasons)}; before:\n{history}")

    def _replayed(
        self, commands: Sequence[Command], results: Sequence[Result], order: Sequence[int]
    ) -> tuple[Model, str]:
        model = self.model
        for index in order:
            model, expected = model.after(commands[index])
            if expected is not None and expected != results[index]:
                return model, f"expected {expected} of {commands[index]}"
        return model, ""

    def _wrong_owner(self, commands: Sequence[Command], results: Sequence[Result], model: Model) -> str:
        """Of two openings at the same time, only the session tells which one came last."""
        upload: Upload = self.engines[0].do("status", self.ticket)
        for command, result in zip(commands, results, strict=True):
            opened = command[0] == "open" and result == "opened"
            if opened and model.lanes[command[-1]].owner == model.owner and self._token(command[-1]) != upload.session:
                return "another opening came last"
        return ""

    def _token(self, lane: int) -> Result:
        return self.engines[self.where[lane]].do("token", lane)

    def _keep_tokens(self, commands: Sequence[Command], results: Sequence[Result]) -> None:
        for command, result in zip(commands, results, strict=True):
            if command[0] == "open" and result == "opened":
                self.tokens[self.model.lanes[command[-1]].owner] = self._token(command[-1])
            if result == "taken":
                self.tokens[self.model.owner] = self.engines[0].do("status", self.ticket).session

    def _differences(self, model: Model) -> str:
        """What is not as in a model; empty if all is."""
        upload: Upload = self.engines[self.count % len(self.engines)].do("status", self.ticket)
        seen: dict[str, Any] = {"state": upload.state, "extents": upload.extents, "openings": upload.epoch}
        wanted: dict[str, Any] = {"state": model.state, "extents": model.safe, "openings": model.owner}
        if model.state in (State.CANCELLED, State.EXPIRED):
            seen["openings"] = wanted["openings"]  # one that met its end may have been recorded before it hears so
        seen["bytes"], wanted["bytes"] = self._stored(upload), self._expected_bytes(model)
        seen["heard"], wanted["heard"] = self._heard(upload), self._expected_to_be_heard(model)
        return ", ".join(
            f"{what}: {seen[what]} instead of {wanted[what]}" for what in seen if seen[what] != wanted[what]
        )

    def _stored(self, upload: Upload) -> list[bytes]:
        folder = self.folder / "engine"
        path = folder / ("arriving" if upload.state in OPEN_STATES else "complete") / upload.id
        if not path.exists():
            return []
        stored = path.read_bytes()
        return [stored[start:end] for start, end in upload.extents.ranges]

    def _expected_bytes(self, model: Model) -> list[bytes]:
        if model.state in (State.CANCELLED, State.EXPIRED):
            return []
        return [model.disk[start:end] for start, end in model.safe.ranges]

    def _heard(self, upload: Upload) -> tuple[list[tuple[str, str, str]], int]:
        witness = Witness(self.folder / "witness")
        told = [(fact["event"], fact["sha256"], fact["said"]) for fact in witness.told("finished")]
        ends = len(list(witness.told("given up")))
        witness.close()
        self.event = upload.event_id
        return told, ends

    def _expected_to_be_heard(self, model: Model) -> tuple[list[tuple[str, str, str]], int]:
        digest = hashlib.sha256(model.disk).hexdigest()
        return [(self.event, digest, digest)] * model.heard, model.heard_of_end

    # -- time, death --------------------------------------------------------------------------------------------

    def _age(self, seconds: float) -> None:
        self.model = replace(self.model, now=self.model.now + seconds)
        for engine in self.engines:
            engine.do("time", self.model.now)

    def _make_due(self) -> None:
        if self.model.state in (State.HANDING_OVER, State.WAITING_FOR_APP) and not self.model.is_due:
            self._age(_LONGER_THAN_ANY_PAUSE)
            self.model = replace(self.model, is_due=True)

    def _kill(self, engine: int) -> None:
        self.engines[engine].kill()
        self.engines[engine] = EngineProcess(self.folder, now=self.model.now, idle=IDLE)
        self.where = {number: place for number, place in self.where.items() if place != engine}
        self.case.injected("kill of an engine")

    def _count(self, commands: Sequence[Command], first: int) -> None:
        if first < len(commands):
            words = sorted(("+".join(command[0] for command in commands[:first]), commands[first][0]))
            self.case.injected(" at the same time as ".join(words))
        else:
            self.case.injected(commands[0][0])


def case(case: Case) -> None:
    machine = type("Race", (Race,), {"case": case})
    hypothesis.seed(case.random.randrange(10**9))(machine)
    settings = hypothesis.settings(
        max_examples=_RUNS,
        stateful_step_count=_STEPS,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    hypothesis_engine.MAX_SHRINKING_SECONDS = _SHRINKING  # there is no setting for it
    steps: list[object] = []
    try:
        with with_reporter(steps.append):
            run_state_machine_as_test(machine, settings=settings)
    except BaseException as error:
        raise AssertionError("\n".join(map(str, steps))) from error


CAMPAIGN = Campaign(
    name="race",
    about="clients race over one upload on two or three processes: what comes of it is what some order gives",
    case=case,
    short=15,
    full=500,
    in_memory=True,
    timeout=600,
)
