"""Servers on two machines that share a registry and a folder: any request may get to any of them."""

from __future__ import annotations

import itertools
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.support.chunk_client import ChunkClient
from tests.support.waiting import eventually

from .conftest import DATA, PIECE, Connect
from .machines import Machine, Machines

#: With how many files lanes are tried; more in ``make torture``.
FILES = int(os.environ.get("SHARED_FILES", "1"))

#: Where the body of a chunk is cut off: in the middle of a page, and of a piece that is written at once.
CUT = 1_500_003


def both_of(machines: Machines, connect: Connect) -> tuple[ChunkClient, ChunkClient]:
    """The same front end, as its requests get to the one and to the other."""
    one, two = map(connect, machines.both)
    one.open()
    two.session = one.session
    return one, two


def pieces() -> list[tuple[int, int]]:
    return list(itertools.pairwise([*range(0, len(DATA), PIECE), len(DATA)]))


def test_chunks_by_turns(machines: Machines, ticket: str, connect: Connect) -> None:
    clients = both_of(machines, connect)
    for client, (start, end) in zip(itertools.cycle(clients), pieces(), strict=False):
        answer = client.put(start, end)
        assert answer.status_code == 200, answer.text
    machines.assert_arrived_once(ticket, DATA)


@pytest.mark.parametrize("seed", range(FILES))
def test_lanes_at_the_same_time(machines: Machines, ticket: str, connect: Connect, seed: int) -> None:
    """Four, whose chunks begin anywhere, and come in any order to any machine: both write to pages at their ends."""
    chance = random.Random(seed)
    first = connect(machines.one)
    first.open()
    chunks = list(itertools.pairwise([0, *sorted(chance.sample(range(1, len(DATA)), 30)), len(DATA)]))
    if seed % 2:
        chance.shuffle(chunks)

    def send(chunk: tuple[int, int], machine: Machine) -> None:
        client = connect(machine)
        client.session = first.session
        client.answer(client.put(*chunk))

    with ThreadPoolExecutor(4) as lanes:
        list(lanes.map(send, chunks, chance.choices(machines.both, k=len(chunks))))
    machines.assert_arrived_once(ticket, DATA)


def test_a_chunk_that_is_cut_off_goes_on_on_the_other(machines: Machines, ticket: str, connect: Connect) -> None:
    one, two = map(connect, machines.both)
    one.open()
    begun(one, 0, len(DATA), CUT).close()
    eventually(lambda: one.status()["offset"] == CUT, what="what has arrived being recorded")
    assert two.open()["offset"] == CUT
    two.send(two.status())
    machines.assert_arrived_once(ticket, DATA)


def test_a_replaced_connection_writes_late(machines: Machines, ticket: str, connect: Connect) -> None:
    """It has other bytes, too: not one of them gets into the file."""
    one, two = map(connect, machines.both)
    one.open()
    assert one.put(0, CUT).status_code == 200
    with begun(one, CUT, len(DATA), 0) as late:
        status = two.open()
        assert status["offset"] == CUT
        assert two.put(CUT, CUT + PIECE).status_code == 200
        late.sendall(bytes(2 * PIECE))
        answer = late.recv(65536)
        assert answer.startswith(b"HTTP/1.1 409"), answer
    two.send(two.status())
    machines.assert_arrived_once(ticket, DATA)


def begun(client: ChunkClient, start: int, end: int, count: int) -> socket.socket:
    """A chunk of which only so many bytes are sent; the rest can be, over the socket that this gives."""
    connection = socket.create_connection(("127.0.0.1", urlsplit(client.resource).port or 80), 60)
    connection.sendall(client.head(start, end) + DATA[start : start + count])
    return connection


def size_on_both(machines: Machines, ticket: str) -> int:
    sizes = []
    for path in machines.arriving(ticket):
        with path.open("rb") as file:  # asks for the size
            sizes.append(file.seek(0, 2))
    return min(sizes)


def test_the_one_that_completes_it_is_not_the_one_with_the_app(
    machines: Machines, ticket: str, connect: Connect
) -> None:
    """It puts the file into its place; the other gives it away, though its name was unknown there a moment ago."""
    one = connect(machines.one)
    status = one.send(one.open())
    assert one.wait(status)["phase"] == "finished"
    assert [call["kind"] for call in machines.two.events(ticket)] == ["finished"]
    machines.assert_arrived_once(ticket, DATA)


def test_waiting_for_the_app(machines: Machines) -> None:
    """Which says on one machine that it is done with what it was given on the other."""
    waiting = machines.two.ticket(answer="wait")
    client = ChunkClient(machines.one.url, waiting, DATA)
    client.send(client.open())
    eventually(lambda: client.status()["state"] == "waiting_for_app", what="the app being told")
    client.http.post(f"{machines.one.url}/finish/{waiting}", timeout=30).raise_for_status()
    client.http.close()
    assert len(machines.calls(waiting)) == 1
    eventually(lambda: not machines.leavings(), 90, "nothing being left")


def test_cancelling_on_the_other(machines: Machines, ticket: str, connect: Connect) -> None:
    one, two = both_of(machines, connect)
    with begun(one, 0, len(DATA), CUT):
        eventually(lambda: size_on_both(machines, ticket) > 0, what="bytes on their way into the file")
        assert two.cancel().status_code == 200
    assert one.put(0, PIECE).status_code == 410
    eventually(lambda: not machines.leavings(), 90, "nothing being left")
    eventually(lambda: machines.calls(ticket), what="the app being told")
    assert [call["kind"] for call in machines.calls(ticket)] == ["cancelled"]


def test_a_machine_dies_in_the_middle(machines: Machines, ticket: str, connect: Connect) -> None:
    """With -9, while it writes: the other goes on at once, the locks of the dead are gone."""
    one, two = map(connect, machines.both)
    one.open()
    assert one.put(0, PIECE).status_code == 200
    with begun(one, PIECE, len(DATA), 4 * PIECE):
        eventually(lambda: size_on_both(machines, ticket) > PIECE, what="bytes on their way into the file")
        machines.one.kill()
    began = time.monotonic()
    status = two.open()
    assert status["offset"] >= PIECE
    two.send(status)
    machines.assert_arrived_once(ticket, DATA)
    assert time.monotonic() - began < 30
