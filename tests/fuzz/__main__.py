"""``python -m tests.fuzz [SECONDS]``: random requests, led by the code that they reach; ends with the first fault."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # where there is one: the disk would do nothing else


def main(seconds: str) -> int:
    """In a process of its own: it leaves without clearing up."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        return subprocess.run([sys.executable, "-m", "tests.fuzz.target", folder, seconds], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "300"))
