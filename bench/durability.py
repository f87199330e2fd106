"""What a durability mode costs: the same uploads to two servers, one in each mode, round by round.

``python -m bench.durability [--folder DIR] [--rounds 5]``. The folder must be on the kind of disk that is asked about:
in memory both modes are equal. The clients are plain Python, so the figures are for comparing, not for boasting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.support.chunk_client import ChunkClient
from tests.support.front_end_0_1 import FrontEnd
from tests.support.processes import AppServer

MIB = 2**20
MODES = ("process", "fsync")

Load = Callable[[AppServer], int]


def one_large_file_over_a_websocket(server: AppServer) -> int:
    return _by_websocket(server, _data(256 * MIB))


def one_large_file_over_http(server: AppServer) -> int:
    return _by_http(server, _data(256 * MIB))


def many_files_over_websockets(server: AppServer) -> int:
    return _at_once(32, lambda: _by_websocket(server, _data(8 * MIB)))


def many_files_over_http(server: AppServer) -> int:
    return _at_once(32, lambda: _by_http(server, _data(8 * MIB), chunk=MIB))


def small_files(server: AppServer) -> int:
    """Each in one request."""
    return _at_once(200, lambda: _in_one_request(server, _data(64 * 1024)), lanes=16)


LOADS: Mapping[str, Load] = {
    "1 file of 256 MiB, WebSocket of 0.1": one_large_file_over_a_websocket,
    "1 file of 256 MiB, chunks of 8 MiB": one_large_file_over_http,
    "32 files of 8 MiB at once, WebSockets": many_files_over_websockets,
    "32 files of 8 MiB at once, chunks of 1 MiB": many_files_over_http,
    "200 files of 64 KiB, 16 at once": small_files,
}


def _data(size: int) -> bytes:
    return os.urandom(MIB)[: min(size, MIB)] * max(1, size // MIB)


def _by_websocket(server: AppServer, data: bytes) -> int:
    front_end = FrontEnd(server.url, server.ticket(), data)
    front_end.upload()
    return len(data)


def _by_http(server: AppServer, data: bytes, chunk: int = 8 * MIB) -> int:
    ticket = server.ticket()
    client = ChunkClient(server.url, ticket, data)
    client.open()
    for start in range(0, len(data), chunk):
        client.put(start, min(start + chunk, len(data))).raise_for_status()
    server.wait_for_file(ticket)
    client.http.close()
    return len(data)


def _in_one_request(server: AppServer, data: bytes) -> int:
    ticket = server.ticket()
    client = ChunkClient(server.url, ticket, data)
    client.open(data)
    server.wait_for_file(ticket)
    client.http.close()
    return len(data)


def _at_once(number: int, upload: Callable[[], int], lanes: int = 32) -> int:
    with ThreadPoolExecutor(lanes) as pool:
        return sum(pool.map(lambda _: upload(), range(number)))


def measure(load: Load, server: AppServer) -> float:
    """MB per second, from the first ticket until the app has the last file."""
    began = time.monotonic()
    size = load(server)
    took = time.monotonic() - began
    for file in (server.folder / "files").iterdir():
        file.unlink()
    return size / took / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name, ExitStack() as stack:
        servers = {}
        for mode in MODES:
            (Path(name) / mode).mkdir()
            server = AppServer("gevent", Path(name) / mode, {"INCOMING_DURABILITY": mode})
            servers[mode] = stack.enter_context(server)
        print(f"MB/s, median of {options.rounds} (smallest to largest); load average {os.getloadavg()[0]:.1f}")
        for about, load in LOADS.items():
            report(about, load, servers, options.rounds)


def report(about: str, load: Load, servers: Mapping[str, AppServer], rounds: int) -> None:
    speeds: dict[str, list[float]] = {mode: [] for mode in servers}
    for number in range(rounds):
        for mode in sorted(servers, reverse=bool(number % 2)):
            speeds[mode].append(measure(load, servers[mode]))
    ratios = [fsync / process for process, fsync in zip(speeds["process"], speeds["fsync"], strict=True)]
    figures = ", ".join(
        f"{mode} {statistics.median(found):.1f} ({min(found):.1f} to {max(found):.1f})"
        for mode, found in speeds.items()
    )
    print(f"{about}: {figures}; fsync/process {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
