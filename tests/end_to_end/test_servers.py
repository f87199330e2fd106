"""The same short story under every server: chunks, a WebSocket where there can be one, all ways to hand over."""

from __future__ import annotations

import concurrent.futures
import itertools
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import requests
from websocket import WebSocketBadStatusException

from tests.bad_inputs.wire import Connection, ask, request
from tests.support.chunk_client import ChunkClient
from tests.support.processes import GUNICORN, OTHERS, AppServer
from tests.support.waiting import eventually

from .conftest import Connect, StartServer, assert_arrived_once, data_of, sha256

#: Servers that give a socket away, and have somebody left to serve the others then.
WITH_WEBSOCKET = {"gevent", "gevent-preload", "gthread", "geventwebsocket", "gevent-pywsgi", "pywsgi", "werkzeug"}

#: Servers under which no interim response can be sent.
WITHOUT_SOCKET = {"waitress"}

#: Servers that close a connection after each request.
ONE_REQUEST_EACH = {"sync", "one-sync", "werkzeug"}

#: How bodies come. A release of a server that moves its furniture is found here, before it makes uploads slow.
PATHS = dict.fromkeys((*GUNICORN, "pywsgi", "werkzeug"), "splice") | {
    "waitress": "wsgi.input",
    "cheroot": "wsgi.input",
}

DATA = data_of(20_000_003)


@pytest.mark.parametrize("kind", [*GUNICORN, *OTHERS])
def test_every_server(
    kind: str, start_server: StartServer, connect: Connect, chunk_client: Callable[..., ChunkClient]
) -> None:
    server = start_server(kind, LEVEL="DEBUG", INCOMING_INTERIM_RESPONSES="yes")
    _passes_through(server)
    _takes_chunks(server, chunk_client)
    _takes_them_by_the_fastest_way(server)
    _keeps_the_connection_in_order(server)
    _takes_chunks_out_of_order_and_twice(server, chunk_client)
    _takes_a_small_file_in_one_request(server, chunk_client)
    _hands_over_to_a_path(server, chunk_client)
    _hands_over_to_a_url(server, chunk_client)
    if kind in WITHOUT_SOCKET:
        _announces_nothing(server)
    else:
        _announces_resumption(server)
        _announces_nothing(server, version="1.0")
        _announces_nothing(server, ("Via", "1.1 proxy"))
    if kind in WITH_WEBSOCKET:
        _takes_a_websocket(server, connect)
    else:
        _refuses_a_websocket(server, connect)


def _passes_through(server: AppServer) -> None:
    response = requests.post(f"{server.url}/echo", data=DATA[:1_000_000], timeout=30)
    assert response.content == DATA[:1_000_000]


