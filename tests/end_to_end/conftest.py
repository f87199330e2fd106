"""Fixtures of the end-to-end tests: real servers, and a file to send."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.chunk_client import ChunkClient
from tests.support.front_end_0_1 import FrontEnd
from tests.support.processes import AppServer
from tests.support.relay import Relay

from .browser import UploadPage

StartServer = Callable[..., AppServer]
RelayTo = Callable[..., Relay]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers that are stopped at the end."""
    with ExitStack() as stack:

        def start(kind: str = "gevent", **env: str) -> AppServer:
            return stack.enter_context(AppServer(kind, tmp_path, env))

        yield start


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """A server that goes through all of a module, one case after the other."""
    with AppServer("gevent", tmp_path_factory.mktemp("lasting")) as server:
        yield server


@pytest.fixture
def relay_to() -> Iterator[RelayTo]:
    with ExitStack() as stack:

        def relay(server: AppServer, rate: float | None = None) -> Relay:
            return stack.enter_context(Relay(server.port, rate))

        yield relay


Connect = Callable[..., FrontEnd]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects front ends of Incoming!! 0.1, as :class:`FrontEnd`, whose sockets are closed at the end."""
    made: list[FrontEnd] = []

    def front_end(url: str, ticket: str, data: bytes, name: str = "file.bin", versioned: bool = True) -> FrontEnd:
        made.append(FrontEnd(url, ticket, data, name, versioned))
        return made[-1]

    yield front_end
    for one in made:
        one.vanish()


@pytest.fixture
def chunk_client() -> Iterator[Callable[..., ChunkClient]]:
    """Makes clients of the HTTP chunks, whose connections are closed at the end."""
    with ExitStack() as stack:

        def client(url: str, ticket: str, data: bytes, name: str = "file.bin") -> ChunkClient:
            made = ChunkClient(url, ticket, data, name)
            stack.callback(made.http.close)
            return made

        yield client


def data_of(size: int, seed: int = 1) -> bytes:
    """Bytes that no part of repeats, the same in every run."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()


def assert_arrived_once(server: AppServer, ticket: str, expected: str, *, calls: int = 1) -> None:
    """The app has the file, whole, and heard of it under one event id, at most ``calls`` times."""
    assert sha256(server.wait_for_file(ticket)) == expected
    told = [event for event in server.events(ticket) if event["kind"] in ("finished", "called")]
    assert len({event["event_id"] for event in told}) == 1
    assert 1 <= len(told) <= calls
    assert all(event.get("sha256", expected) == expected for event in told)


OpenPage = Callable[[str], UploadPage]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages in tabs of one profile, which is new for each test."""
    context = browser.new_context()
    yield lambda url: UploadPage(context, url)
    context.close()


@pytest.fixture(scope="session")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Files of a size, made once."""
    folder = tmp_path_factory.mktemp("files")

    def make(size: int) -> Path:
        path = folder / f"{size}.bin"
        if not path.exists():
            with path.open("wb") as file:
                for position in range(0, size, 1 << 24):
                    file.write(data_of(min(1 << 24, size - position), seed=position))
        return path

    return make
