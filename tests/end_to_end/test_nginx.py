"""nginx in front: with its defaults (bodies of 1 MiB, buffered, no upgrade), and as the documentation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nginx import Nginx

from .conftest import Connect, OpenPage, StartServer, assert_arrived_once, data_of, sha256

MIB = 1 << 20


def test_with_its_defaults_the_library_finds_a_way(
    start_server: StartServer, open_page: OpenPage, file_of: Callable[[int], Path], tmp_path: Path
) -> None:
    server = start_server()
    ticket = server.ticket()
    with Nginx(tmp_path / "nginx", server.port, recommended=False) as nginx:
        page = open_page(nginx.url)
        page.upload(file_of(30 * MIB), ticket)
        page.wait_until_finished()
        assert page.get("transport") == "http"
    assert_arrived_once(server, ticket, sha256(file_of(30 * MIB)))


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_as_the_documentation_says(
    start_server: StartServer, open_page: OpenPage, file_of: Callable[[int], Path], tmp_path: Path, transport: str
) -> None:
    server = start_server()
    ticket = server.ticket()
    with Nginx(tmp_path / "nginx", server.port, recommended=True) as nginx:
        page = open_page(nginx.url)
        page.upload(file_of(30 * MIB), ticket, transport)
        page.wait_until_finished()
        assert page.get("transport") == transport
    assert_arrived_once(server, ticket, sha256(file_of(30 * MIB)))


def test_a_0_1_front_end_behind_it(start_server: StartServer, connect: Connect, tmp_path: Path) -> None:
    server = start_server()
    ticket = server.ticket()
    data = data_of(3_000_000)
    with Nginx(tmp_path / "nginx", server.port, recommended=True) as nginx:
        connect(nginx.url, ticket, data).upload()
    assert_arrived_once(server, ticket, sha256(data))
