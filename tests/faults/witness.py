"""What happened, told by the processes that it happened to, in a file that survives them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Witness:
    """:param path: one file, for all processes; each makes its own ``Witness``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def tell(self, what: str, **facts: Any) -> None:
        """Write it down; when this returns, a ``kill -9`` does not undo it."""
        # The first line end is for a line before it that a kill has torn.
        os.write(self._file, b"\n" + json.dumps({"what": what, **facts}).encode() + b"\n")

    def told(self, what: str) -> Iterator[dict[str, Any]]:
        """All of that kind, in order."""
        beginning = json.dumps({"what": what})[:-1].encode()
        for line in self._path.read_bytes().splitlines():
            if line.startswith(beginning) and line.endswith(b"}"):
                yield json.loads(line)

    def close(self) -> None:
        """Say no more."""
        os.close(self._file)
