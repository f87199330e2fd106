"""A bare loop: see :mod:`bench.bare`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import ROOT

from ..load import Lane, request
from .server import Server


class Bare(Server):
    """:param loop: one of :data:`bench.bare.loops.LOOPS`.
    :param piece: bytes of a request, where a file is sent in several; 0: in one.
    """

    def __init__(self, name: str, folder: Path, loop: str, piece: int = 0) -> None:
        super().__init__(name, folder)
        self._loop = loop
        self._piece = piece

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.bare", self._loop, str(self.port), str(self.files)]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT)}

    def lanes(self, lengths: Sequence[int]) -> list[Lane]:
        return [self._lane(f"/{number}", length) for number, length in enumerate(lengths)]

    def _lane(self, path: str, length: int) -> Lane:
        piece = self._piece or length
        starts = range(0, length, piece)
        return [
            request("PUT", path, min(piece, length - start), Content_Range=f"bytes {start}-{length - 1}/{length}")
            for start in starts
        ]
