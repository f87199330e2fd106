"""Campaign: whoever recovers is killed, too, and again and again, before one is let live."""

from __future__ import annotations

import time

from .crash_points import any_crash_point
from .dying import Fork, live
from .laboratory import Campaign, Case
from .recovery import recover
from .story import any_story, play

_MOST_KILLS = 8


def case(case: Case) -> None:
    story, log = any_story(case.folder, case.random), case.folder / "log"
    first = any_crash_point(case.random)
    with Fork(lambda: play(story, first.arm), log) as victim:
        victim.end()
    kills = 0
    for _ in range(case.random.randint(2, _MOST_KILLS)):
        point = any_crash_point(case.random)
        with Fork(lambda arm=point.arm: recover(story, arm), log) as victim:  # type: ignore[misc]
            if not victim.end():
                break  # it came to the end, and has checked everything: nothing is left to recover
        kills += 1
        case.injected(f"recovery: {point}")
    began = time.monotonic()
    live(lambda: recover(story, lambda: None), log)
    case.measured("kills in a row, of one recovery", kills)
    case.measured("recovery and the way to the end, in seconds", time.monotonic() - began)


CAMPAIGN = Campaign(
    name="recovery-kill",
    about="kill -9 of the recovery, several times in a row: the last one finds everything all the same",
    case=case,
    short=200,
    full=10_000,
    in_memory=True,
)
