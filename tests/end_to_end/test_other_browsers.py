"""The library in Firefox and in WebKit: an upload over each transport, cut once in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.other_browsers import BROWSERS, Tab
from tests.support.processes import AppServer
from tests.support.relay import Relay
from tests.support.waiting import eventually

from .conftest import StartServer, assert_arrived_once, sha256

MIB = 1 << 20
SIZE = 30 * MIB

_START = """
    window.calls = [];
    window.uploader = new incoming.Uploader("{ticket}", file.files[0], {{transport: "{transport}"}});
    for (const name of ["onfinished", "oncancelled", "onerror"])
        uploader[name] = () => calls.push(name);
    uploader.start();
"""
_ALL = "return [uploader.phase, uploader.transport, uploader.bytes_acked, uploader.frac_complete, calls];"


@pytest.fixture(scope="module", params=BROWSERS)
def tab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with BROWSERS[request.param](tmp_path_factory.mktemp(request.param)) as tab:
        yield tab


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_a_file_arrives_though_the_connection_is_cut(
    tab: Tab,
    start_server: StartServer,
    relay_to: Callable[[AppServer], Relay],
    file_of: Callable[[int], Path],
    transport: str,
) -> None:
    server = start_server()
    relay = relay_to(server)
    ticket = server.ticket()
    tab.goto(f"{relay.url}/page")
    tab.pick("#file", file_of(SIZE))
    relay.cut_after(SIZE // 2)
    tab.run(_START.format(ticket=ticket, transport=transport))
    eventually(lambda: relay.is_cut, what="the cut")
    tab.wait_for("!uploader.connected")
    relay.mend()
    tab.wait_for("uploader.finished || uploader.cancelled || uploader.error_code")
    assert tab.run(_ALL) == ["finished", transport, SIZE, 1, ["onfinished"]]
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))
