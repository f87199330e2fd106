"""Each campaign has a mutant that fits the code as it is; whether it is noticed is told by ``make mutants``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT

from .campaigns import all_campaigns
from .mutate import MUTANTS, campaign_of


@pytest.mark.parametrize("patch", MUTANTS, ids=lambda patch: str(patch.stem))
def test_a_mutant_fits(patch: Path) -> None:
    subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, check=True)


def test_each_campaign_has_one() -> None:
    assert {campaign_of(patch) for patch in MUTANTS} == set(all_campaigns())
