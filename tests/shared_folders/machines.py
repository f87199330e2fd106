"""Two servers that share a registry and a folder, each with the mount of it that its machine has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.processes import AppServer
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

#: Runs what follows where the first path is seen at the second.
_SEEN_AT = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"')

#: Where each machine sees the folder.
_PLACE = Path(os.environ.get("SHARED_AT", "/nowhere"))


class Machine(AppServer):
    """:param mount: of the shared folder, that this machine has."""

    def __init__(self, folder: Path, mount: Path, env: Mapping[str, str]) -> None:
        super().__init__("gevent-preload", folder, env)
        self._mount = mount

    def _command(self) -> list[str]:
        return [*_SEEN_AT, str(self._mount), str(_PLACE), *super()._command()]


class Machines:
    """:ivar one: takes bytes, and knows of no app that files could be given to.
    :ivar two: has the app, too.
    """

    def __init__(self, folder: Path, mounts: tuple[Path, Path]) -> None:
        self._folder = folder
        self._mounts = mounts
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            redis = stack.enter_context(RedisServer(self._folder / "redis", "always"))
            (self._mounts[0] / "taken").mkdir()
            self.one, self.two = (stack.enter_context(self._machine(number, redis.url)) for number in (0, 1))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _machine(self, number: int, registry: str) -> Machine:
        env = {
            "STORAGE": str(_PLACE / "incoming"),
            "FILES": str(_PLACE / "taken"),
            "HANDLES": ("", "yes")[number],
            "INCOMING_REGISTRY": registry,
            "INCOMING_DURABILITY": "fsync",
            "INCOMING_FREE_SPACE_FLOOR": "0",
        }
        return Machine(self._folder / ("one", "two")[number], self._mounts[number], env)

    @property
    def both(self) -> tuple[Machine, Machine]:
        return self.one, self.two

    def revive(self) -> None:
        """Start what is dead."""
        for machine in self.both:
            if machine.process is None:
                machine.start()

    def files(self, ticket: str) -> list[Path]:
        """Where the app has put the file, as either machine sees it."""
        return [mount / "taken" / ticket for mount in self._mounts]

    def arriving(self, ticket: str) -> list[Path]:
        return [mount / "incoming" / "arriving" / ticket for mount in self._mounts]

    def assert_arrived_once(self, ticket: str, data: bytes) -> None:
        """Whole, on both machines, and nothing else is left there."""
        eventually(lambda: all(path.exists() for path in self.files(ticket)), 90, "the file, on both machines")
        digest = hashlib.sha256(data).hexdigest()
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files(ticket)] == [digest, digest]
        assert [(call["kind"], call["sha256"]) for call in self.calls(ticket)] == [("finished", digest)]
        eventually(lambda: not self.leavings(), 90, "nothing being left")

    def leavings(self) -> list[str]:
        """What lies in the storage's folders, as either machine sees it; also what NFS keeps for a moment."""
        kinds = ("arriving", "complete", "records")
        return [name for mount in self._mounts for kind in kinds for name in os.listdir(mount / "incoming" / kind)]

    def calls(self, ticket: str) -> list[dict[str, Any]]:
        return [event for machine in self.both for event in machine.events(ticket)]
