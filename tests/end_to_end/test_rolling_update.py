"""Machines are updated one after the other, and uploads go on all the time: none fails."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from incoming_wsgi.__main__ import run_operator
from tests.faults.senders import ALL_SENDERS, Sender, finish_all
from tests.support.nginx import Nginx
from tests.support.processes import AppServer
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

from .conftest import data_of
from .test_many_machines import Machines

_SIZE, _CHUNK, _PAUSE = 1_500_000, 100_000, 0.1
_UNDER_WAY = 6


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Machines]:
    with RedisServer(tmp_path / "redis", "always") as redis:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            env = {
                "STORAGE": str(tmp_path / "files"),
                "INCOMING_REGISTRY": redis.url,
                "INCOMING_DURABILITY": "fsync",
                "INCOMING_DRAIN_FILE": str(tmp_path / name / "drain"),
            }
            servers.append(AppServer("gevent", tmp_path / name, env))
        try:
            for server in servers:
                server.start()
            yield Machines((servers[0], servers[1]), redis.url)
        finally:
            for server in servers:
                if server.process is not None:
                    server.kill()


#: Seconds for which nginx passes nothing on to a machine that has failed (fail_timeout), and a bit; it does not tell.
_DISTRUST = 1.5


class Traffic:
    """Uploads in every dialect, so many at a time, through nginx."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kinds = itertools.cycle(ALL_SENDERS)
        self.senders: list[Sender] = []

    def keep_up(self, server: AppServer) -> None:
        """Have enough of them under way, of which some are in the middle of their files."""
        eventually(lambda: self._is_enough(server), 60, "bytes under way")

    def _is_enough(self, server: AppServer) -> bool:
        """Those that come to their end meanwhile are followed by others."""
        for _ in range(_UNDER_WAY - sum(sender.is_alive() for sender in self.senders)):
            number = len(self.senders)
            kind = next(self._kinds)
            self.senders.append(kind(self._url, server.ticket(), data_of(_SIZE, number), _CHUNK, _PAUSE))
            self.senders[-1].start()
        return sum(sender.is_live for sender in self.senders) >= len(ALL_SENDERS)

    def give_up(self) -> None:
        for sender in self.senders:
            sender.give_up()


@pytest.mark.parametrize("gently", [True, False], ids=["drained", "by SIGTERM alone"])
def test_each_machine_in_turn(both: Machines, tmp_path: Path, gently: bool) -> None:
    with Nginx(tmp_path / "nginx", *(server.port for server in both.servers), recommended=True) as nginx:
        traffic = Traffic(nginx.url)
        try:
            for server, other in (both.servers, both.servers[::-1]):
                traffic.keep_up(other)
                if gently:
                    assert run_operator(["drain", str(server.folder / "drain")]) == 0
                server.stop()
                traffic.keep_up(other)
                (server.folder / "drain").write_text("")
                server.start()
                time.sleep(_DISTRUST)
            traffic.keep_up(both.servers[0])
            finish_all(traffic.senders, 60)
        finally:
            traffic.give_up()
    for sender in traffic.senders:
        both.assert_arrived_once(sender.ticket, sender.data)
        assert set(sender.closed_with) <= {1012}
    if gently:
        troubles = [trouble for sender in traffic.senders for trouble in sender.troubles]
        # nginx may believe for a moment that nobody is there; none of us says no.
        assert [trouble for trouble in troubles if "Closed" not in trouble and not re.search(r"\b502\b", trouble)] == []
