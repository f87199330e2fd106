"""The short runs. The long ones: ``make fuzz``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from incoming_wsgi.protocols import tus
from incoming_wsgi.wire.frames import Frames
from tests.support.processes import ROOT

from .__main__ import TARGETS, by_chance

_MOST_GROWTH = 50  # MiB


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_raised_and_nothing_is_kept(target: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", target, "--count", "50000", "--seed", "2026"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr)[-5000:]
    found = re.search(r"^([0-9,]+) .* grew by ([0-9]+) MiB", run.stdout, re.MULTILINE)
    assert found, run.stdout
    assert int(found[1].replace(",", "")) >= 50_000
    assert int(found[2]) < _MOST_GROWTH


#: What a fault raises, and where it stands.
FAULTS: dict[str, tuple[str, object, str, Callable[..., object]]] = {
    "text that is no UTF-8": ("frames", Frames, "_decoded", lambda self: iter([bytes(self._text).decode()])),
    "a length taken on trust": ("requests", tus, "natural", lambda text, header: int(text)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, place, function, wrong = FAULTS[fault]
    monkeypatch.setattr(place, function, wrong)
    target = TARGETS[name](tmp_path)
    try:
        with pytest.raises((ValueError, AssertionError)):
            by_chance(target, 2026, 50_000)
    finally:
        target.close()
    assert "after" in capsys.readouterr().out
