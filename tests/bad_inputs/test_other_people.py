"""Somebody who has learnt a ticket that is not for them tries all that can be asked of an upload."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests

from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .conftest import StartServer
from .wire import Answer, Connection, WebSocket, ask, request

UPLOADS = "/incoming/frontend/uploads"
DATA = bytes(range(250)) * 400
HALF = len(DATA) // 2
HERE, THERE = "192.0.2.7", "198.51.100.8"
COOKIE = "session=of-the-right-person"
KEY = {"Authorization": "Bearer key"}

OWN = {"Incoming-Length": str(len(DATA)), "Incoming-Name": "x.bin", "Content-Type": "application/octet-stream"}
TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(DATA))}
PATCH = {"Tus-Resumable": "1.0.0", "Upload-Offset": str(HALF), "Content-Type": "application/offset+octet-stream"}
DRAFT = {"Upload-Complete": "?0", "Upload-Draft-Interop-Version": "8", "Content-Type": "text/plain"}
APPEND = {**DRAFT, "Upload-Offset": str(HALF), "Content-Type": "application/partial-upload"}
PIECE = {"Content-Range": f"bytes {HALF}-{HALF + 4}/{len(DATA)}", "Content-Type": "application/octet-stream"}

NOBODYS = f"{UPLOADS}/00000000-0000-4000-8000-000000000000"

#: Method, what follows the address of all uploads, headers and body of each request that can be about one. ``TICKET``
#: stands for the ticket, ``TICKET64`` for that in base64.
EVERYTHING: Mapping[str, tuple[str, str, Mapping[str, str], bytes]] = {
    "status": ("GET", "/TICKET", {}, b""),
    "waiting for news": ("GET", "/TICKET?wait=5&since=0", {}, b""),
    "HEAD": ("HEAD", "/TICKET", {}, b""),
    "opening": ("POST", "/TICKET", OWN, b""),
    "opening with bytes": ("POST", "/TICKET", OWN, b"01234"),
    "chunk": ("PUT", "/TICKET", {**PIECE, "Incoming-Session": "x"}, b"01234"),
    "pause": ("POST", "/TICKET/pause", {"Incoming-Session": "x"}, b""),
    "cancel": ("DELETE", "/TICKET", {"Incoming-Reason": "why"}, b""),
    "tus offset": ("HEAD", "/TICKET", {"Tus-Resumable": "1.0.0"}, b""),
    "tus creation": ("POST", "/TICKET", TUS, b""),
    "tus creation, ticket in the query": ("POST", "?ticket=TICKET", TUS, b""),
    "tus creation, ticket in a header": ("POST", "", {**TUS, "Incoming-Ticket": "TICKET"}, b""),
    "tus creation, ticket in the metadata": ("POST", "", {**TUS, "Upload-Metadata": "ticket TICKET64"}, b""),
    "tus part": ("POST", "?ticket=TICKET", {**TUS, "Upload-Concat": "partial"}, b""),
    "tus final": ("POST", "?ticket=TICKET", {"Tus-Resumable": "1.0.0", "Upload-Concat": f"final;{NOBODYS}"}, b""),
    "tus PATCH": ("PATCH", "/TICKET", PATCH, b"01234"),
    "tus PATCH in disguise": ("POST", "/TICKET", {**PATCH, "X-HTTP-Method-Override": "PATCH"}, b"01234"),
    "tus DELETE": ("DELETE", "/TICKET", {"Tus-Resumable": "1.0.0"}, b""),
    "tus DELETE in disguise": ("POST", "/TICKET", {**PATCH, "X-HTTP-Method-Override": "DELETE"}, b""),
    "draft offset": ("HEAD", "/TICKET", {"Upload-Draft-Interop-Version": "8"}, b""),
    "draft status": ("GET", "/TICKET", {"Upload-Draft-Interop-Version": "8"}, b""),
    "draft creation": ("POST", "/TICKET", DRAFT, b"01234"),
    "draft creation by PUT": ("PUT", "/TICKET", DRAFT, b"01234"),
    "draft creation, ticket in the query": ("POST", "?ticket=TICKET", DRAFT, b"01234"),
    "draft creation, ticket in a header": ("POST", "", {**DRAFT, "Incoming-Ticket": "TICKET"}, b"01234"),
    "draft PATCH": ("PATCH", "/TICKET", APPEND, b"01234"),
    "draft DELETE": ("DELETE", "/TICKET", {"Upload-Draft-Interop-Version": "8"}, b""),
}

#: What a ticket is bound to, and what of it the right person has, and somebody else.
BOUND: Mapping[str, tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]] = {
    "cookie": ({"bindCookie": COOKIE}, {"Cookie": f"a=b; {COOKIE}"}, {"Cookie": "session=of-another"}),
    "network": ({"bindNetwork": HERE}, {"X-Forwarded-For": HERE}, {"X-Forwarded-For": f"{HERE}, {THERE}"}),
}

#: What a client can say of itself. Only proxies that are listed are believed.
CLAIMS = {
    "X-Forwarded-For": HERE,
    "X-Real-IP": HERE,
    "X-Client-IP": HERE,
    "Forwarded": f"for={HERE};proto=https;host=claimed.example",
    "X-Forwarded-Host": "claimed.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Scheme": "https",
    "X-Forwarded-Port": "444",
    "X-Forwarded-Prefix": "/claimed",
    "X-Script-Name": "/claimed",
    "X-Original-URL": "/claimed",
    "X-Rewrite-URL": "/claimed",
}


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def behind_a_proxy(request: pytest.FixtureRequest, start_server: StartServer) -> AppServer:
    """Believes what requests from this machine say of who they are from."""
    return start_server(request.param, INCOMING_TRUSTED_PROXIES="127.0.0.1")


def ticket_for(server: AppServer, **terms: str) -> str:
    given = {"signalFinishURL": "/api/arrived", "backendSecret": "s3cret", **terms}
    answer = requests.post(f"{server.url}/incoming/backend/new_upload", data=given, headers=KEY, timeout=10)
    assert answer.ok, answer.text
    return answer.text


def ask_about(server: AppServer, ticket: str, what: str, more: Mapping[str, str]) -> Answer:
    method, rest, headers, body = EVERYTHING[what]
    encoded = base64.b64encode(ticket.encode()).decode()
    given = [(name, value.replace("TICKET64", encoded).replace("TICKET", ticket)) for name, value in headers.items()]
    return ask(server.port, method, UPLOADS + rest.replace("TICKET", ticket), [*given, *more.items()], body)


def state_of(server: AppServer, ticket: str) -> dict[str, Any]:
    """As the app sees it."""
    found: dict[str, Any] = requests.get(f"{server.url}/state/{ticket}", timeout=10).json()
    return found


class Sender:
    """The right person, half of whose file has arrived; the request is still under way.

    :param dialect: the one that it goes by.
    """

    def __init__(self, server: AppServer, ticket: str, dialect: str, more: Mapping[str, str]) -> None:
        headers = {
            "tus": {**TUS, "Content-Type": PATCH["Content-Type"], "Content-Length": str(len(DATA))},
            "draft": {**DRAFT, "Upload-Complete": "?1", "Content-Length": str(len(DATA))},
        }[dialect]
        self._server, self._ticket = server, ticket
        self._connection = Connection(server.port)
        self._connection.send(request("POST", f"{UPLOADS}/{ticket}", {**headers, **more}.items()) + DATA[:HALF])
        eventually(lambda: state_of(server, ticket)["state"] == "receiving", what="the first half")

    def end(self) -> None:
        """Send the rest, and see the file arrive."""
        self._connection.send(DATA[HALF:])
        answer = self._connection.answer()
        self._connection.close()
        assert answer.status in (200, 201), answer
        assert self._server.wait_for_file(self._ticket).read_bytes() == DATA


@pytest.mark.parametrize("dialect", ["tus", "draft"])
@pytest.mark.parametrize("bound", BOUND)
def test_nothing_can_be_done_with_a_bound_ticket(behind_a_proxy: AppServer, bound: str, dialect: str) -> None:
    """Not even end the request of the one whom it is for."""
    server, (terms, right, wrong) = behind_a_proxy, BOUND[bound]
    ticket = ticket_for(server, maxLength="150000", **terms)
    sender = Sender(server, ticket, dialect, right)
    before = state_of(server, ticket)
    for what in EVERYTHING:
        refused = ask_about(server, ticket, what, wrong)
        assert refused.status == 403, (what, refused)
        assert b"receiving" not in refused.body
        assert not {"upload-offset", "upload-length", "upload-limit"} & refused.headers.keys()
    told = ask(server.port, "OPTIONS", f"{UPLOADS}/{ticket}", wrong.items())
    assert told.headers["tus-max-size"] != "150000"
    with WebSocket(server.port) as socket:
        socket.say("MsgUploadReq", Id=ticket, LengthBytes=len(DATA), Name="x.bin")
        assert socket.hear()[0] == "MsgError"
    assert state_of(server, ticket)["state"] == before["state"]
    sender.end()


def test_whom_it_is_for_can_do_all_of_it(behind_a_proxy: AppServer) -> None:
    """Or else the other tests would show nothing."""
    for terms, right, _ in BOUND.values():
        for what in EVERYTHING:
            assert ask_about(behind_a_proxy, ticket_for(behind_a_proxy, **terms), what, right).status != 403, what


@pytest.fixture(scope="module")
def without_a_proxy(start_server: StartServer) -> AppServer:
    """Nobody is listed, neither with us nor with gunicorn, which believes its own machine about the scheme."""
    return start_server("gevent", FORWARDED_ALLOW_IPS="192.0.2.1")


@pytest.mark.parametrize("what", EVERYTHING)
def test_nobody_is_who_they_say(without_a_proxy: AppServer, what: str) -> None:
    """Without a proxy that is listed, nothing that a request says of its origin is believed, wherever it goes."""
    server = without_a_proxy
    ticket = ticket_for(server, bindNetwork=HERE)
    assert ask_about(server, ticket, what, CLAIMS).status == 403
    assert state_of(server, ticket) == {"state": "waiting", "received": 0}
    answer = ask_about(server, ticket_for(server), what, CLAIMS)
    assert "claimed" not in str(answer)
    assert answer.headers.get("location", "http://127.0.0.1/").startswith("http://127.0.0.1/")


@pytest.mark.parametrize("call", ["new_upload", "cancel_upload", "finish_upload", "renew_upload", "uploads/TICKET"])
def test_claims_open_no_back_end(server: AppServer, call: str) -> None:
    """Neither a claimed address nor another claimed path stands for the key."""
    ticket = ticket_for(server)
    path = f"/incoming/backend/{call.replace('TICKET', ticket)}?id={ticket}&backendSecret=s3cret&signalFinishURL=/x"
    method = "GET" if "uploads" in call else "POST"
    for claimed in ("127.0.0.1", "::1", HERE):
        about = {**CLAIMS, "X-Forwarded-For": claimed, "X-Original-URL": "/incoming/ready"}
        assert ask(server.port, method, path, about.items(), b"").status == 401
    assert state_of(server, ticket)["state"] == "waiting"


# -- two who may both upload ------------------------------------------------------------------------------------


@pytest.fixture
def two(server: AppServer) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Uploads of two owners under way: the ticket, the secret and the session of each, and a part that is complete."""

    def begun(owner: str) -> dict[str, str]:
        ticket = ticket_for(server, owner=owner, backendSecret=f"secret of {owner}")
        opened = ask(server.port, "POST", f"{UPLOADS}/{ticket}", OWN.items(), b"")
        whole = ticket_for(server, owner=owner, backendSecret=f"secret of {owner}")
        bytes_of_it = {"Content-Type": PATCH["Content-Type"], "Upload-Concat": "partial"}
        headers = {**TUS, "Upload-Length": "5", **bytes_of_it}
        made = ask(server.port, "POST", f"{UPLOADS}?ticket={whole}", headers.items(), b"01234")
        return {
            "ticket": ticket,
            "session": opened.json()["session"],
            "secret": f"secret of {owner}",
            "whole": whole,
            "part": made.headers["location"],
        }

    alice, bob = begun("alice"), begun("bob")
    before = state_of(server, alice["ticket"]), state_of(server, alice["whole"])
    yield alice, bob
    assert (state_of(server, alice["ticket"]), state_of(server, alice["whole"])) == before
    piece = {**PIECE, "Incoming-Session": alice["session"]}
    assert ask(server.port, "PUT", f"{UPLOADS}/{alice['ticket']}", piece.items(), b"01234").status == 200
    final = {"Tus-Resumable": "1.0.0", "Upload-Concat": f"final;{alice['part']}"}
    assert ask(server.port, "POST", f"{UPLOADS}?ticket={alice['whole']}", final.items(), b"").status == 201


