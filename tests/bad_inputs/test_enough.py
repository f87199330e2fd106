"""Enough is tried, and it is tried everywhere: what was asked for at the beginning, counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.delivery.test_targets import INWARD
from tests.support.processes import ROOT
from tests.test_downloads import HOSTILE

from .conftest import EVERYWHERE
from .test_header_payloads import PAYLOADS, READ_BY
from .test_http import ODD_IDS

HERE = Path(__file__).parent
TRIED_EVERYWHERE = ("test_raw.py", "test_dialects.py", "test_backend.py", "test_assets.py")


def test_cases() -> None:
    files = [str(HERE / name) for name in TRIED_EVERYWHERE]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    tried = {way: {line.replace(way, "", 1) for line in listed if way in _words(line)} for way in EVERYWHERE}
    assert len(set.intersection(*tried.values())) >= 300


def _words(line: str) -> list[str]:
    """Of a test's name, the values of its parameters."""
    return line.partition("[")[2].rstrip("]").split("-")


def test_payloads() -> None:
    assert len(set(INWARD)) >= 60
    assert len(set(ODD_IDS.values())) >= 40
    assert len(set(HOSTILE)) >= 120
    assert len(set(PAYLOADS)) >= 40
    assert len({header for header, *_ in READ_BY}) >= 40
