"""Runs campaigns: cases in parallel, each with a seed and a folder of its own, and a table of what was injected."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

_forked = multiprocessing.get_context("fork")

#: Failures that are shown in full; of the others only the number.
_SHOWN = 5

_MEMORY = "/dev/shm"


@dataclass
class Case:
    """One run of a campaign.

    :ivar number: by which it can be run again, together with the seed.
    :ivar random: where everything that is left to chance comes from.
    :ivar folder: empty, its own; removed afterwards, unless the case fails.
    :ivar full: whether this is the long campaign; for those whose one case can be longer or shorter.
    :ivar seconds: how long the campaign may take in all, for the same.
    """

    number: int
    random: random.Random
    folder: Path
    full: bool = False
    seconds: float = float("inf")
    injections: Counter[str] = field(default_factory=Counter)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def injected(self, what: str) -> None:
        """Count a fault, for the table."""
        self.injections[what] += 1

    def measured(self, what: str, value: float) -> None:
        """Keep a figure, for the table: its median, 95th percentile and largest value are shown."""
        self.figures.setdefault(what, []).append(value)


@dataclass(frozen=True)
class Campaign:
    """One kind of fault.

    :ivar name: by which it is run.
    :ivar about: what is injected, and what must hold all the same.
    :ivar case: one run; raises (by ``assert``, say) when a promise is broken.
    :ivar short: cases in ``make test``.
    :ivar full: cases in ``make torture``.
    :ivar jobs: cases that run at the same time.
    :ivar timeout: seconds that one case may take.
    :ivar missing: what this machine lacks for it; empty when it can run.
    :ivar in_memory: whether its folders may be in memory, where syncing costs nothing: what a process has written
        survives its death there, too. ``TMPDIR`` overrules it.
    """

    name: str
    about: str
    case: Callable[[Case], None]
    short: int
    full: int
    jobs: int = 2
    timeout: int = 120
    missing: Callable[[], str] = lambda: ""
    in_memory: bool = False


@dataclass
class Report:
    """What came of a campaign."""

    passed: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    injections: Counter[str] = field(default_factory=Counter)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.injections += outcome.injections
        for what, values in outcome.figures.items():
            self.figures.setdefault(what, []).extend(values)
        if outcome.failure:
            self.failures.append((outcome.number, outcome.failure))
        else:
            self.passed += 1


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    number: int
    failure: str
    injections: Counter[str]
    figures: dict[str, list[float]]


def run(
    campaign: Campaign, seed: int, numbers: Iterable[int], *, full: bool = False, seconds: float = float("inf")
) -> Report:
    """Run the cases with these numbers, or as many as fit into ``seconds``."""
    report, todo = Report(), iter(numbers)
    deadline = time.monotonic() + seconds
    workers = [_Worker(campaign, seed, full, seconds) for _ in range(campaign.jobs)]
    busy = [worker for worker in workers if worker.take(next(todo, None))]
    try:
        while busy:
            ready = wait([worker.link for worker in busy])
            for worker in [worker for worker in busy if worker.link in ready]:
                report.add(worker.outcome())
                if time.monotonic() > deadline or not worker.take(next(todo, None)):
                    busy.remove(worker)
                if sys.stdout.isatty():
                    print(f"\r{campaign.name}: {report.passed} passed", end="", flush=True)
    finally:
        for worker in workers:
            worker.stop()
    return report


class _Worker:
    """A process that runs one case after the other."""

    def __init__(self, campaign: Campaign, seed: int, full: bool, seconds: float) -> None:
        self._campaign, self._settings = campaign, (seed, full, seconds)
        self._number = -1
        self._start()

    def _start(self) -> None:
        self.link, inner = _forked.Pipe()
        self._process = _forked.Process(target=_work, args=(inner, self._campaign, *self._settings))
        self._process.start()
        inner.close()

    def take(self, number: int | None) -> bool:
        """Begin a case; says whether there was one."""
        if number is None:
            return False
        self._number = number
        self.link.send(number)
        return True

    def outcome(self) -> Outcome:
        """How the case ended that was begun last."""
        try:
            outcome: Outcome = self.link.recv()
        except EOFError:
            self._process.join()
            failure = f"the process died: exit code {self._process.exitcode}"
            self._start()
            return Outcome(self._number, failure, Counter(), {})
        return outcome

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.link.send(None)
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


def _work(link: Connection, campaign: Campaign, seed: int, full: bool, seconds: float) -> None:
    signal.signal(signal.SIGALRM, _too_long)
    while True:
        number = link.recv()
        if number is None:
            os._exit(0)  # threads that a failed case has left behind must not keep us
        link.send(_attempt(campaign, seed, number, full, seconds))


def _attempt(campaign: Campaign, seed: int, number: int, full: bool, seconds: float) -> Outcome:
    memory = _MEMORY if campaign.in_memory and "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=f"incoming-{campaign.name}-", dir=memory))
    case = Case(number, random.Random(f"{seed} {campaign.name} {number}"), folder, full, seconds)
    failure = ""
    signal.alarm(campaign.timeout)
    try:
        campaign.case(case)
    except Exception:  # noqa: BLE001 (whatever it is, the case has failed)
        failure = f"{traceback.format_exc()}its folder: {folder}"
    finally:
        signal.alarm(0)
    if not failure:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(number, failure, case.injections, case.figures)


def _too_long(*_: object) -> None:
    raise TimeoutError("the case took too long")


def show(campaign: Campaign, seed: int, report: Report, *, full: bool = False) -> None:
    """Print what was injected, what failed and how to see it again, and ``N passed, N failed``."""
    for number, failure in report.failures[:_SHOWN]:
        again = f"python -m tests.faults {campaign.name} --seed {seed} --case {number}{' --full' if full else ''}"
        print(f"\ncase {number} failed; again: {again}")
        print(failure)
    width = max(map(len, (*report.injections, *report.figures, "injected")))
    print(f"\n{'injected'.ljust(width)}  times")
    for what, times in sorted(report.injections.items()):
        print(f"{what.ljust(width)}  {times:>5,}")
    for what, values in sorted(report.figures.items()):
        ordered = sorted(values)
        median, late = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
        print(f"{what.ljust(width)}  median {median:.3f}, p95 {late:.3f}, largest {ordered[-1]:.3f}")
    print(f"{campaign.name}, seed {seed}: {report.passed:,} passed, {len(report.failures):,} failed", flush=True)
