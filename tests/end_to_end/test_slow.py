"""Slow links and servers with few workers: nobody is killed for being slow, and nobody holds up the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import requests

from tests.support.chunk_client import ChunkClient

from .conftest import RelayTo, StartServer, assert_arrived_once, data_of, sha256

DATA = data_of(1_500_000)


def test_a_slow_chunk_never_outlasts_a_sync_workers_timeout(
    start_server: StartServer, chunk_client: Callable[..., ChunkClient], relay_to: RelayTo
) -> None:
    """The only worker is killed after 6 s in one request; the chunk takes 10 s."""
    server = start_server("one-sync")
    relay = relay_to(server, 150_000)
    ticket = server.ticket()
    client = chunk_client(relay.url, ticket, DATA)
    status = client.open()
    attempts = 0
    while status["missing"]:
        attempts += 1
        with suppress(requests.ConnectionError):  # answered while we were still sending
            client.put(status["missing"][0][0], len(DATA))
        received = status["received"]
        status = client.status()
        assert status["received"] > received, "what had arrived when the server stopped listening was lost"
    assert attempts > 1
    assert_arrived_once(server, ticket, sha256(DATA))
    assert "TIMEOUT" not in server.log()


def test_a_long_poll_does_not_hold_the_only_worker(
    start_server: StartServer, chunk_client: Callable[..., ChunkClient]
) -> None:
    server = start_server("one-sync")
    client = chunk_client(server.url, server.ticket(), DATA)
    version = client.open()["version"]
    began = time.monotonic()
    params = {"wait": "20", "since": str(version)}
    assert requests.get(client.resource, params=params, timeout=30).json()["version"] == version
    assert time.monotonic() - began < 5


def test_a_long_poll_waits_where_it_can(start_server: StartServer, chunk_client: Callable[..., ChunkClient]) -> None:
    server = start_server("gthread")
    client = chunk_client(server.url, server.ticket(), DATA)
    version = client.open()["version"]
    began = time.monotonic()
    params = {"wait": "2", "since": str(version)}
    assert requests.get(client.resource, params=params, timeout=30).json()["version"] == version
    assert time.monotonic() - began > 1.9
