"""Real servers in processes of their own, started and stopped, and killed, by the tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]

#: name → arguments of gunicorn; the others are started by serve.py.
GUNICORN: Mapping[str, tuple[str, ...]] = {
    "gevent": ("-k", "gevent", "-w", "2"),
    "gevent-preload": ("-k", "gevent", "-w", "2", "--preload"),
    "gthread": ("-k", "gthread", "-w", "2", "--threads", "8"),
    "sync": ("-k", "sync", "-w", "2"),
    "one-sync": ("-k", "sync", "-w", "1", "--timeout", "6"),
    "geventwebsocket": ("-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "-w", "2"),
    "gevent-pywsgi": ("-k", "gevent_pywsgi", "-w", "2"),
}
OTHERS = ("pywsgi", "werkzeug", "waitress", "cheroot")


_given: set[int] = set()  # ports: what is to listen there may not do so yet when the next one is asked for


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


class Process:
    """A process with its children, its output in a file."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def kill(self) -> None:
        """All of it, at once, with -9: as a power switch would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self, timeout: float = 15) -> None:
        """By SIGTERM; what does not end in time is killed, and that is an error."""
        deadline = time.monotonic() + timeout
        self._popen.terminate()
        try:
            while not self._has_ended_within(1):
                assert time.monotonic() < deadline, f"it did not end within {timeout} s: {self.log.read_text()[-2000:]}"
                self._tell_children()
        finally:
            self.kill()

    def _has_ended_within(self, seconds: float) -> bool:
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _tell_children(self) -> None:
        """Once more: a worker of gunicorn's that had just been started has missed what its master said."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


class Server(ABC):
    """A program that listens at :attr:`port`, started and stopped, and killed, by the tests.

    :param name: what people call it.
    :param folder: where everything is kept; a server that is started again in it goes on.
    :param env: for its processes.
    :ivar process: it, while it runs.
    """

    def __init__(self, name: str, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._name = name
        self.folder = folder
        self.port = free_port()
        self.process: Process | None = None
        self._env = dict(env or {})
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> Self:
        self.process = Process(self._command(), self.folder / "server.log", self._env)
        try:
            eventually(self._is_up, what=f"{self._name} answering")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None

    def kill(self) -> None:
        """Every process of it, with -9."""
        assert self.process is not None
        self.process.kill()
        self.process = None

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it can be used by now."""

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.is_running, self.log()[-3000:]
        return self._answers()


class AppServer(Server):
    """An app, by default the recording one, under a real server.

    :param kind: a key of :data:`GUNICORN`, or one of :data:`OTHERS`.
    :param folder: where everything is kept; a server that is started again in it goes on.
    :param env: for its processes; a ``SCRIPT_NAME`` is where gunicorn mounts the app.
    :param app: the app, as gunicorn writes it.
    :param options: further ones of gunicorn's.
    :param host: the address that gunicorn listens at.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        app: str = "tests.support.recording_app:app",
        options: tuple[str, ...] = (),
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(kind, folder, {"RECORD": str(folder), **(env or {})})
        self.kind = kind
        self._app = app
        self._options = options
        self._host = host
        self.url = f"http://127.0.0.1:{self.port}{self._env.get('SCRIPT_NAME', '')}"

    def workers(self) -> list[int]:
        assert self.process is not None
        return self.process.children() or [self.process.pid]

    def kill_a_worker(self) -> None:
        """The busiest one, with -9; the master starts another."""
        victim = max(self.workers(), key=_cpu_time)
        os.kill(victim, signal.SIGKILL)

    def busy_workers(self) -> list[int]:
        """Those that have a connection of a client's."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        here, established = f":{self.port:04X}", "01"
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(here) and row[3] == established}
        return [pid for pid in self.workers() if sockets & _open_files(pid)]

    def _command(self) -> list[str]:
        if self.kind in GUNICORN:
            bind = ("--bind", f"{self._host}:{self.port}", "--no-control-socket")
            options = [*GUNICORN[self.kind], *self._options, *bind]
            return [sys.executable, "-m", "gunicorn", *options, self._app]
        return [sys.executable, "-m", "tests.support.serve", self.kind, str(self.port), self._app]

    def _answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/incoming/ready", timeout=5).ok
        return False

    # -- what the app was told --------------------------------------------------------------------------------

    def ticket(self, target: str = "", **metadata: str) -> str:
        response = requests.post(f"{self.url}/ticket", params={"target": target}, data=metadata, timeout=10)
        response.raise_for_status()
        return response.text

    def events(self, ticket: str) -> list[dict[str, Any]]:
        """What the app was told of an upload."""
        return records_of(self.folder / "events", ticket)

    def file(self, ticket: str) -> Path:
        """Where the app has put the file."""
        return self.folder / "files" / ticket

    def wait_for_file(self, ticket: str, timeout: float = 60) -> Path:
        return eventually(
            lambda: self.file(ticket) if self.file(ticket).exists() else None, timeout, f"the file of {ticket}"
        )


def records_of(path: Path, upload_id: str) -> list[dict[str, Any]]:
    """What a file of JSON lines tells of an upload, in order; a file that is not there tells nothing."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["id"] == upload_id]


@contextlib.contextmanager
def standing_still(pids: Iterable[int]) -> Iterator[None]:
    """Meanwhile these processes do nothing: new connections go to others."""
    stopped = list(pids)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def _cpu_time(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _open_files(pid: int) -> set[str]:
    """What the descriptors of a process stand for, as the kernel calls it."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(str(descriptor.readlink()))
    return found


def memory_of(pids: list[int]) -> int:
    """Anonymous resident memory of some processes, in bytes: the page cache does not count."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
    return total
