"""The laboratory itself: a case that fails, dies or hangs is seen, and can be run again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from .laboratory import Campaign, Case, Report, run, show


def flawed(case: Case) -> None:
    case.injected("roll")
    case.measured("seconds", 0.5)
    (case.folder / "left").touch()
    if case.random.random() < 0.3:
        raise AssertionError("a promise is broken")


def dying(case: Case) -> None:
    if case.number == 3:
        os._exit(7)


def hanging(case: Case) -> None:
    if case.number == 1:
        time.sleep(60)


def campaign_of(case: object, timeout: int = 60) -> Campaign:
    assert callable(case)
    return Campaign("toy", "is only played", case, short=20, full=40, timeout=timeout)


def clear(report: Report) -> None:
    for _, failure in report.failures:
        for line in failure.splitlines():
            if line.startswith("its folder: "):
                folder = Path(line.removeprefix("its folder: "))
                assert (folder / "left").exists()
                (folder / "left").unlink()
                folder.rmdir()


def test_the_same_seed_gives_the_same_cases(capsys: pytest.CaptureFixture[str]) -> None:
    campaign = campaign_of(flawed)
    first, second, other = run(campaign, 7, range(20)), run(campaign, 7, range(20)), run(campaign, 8, range(20))
    numbers = {number for number, _ in first.failures}
    assert 0 < len(numbers) < 20
    assert numbers == {number for number, _ in second.failures} != {number for number, _ in other.failures}
    assert first.injections["roll"] == 20
    one = next(iter(numbers))
    again = run(campaign, 7, [one])
    assert [number for number, _ in again.failures] == [one]
    assert "a promise is broken" in again.failures[0][1]
    show(campaign, 7, first)
    printed = capsys.readouterr().out
    assert f"seed 7: {20 - len(numbers)} passed, {len(numbers)} failed" in printed
    assert f"toy --seed 7 --case {first.failures[0][0]}" in printed
    for report in (first, second, other, again):
        clear(report)


def test_a_case_that_takes_the_process_down_has_failed_and_the_others_run() -> None:
    report = run(campaign_of(dying), 1, range(10))
    assert [(number, failure) for number, failure in report.failures] == [(3, "the process died: exit code 7")]
    assert report.passed == 9


def test_a_case_that_hangs_has_failed() -> None:
    report = run(campaign_of(hanging, timeout=1), 1, range(3))
    assert [number for number, _ in report.failures] == [1]
    assert "took too long" in report.failures[0][1]


def test_when_the_time_is_over_no_case_is_begun() -> None:
    assert run(campaign_of(lambda case: None), 1, range(1000), seconds=0).passed <= 2
