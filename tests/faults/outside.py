"""Uploads by clients in processes of their own: pages in Chromium, with our library, and tus-js-client in node."""

from __future__ import annotations

import shutil
import sys
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from tests.support.processes import ROOT, Process

from .senders import Forgotten, Sender

_LOOK = 0.1  # seconds


class OutsideSender(Sender):
    """One that comes again by itself. It prints what was acknowledged, and at last how it ended.

    :param folder: its own, for the file and for what is printed.
    """

    def __init__(self, *args: Any, folder: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        folder.mkdir()
        self._folder = folder
        self._file = folder / "file.bin"
        self._file.write_bytes(self.data)

    def _upload(self) -> None:
        log = self._folder / f"{self.ticket}.log"
        process = Process([*self._there(), *self._command()], log)
        try:
            while process.is_running and not self._given_up:
                self._note(log)
                time.sleep(_LOOK)
        finally:
            process.kill()
        self._note(log)
        word = log.read_text().rstrip().rpartition("\n")[2]
        if word == "forgotten":
            raise Forgotten
        assert word == "finished", log.read_text()[-3000:]

    def _note(self, log: Path) -> None:
        """A line may just be written."""
        lines = log.read_text().splitlines()[:-1]
        self.acknowledged = max((int(line) for line in lines if line.isdecimal()), default=0)

    def _there(self) -> list[str]:
        return [] if self._network is None else ["ip", "netns", "exec", self._network.name]

    @abstractmethod
    def _command(self) -> list[str]: ...


class PageSender(OutsideSender):
    """A page in Chromium. Our library makes the chunks; as many bytes go out a second as ours are to do."""

    def _command(self) -> list[str]:
        rate = str(int(self._chunk / max(self._pause, 0.01)))
        return [sys.executable, "-m", "tests.support.page_sender", self._url, self.ticket, str(self._file), rate]


class TusJsSender(OutsideSender):
    """tus-js-client in node."""

    def _command(self) -> list[str]:
        uploads = f"{self._url}/incoming/frontend/uploads"
        script = str(ROOT / "tests" / "support" / "tus_sender.mjs")
        about = [f"{uploads}?ticket={self.ticket}", f"{uploads}/{self.ticket}", str(self._file)]
        return ["node", script, *about, str(self._chunk), str(int(self._pause * 1000))]


OUTSIDE_SENDERS: tuple[type[OutsideSender], ...] = (PageSender, TusJsSender)


def missing() -> str:
    """What this machine lacks for them; empty when there is nothing."""
    for program in ("chromium", "node"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not (ROOT / "tests" / "javascript" / "node_modules" / "tus-js-client").is_dir():
        return "tus-js-client is not installed: make javascript"
    return ""
