"""``python -m tests.faults.mutate``: is each campaign able to fail?

A mutant is a patch with one deliberate fault, in ``mutants/``. Its first line names the campaign that must notice. Each
is applied to a copy of the project; the campaign, in its short form, must turn red there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from tests.support.processes import ROOT

from .campaigns import all_campaigns

#: All patches.
MUTANTS = sorted((Path(__file__).parent / "mutants").glob("*.patch"))
_CAMPAIGN = re.compile(r"campaign: (\S+)")
_VERDICT = re.compile(r"([\d,]+) passed, ([\d,]+) failed")
_LENT = ("tests/javascript/node_modules",)  # they are the same
_COPIED = ("incoming_wsgi", "assets", "deploy", "tests", "examples", "pyproject.toml", "setup.py")


def main() -> int:
    known = all_campaigns().keys()
    patches = [patch for patch in MUTANTS if _is_for(known, patch)]
    names = [patch.stem for patch in patches]
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutate", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="MUTANT", help="default: all")
    chosen = parser.parse_args().names or names
    survivors = [patch.stem for patch in patches if patch.stem in chosen and not _is_noticed(patch)]
    unwatched = known - {campaign_of(patch) for patch in patches}
    if unwatched:
        print(f"campaigns without a mutant: {', '.join(sorted(unwatched))}")
    print(f"{len(chosen) - len(survivors)} noticed, {len(survivors)} survived {' '.join(survivors)}".rstrip())
    return 1 if survivors or unwatched else 0


def _is_for(known: Collection[str], patch: Path) -> bool:
    campaign = campaign_of(patch)
    if campaign not in known:
        print(f"not run: {patch.stem}, because the campaign {campaign} is not among those that run")
    return campaign in known


def campaign_of(patch: Path) -> str:
    """The campaign that must notice it."""
    found = _CAMPAIGN.match(patch.read_text())
    assert found, f"{patch.name} must begin with «campaign: NAME»"
    return found[1]


def _is_noticed(patch: Path) -> bool:
    campaign = campaign_of(patch)
    with tempfile.TemporaryDirectory(prefix="incoming-mutant-") as folder:
        for name in _COPIED:
            _copy(ROOT / name, Path(folder) / name)
        for name in _LENT:
            if (ROOT / name).is_dir():
                (Path(folder) / name).symlink_to(ROOT / name)
        subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
        run = subprocess.run(
            [sys.executable, "-m", "tests.faults", campaign, "--seed", "2026"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder, "TMPDIR": folder},  # failed cases leave their folders
            capture_output=True,
            text=True,
            check=False,
        )
    verdict = _VERDICT.search(run.stdout)
    noticed = run.returncode == 1 and verdict is not None and verdict[2] != "0"
    says = verdict[0] if verdict else f"no verdict: {(run.stdout + run.stderr)[-1000:]}"
    print(f"{'noticed ' if noticed else 'SURVIVED'} {patch.stem} ({campaign}: {says})", flush=True)
    return noticed


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "node_modules", ".*"))
    else:
        shutil.copy2(source, target)


if __name__ == "__main__":
    sys.exit(main())
