"""A front end that follows Incoming!! 0.1, and nothing newer, against a real server with two workers."""

from __future__ import annotations

import pytest
import requests

from tests.support.front_end_0_1 import FrontEndError
from tests.support.waiting import eventually

from .conftest import Connect, StartServer, assert_arrived_once, data_of, sha256

DATA = data_of(5_000_000)


@pytest.mark.parametrize("versioned", [True, False])
def test_uploads(start_server: StartServer, connect: Connect, versioned: bool) -> None:
    server = start_server()
    ticket = server.ticket()
    front_end = connect(server.url, ticket, DATA, "Zürich.bin", versioned)
    assert front_end.open() == 0
    assert (front_end.chunk_size, front_end.send_ahead) == (512 * 1024, 4)
    front_end.send_chunks()
    front_end.finish()
    assert_arrived_once(server, ticket, sha256(DATA))
    assert server.events(ticket)[0]["name"] == "Zürich.bin"


def test_an_empty_file_is_handed_over(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket()
    connect(server.url, ticket, b"").upload()
    assert_arrived_once(server, ticket, sha256(b""))


def test_resumes_after_a_cut(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket()
    for until in (600_000, 2_000_000, 4_999_999):
        front_end = connect(server.url, ticket, DATA)
        front_end.open()
        front_end.send_chunks(until)
        acked = front_end.acked
        front_end.vanish()
        again = connect(server.url, ticket, DATA)
        assert again.open() == acked
        again.vanish()
    connect(server.url, ticket, DATA).upload()
    assert_arrived_once(server, ticket, sha256(DATA))


def test_pauses_and_goes_on(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket()
    front_end = connect(server.url, ticket, DATA)
    front_end.open()
    front_end.send_chunks(2_500_000)
    front_end.pause()
    eventually(lambda: requests.get(f"{server.url}/state/{ticket}", timeout=5).json()["state"] == "paused")
    again = connect(server.url, ticket, DATA)
    assert again.open() == 2_500_000
    again.send_chunks()
    again.finish()
    assert_arrived_once(server, ticket, sha256(DATA))


def test_cancels(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket()
    front_end = connect(server.url, ticket, DATA)
    front_end.open()
    front_end.send_chunks(1_000_000)
    front_end.cancel("changed my mind")
    event = eventually(lambda: server.events(ticket))[0]
    assert event["kind"] == "cancelled"
    assert event["reason"] == "changed my mind"
    assert not list((server.folder / "incoming" / "arriving").iterdir())
    again = connect(server.url, ticket, DATA)
    again.send("MsgUploadReq", Id=ticket, LengthBytes=len(DATA), Name="file.bin")
    assert again.receive() == ("MsgCancel", {"Reason": "changed my mind"})


def test_comes_back_when_the_app_has_it_already(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket()
    connect(server.url, ticket, DATA).upload()
    again = connect(server.url, ticket, DATA)
    assert again.open() == len(DATA)
    again.finish()
    assert_arrived_once(server, ticket, sha256(DATA))


def test_waits_for_an_app_that_takes_its_time(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket(answer="wait")
    front_end = connect(server.url, ticket, DATA)
    front_end.open()
    front_end.send_chunks()
    eventually(lambda: requests.get(f"{server.url}/state/{ticket}", timeout=5).json()["state"] == "waiting_for_app")
    requests.post(f"{server.url}/finish/{ticket}", timeout=5).raise_for_status()
    front_end.finish()
    assert len(server.events(ticket)) == 1


def test_a_newer_connection_wins_at_once(start_server: StartServer, connect: Connect) -> None:
    """The older one is closed without an error, to come back by itself; no byte of it counts from then on."""
    server = start_server()
    ticket = server.ticket()
    old = connect(server.url, ticket, DATA)
    old.open()
    old.send_chunks(1_000_000)
    new = connect(server.url, ticket, DATA)
    assert new.open() == 1_000_000
    assert old.closing_code() == 1012
    new.send_chunks()
    new.finish()
    assert_arrived_once(server, ticket, sha256(DATA))


def test_a_changed_file_is_refused_and_harms_nothing(start_server: StartServer, connect: Connect) -> None:
    server = start_server()
    ticket = server.ticket()
    front_end = connect(server.url, ticket, DATA)
    front_end.open()
    front_end.send_chunks(1_000_000)
    front_end.vanish()
    with pytest.raises(FrontEndError, match="5000000 bytes, not 4999999"):
        connect(server.url, ticket, DATA[:-1]).open()
    again = connect(server.url, ticket, DATA)
    assert again.open() == 1_000_000
    again.send_chunks()
    again.finish()
    assert_arrived_once(server, ticket, sha256(DATA))


def test_is_sent_away_when_the_server_ends(start_server: StartServer, connect: Connect) -> None:
    """1012 and not MsgError: a 0.1 front end comes back by itself."""
    server = start_server()
    ticket = server.ticket()
    front_end = connect(server.url, ticket, DATA)
    front_end.open()
    front_end.send_chunks(2_000_000)
    server.stop()
    assert front_end.closing_code() == 1012
    server.start()
    again = connect(server.url, ticket, DATA)
    assert again.open() == 2_000_000
    again.send_chunks()
    again.finish()
    assert_arrived_once(server, ticket, sha256(DATA))
