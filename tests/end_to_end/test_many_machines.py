"""Two servers that share a registry in Redis and the folder of the files, as two machines do behind a load balancer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from incoming_wsgi.__main__ import run_operator
from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer
from tests.support.redis_server import RedisServer, Watched
from tests.support.waiting import eventually

from .conftest import Connect, data_of, sha256

DATA = data_of(7_500_001)
PIECE = 300_000

MakeClient = Callable[..., ChunkClient]


@dataclass
class Machines:
    """Any request may go to any of them."""

    servers: tuple[AppServer, AppServer]
    registry: str

    def calls(self, ticket: str) -> list[dict[str, Any]]:
        """What the app was told, wherever it runs."""
        return [event for server in self.servers for event in server.events(ticket)]

    def file(self, ticket: str) -> Path | None:
        return next((server.file(ticket) for server in self.servers if server.file(ticket).exists()), None)

    def assert_arrived_once(self, ticket: str, data: bytes = DATA) -> None:
        assert sha256(eventually(lambda: self.file(ticket), what="the file")) == sha256(data)
        assert [call["kind"] for call in self.calls(ticket)] == ["finished"]


@contextmanager
def machines(folder: Path, kind: str, registry: str, **env: str) -> Iterator[Machines]:
    with ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            common = {"STORAGE": str(folder / "files"), "INCOMING_REGISTRY": registry, **env}
            servers.append(stack.enter_context(AppServer(kind, folder / name, common)))
        yield Machines((servers[0], servers[1]), registry)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), "always") as server:
        yield server


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer
) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp(request.param)
    registry = f"{redis_server.url}?prefix={request.param}"
    with machines(folder, request.param, registry, INCOMING_DURABILITY="fsync") as both:
        yield both


def clients_of(both: Machines, ticket: str, make: MakeClient, data: bytes = DATA) -> tuple[ChunkClient, ChunkClient]:
    """The same front end, as its requests get to the one and to the other."""
    one, two = (make(server.url, ticket, data) for server in both.servers)
    one.open()
    two.session = one.session
    return one, two


def pieces(data: bytes = DATA) -> Iterator[tuple[int, int]]:
    return itertools.pairwise([*range(0, len(data), PIECE), len(data)])


def test_chunks_by_turns(both: Machines, chunk_client: MakeClient) -> None:
    ticket = both.servers[0].ticket()
    clients = clients_of(both, ticket, chunk_client)
    for client, (start, end) in zip(itertools.cycle(clients), pieces(), strict=False):
        answer = client.put(start, end)
        assert answer.status_code == 200, answer.text
    assert clients[0].wait(clients[0].status())["phase"] == "finished"
    assert clients[1].status()["phase"] == "finished"
    both.assert_arrived_once(ticket)


def test_lanes_at_the_same_time(both: Machines, chunk_client: MakeClient) -> None:
    ticket = both.servers[1].ticket()
    assert send_at_the_same_time(clients_of(both, ticket, chunk_client), list(pieces())) == []
    both.assert_arrived_once(ticket)


def send_at_the_same_time(clients: tuple[ChunkClient, ChunkClient], cut: list[tuple[int, int]]) -> list[str]:
    """Each client has every second piece; gives what was refused."""
    refused: list[str] = []

    def send(number: int) -> None:
        for start, end in cut[number::2]:
            answer = clients[number].put(start, end)
            if answer.status_code != 200:
                refused.append(answer.text)

    lanes = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    return refused


def test_waiting_on_one_and_finishing_on_the_other(both: Machines, chunk_client: MakeClient) -> None:
    one, two = both.servers
    ticket = one.ticket(answer="wait")
    client = chunk_client(one.url, ticket, DATA)
    assert client.send(client.open())["phase"] == "processing"
    eventually(lambda: client.status()["state"] == "waiting_for_app")
    other = chunk_client(two.url, ticket, DATA)
    seen: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: seen.append(client.wait(client.status())))
    waiting.start()
    requests.post(f"{two.url}/finish/{ticket}", timeout=10).raise_for_status()
    waiting.join(3)
    assert seen
    assert seen[0]["phase"] == "finished"
    assert other.status()["phase"] == "finished"
    assert len(both.calls(ticket)) == 1


def test_cancelling_on_the_other(both: Machines, chunk_client: MakeClient) -> None:
    ticket = both.servers[0].ticket()
    clients = clients_of(both, ticket, chunk_client)
    assert clients[0].put(0, PIECE).status_code == 200
    assert clients[1].cancel().status_code == 200
    assert clients[0].put(PIECE, 2 * PIECE).status_code == 410
    eventually(lambda: both.calls(ticket))
    assert [call["kind"] for call in both.calls(ticket)] == ["cancelled"]
    assert not (both.servers[0].folder.parent / "files" / "arriving" / ticket).exists()


def test_an_operator_on_a_third_machine(
    both: Machines, chunk_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = both.servers[0].ticket()
    client = chunk_client(both.servers[0].url, ticket, DATA)
    client.open()
    assert client.put(0, PIECE).status_code == 200
    options = ["--storage", str(both.servers[0].folder.parent / "files")]
    options += ["--registry", both.registry]
    assert run_operator(["list", *options]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(ticket)]
    assert line.split()[1:4] == ["receiving", str(PIECE), str(len(DATA))]
    assert run_operator(["cancel", ticket, *options]) == 0
    assert client.put(PIECE, 2 * PIECE).status_code == 410


def test_a_newer_opening_on_the_other_shuts_the_older_out(
    both: Machines, connect: Connect, chunk_client: MakeClient
) -> None:
    """At once, though it is silent."""
    ticket = both.servers[0].ticket()
    old = connect(both.servers[0].url, ticket, DATA)
    old.open()
    old.send_chunks(2 * old.chunk_size)
    began = time.monotonic()
    new = chunk_client(both.servers[1].url, ticket, DATA)
    assert new.open()["offset"] == old.acked
    assert old.closing_code() == 1012
    assert time.monotonic() - began < 2
    assert new.upload()["phase"] == "finished"
    both.assert_arrived_once(ticket)


def test_one_machine_dies_and_the_other_goes_on(
    tmp_path: Path, redis_server: RedisServer, chunk_client: MakeClient
) -> None:
    """Also with what the dead one was about to hand over, when its lease has ended."""
    with machines(tmp_path, "gevent", f"{redis_server.url}?prefix=dying") as both:
        one, two = both.servers
        begun, waiting = two.ticket(), one.ticket(leisure="60")
        client = chunk_client(one.url, begun, DATA)
        client.open()
        assert client.put(0, PIECE).status_code == 200
        slow = chunk_client(one.url, waiting, DATA[:1000])
        slow.open()
        threading.Thread(target=ignoring_errors(lambda: slow.put(0, 1000))).start()
        handing = eventually(lambda: next((one for one in both.servers if one.events(waiting)), None))
        staying = two if handing is one else one
        handing.kill()
        client = chunk_client(staying.url, begun, DATA)
        assert client.open()["offset"] == PIECE
        assert client.upload()["phase"] == "finished"
        both.assert_arrived_once(begun)
        eventually(lambda: len(both.calls(waiting)) == 2, timeout=30, what="the lease ending")
        assert {call["event_id"] for call in both.calls(waiting)} == {both.calls(waiting)[0]["event_id"]}


def ignoring_errors(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except requests.RequestException:
            return

    return run


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_redis_is_killed_and_started_again(tmp_path: Path, fsync: str) -> None:
    with RedisServer(tmp_path / "redis", fsync) as redis, machines(tmp_path, "gevent", redis.url) as both:

        def strike(senders: list[Sender]) -> None:
            redis.kill()
            go_on(senders)
            eventually(lambda: any(sender.refusals for sender in senders), what="somebody noticing it")
            redis.start()

        senders = struck_half_way(both, strike)
        assert any(sender.refusals for sender in senders)


def test_another_redis_takes_over(tmp_path: Path) -> None:
    """The Sentinels need a second to believe that the old one is dead; the senders may notice it or not."""
    with Watched(tmp_path) as watched, machines(tmp_path, "gevent", watched.url) as both:

        def strike(senders: list[Sender]) -> None:
            watched.master.kill()
            go_on(senders)
            watched.wait_for_another()

        struck_half_way(both, strike)


def struck_half_way(both: Machines, strike: Callable[[list[Sender]], None]) -> list[Sender]:
    """Four files on their way; two have stopped in the middle at that moment, the others run on."""
    tickets = [both.servers[number % 2].ticket() for number in range(4)]
    senders = [Sender(both, ticket, stops=number < 2) for number, ticket in enumerate(tickets)]
    for sender in senders:
        sender.start()
    for sender in senders:
        assert sender.half_way.wait(30)
    strike(senders)
    for sender, ticket in zip(senders, tickets, strict=True):
        sender.join(60)
        assert sender.has_ended
        assert sender.refusals <= {503}
        if sender.stops:
            both.assert_arrived_once(ticket)
        else:  # an app that could not record its move is called again
            assert sha256(eventually(lambda ticket=ticket: both.file(ticket))) == sha256(DATA)  # type: ignore[misc]
            assert len({call["event_id"] for call in both.calls(ticket)}) == 1
    assert [line for server in both.servers for line in traces_in(server)] == []
    return senders


def traces_in(server: AppServer) -> list[str]:
    """Lines that say what has failed, but for an app's own, which could not record its move."""
    lines = server.log().splitlines()
    return [line for line in lines if line.startswith("ERROR:") or "stopped with an error" in line]


