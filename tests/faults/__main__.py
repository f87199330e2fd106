"""``python -m tests.faults``: run campaigns, or one case again."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time

from . import laboratory
from .campaigns import all_campaigns
from .laboratory import Campaign


def main() -> int:
    options = _options()
    chosen = [campaign for name, campaign in all_campaigns().items() if not options.names or name in options.names]
    if options.list:
        for campaign in chosen:
            print(f"{campaign.name:16} {campaign.about}")
        return 0
    print(f"seed {options.seed}", flush=True)
    good = True
    for index, campaign in enumerate(chosen):
        good = _run(campaign, options, len(chosen) - index) and good
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*all_campaigns(), []], metavar="CAMPAIGN", help="default: all")
    parser.add_argument("--list", action="store_true", help="tell which campaigns there are")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9), help="default: a new one")
    parser.add_argument("--full", action="store_true", help="the long campaigns; default: the short ones of the tests")
    parser.add_argument("--count", type=int, help="cases of each campaign")
    parser.add_argument("--minutes", type=float, default=0, help="how long it may take in all; default: no limit")
    parser.add_argument("--case", type=int, help="only the case with this number")
    options = parser.parse_args()
    options.deadline = time.monotonic() + options.minutes * 60 if options.minutes else float("inf")
    return options


def _run(campaign: Campaign, options: argparse.Namespace, still_to_run: int) -> bool:
    """Run one campaign; says whether all is well."""
    print(f"\n== {campaign.name}: {campaign.about}", flush=True)
    missing = campaign.missing()
    if missing:
        print(f"!! {campaign.name} DID NOT RUN: {missing}", flush=True)
        return os.environ.get("CI") != "true"
    count = options.count or (campaign.full if options.full else campaign.short)
    numbers = range(count) if options.case is None else [options.case]
    seconds = max(0.0, options.deadline - time.monotonic()) / still_to_run
    began = time.monotonic()
    report = laboratory.run(campaign, options.seed, numbers, full=options.full, seconds=seconds)
    laboratory.show(campaign, options.seed, report, full=options.full)
    print(f"{report.passed + len(report.failures):,} of {len(numbers):,} cases in {time.monotonic() - began:.0f} s")
    return not report.failures and report.passed > 0


if __name__ == "__main__":
    sys.exit(main())
