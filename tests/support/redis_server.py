"""A real Redis server in a process of its own, and one that is watched by Sentinels."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import redis

from tests.needs import need
from tests.support.waiting import eventually

from .processes import Process, Server, free_port, standing_still

_STARTING = (redis.ConnectionError, redis.TimeoutError)


class RedisServer(Server):
    """:param folder: where everything is kept; a server that is started again in it goes on.
    :param fsync: when its log is synced: ``always``, ``everysec`` or ``no``; without one it has no log.
    :param options: further ones, by turns with their values: ``--replicaof``, …
    :param program: another one than the machine's.
    :param host: the address that it listens at.
    """

    def __init__(
        self, folder: Path, fsync: str = "everysec", *options: str, program: str = "", host: str = "127.0.0.1"
    ) -> None:
        super().__init__("redis-server", folder)
        self.host = host
        self.socket = folder / "redis.sock"
        self._fsync = fsync
        self._options = options
        self._program = program

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def socket_url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        """A plain one, for what a test does to the server."""
        return redis.Redis(self.host, self.port, decode_responses=True)

    def follow(self, master: RedisServer | None) -> None:
        """Be its replica, or nobody's, from the next start on."""
        self._options = ("--replicaof", master.host, str(master.port)) if master is not None else ()

    def frozen(self) -> AbstractContextManager[None]:
        """Meanwhile it takes connections and answers nothing."""
        assert self.process is not None
        return standing_still([self.process.pid])

    def _command(self) -> list[str]:
        command = [self._program or need("redis-server"), "--bind", self.host, "--port", str(self.port)]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", self._fsync] if self._fsync else ["--appendonly", "no"]
        command += ["--repl-diskless-sync-delay", "0", "--protected-mode", "no", *self._options]
        return command

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except _STARTING:
            return False


def _role(server: RedisServer) -> str:
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except _STARTING:
        return ""


class Watched:
    """A master and its replica, watched by three Sentinels.

    :param host: the address that all of them listen at.
    :ivar has_failed_over: whether the master has died at least once, and with it, maybe, what only it knew.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self._host = host
        self.has_failed_over = False
        self.master = RedisServer(folder / "master", host=host)
        self.replica = RedisServer(folder / "replica", host=host)
        self.replica.follow(self.master)
        self._folders = [folder / f"sentinel-{number}" for number in range(3)]
        self._ports = [free_port() for _ in self._folders]
        self._sentinels: list[Process] = []

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{self._host}:{port}' for port in self._ports)}/up/0"

    def __enter__(self) -> Watched:
        need("redis-sentinel")
        self.master.start()
        self.replica.start()
        for folder, port in zip(self._folders, self._ports, strict=True):
            folder.mkdir()
            (folder / "sentinel.conf").write_text(self._configuration(folder, port))
            command = [need("redis-sentinel"), str(folder / "sentinel.conf")]
            self._sentinels.append(Process(command, folder / "sentinel.log"))
        eventually(self.is_complete, what="sentinels that know of each other and of the replica")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._sentinels:
            process.kill()
        for server in (self.replica, self.master):
            server.stop()

    def _configuration(self, folder: Path, port: int) -> str:
        return (
            f"port {port}\nbind {self._host}\nprotected-mode no\ndir {folder}\n"
            f"sentinel monitor up {self._host} {self.master.port} 2\n"
            "sentinel down-after-milliseconds up 1000\nsentinel failover-timeout up 5000\n"
        )

    def fail_over(self, what: str = "another master") -> None:
        """Kill the master, and wait until the other one is; the dead one comes back as its replica."""
        self.settle()
        old, new = self.master, self.replica
        self.has_failed_over = True
        old.kill()
        self.wait_for_another(what)
        new.follow(None)
        self.master, self.replica = new, old
        old.follow(new)
        old.start()

    def wait_for_another(self, what: str = "another master") -> None:
        """Until the replica is the master, and the Sentinels say so."""
        eventually(lambda: self._master_port() == self.replica.port and _role(self.replica) == "master", 30, what)

    def restart_master(self) -> None:
        """Kill it and start it again, before anybody else is made master; else it becomes the replica."""
        self.settle()
        self.has_failed_over = True
        self.master.kill()
        self.master.start()
        self.settle()

    def settle(self) -> None:
        """Wait until nobody is in doubt who is master, and the other one is its replica."""
        eventually(self._is_settled, 60, "a master with its replica")

    def _is_settled(self) -> bool:
        """Sentinels that have believed a master to be dead may still be about to make the other one master."""
        old, other = self.master, self.replica
        if self._master_port() == other.port and _role(other) == "master":
            self.master, self.replica = other, old
            other.follow(None)
            old.follow(other)
            old.kill()
            old.start()
        return self.is_complete()

    def _master_port(self) -> int:
        """As one of the Sentinels has it."""
        with redis.Redis(self._host, self._ports[0], decode_responses=True) as sentinel:
            return int(sentinel.sentinel_master("up")["port"])

    def is_complete(self) -> bool:
        """Whether all know each other and believe the master alive, and the replica has what the master has."""
        for port in self._ports:
            try:
                with redis.Redis(self._host, port, decode_responses=True) as sentinel:
                    about = sentinel.sentinel_master("up")
            except (*_STARTING, redis.ResponseError):
                return False
            if about["num-other-sentinels"] != 2 or about["num-slaves"] != 1:
                return False
            if int(about["port"]) != self.master.port or about["flags"] != "master":
                return False
        with self.replica.client() as replica:
            return str(replica.info("replication").get("master_link_status")) == "up"
