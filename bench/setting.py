"""What a run was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """:ivar rounds: that count; one more, before them, warms everything up.
    :ivar size: bytes of a large file.
    :ivar folder: in memory, so that no disk is measured.
    :ivar disk: on a disk, for what is about disks.
    """

    rounds: int
    size: int
    folder: Path
    disk: Path

    def room(self, name: str) -> Path:
        """A new folder for a scenario's servers."""
        path = self.folder / name
        path.mkdir(parents=True)
        return path

    def room_on_disk(self, name: str) -> Path:
        path = self.disk / name
        path.mkdir(parents=True)
        return path
