"""Campaign: the engine dies at any call, and another process goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from . import system_calls
from .crash_points import CALLS, any_crash_point
from .dying import Fork, live
from .laboratory import Campaign, Case
from .recovery import recover
from .story import Story, any_story, play, play_a_lane

_LONGEST_LIFE = 0.03  # seconds, of processes that are killed at a random moment
_LANES = 0.15  # how often a second process sends bytes of the same files


def case(case: Case) -> None:
    kill_and_recover(case, any_story(case.folder, case.random))


def kill_and_recover(case: Case, story: Story, calls: Mapping[str, int] = CALLS) -> None:
    """:param calls: those that a process may die in."""
    kill = case.random.choices((_at_crash_point, _at_moment, _at_system_call), weights=(86, 8, 6))[0]
    with contextlib.ExitStack() as others:
        if case.random.random() < _LANES:
            others.enter_context(_lane(case, story, calls))
        kill(case, story, calls)
    began = time.monotonic()
    live(lambda: recover(story, _unharmed), case.folder / "log")
    case.measured("recovery and the way to the end, in seconds", time.monotonic() - began)


def _at_crash_point(case: Case, story: Story, calls: Mapping[str, int]) -> None:
    point = any_crash_point(case.random, calls)
    with Fork(lambda: play(story, point.arm), case.folder / "log") as victim:
        _count(case, str(point), victim.end())


def _at_moment(case: Case, story: Story, _: Mapping[str, int]) -> None:
    moment = case.random.random() * _LONGEST_LIFE
    with Fork(lambda: play(story, _unharmed), case.folder / "log") as victim:
        time.sleep(moment)  # not to wait for something: it is the fault
        victim.kill()
        _count(case, "kill at a random moment", victim.end())


def _at_system_call(case: Case, story: Story, _: Mapping[str, int]) -> None:
    log = case.folder / "log"
    point = system_calls.any_system_call(case.random)
    with (
        Fork(lambda: play(story, _unharmed), log, held=True) as victim,
        system_calls.killing_at(point, victim, log),
    ):
        victim.go()
        _count(case, str(point), victim.end())


def _lane(case: Case, story: Story, calls: Mapping[str, int]) -> Fork:
    """A second process of the same upload; it is killed when the first one has ended, if it has not died by itself."""
    point = any_crash_point(case.random, calls)
    arm = point.arm if case.random.random() < 0.5 else _unharmed
    case.injected("a second process with lanes, killed")
    return Fork(lambda: play_a_lane(story, arm), case.folder / "log")


def _count(case: Case, what: str, was_killed: bool) -> None:
    case.injected(what if was_killed else "none: it had ended before")


def _unharmed() -> None:
    """In place of a crash point."""


CAMPAIGN = Campaign(
    name="engine-kill",
    about="kill -9 at any call and any moment: what was acknowledged is there, every file is handed over, none corrupt",
    case=case,
    short=2_000,
    full=100_000,
    missing=system_calls.missing,
    in_memory=True,
)
