"""Where there is neither splice nor fallocate nor /proc, nor a hash that can be saved, such as on macOS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.chunk_client import ChunkClient
from tests.support.processes import ROOT, AppServer

from .conftest import Connect, StartServer, assert_arrived_once, data_of, sha256

DATA = data_of(25_000_001)
PLAIN = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support" / "plain_system"), str(ROOT)])}

MakeClient = Callable[..., ChunkClient]

_IS_PLAIN = """
import os, select
from pathlib import Path
from incoming_wsgi.digests import sha256
assert not {"splice", "posix_fallocate", "sched_getaffinity", "pipe2"} & set(dir(os))
assert not hasattr(select, "epoll")
assert not sha256().state()
try:
    Path("/proc/self/stat").read_text()
except FileNotFoundError:
    print("plain")
"""


@pytest.fixture(params=["gevent", "gthread", "sync"])
def server(request: pytest.FixtureRequest, start_server: StartServer) -> AppServer:
    return start_server(request.param, **PLAIN)


def test_the_simulation_takes_away_what_it_says(tmp_path: Path) -> None:
    env = {**os.environ, **PLAIN}
    done = subprocess.run([sys.executable, "-c", _IS_PLAIN], env=env, cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"plain\n", done.stderr.decode()


def test_chunks(server: AppServer, chunk_client: MakeClient) -> None:
    ticket = server.ticket()
    assert chunk_client(server.url, ticket, DATA).upload()["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


@pytest.mark.parametrize("server", ["gevent", "gthread"], indirect=True)
def test_websocket(server: AppServer, connect: Connect) -> None:
    ticket = server.ticket()
    connect(server.url, ticket, DATA).upload()
    assert_arrived_once(server, ticket, sha256(DATA))


def test_chunks_go_on_after_a_restart(server: AppServer, chunk_client: MakeClient) -> None:
    """The hash can't be taken up where it was: it is made anew, from the stored bytes."""
    ticket = server.ticket()
    client = chunk_client(server.url, ticket, DATA)
    client.open()
    assert client.put(0, 8_000_000).ok
    assert client.put(12_000_000, 20_000_000).ok
    server.kill()
    server.start()
    status = client.open()
    assert status["missing"] == [[8_000_000, 12_000_000], [20_000_000, len(DATA)]]
    assert client.wait(client.send(status))["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


@pytest.mark.parametrize("server", ["gevent", "gthread"], indirect=True)
def test_websocket_goes_on_after_a_restart(server: AppServer, connect: Connect) -> None:
    ticket = server.ticket()
    front_end = connect(server.url, ticket, DATA)
    front_end.open()
    front_end.send_chunks(17_000_000)
    server.kill()
    server.start()
    again = connect(server.url, ticket, DATA)
    assert again.open() == 17_000_000
    again.send_chunks()
    again.finish()
    assert_arrived_once(server, ticket, sha256(DATA))