def test_a_session_is_for_its_own_upload(server: AppServer, two: tuple[dict[str, str], dict[str, str]]) -> None:
    alice, bob = two
    for session in (bob["session"], "", bob["ticket"]):
        headers = {**PIECE, "Incoming-Session": session}
        assert ask(server.port, "PUT", f"{UPLOADS}/{alice['ticket']}", headers.items(), b"xxxxx").status == 409
        pause = {"Incoming-Session": session}
        assert ask(server.port, "POST", f"{UPLOADS}/{alice['ticket']}/pause", pause.items(), b"").status == 409


def test_a_part_is_for_its_own_whole(server: AppServer, two: tuple[dict[str, str], dict[str, str]]) -> None:
    alice, bob = two
    for urls in (alice["part"], f"{bob['part']} {alice['part']}", f"{UPLOADS}/{alice['ticket']}", bob["whole"]):
        final = {"Tus-Resumable": "1.0.0", "Upload-Concat": f"final;{urls}"}
        assert ask(server.port, "POST", f"{UPLOADS}?ticket={bob['whole']}", final.items(), b"").status == 400
    nested = {**TUS, "Upload-Length": "5", "Upload-Concat": "partial"}
    part = alice["part"].rpartition("/")[2]
    assert ask(server.port, "POST", f"{UPLOADS}?ticket={part}", nested.items(), b"").status == 400


def test_a_secret_is_for_its_own_upload(server: AppServer, two: tuple[dict[str, str], dict[str, str]]) -> None:
    alice, bob = two
    url = f"{server.url}/incoming/backend"
    for secret in (bob["secret"], "", alice["secret"] + "x"):
        given = {"id": alice["ticket"], "backendSecret": secret, "expiresIn": "1"}
        for call in ("cancel_upload", "finish_upload", "renew_upload"):
            assert requests.post(f"{url}/{call}", data=given, headers=KEY, timeout=10).status_code == 403
        file = f"{url}/uploads/{alice['ticket']}/file"
        assert requests.get(file, params={"backendSecret": secret}, headers=KEY, timeout=10).status_code == 403