def go_on(senders: list[Sender]) -> None:
    for sender in senders:
        sender.may_go_on.set()


class Sender(threading.Thread):
    """Sends a file, each chunk to another machine, and again after each refusal.

    :param stops: half way, until it may go on.
    :ivar refusals: the numbers that it was refused with.
    """

    def __init__(self, both: Machines, ticket: str, *, stops: bool) -> None:
        super().__init__(daemon=True)
        self._servers = itertools.cycle(both.servers)
        self._ticket = ticket
        self.stops = stops
        self.half_way = threading.Event()
        self.may_go_on = threading.Event()
        self._session = ""
        self.refusals: set[int] = set()
        self.has_ended = False

    def run(self) -> None:
        while not self.has_ended:
            client = ChunkClient(next(self._servers).url, self._ticket, DATA)
            client.session = self._session
            try:
                self._go_on(client)
            finally:
                client.http.close()

    def _go_on(self, client: ChunkClient) -> None:
        answer = client.http.get(client.resource, timeout=30)
        if not self._is_welcome(answer):
            return
        status = answer.json()
        if status["phase"] == "finished":
            self.has_ended = True
        elif status["phase"] == "uploading":
            self._send_a_piece(client, status)
        if status.get("offset", 0) >= len(DATA) // 2:
            self.half_way.set()
            if self.stops:
                self.may_go_on.wait(30)

    def _send_a_piece(self, client: ChunkClient, status: dict[str, Any]) -> None:
        if not self._session:
            self._session = client.open()["session"]
            return
        start, end = status["missing"][0]
        self._is_welcome(client.put(start, min(start + PIECE, end)))

    def _is_welcome(self, answer: requests.Response) -> bool:
        if answer.status_code != 200:
            self.refusals.add(answer.status_code)
            time.sleep(0.1)
            return False
        return True