def _takes_chunks(server: AppServer, chunk_client: Callable[..., ChunkClient]) -> None:
    ticket = server.ticket()
    status = chunk_client(server.url, ticket, DATA).upload()
    assert status["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


def _takes_them_by_the_fastest_way(server: AppServer) -> None:
    assert set(re.findall("bytes by (.+)", server.log())) == {PATHS[server.kind]}


def _keeps_the_connection_in_order(server: AppServer) -> None:
    """A client that sends the next request before it has read the answer to a chunk."""
    ticket = server.ticket()
    client = ChunkClient(server.url, ticket, b"12345")
    with client.http:
        client.open()
    after = f"GET {urlsplit(client.resource).path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with Connection(server.port) as connection:
        connection.send(client.head(0, 5) + b"12345" + after.encode())
        answers = connection.everything()
    assert answers.startswith(b"HTTP/1.1 200")
    assert b'"received": 5' in answers
    if server.kind not in ONE_REQUEST_EACH:
        assert answers.count(b"HTTP/1.1 200") == 2


def _takes_chunks_out_of_order_and_twice(server: AppServer, chunk_client: Callable[..., ChunkClient]) -> None:
    ticket = server.ticket()
    client = chunk_client(server.url, ticket, DATA)
    client.open()
    edges = [0, 7, 3_000_000, 8_000_001, 13_000_000, len(DATA)]
    pieces = list(itertools.pairwise(edges))
    order = [pieces[3], pieces[1], pieces[4], pieces[1], (2_000_000, 9_000_000), pieces[2], pieces[0]]
    with concurrent.futures.ThreadPoolExecutor(4) as lanes:
        answers = list(lanes.map(lambda piece: client.put(*piece), order))
    assert {answer.status_code for answer in answers} == {200}
    assert client.wait(client.status())["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


def _takes_a_small_file_in_one_request(server: AppServer, chunk_client: Callable[..., ChunkClient]) -> None:
    ticket = server.ticket()
    status = chunk_client(server.url, ticket, b"small").open(b"small")
    assert status["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(b"small"))


def _hands_over_to_a_path(server: AppServer, chunk_client: Callable[..., ChunkClient]) -> None:
    ticket = server.ticket("/api/arrived")
    chunk_client(server.url, ticket, b"by path").upload()
    assert_arrived_once(server, ticket, sha256(b"by path"))
    assert server.events(ticket)[0]["url"] == f"{server.url}/api/arrived"


def _hands_over_to_a_url(server: AppServer, chunk_client: Callable[..., ChunkClient]) -> None:
    ticket = server.ticket(f"{server.url}/api/arrived")
    chunk_client(server.url, ticket, b"by url").upload()
    assert_arrived_once(server, ticket, sha256(b"by url"))


def _takes_a_websocket(server: AppServer, connect: Connect) -> None:
    ticket = server.ticket()
    connect(server.url, ticket, DATA).upload()
    assert_arrived_once(server, ticket, sha256(DATA))
    cut = connect(server.url, server.ticket(), DATA)
    cut.open()
    cut.send_chunks(1_000_000)
    cut.vanish()
    eventually(lambda: requests.post(f"{server.url}/echo", data=b"alive", timeout=30).content == b"alive")


def _refuses_a_websocket(server: AppServer, connect: Connect) -> None:
    with pytest.raises(WebSocketBadStatusException, match=r"50[13]"):
        connect(server.url, server.ticket(), DATA)


def _announces_resumption(server: AppServer) -> None:
    """Before a byte of the body has come, and beside the 100 that was asked for; by what it says the client goes on."""
    ticket = server.ticket()
    with Connection(server.port) as connection:
        connection.send(_creation(ticket, ("Expect", "100-continue")))
        announced = connection.answer()
        assert announced.status == 104
        assert announced.headers["upload-draft-interop-version"] == "8"
        connection.send(DATA[:300_000])
        connection.send_nothing_more()
        connection.everything()
    path = urlsplit(announced.headers["location"]).path
    told = ask(server.port, "HEAD", path)
    assert (told.headers["upload-offset"], told.headers["upload-complete"]) == ("300000", "?0")
    about = [("Content-Type", "application/partial-upload"), ("Upload-Offset", "300000"), ("Upload-Complete", "?1")]
    assert ask(server.port, "PATCH", path, about, DATA[300_000:1_000_000]).json()["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA[:1_000_000]))


def _announces_nothing(server: AppServer, *about: tuple[str, str], version: str = "1.1") -> None:
    ticket = server.ticket()
    with Connection(server.port) as connection:
        connection.send(_creation(ticket, *about, ("Connection", "close"), version=version) + DATA[:1_000_000])
        answer = connection.everything()
    assert re.match(rb"HTTP/1\.\d 200 ", answer)
    assert b" 104 " not in answer
    assert_arrived_once(server, ticket, sha256(DATA[:1_000_000]))


def _creation(ticket: str, *about: tuple[str, str], version: str = "1.1") -> bytes:
    """The head of a request that creates an upload of a million bytes."""
    headers = [
        ("Upload-Complete", "?1"),
        ("Upload-Draft-Interop-Version", "8"),
        ("Content-Length", "1000000"),
        *about,
    ]
    return request("POST", f"/incoming/frontend/uploads/{ticket}", headers, version=version)
