"""Servers for the bad inputs, each started once, and an upload that every bad request happens in the middle of."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from incoming_wsgi.__main__ import run_operator
from tests.support.nginx import Nginx
from tests.support.processes import GUNICORN, AppServer

from .uploads import Upload

#: Options under which limits are met without sending gigabytes.
_LIMITS = {"INCOMING_CHUNK_SIZE": "65536", "INCOMING_MAX_LENGTH": "10000000"}


class OneWorker(AppServer):
    """With one process, which hears of every change at once: a thousand cases do not wait for each other's polls."""

    def _command(self) -> list[str]:
        return [*super()._command(), *(("-w", "1") if self.kind in GUNICORN else ())]


StartServer = Callable[..., AppServer]
Begin = Callable[..., Upload]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts servers, each in a folder of its own, that are stopped at the end of the run."""
    with ExitStack() as stack:

        def start(kind: str = "gevent", **env: str) -> AppServer:
            server = OneWorker(kind, tmp_path_factory.mktemp(kind), {**_LIMITS, **env})
            stack.callback(server.kill)
            return server.start()

        yield start


@pytest.fixture(scope="session")
def server(server_of: Callable[[str], AppServer]) -> AppServer:
    """The one that most bad requests go to."""
    return server_of("gevent")


@pytest.fixture(scope="session")
def impatient_server(start_server: StartServer) -> AppServer:
    """Hangs up on whoever says nothing for a second."""
    return start_server(INCOMING_RECEIVE_TIMEOUT="1")


@pytest.fixture(scope="session")
def server_with_large_chunks(start_server: StartServer) -> AppServer:
    """Its registry stays small while it takes a large file."""
    return start_server(INCOMING_CHUNK_SIZE="1M")


@pytest.fixture(scope="session")
def forgetful_server(start_server: StartServer) -> AppServer:
    """For uploads that are to expire: all that are open here do, see ``expire``."""
    return start_server()


@pytest.fixture
def expire(forgetful_server: AppServer) -> Callable[[], None]:
    """Makes the operator clean up all open uploads of ``forgetful_server``, as if they had been idle for long."""
    storage = forgetful_server.folder / "incoming"
    return lambda: _succeed(run_operator(["cleanup", f"--storage={storage}", "--idle-timeout=0.000001"]))


def _succeed(code: int) -> None:
    assert code == 0


@pytest.fixture(scope="session")
def server_of(start_server: StartServer) -> Callable[[str], AppServer]:
    """Servers by kind, each started when it is first asked for."""
    return functools.cache(start_server)


#: Where bad requests are sent to that any server may get.
EVERYWHERE = ("gevent", "gthread", "werkzeug", "nginx")


@pytest.fixture(scope="session")
def server_at(
    server_of: Callable[[str], AppServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], AppServer]]:
    """As ``server_of``; ``nginx`` is the one of gevent, by the nginx in front of it."""
    with ExitStack() as stack:

        def at(kind: str) -> AppServer:
            return behind() if kind == "nginx" else server_of(kind)

        @functools.cache
        def behind() -> AppServer:
            server = copy.copy(server_of("gevent"))
            folder = tmp_path_factory.mktemp("nginx") / "nginx"
            nginx = stack.enter_context(Nginx(folder, server.port, recommended=True))
            server.kind, server.port, server.url = "nginx", nginx.port, nginx.url
            return server

        yield at


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begins uploads. When the test is over, each of them is where it was, and can be completed."""
    begun: list[Upload] = []

    def begin(server: AppServer, **options: object) -> Upload:
        begun.append(Upload(server, **options))  # type: ignore[arg-type]
        return begun[-1]

    try:
        yield begin
        for upload in begun:
            upload.assert_unchanged()
            upload.complete()
    finally:
        for upload in begun:
            upload.close()


@pytest.fixture
def upload(server: AppServer, begin: Begin) -> Upload:
    """One in the middle; nothing that the test sends may change it."""
    return begin(server)
