"""What all servers that are measured have in common."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support.processes import Process, free_port
from tests.support.waiting import eventually

from ..load import Lane, Sent, send
from ..measure import ProcessTree, Watch

S = TypeVar("S", bound="Server")


class Server(ABC):
    """A server in processes of its own, listening on the loopback interface.

    :param name: as the tables call it.
    :param folder: of its own; made here.
    :param workers: processes that take requests, where it has a choice.
    """

    def __init__(self, name: str, folder: Path, workers: int = 1) -> None:
        self.name = name
        self.folder = folder
        self.workers = workers
        self.port = free_port()
        self.files = folder / "files"
        self.files.mkdir(parents=True)

    @abstractmethod
    def command(self) -> list[str]:
        """How it is started."""

    @abstractmethod
    def lanes(self, lengths: Sequence[int]) -> list[Lane]:
        """Requests that send files of these lengths, each over a connection of its own.

        What has to be asked for before the first byte is asked for here, and is not measured.
        """

    def environment(self) -> Mapping[str, str]:
        """For its processes; other people's packages are not to find ours."""
        return {"PYTHONPATH": ""}

    def arrived(self, sent: Sent) -> float:
        """The moment at which the last of the files had arrived where the app wants it."""
        return sent.ended

    def clear(self) -> None:
        """Forget the files, so that memory doesn't fill up."""
        for path in self.files.iterdir():
            path.unlink()

    def __enter__(self: S) -> S:
        self._process = Process(self.command(), self.folder / "server.log", self.environment())
        eventually(self._listens, what=f"{self.name} listening")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    @property
    def tree(self) -> ProcessTree:
        return ProcessTree(self.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _listens(self) -> bool:
        assert self._process.is_running, self._process.log.read_text()[-3000:]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Sample:
    """What one transfer took.

    :ivar seconds: until the last file had arrived.
    """

    def __init__(self, seconds: float, watch: Watch, sent: Sent) -> None:
        self.seconds = seconds
        self.sent = sent
        self.memory = watch.memory
        self.cpu_seconds = watch.cpu

    @property
    def rate(self) -> float:
        """MB per second."""
        return self.sent.sent / self.seconds / 1e6

    @property
    def cpu(self) -> float:
        """Seconds of the server's processors for each GiB."""
        return self.cpu_seconds / (self.sent.sent / 2**30)

    @property
    def mebibytes(self) -> float:
        """Memory at the peak."""
        return self.memory / 2**20


def transfer(server: Server, lengths: Sequence[int], rate: float = 0) -> Sample:
    """Send files of these lengths, all at once, measure that, and clear up."""
    lanes = server.lanes(lengths)
    return measured(server, lambda: send(server.port, lanes, rate))


def measured(server: Server, sending: Callable[[], Sent]) -> Sample:
    """What it takes until all that is sent has arrived; then clear up."""
    with Watch(server.pid) as watch:
        sent = sending()
        arrived = server.arrived(sent)
    server.clear()
    return Sample(arrived - sent.began, watch, sent)
