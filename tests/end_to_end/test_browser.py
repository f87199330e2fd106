"""What a person does, and what happens to them: a real Chromium against real gunicorn with two gevent workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .conftest import OpenPage, RelayTo, StartServer, assert_arrived_once, sha256

MIB = 1 << 20
SIZE = 60 * MIB

FileOf = Callable[[int], Path]

transports = pytest.mark.parametrize("transport", ["http", "websocket"])


@pytest.fixture
def server(lasting: AppServer) -> AppServer:
    """For those who leave its processes as they are; who kills some has a server of their own."""
    return lasting


@transports
@pytest.mark.parametrize("size", [0, 1, 3 * MIB, SIZE + 1])
def test_a_file_arrives(server: AppServer, open_page: OpenPage, file_of: FileOf, transport: str, size: int) -> None:
    ticket = server.ticket()
    page = open_page(server.url)
    page.upload(file_of(size), ticket, transport)
    page.wait_until_finished()
    assert page.get("transport") == transport
    assert_arrived_once(server, ticket, sha256(file_of(size)))


@transports
def test_two_gibibytes(server: AppServer, open_page: OpenPage, file_of: FileOf, transport: str) -> None:
    ticket = server.ticket()
    page = open_page(server.url)
    page.upload(file_of(2048 * MIB), ticket, transport)
    page.wait_until_finished(300)
    assert_arrived_once(server, ticket, sha256(file_of(2048 * MIB)))
    server.file(ticket).unlink()


@transports
def test_the_connection_is_cut_at_many_points(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    ticket = server.ticket()
    relay = relay_to(server)
    page = open_page(relay.url)
    page.pick(file_of(SIZE))
    relay.cut_after(1000)
    page.start(ticket, transport)
    for count in (100, 70_000, 3 * MIB, 8 * MIB, 8 * MIB + 1, 11 * MIB, 17 * MIB):
        eventually(lambda: relay.is_cut, 40, "the cut")
        relay.mend()
        relay.cut_after(count)
    eventually(lambda: relay.is_cut, 40, "the last cut")
    relay.mend()
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))


@transports
def test_a_dead_link_is_noticed(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    """Everything is swallowed, without an error: the library comes back by itself when the link does."""
    ticket = server.ticket()
    relay = relay_to(server, 40 * MIB)
    page = open_page(relay.url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(8 * MIB)
    relay.swallow()
    page.wait_for("!uploader.connected", 30)
    relay.drop()
    relay.mend()
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))


@transports
def test_a_black_hole_is_noticed(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    """Nothing comes through any more, over old connections and new ones, until the link is back."""
    ticket = server.ticket()
    relay = relay_to(server, 40 * MIB)
    page = open_page(relay.url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(8 * MIB)
    relay.hold()
    page.wait_for("!uploader.connected", 30)
    assert page.get("state_msg") == "connection lost, trying again"
    relay.mend()
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))


@transports
def test_a_slow_line_is_no_black_hole(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    """All that was sent is in buffers at once, and then nothing can be seen for longer than a dead link has."""
    ticket = server.ticket()
    relay = relay_to(server, 40_000)
    page = open_page(relay.url)
    page.upload(file_of(2 * MIB), ticket, transport)
    page.tab.evaluate(_NOTE_LOSSES)
    page.wait_for_bytes(1 * MIB, 120)
    assert page.tab.evaluate("window.losses") == 0


_NOTE_LOSSES = """() => {
    window.losses = 0;
    window.uploader.onprogress = (uploader) => { window.losses += uploader.state_msg.includes("lost"); };
}"""


@transports
def test_the_page_is_reloaded_and_the_file_picked_again(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    ticket = server.ticket()
    relay = relay_to(server, 40 * MIB)
    page = open_page(relay.url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(10 * MIB)
    page.reload()
    page.pick(file_of(SIZE))
    found = page.tab.evaluate("incoming.previous(document.getElementById('file').files[0])")
    assert found == ticket
    passed = relay.passed
    page.start(found, transport)
    page.wait_until_finished()
    assert relay.passed - passed < SIZE - 8 * MIB, "what had arrived was sent again"
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))
    page.reload()
    page.pick(file_of(SIZE))
    assert page.tab.evaluate("incoming.previous(document.getElementById('file').files[0])") is None


@transports
def test_a_worker_is_killed(
    start_server: StartServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    server = start_server()
    ticket = server.ticket()
    page = open_page(relay_to(server, 40 * MIB).url)
    page.upload(file_of(SIZE), ticket, transport)
    for count in (5, 20, 40):
        page.wait_for_bytes(count * MIB)
        server.kill_a_worker()
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)), calls=2)


@transports
def test_the_whole_server_is_killed_and_started_again(
    start_server: StartServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    server = start_server()
    ticket = server.ticket()
    page = open_page(relay_to(server, 40 * MIB).url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(15 * MIB)
    server.kill()
    server.start()
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)), calls=2)


@transports
def test_pause_and_resume(
    start_server: StartServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    server = start_server()
    ticket = server.ticket()
    page = open_page(relay_to(server, 40 * MIB).url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(10 * MIB)
    page.call("pause()")
    page.wait_for("uploader.paused && uploader.bytes_ahead === 0")
    eventually(lambda: _state(server, ticket) == "paused", what="the server knowing of the pause")
    paused_at = page.get("bytes_acked")
    assert paused_at < SIZE
    server.kill_a_worker()  # whoever had it: another one goes on
    page.call("start()")
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))


@transports
@pytest.mark.parametrize("when", ["uploading", "paused", "offline"])
def test_cancel(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str, when: str
) -> None:
    ticket = server.ticket()
    relay = relay_to(server, 40 * MIB)
    page = open_page(relay.url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(10 * MIB)
    if when == "paused":
        page.call("pause()")
        page.wait_for("uploader.paused")
    if when == "offline":
        relay.cut()
        page.wait_for("!uploader.connected", 30)
    page.call("cancel('not this one')")
    if when == "offline":
        page.wait_for("uploader.cancelling")
        relay.mend()
    page.wait_for("uploader.cancelled", 40)
    assert page.calls == ["oncancelled"]
    event = eventually(lambda: server.events(ticket))[0]
    assert event["kind"] == "cancelled"
    assert "not this one" in event["reason"]
    arriving = server.folder / "incoming" / "arriving"
    eventually(lambda: not list(arriving.glob(f"*{ticket}*")), what="the bytes being deleted")


@transports
def test_cancel_comes_too_late(server: AppServer, open_page: OpenPage, file_of: FileOf, transport: str) -> None:
    ticket = server.ticket(answer="wait")
    page = open_page(server.url)
    page.upload(file_of(3 * MIB), ticket, transport)
    page.wait_for("uploader.phase === 'processing'")
    assert not page.get("can_cancel")
    page.call("cancel('too late')")
    eventually(lambda: _state(server, ticket) == "waiting_for_app")
    requests.post(f"{server.url}/finish/{ticket}", timeout=5).raise_for_status()
    page.wait_until_finished()
    assert [event["kind"] for event in server.events(ticket)] == ["finished"]


@transports
def test_the_app_takes_its_time_and_the_page_is_reloaded(
    server: AppServer, open_page: OpenPage, file_of: FileOf, transport: str
) -> None:
    ticket = server.ticket(answer="wait")
    page = open_page(server.url)
    page.upload(file_of(3 * MIB), ticket, transport)
    page.wait_for("uploader.phase === 'processing'")
    page.reload()
    page.upload(file_of(3 * MIB), ticket, transport)
    page.wait_for("uploader.phase === 'processing'")
    eventually(lambda: _state(server, ticket) == "waiting_for_app")
    requests.post(f"{server.url}/finish/{ticket}", timeout=5).raise_for_status()
    page.wait_until_finished()


@transports
def test_two_tabs_with_one_ticket(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str
) -> None:
    """The newer one wins, and the older one says why and stays away."""
    ticket = server.ticket()
    relay = relay_to(server, 40 * MIB)
    old, new = open_page(relay.url), open_page(relay.url)
    old.upload(file_of(SIZE), ticket, transport)
    old.wait_for_bytes(5 * MIB)
    new.upload(file_of(SIZE), ticket, transport)
    old.wait_for("uploader.error_code === incoming.errors.replaced", 30)
    assert old.calls == ["onerror"]
    new.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))


@transports
def test_a_changed_file_is_refused(
    server: AppServer, open_page: OpenPage, file_of: FileOf, relay_to: RelayTo, transport: str, tmp_path: Path
) -> None:
    """Of the same name and length, but with another byte in it: the upload that was begun lives on untouched."""
    ticket = server.ticket()
    page = open_page(relay_to(server, 40 * MIB).url)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_for_bytes(10 * MIB)
    page.reload()
    changed = tmp_path / file_of(SIZE).name
    changed.write_bytes(b"X" + file_of(SIZE).read_bytes()[1:])
    page.upload(changed, ticket, transport)
    page.wait_for("uploader.error_code === incoming.errors.file_changed", 30)
    page.upload(file_of(SIZE), ticket, transport)
    page.wait_until_finished()
    assert_arrived_once(server, ticket, sha256(file_of(SIZE)))


def _state(server: AppServer, ticket: str) -> str:
    state: str = requests.get(f"{server.url}/state/{ticket}", timeout=5).json()["state"]
    return state


def test_the_library_as_a_module(server: AppServer, open_page: OpenPage, file_of: FileOf) -> None:
    ticket = server.ticket()
    page = open_page(server.url)
    page.pick(file_of(3 * MIB))
    script = """async (ticket) => {
        const { Uploader } = await import("/incoming/frontend/incoming.mjs");
        const uploader = Uploader(ticket, document.getElementById("file").files[0]);
        return await new Promise((resolve) => {
            uploader.onfinished = () => resolve(uploader.frac_complete);
            uploader.onerror = () => resolve(uploader.error_msg);
            uploader.start();
        });
    }"""
    assert page.tab.evaluate(script, ticket) == 1
    assert_arrived_once(server, ticket, sha256(file_of(3 * MIB)))
