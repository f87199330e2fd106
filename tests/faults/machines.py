"""A whole cluster on this machine: nginx, machines with networks of their own, Redis under Sentinel, a server of S3.

Linux only, for root.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests

from incoming_wsgi.draining import Mark
from tests.support.nginx import Nginx
from tests.support.processes import AppServer, records_of
from tests.support.redis_server import Watched
from tests.support.s3_faults import Faulty
from tests.support.s3_server import CREDENTIALS, S3Server
from tests.support.waiting import eventually

from .networks import Network, own_address

if TYPE_CHECKING:
    from typing_extensions import Self

#: Numbers of networks, and of the addresses that all of them reach.
_MACHINES, _CLIENTS, _REDIS, _S3 = (0, 1, 2), (4, 5), 6, 7

#: Bytes of a part; the smallest that S3 takes.
PART = 5 * 2**20

#: Seconds after which a machine does not wait for S3 any more, and for which a silent S3 is silent.
_S3_TIMEOUT, _SILENCE = 2, 3.0

#: The name of the app that all machines serve.
APP = "app"

_EMPTY = 10.0  # seconds in which a drained machine is empty, at most; else it is stopped all the same


class Machine(AppServer):
    """An app server on a network of its own.

    :param record: folder that the app of all machines writes to.
    """

    def __init__(self, folder: Path, network: Network, record: Path, env: Mapping[str, str], workers: int) -> None:
        folder.mkdir()
        self._mark = folder / "drain"
        own = {**env, "RECORD": str(record), "INCOMING_DRAIN_FILE": str(self._mark)}
        app, options = "tests.support.cluster_app:app", ("-w", str(workers))
        super().__init__("gevent", folder, own, app, options, network.inner_address)
        self.network = network
        self.address = f"{network.inner_address}:{self.port}"
        self.url = f"http://{self.address}"

    def start(self) -> Self:
        Mark(self._mark).put(draining=False)
        return super().start()

    def drain(self) -> bool:
        """Says whether it was empty in time."""
        mark = Mark(self._mark)
        mark.put(draining=True)
        deadline = time.monotonic() + _EMPTY
        while not mark.is_everybody_empty():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _command(self) -> list[str]:
        return ["ip", "netns", "exec", self.network.name, *super()._command()]


@dataclass
class Cluster:
    """:ivar clients: networks that clients are on.
    :ivar url: of nginx.
    :ivar redis_address: that machines know Redis by; ``s3_address`` the same of S3.
    """

    machines: list[Machine]
    clients: list[Network]
    redis: Watched
    s3: Faulty
    url: str
    redis_address: str
    s3_address: str
    record: Path
    has_been_flushed: bool = False

    def ticket(self) -> str:
        """As soon as there is one."""
        return eventually(self.try_ticket, 60, "a ticket")

    def try_ticket(self) -> str:
        """From whichever machine nginx finds; empty where there is none now."""
        try:
            answer = requests.post(f"{self.url}/ticket", timeout=10)
        except requests.RequestException:
            return ""
        return answer.text if answer.ok else ""

    def has_file(self, ticket: str) -> bool:
        return any(line["what"] == "effect" for line in self.story(ticket))

    def flush_redis(self) -> None:
        """All that it knew is gone."""
        self.redis.settle()
        self.has_been_flushed = True
        with self.redis.master.client() as client:
            client.flushall()

    def story(self, ticket: str) -> list[dict[str, Any]]:
        """What the app has done about an upload, in order."""
        return records_of(self.record / "story", ticket)


@contextmanager
def running(folder: Path, s3: S3Server, workers: int) -> Iterator[Cluster]:
    """:param workers: processes of each machine."""
    with ExitStack() as stack:
        redis_address, s3_address = (stack.enter_context(own_address(number)) for number in (_REDIS, _S3))
        networks = [stack.enter_context(Network(number)) for number in _MACHINES]
        clients = [stack.enter_context(Network(number)) for number in _CLIENTS]
        redis = stack.enter_context(Watched(folder / "redis", redis_address))
        faulty = stack.enter_context(Faulty(s3.port, _SILENCE, s3_address))
        storage = f"s3://{s3.bucket()}/up?endpoint={quote(faulty.endpoint, safe='')}"
        env = {
            **CREDENTIALS,
            "INCOMING_STORAGE": f"{storage}&part_size={PART}&timeout={_S3_TIMEOUT}",
            "INCOMING_REGISTRY": redis.url,
            "INCOMING_TRUSTED_PROXIES": "198.18.0.0/15",
        }
        record = folder / "record"
        record.mkdir()
        machines = [
            Machine(folder / f"machine-{number}", network, record, env, workers)
            for number, network in enumerate(networks)
        ]
        for machine in machines:
            stack.callback(_end, machine)
            machine.start()
        addresses = (machine.address for machine in machines)
        nginx = stack.enter_context(Nginx(folder / "nginx", *addresses, recommended=True, host=redis_address))
        yield Cluster(machines, clients, redis, faulty, nginx.url, redis_address, s3_address, record)


def _end(machine: Machine) -> None:
    if machine.process is not None:
        machine.kill()
