"""Where a server's time goes, by sampling its processes (py-spy); for what happens meanwhile, which it slows down."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from .peers.ours import Ours
from .peers.server import Server
from .programs import TOOLS
from .report import Table

_PROGRAM = TOOLS / "venv" / "bin" / "py-spy"
_PER_SECOND = 250
_TIMES = 3
_STARTING = 1.5  # seconds until it samples
_PATIENCE = 60.0  # seconds for it to write down what it found
_OURS = "incoming_wsgi."
_PART = "part of the busy time, %"
_LEAST = 0.03  # of the time; what takes less is thrown together

#: Innermost frames of threads that wait for work, which the sampler can't tell from work.
_WAITING = ("gevent/_threading.py", "gevent/hub.py", "gunicorn/arbiter.py")

_FRAME = re.compile(r"\(([^()]+):\d+\)$")


def profiles(servers: Iterable[Server], work: Callable[[Ours], object]) -> list[Table]:
    """Where ours spend the time in which they are busy with ``work``; none where sampling isn't allowed."""
    tables = []
    for server in servers:
        if isinstance(server, Ours) and (parts := parts_of(_stacks(server.pid, partial(work, server)))):
            tables.append(Table(f"Where the time goes: {server.name}", [_PART]))
            for module, part in parts.items():
                tables[-1].add(module, 100 * part)
    return tables


def _stacks(pid: int, work: Callable[[], object]) -> str:
    """Lines of frames, outermost first, separated by semicolons, and a count."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "stacks"
        options = ["--format", "raw", "--rate", str(_PER_SECOND), "--subprocesses", "--output", str(output)]
        command = [str(_PROGRAM), "record", *options, "--pid", str(pid)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as sampler:
            time.sleep(_STARTING)
            for _ in range(_TIMES):
                work()
            sampler.send_signal(signal.SIGINT)
            sampler.wait(_PATIENCE)
        return output.read_text() if output.exists() else ""


def parts_of(stacks: str) -> dict[str, float]:
    """Parts of the busy time by module, largest first."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        files = [found[1] for frame in frames.split(";") if (found := _FRAME.search(frame))]
        if files and files[-1] not in _WAITING:
            counts[_module(files)] += int(count)
    total = counts.total()
    if not total:
        return {}
    parts = {module: count / total for module, count in counts.most_common() if count >= _LEAST * total}
    return {**parts, "everything else": 1 - sum(parts.values())}


def _module(files: list[str]) -> str:
    """Who is to blame for a sample: our innermost module, else the package of the innermost frame."""
    modules = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in reversed(files)]
    ours = [module for module in modules if module.startswith(_OURS)]
    return ours[0] if ours else modules[0].partition(".")[0]
