"""The C programs beside this file, compiled on the spot, and the place where all of the bench's tools are kept."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / ".bench"


@cache
def compiled(name: str) -> str:
    """The path of a program; compiled if its source is newer."""
    source, program = HERE / f"{name}.c", TOOLS / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        TOOLS.mkdir(exist_ok=True)
        command = ["gcc", "-O2", "-Wall", "-o", str(program), str(source), "-lpthread"]
        subprocess.run(command, check=True)
    return str(program)
