"""Processes killed with -9 at any moment, uploads that nobody goes on with, and two front ends that want the same one.

No browser: plain clients, which come back at once, so that there is time for many moments.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from incoming_wsgi.registry import from_url
from incoming_wsgi.upload import State
from tests.support.chunk_client import ChunkClient
from tests.support.front_end_0_1 import FrontEnd
from tests.support.processes import AppServer, standing_still
from tests.support.stubborn import STUBBORN
from tests.support.waiting import eventually

from .conftest import Connect, OpenPage, RelayTo, StartServer, assert_arrived_once, data_of, sha256

MIB = 1 << 20

DATA = data_of(7_500_001)

MakeClient = Callable[..., ChunkClient]

transports = pytest.mark.parametrize("transport", STUBBORN)
victims = pytest.mark.parametrize("victim", ["worker", "server"])


@dataclass
class Killing:
    """Kills processes while a ticket's file is on its way.

    :param victim: ``worker``: who has the client's connection; ``server``: all, and starts it again.
    """

    server: AppServer
    ticket: str
    victim: str
    delay: float = 0.0
    calls: int = 0  # that the app had got by then
    state: State | None = None  # that the upload was in, where it could be seen

    def __call__(self) -> None:
        time.sleep(self.delay)
        if self.victim == "worker":
            for pid in self.server.busy_workers():
                os.kill(pid, signal.SIGKILL)
            self.calls = len(self.server.events(self.ticket))
        else:
            self.server.kill()
            self.calls = len(self.server.events(self.ticket))
            self.state = self._state()
            self.server.start()

    def assert_calls(self) -> None:
        """A second call came only if the kill fell between the first one and its record."""
        calls = len(self.server.events(self.ticket))
        if self.victim == "server":
            assert calls == self.calls + (self.state is not State.FINISHED)
        else:
            assert calls <= self.calls + 1

    def _state(self) -> State:
        registry = from_url(f"sqlite://{self.server.folder / 'incoming' / 'registry.sqlite3'}")
        try:
            upload = registry.get(self.ticket)
            assert upload is not None
            return upload.state
        finally:
            registry.close()


@transports
@victims
@pytest.mark.parametrize("seed", range(4))
def test_killed_while_bytes_arrive(lasting: AppServer, transport: str, victim: str, seed: int) -> None:
    chance = random.Random(f"{transport} {victim} {seed}")
    ticket = lasting.ticket()
    client = STUBBORN[transport](lasting.url, ticket, DATA)
    for at in sorted(chance.sample(range(len(DATA) // 2), 2)):
        client.be_struck(at, Killing(lasting, ticket, victim, delay=chance.uniform(0, 0.02)))
    client.finish()
    assert_arrived_once(lasting, ticket, sha256(DATA))


@transports
@victims
@pytest.mark.parametrize("seed", range(6))
def test_killed_between_the_last_byte_and_the_end(lasting: AppServer, transport: str, victim: str, seed: int) -> None:
    chance = random.Random(f"{transport} {victim} {seed}")
    ticket = lasting.ticket()
    client = STUBBORN[transport](lasting.url, ticket, DATA)
    killing = Killing(lasting, ticket, victim, delay=chance.uniform(0, 0.06))
    client.be_struck(len(DATA) - 200_000, killing)
    client.finish()
    assert_arrived_once(lasting, ticket, sha256(DATA), calls=2)
    killing.assert_calls()


@transports
@victims
def test_killed_while_the_app_takes_the_file(lasting: AppServer, transport: str, victim: str) -> None:
    ticket = lasting.ticket(leisure="0.5")
    client = STUBBORN[transport](lasting.url, ticket, DATA)

    def kill_in_the_call() -> None:
        eventually(lambda: lasting.events(ticket), what="the call")
        Killing(lasting, ticket, victim)()

    client.be_struck(len(DATA) - 200_000, kill_in_the_call)
    client.finish()
    assert_arrived_once(lasting, ticket, sha256(DATA), calls=2)
    assert len(lasting.events(ticket)) == 2


def test_what_is_idle_expires_and_what_is_handed_over_does_not(
    start_server: StartServer, connect: Connect, chunk_client: MakeClient
) -> None:
    server = start_server(INCOMING_IDLE_TIMEOUT="4")
    unused, begun, paused = server.ticket(), server.ticket(), server.ticket()
    _send_some(connect(server.url, begun, DATA)).vanish()
    _send_some(connect(server.url, paused, DATA)).pause()
    waiting, taking = server.ticket(answer="wait"), server.ticket(leisure="9")
    for ticket in (waiting, taking):
        client = chunk_client(server.url, ticket, DATA)
        client.send(client.open())

    for ticket in (unused, begun, paused):
        event = _first_event(server, ticket)
        assert event["kind"] == "cancelled"
        assert chunk_client(server.url, ticket, DATA).status()["state"] == "expired"
    eventually(lambda: not list((server.folder / "incoming" / "arriving").iterdir()), what="the bytes being deleted")

    assert chunk_client(server.url, waiting, DATA).status()["state"] == "waiting_for_app"
    requests.post(f"{server.url}/finish/{waiting}", timeout=5).raise_for_status()
    assert_arrived_once(server, taking, sha256(DATA))
    assert [len(server.events(ticket)) for ticket in (unused, begun, paused, waiting, taking)] == [1] * 5


def test_lanes_on_two_workers_share_a_session(start_server: StartServer, chunk_client: MakeClient) -> None:
    server = start_server()
    ticket = server.ticket()
    here = chunk_client(server.url, ticket, DATA)
    here.open()
    there = chunk_client(server.url, ticket, DATA)
    there.session = here.session
    with standing_still(server.busy_workers()):
        there.status()
    assert len(server.busy_workers()) == 2
    edges = [*range(0, len(DATA), 500_000), len(DATA)]
    pieces = list(itertools.pairwise(edges))
    with ThreadPoolExecutor(2) as lanes:
        answers = [lanes.submit(_put_all, here, pieces[::2]), lanes.submit(_put_all, there, pieces[1::2])]
    assert {status for answer in answers for status in answer.result()} == {200}
    assert_arrived_once(server, ticket, sha256(DATA))


def test_a_newer_opening_on_another_worker_shuts_the_older_chunks_out(
    start_server: StartServer, chunk_client: MakeClient
) -> None:
    server = start_server()
    ticket = server.ticket()
    old, new = (chunk_client(server.url, ticket, DATA) for _ in range(2))
    old.open()
    assert old.put(0, 1_000_000).status_code == 200
    with standing_still(server.busy_workers()):
        assert new.open()["offset"] == 1_000_000
    refused = old.put(1_000_000, 2_000_000)
    assert refused.status_code == 409
    assert refused.json()["error"]["name"] == "replaced"
    assert new.status()["offset"] == 1_000_000
    assert new.upload()["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


def test_a_newer_opening_on_another_worker_shuts_the_older_websocket_out(
    start_server: StartServer, connect: Connect, chunk_client: MakeClient
) -> None:
    """At once, though it is silent; what it still sends does not count."""
    server = start_server()
    ticket = server.ticket()
    old = _send_some(connect(server.url, ticket, DATA))
    new = chunk_client(server.url, ticket, DATA)
    with standing_still(server.busy_workers()):
        assert new.open()["offset"] == old.acked
    began = time.monotonic()
    assert old.closing_code() == 1012
    assert time.monotonic() - began < 1
    assert new.upload()["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


def _first_event(server: AppServer, ticket: str) -> dict[str, Any]:
    return eventually(lambda: server.events(ticket), 30, "the app hearing of it")[0]


def _send_some(front_end: FrontEnd) -> FrontEnd:
    front_end.open()
    front_end.send_chunks(1_000_000)
    return front_end


def _put_all(client: ChunkClient, pieces: list[tuple[int, int]]) -> list[int]:
    return [client.put(*piece).status_code for piece in pieces]


# -- a disk that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["process", "fsync"])
@transports
def test_both_modes(start_server: StartServer, transport: str, durability: str) -> None:
    server = start_server(INCOMING_DURABILITY=durability)
    ticket = server.ticket()
    client = STUBBORN[transport](server.url, ticket, DATA)
    client.be_struck(len(DATA) // 2, Killing(server, ticket, "worker"))
    client.finish()
    assert_arrived_once(server, ticket, sha256(DATA))


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_bytes_that_a_disk_has_lost_are_sent_again(
    start_server: StartServer, open_page: OpenPage, file_of: Callable[[int], Path], relay_to: RelayTo, transport: str
) -> None:
    """As when a sync fails: what came after the last good one is taken back, while the browser goes on sending."""
    server = start_server()
    ticket = server.ticket()
    relay = relay_to(server, 40 * MIB)
    page = open_page(relay.url)
    page.upload(file_of(60 * MIB), ticket, transport)
    page.wait_for_bytes(20 * MIB)
    _take_back(server, ticket)
    page.wait_until_finished()
    assert relay.passed > 75 * MIB
    assert_arrived_once(server, ticket, sha256(file_of(60 * MIB)))


def _take_back(server: AppServer, ticket: str) -> None:
    """What the engine records when a disk has failed; nothing of so short a file has been synced yet."""
    registry = from_url(f"sqlite://{server.folder / 'incoming' / 'registry.sqlite3'}")
    upload = registry.get(ticket)
    assert upload is not None
    after = upload.to(State.RECEIVING, epoch=upload.epoch + 1, session="")
    assert registry.save(upload, after, back_to_synced=True).received == 0
    (server.folder / "incoming" / "arriving" / ticket).write_bytes(b"")
    registry.close()


# -- workers that end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_a_body_that_a_worker_does_not_hear_out_is_no_success(
    start_server: StartServer, chunk_client: MakeClient, kind: str
) -> None:
    """What had come is safe all the same; a client that only looks at the status code comes again with the chunk."""
    server = start_server(kind)
    ticket = server.ticket()
    client = chunk_client(server.url, ticket, DATA)
    client.open()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(client.head(0, 7_000_000) + DATA[:5_500_000])
        eventually(lambda: client.status()["received"], what="the first bytes")
        for pid in server.workers():
            os.kill(pid, signal.SIGTERM)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer
    assert 0 < json.loads(answer.partition(b"\r\n\r\n")[2])["received"] <= 5_500_000
    STUBBORN["http"](server.url, ticket, DATA).finish()
    assert_arrived_once(server, ticket, sha256(DATA))


# -- workers without a master -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_workers_that_have_lost_their_master_send_everybody_away(
    start_server: StartServer, connect: Connect, kind: str
) -> None:
    """They end by themselves; the port has to be free for the next master soon."""
    server = start_server(kind)
    assert server.process is not None
    workers = server.workers()
    front_end = _send_some(connect(server.url, server.ticket(), DATA))
    os.kill(server.process.pid, signal.SIGKILL)
    assert front_end.closing_code() == 1012
    front_end.vanish()
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), 10, "the end of the workers")
    server.kill()
    server.start()
    connect(server.url, server.ticket(), DATA).upload()
