"""Each campaign in its short form. The long one: ``make torture``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.processes import ROOT

from .campaigns import all_campaigns
from .laboratory import Campaign

_SEED = 2026
_AT_ONCE = 2  # some of them wait for most of their time

Run = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Mapping[str, Future[Run]]]:
    """The campaigns that are among the chosen tests, under way."""
    tests = [item for item in request.session.items if isinstance(item, pytest.Function)]
    mine = [test for test in tests if test.originalname == test_no_promise_is_broken.__name__]
    chosen = [all_campaigns()[test.callspec.id] for test in mine]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {campaign.name: pool.submit(_run, campaign) for campaign in chosen if not campaign.missing()}
        pool.shutdown(wait=False, cancel_futures=True)


def _run(campaign: Campaign) -> Run:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", campaign.name, "--seed", str(_SEED)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("campaign", all_campaigns().values(), ids=all_campaigns().keys())
def test_no_promise_is_broken(campaign: Campaign, runs: Mapping[str, Future[Run]]) -> None:
    missing = campaign.missing()
    if missing:
        pytest.skip(missing)
    run = runs[campaign.name].result()
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-8000:]
    assert f"{campaign.name}, seed {_SEED}: " in run.stdout
