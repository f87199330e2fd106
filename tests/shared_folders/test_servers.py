"""Servers on two machines that share a registry and a folder: any request may get to any of them."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.chunk_client import ChunkClient
from tests.support.waiting import eventually

from .machines import Machine, Machines

DATA = random.Random(1).randbytes(12_500_001)

#: No boundary between two pieces is one between two pages.
PIECE = 700_001

#: Where the body of a chunk is cut off: in the middle of a page, and of a piece that is written at once.
CUT = 1_500_003

Connect = Callable[[Machine], ChunkClient]


@pytest.fixture
def ticket(machines: Machines) -> str:
    return machines.two.ticket()


@pytest.fixture
def connect(ticket: str) -> Iterator[Connect]:
    made: list[ChunkClient] = []

    def client(machine: Machine) -> ChunkClient:
        made.append(ChunkClient(machine.url, ticket, DATA))
        return made[-1]

    yield client
    for one in made:
        one.http.close()


def both_of(machines: Machines, connect: Connect) -> tuple[ChunkClient, ChunkClient]:
    """The same front end, as its requests get to the one and to the other."""
    one, two = map(connect, machines.both)
    one.open()
    two.session = one.session
    return one, two


def assert_arrived_once(machines: Machines, ticket: str, calls: int = 1) -> None:
    """Whole, on both machines, and nothing else is left there."""
    eventually(lambda: all(path.exists() for path in machines.files(ticket)), 90, "the file, on both machines")
    digest = hashlib.sha256(DATA).hexdigest()
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in machines.files(ticket)} == {digest}
    told = machines.calls(ticket)
    assert [(call["kind"], call["sha256"]) for call in told] == calls * [("finished", digest)]
    assert len({call["event_id"] for call in told}) == 1
    eventually(lambda: not machines.leavings(), 90, "nothing being left")


def pieces() -> list[tuple[int, int]]:
    return list(itertools.pairwise([*range(0, len(DATA), PIECE), len(DATA)]))


def test_chunks_by_turns(machines: Machines, ticket: str, connect: Connect) -> None:
    clients = both_of(machines, connect)
    for client, (start, end) in zip(itertools.cycle(clients), pieces(), strict=False):
        answer = client.put(start, end)
        assert answer.status_code == 200, answer.text
    assert_arrived_once(machines, ticket)


def test_lanes_at_the_same_time(machines: Machines, ticket: str, connect: Connect) -> None:
    """Each machine has every second piece; each page at a boundary is written by both."""
    clients = both_of(machines, connect)
    refused: list[str] = []

    def send(number: int) -> None:
        for start, end in pieces()[number::2]:
            answer = clients[number].put(start, end)
            refused.extend([answer.text] if answer.status_code != 200 else [])

    lanes = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    assert refused == []
    assert_arrived_once(machines, ticket)


def test_a_chunk_that_is_cut_off_goes_on_on_the_other(machines: Machines, ticket: str, connect: Connect) -> None:
    one, two = map(connect, machines.both)
    one.open()
    begun(one, 0, len(DATA), CUT).close()
    eventually(lambda: one.status()["offset"] == CUT, what="what has arrived being recorded")
    assert two.open()["offset"] == CUT
    two.send(two.status())
    assert_arrived_once(machines, ticket)


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
    assert_arrived_once(machines, ticket)


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
    assert_arrived_once(machines, ticket)


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
    """With -9, while it writes: the other goes on at once, the locks of the dead are gone. It is the last test, and the
    machine stays dead.
    """
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
    assert_arrived_once(machines, ticket)
    assert time.monotonic() - began < 30
