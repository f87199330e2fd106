"""Campaign: the power goes while files arrive; what had not been synced by then is gone from a real file system."""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable
from functools import partial

from . import disks
from .crash_points import any_crash_point, die
from .disks import CUTS, FILE_SYSTEMS, Disk
from .dying import Fork
from .dying import live as live_on
from .flusher import Flusher
from .laboratory import Campaign, Case
from .power_back import check_what_is_there, live_to_the_end
from .powered import Plan, any_plan, live
from .witness import Witness

_LATEST = 0.03  # seconds that the power may stay when its moment has come
_LONGEST_LIFE = 90.0  # seconds


def case(case: Case) -> None:
    with Disk(case.folder, case.random.choice(FILE_SYSTEMS)) as disk:
        plan = any_plan(case.folder, disk.root, case.random)
        witness = plan.witness()
        cuts = case.random.choice((1, 1, 2, 3))
        for boot in range(cuts):
            _live_until_the_power_goes(case, plan, disk, boot)
            _refuse_errors(witness)
            disk.restart()
        began = time.monotonic()
        live_on(lambda: live_to_the_end(plan, cuts), case.folder / "log")
        case.measured("the way to the end, in seconds", time.monotonic() - began)
        _count_losses(case, witness)
        witness.close()


def _live_until_the_power_goes(case: Case, plan: Plan, disk: Disk, boot: int) -> None:
    plan.witness().tell("power")
    how = case.random.choices(list(CUTS), weights=(3, 1))[0]
    arm, where = _any_danger(case, plan, disk, how)
    most = int(plan.pieces * 2 * case.random.random())
    heard, wire = os.pipe()
    try:
        with Fork(lambda: live(plan, boot, check_what_is_there, arm, wire, most), case.folder / "log") as victim:
            os.close(wire)
            has_cut = _wait_for_the_moment(Flusher(case, disk.root), heard)
            if not has_cut:
                time.sleep(case.random.random() * _LATEST)  # not to wait for something: it is the fault
                victim.freeze()
                _cut_power(plan, disk, how)
            victim.kill()
            victim.end()
    finally:
        os.close(heard)
    mode = "fsync" if plan.fsync else "process"
    case.injected(f"power cut: {disk.system.name}, {mode} mode")
    case.injected(f"power cut: {how}")
    case.injected(f"power cut {where if has_cut else 'at a random moment'}")


def _any_danger(case: Case, plan: Plan, disk: Disk, how: str) -> tuple[Callable[[], None], str]:
    """What puts a process in danger, and where the power may go in it."""
    if case.random.random() < 0.5:
        return _nothing, ""
    point = any_crash_point(case.random)

    def end() -> None:
        _cut_power(plan, disk, how)
        die()

    return partial(point.arm, end), f"{point.moment} {point.call}"


def _nothing() -> None:
    """In place of a crash point."""


def _cut_power(plan: Plan, disk: Disk, how: str) -> None:
    plan.witness().tell("power cut")
    disk.cut_power(how)


def _wait_for_the_moment(flusher: Flusher, heard: int) -> bool:
    """Let time pass until the power is to go; says whether it went by itself."""
    deadline = time.monotonic() + _LONGEST_LIFE
    while not select.select([heard], [], [], flusher.pause())[0]:
        flusher.step()
        assert time.monotonic() < deadline, "a life that does not end"
    return os.read(heard, 1) == b""


def _refuse_errors(witness: Witness) -> None:
    """:raises AssertionError: something went wrong while there was power."""
    has_power = False
    for fact in witness.told("power", "power cut", "error"):
        assert fact["what"] != "error" or not has_power, fact["text"]
        has_power = fact["what"] == "power"


def _count_losses(case: Case, witness: Witness) -> None:
    for fact in witness.told("again"):
        case.measured("process mode: MiB of an upload that are needed again", fact["bytes"] / 2**20)
    for _ in witness.told("lost"):
        case.injected("process mode: a ticket is gone")


CAMPAIGN = Campaign(
    name="power-cut",
    about="the power goes while files arrive on ext4 and XFS: nothing that was promised is lost, no corrupt file is handed over",
    case=case,
    short=20,
    full=2_000,
    missing=disks.missing,
    in_memory=True,
)
