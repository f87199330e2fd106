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
    """

    def __init__(self, folder: Path, fsync: str = "everysec", *options: str, program: str = "") -> None:
        super().__init__("redis-server", folder)
        self.socket = folder / "redis.sock"
        self._fsync = fsync
        self._options = options
        self._program = program

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        """A plain one, for what a test does to the server."""
        return redis.Redis(port=self.port, decode_responses=True)

    def frozen(self) -> AbstractContextManager[None]:
        """Meanwhile it takes connections and answers nothing."""
        assert self.process is not None
        return standing_still([self.process.pid])

    def _command(self) -> list[str]:
        command = [self._program or need("redis-server"), "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", self._fsync] if self._fsync else ["--appendonly", "no"]
        return [*command, "--repl-diskless-sync-delay", "0", *self._options]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except _STARTING:
            return False


class Watched:
    """A master and its replica, watched by three Sentinels."""

    def __init__(self, folder: Path) -> None:
        self.master = RedisServer(folder / "master")
        self.replica = RedisServer(folder / "replica", "everysec", "--replicaof", "127.0.0.1", str(self.master.port))
        self._folders = [folder / f"sentinel-{number}" for number in range(3)]
        self._ports = [free_port() for _ in self._folders]
        self._sentinels: list[Process] = []

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self._ports)}/up/0"

    def __enter__(self) -> Watched:
        need("redis-sentinel")
        self.master.start()
        self.replica.start()
        for folder, port in zip(self._folders, self._ports, strict=True):
            folder.mkdir()
            (folder / "sentinel.conf").write_text(self._configuration(folder, port))
            command = [need("redis-sentinel"), str(folder / "sentinel.conf")]
            self._sentinels.append(Process(command, folder / "sentinel.log"))
        eventually(self._is_complete, what="sentinels that know of each other and of the replica")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._sentinels:
            process.kill()
        for server in (self.replica, self.master):
            server.stop()

    def _configuration(self, folder: Path, port: int) -> str:
        return (
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor up 127.0.0.1 {self.master.port} 2\n"
            "sentinel down-after-milliseconds up 1000\nsentinel failover-timeout up 5000\n"
        )

    def _is_complete(self) -> bool:
        for port in self._ports:
            try:
                with redis.Redis(port=port, decode_responses=True) as sentinel:
                    about = sentinel.sentinel_master("up")
            except (*_STARTING, redis.ResponseError):
                return False
            if about["num-other-sentinels"] != 2 or about["num-slaves"] != 1:
                return False
        with self.replica.client() as replica:
            return str(replica.info("replication").get("master_link_status")) == "up"
