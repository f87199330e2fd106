"""D: what those cost that are mostly waiting: slow uploads, and WebSockets whose file is with the app."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.front_end_0_1 import FrontEnd

from ..measure import ProcessTree, ratios
from ..peers.nginx import Nginx
from ..peers.ours import Ours
from ..peers.server import Server, transfer
from ..report import Goal, Report, Table
from ..setting import Setting
from .streams import NGINX, NGINX_1M, OURS, OURS_PLAIN, ours

_UPLOADS, _RATE, _SECONDS = 200, 200_000, 12
_SOCKETS, _OPENERS = 2000, 8
_CPU, _EACH = "CPU, ms an upload and second", "memory above idle, KiB each"
_MOST_MEMORY, _MOST_CPU = 64, 2  # KiB each; times nginx
_MOST_ROUNDS = 3  # of a minute; each begins with fresh servers, and their memory hardly differs
_FIRST = 16  # uploads, after which every worker has met what there is
_LOOK, _MOST_LOOKS, _HARDLY = 0.5, 40, 256 * 1024  # seconds, looks, bytes


def slow_uploads(setting: Setting) -> Report:
    _allow_open_files(2 * _SOCKETS)
    uploads = Table("Slow uploads", [_EACH, _CPU])
    sockets = Table("Open WebSockets", [_EACH])
    for number in range(min(setting.rounds, _MOST_ROUNDS)):
        room = setting.room(f"slow-{number}")
        servers: list[Server] = [
            *ours(room, workers=2),
            Nginx(NGINX, room / "nginx", workers=2),
            Nginx(NGINX_1M, room / "nginx-1m", workers=2, buffer="1m"),
        ]
        for server in servers:
            uploads.add(server.name, *_upload(server))
        sockets.add(OURS, _open_sockets(Ours(OURS, room / "sockets", workers=2)))
    return Report(
        letter="D",
        title="Slow uploads and open WebSockets",
        about=f"{_UPLOADS} uploads at {_RATE // 1000} kB/s each, all at once, for {_SECONDS} s; and {_SOCKETS:,} "
        "WebSockets whose file has arrived and whose app has answered wait. Two worker processes. Each "
        "round starts the servers afresh: memory that was used once is seldom given back, and would look "
        "like none.",
        tables=[uploads, sockets],
        goals=[
            _memory_goal("a slow upload", uploads),
            _memory_goal("an open WebSocket", sockets),
            Goal(
                f"{OURS_PLAIN}: CPU of slow uploads beside nginx as it comes, at most {_MOST_CPU} times",
                ratios(uploads.values(OURS_PLAIN, _CPU), uploads.values(NGINX, _CPU)),
                _MOST_CPU,
                at_least=False,
            ),
        ],
        remarks=["Buffers that the kernel keeps for sockets and pipes are in nobody's memory."],
    )


def _memory_goal(what: str, table: Table) -> Goal:
    text = f"memory of {what}, at most {_MOST_MEMORY} KiB"
    return Goal(text, table.values(OURS, _EACH), _MOST_MEMORY, "KiB", at_least=False)


def _upload(server: Server) -> tuple[float, float]:
    """KiB above idle for each upload, and ms of processor time for each upload and second."""
    with server:
        idle = _idle(server)
        sample = transfer(server, [_RATE * _SECONDS] * _UPLOADS, _RATE)
    return (sample.memory - idle) / 1024 / _UPLOADS, 1000 * sample.cpu_seconds / _UPLOADS / _SECONDS


def _open_sockets(server: Ours) -> float:
    """KiB above idle for each WebSocket."""
    with server, ThreadPoolExecutor(_OPENERS) as pool:
        _idle(server)
        list(pool.map(lambda _: _waiting(server), range(_FIRST)))
        idle = _settled(server.tree)
        front_ends = list(pool.map(lambda _: _waiting(server), range(_SOCKETS)))
        grown = _settled(server.tree) - idle
        for front_end in front_ends:
            front_end.vanish()
    return grown / 1024 / _SOCKETS


def _waiting(server: Ours) -> FrontEnd:
    """A front end that has sent its file and waits for the app."""
    front_end = FrontEnd(server.url, server.ticket(wait="yes"), b"file")
    front_end.open()
    front_end.send_chunks()
    return front_end


def _idle(server: Server) -> int:
    """Bytes of a server whose workers have all started, and have met an upload."""
    _settled(server.tree)
    transfer(server, [_RATE] * _FIRST)
    return _settled(server.tree)


def _settled(tree: ProcessTree) -> int:
    """Bytes, as soon as they hardly change."""
    before, now = 0, tree.memory()
    for _ in range(_MOST_LOOKS):
        if abs(now - before) < _HARDLY:
            break
        time.sleep(_LOOK)
        before, now = now, tree.memory()
    return now


def _allow_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
