"""Campaign: the power goes while files arrive; what had not been synced by then is gone from a real file system."""

from __future__ import annotations

import os
import select
import time

from . import disks
from .crash_points import any_crash_point
from .disks import CUTS, FILE_SYSTEMS, Disk
from .dying import Fork
from .dying import live as live_on
from .flusher import Flusher
from .laboratory import Campaign, Case
from .power_back import check_what_is_there, live_to_the_end
from .powered import AT_CRASH_POINT, AT_REST, Plan, any_plan, live
from .witness import Witness

_LATEST = 0.03  # seconds that the power may stay when its moment has come
_LONGEST_LIFE = 90.0  # seconds


def case(case: Case) -> None:
    turn, fsync = divmod(case.number, 2)  # in turn, so that a few cases have seen both modes on all file systems
    with Disk(case.folder, FILE_SYSTEMS[turn % len(FILE_SYSTEMS)]) as disk:
        plan = any_plan(case.folder, disk.root, case.random, fsync=bool(fsync))
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
    how = case.random.choices(list(CUTS), weights=(3, 1))[0]
    point = any_crash_point(case.random) if case.random.random() < 0.5 else None
    most = int(plan.pieces * 2 * case.random.random())
    heard, wire = os.pipe()
    try:
        with Fork(lambda: live(plan, boot, check_what_is_there, point, wire, most), case.folder / "log") as victim:
            os.close(wire)
            word = _wait_for_the_moment(Flusher(case, disk.root), heard)
            if word == AT_REST:
                time.sleep(case.random.random() * _LATEST)  # not to wait for something: it is the fault
            if word:
                victim.freeze()
                disk.cut_power(how)
                victim.kill()
            assert victim.end(), "it has ended by itself"
    finally:
        os.close(heard)
    mode = "fsync" if plan.fsync else "process"
    case.injected(f"power cut: {disk.system.name}, {mode} mode")
    case.injected(f"power cut: {how}")
    is_there = point is not None and word == AT_CRASH_POINT
    case.injected(f"power cut {point.moment} {point.call}" if point and is_there else "power cut at a random moment")


def _wait_for_the_moment(flusher: Flusher, heard: int) -> bytes:
    """Let time pass until the power is to go; gives the word that came for that."""
    deadline = time.monotonic() + _LONGEST_LIFE
    while not select.select([heard], [], [], flusher.pause())[0]:
        flusher.step()
        assert time.monotonic() < deadline, "a life that does not end"
    return os.read(heard, 1)


def _refuse_errors(witness: Witness) -> None:
    """:raises AssertionError: something went wrong while there was power."""
    for fact in witness.told("error"):
        raise AssertionError(fact["text"])


def _count_losses(case: Case, witness: Witness) -> None:
    for fact in witness.told("again"):
        case.measured("process mode: MiB of an upload that are needed again", fact["bytes"] / 2**20)


CAMPAIGN = Campaign(
    name="power-cut",
    about="the power goes while files arrive on ext4 or XFS: what was promised is there, no corrupt file is given away",
    case=case,
    short=20,
    full=2_000,
    missing=disks.missing,
    in_memory=True,
)
