"""Two servers that share a registry in Redis and a bucket, and no disk: any request may go to any of them."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.chunk_client import ChunkClient
from tests.support.redis_server import RedisServer
from tests.support.s3_server import CREDENTIALS, S3Server
from tests.support.waiting import eventually

from .conftest import Connect, data_of
from .test_many_machines import Machines, machines, send_at_the_same_time

MIB = 2**20
PART = 5 * MIB
DATA = data_of(4 * PART + 123_457)

MakeClient = Callable[..., ChunkClient]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "always") as server:
        yield server


def environment(server: S3Server) -> dict[str, str]:
    return {**CREDENTIALS, "STORAGE": server.url(server.bucket(), part_size=PART)}


@pytest.fixture(scope="module", params=["gevent", "gthread", "gevent-preload"])
def both(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer,
    ceph: S3Server,
) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp(request.param)
    registry = f"{redis_server.url}?prefix=s3-{request.param}"
    with machines(folder, request.param, registry, **environment(ceph)) as both:
        yield both


def clients_of(both: Machines, ticket: str, make: MakeClient, data: bytes = DATA) -> tuple[ChunkClient, ChunkClient]:
    one, two = (make(server.url, ticket, data) for server in both.servers)
    one.open()
    two.session = one.session
    return one, two


@pytest.mark.parametrize("size", [PART, 2 * PART, 3_000_001])
def test_chunks_by_turns(both: Machines, chunk_client: MakeClient, size: int) -> None:
    ticket = both.servers[0].ticket()
    clients = clients_of(both, ticket, chunk_client)
    points = itertools.pairwise([*range(0, len(DATA), size), len(DATA)])
    for client, (start, end) in zip(itertools.cycle(clients), points, strict=False):
        answer = client.put(start, end)
        assert answer.status_code == 200, answer.text
    assert clients[0].wait(clients[0].status())["phase"] == "finished"
    both.assert_arrived_once(ticket, DATA)


def test_lanes_at_the_same_time(both: Machines, chunk_client: MakeClient) -> None:
    ticket = both.servers[1].ticket()
    cut = list(itertools.pairwise([*range(0, len(DATA), 3_500_000), len(DATA)]))
    assert send_at_the_same_time(clients_of(both, ticket, chunk_client), cut) == []
    both.assert_arrived_once(ticket, DATA)


def test_small_files(both: Machines, chunk_client: MakeClient) -> None:
    for size in (0, 1, 100_000, 300_000):
        ticket = both.servers[0].ticket()
        data = DATA[:size]
        client = chunk_client(both.servers[1].url, ticket, data)
        assert client.wait(client.send(client.open(data)))["phase"] == "finished"
        both.assert_arrived_once(ticket, data)


def test_a_websocket(both: Machines, connect: Connect) -> None:
    """Of a front end of 0.1, which waits for acknowledgements after each 2 MiB."""
    ticket = both.servers[0].ticket()
    front_end = connect(both.servers[1].url, ticket, DATA[: PART + 1_000_000])
    front_end.open()
    front_end.send_chunks()
    both.assert_arrived_once(ticket, DATA[: PART + 1_000_000])


def test_one_machine_dies_in_the_middle_of_a_chunk(
    tmp_path: Path, redis_server: RedisServer, ceph: S3Server, chunk_client: MakeClient
) -> None:
    """The other one goes on with what was acknowledged, and with what S3 had of the rest."""
    with machines(tmp_path, "gevent", f"{redis_server.url}?prefix=s3-dying", **environment(ceph)) as both:
        one, two = both.servers
        ticket = one.ticket()
        client = chunk_client(one.url, ticket, DATA)
        client.open()
        assert client.put(0, PART + 1_000).status_code == 200

        sending = threading.Thread(target=lambda: _slowly(client, PART + 1_000, len(DATA)), daemon=True)
        sending.start()
        eventually(lambda: chunk_client(two.url, ticket, DATA).status()["received"] > PART + 1_000)
        one.kill()
        client = chunk_client(two.url, ticket, DATA)
        assert PART + 1_000 < client.open()["offset"] < len(DATA)
        assert client.upload()["phase"] == "finished"
        both.assert_arrived_once(ticket, DATA)


def _slowly(client: ChunkClient, start: int, end: int) -> None:
    """A chunk of which the last bytes never come."""
    address = urlsplit(client.resource)
    with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
        connection.sendall(client.head(start, end))
        for position in range(start, end - 100_000, 100_000):
            try:
                connection.sendall(client.data[position : position + 100_000])
            except OSError:
                return
            time.sleep(0.02)
        connection.settimeout(30)
        connection.recv(1)
