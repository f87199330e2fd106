"""However long the file: what the server holds of it in memory is small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.chunk_client import ChunkClient
from tests.support.front_end_0_1 import FrontEnd
from tests.support.processes import AppServer, memory_of

from .conftest import StartServer, data_of

GIB = 1 << 30
LENGTH = 5 * GIB
MOST_GROWTH = 50_000_000  # bytes


class Endless:
    """So many bytes, without holding them: a slice is the same for every position."""

    def __init__(self, length: int, piece: bytes) -> None:
        self._length = length
        self._piece = piece

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice) -> bytes:
        return self._piece[: where.stop - where.start]


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_five_gibibytes(
    start_server: StartServer,
    chunk_client: Callable[..., ChunkClient],
    connect: Callable[..., FrontEnd],
    transport: str,
) -> None:
    server = start_server()
    ticket = server.ticket()
    before = _memory(server)
    most = 0

    def watch() -> None:
        nonlocal most
        most = max(most, _memory(server))

    data: Any = Endless(LENGTH, data_of(64 << 20))
    if transport == "http":
        client = chunk_client(server.url, ticket, data)
        status = client.open()
        for start in range(0, LENGTH, client.chunk_size):
            status = client.answer(client.put(start, min(start + client.chunk_size, LENGTH)))
            watch()
        assert client.wait(status)["phase"] == "finished"
    else:
        front_end = connect(server.url, ticket, data)
        front_end.open()
        for until in range(64 << 20, LENGTH + 1, 64 << 20):
            front_end.send_chunks(until)
            watch()
        front_end.finish()
    watch()
    assert server.wait_for_file(ticket).stat().st_size == LENGTH
    server.file(ticket).unlink()
    assert most - before < MOST_GROWTH, f"grew by {(most - before) / 1e6:.0f} MB"


def _memory(server: AppServer) -> int:
    assert server.process is not None
    return memory_of([server.process.pid, *server.workers()])
