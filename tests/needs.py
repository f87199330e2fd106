"""What a test needs from the machine."""

from __future__ import annotations

import os
import shutil

import pytest

# Debian keeps servers where the path of an ordinary user does not look.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def need(program: str) -> str:
    """The path of ``program``; without it the test is left out, loudly (under CI it fails: conftest.py)."""
    found = shutil.which(program, path=_PATH)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found
