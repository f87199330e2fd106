"""Each campaign in its short form. The long one: ``make torture``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.processes import ROOT

from .campaigns import all_campaigns
from .laboratory import Campaign

_SEED = 2026


@pytest.mark.parametrize("campaign", all_campaigns().values(), ids=all_campaigns().keys())
def test_no_promise_is_broken(campaign: Campaign) -> None:
    missing = campaign.missing()
    if missing:
        pytest.skip(missing)
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults", campaign.name, "--seed", str(_SEED)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout[-8000:]
    assert f"{campaign.name}, seed {_SEED}: " in run.stdout
