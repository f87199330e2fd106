from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from webob import Request
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri
from webtest import TestApp

from incoming_wsgi import frontend as module
from incoming_wsgi.errors import Unavailable
from incoming_wsgi.frontend import Dialogue, Frontend, Permit
from incoming_wsgi.middleware import route
from incoming_wsgi.protocols.websocket import LONGEST_TEXT, Conversation, Window
from incoming_wsgi.upload import State, Upload
from incoming_wsgi.wire import channel as channel_module
from incoming_wsgi.wire import servers
from incoming_wsgi.wire.channel import Channel, handshake
from incoming_wsgi.wire.servers import Connection

from .helpers import NOBODYS, Engine, answer_late, manners

FOREIGN = "https://pages.example"
DATA = b"0123456789"


class Door:
    """The front end's door over HTTP."""

    def __init__(self, engine: Engine, permit: Permit | None = None, **changes: Any) -> None:
        self.frontend = Frontend(lambda: engine.receiver, manners(**changes), permit)
        self.web = TestApp(self.wsgi)
        self.ticket = engine.ticket()
        self.path = f"/p/frontend/uploads/{self.ticket}"

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        return route(environ, start_response, "/p", self.frontend, None)

    def open(self, data: bytes = b"", /, **headers: str) -> Any:
        given = {
            "Incoming-Length": "10",
            "Incoming-Name": "x.bin",
            **{n.replace("_", "-"): v for n, v in headers.items()},
        }
        return self.web.post(
            self.path, data, headers=given, content_type="application/octet-stream", expect_errors=True
        )


@pytest.fixture
def door(engine: Engine) -> Door:
    return Door(engine)


def test_an_upload_over_http(engine: Engine, door: Door) -> None:
    engine.start()
    opened = door.open(DATA[:4])
    assert opened.headers["Cache-Control"] == "no-store"
    session = opened.json["session"]
    headers = {"Content-Range": "bytes 4-9/10", "Incoming-Session": session}
    done = door.web.put(door.path, DATA[4:], headers=headers, content_type="application/octet-stream")
    assert done.json["state"] == "finished"
    assert door.web.get(door.path).json["state"] == "finished"
    assert door.web.head(door.path).content_length > 0


def test_an_error_comes_with_the_status(door: Door) -> None:
    door.open(DATA[:4])
    refused = door.open(Incoming_Length="11")
    assert refused.status_int == 409
    assert refused.json["error"]["name"] == "file_changed"
    assert refused.json["received"] == 4
    assert refused.headers["Cache-Control"] == "no-store"


def test_pause(engine: Engine, door: Door) -> None:
    session = door.open(DATA[:4]).json["session"]
    assert door.web.post(f"{door.path}/pause", headers={"Incoming-Session": session}).json["state"] == "paused"
    answer = door.web.get(f"{door.path}/pause", status=405)
    assert answer.headers["Allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("ticket", ["x", NOBODYS, NOBODYS.upper()])
def test_unknown_tickets(door: Door, ticket: str) -> None:
    answer = door.web.get(f"/p/frontend/uploads/{ticket}", status=404)
    assert answer.json["error"]["name"] == "unknown_upload"
    assert "state" not in answer.json


@pytest.mark.parametrize(
    "path", ["uploads", "uploads/", "uploads/x/", "uploads/x/resume", "uploads/x/pause/", "x", "", "incoming.jsx"]
)
def test_addresses_that_are_none(door: Door, path: str) -> None:
    door.web.get(f"/p/frontend/{path}", status=404)


def test_other_methods(door: Door) -> None:
    answer = door.web.request(door.path, method="PATCH", expect_errors=True)
    assert answer.status_int == 405
    assert "PUT" in answer.headers["Allow"]


# -- dialects ---------------------------------------------------------------------------------------------------


def test_a_bare_request_follows_the_dialect_of_the_creation(door: Door) -> None:
    assert "Upload-Offset" not in door.web.head(door.path).headers
    door.web.post(door.path, DATA[:4], headers={"Upload-Complete": "?0"}, content_type="text/plain", status=201)
    assert door.web.head(door.path, status=204).headers["Upload-Offset"] == "4"
    assert door.web.get(door.path).headers["Upload-Offset"] == "4"
    assert "Upload-Offset" not in door.web.get(f"{door.path}?wait=0").headers
    door.open()
    assert door.web.head(door.path).headers["Upload-Offset"] == "4"
    door.web.delete(door.path, status=204)
    assert door.web.get(door.path, status=410).content_type == "application/problem+json"


def test_a_bare_request_for_a_ticket_follows_the_last_opening(door: Door) -> None:
    about = {"Upload-Complete": "?0", "Upload-Offset": "0", "Content-Type": "application/partial-upload"}
    door.web.request(door.path, method="PATCH", body=DATA[:4], headers=about)
    assert door.web.head(door.path, status=204).headers["Upload-Offset"] == "4"


@pytest.mark.parametrize("place", ["query", "header", "path"])
def test_creating_with_a_ticket(engine: Engine, door: Door, place: str) -> None:
    engine.start()
    path = {"query": f"/p/frontend/uploads?ticket={door.ticket}", "path": door.path}.get(place, "/p/frontend/uploads")
    headers = {"Upload-Complete": "?1", **({"Incoming-Ticket": door.ticket} if place == "header" else {})}
    answer = door.web.post(path, DATA, headers=headers)
    assert answer.json["state"] == "finished"
    assert engine.state(door.ticket) is State.FINISHED


def test_creating_without_a_ticket_or_with_a_wrong_one(door: Door) -> None:
    headers = {"Upload-Complete": "?1"}
    door.web.post("/p/frontend/uploads", DATA, headers=headers, status=403)
    door.web.post(f"/p/frontend/uploads?ticket={Upload().id}", DATA, headers=headers, status=404)
    door.web.post("/p/frontend/uploads?ticket=../x", DATA, headers=headers, status=404)


@pytest.mark.parametrize("query", ["ticket=%ff", "%ff", "wait=%ff"])
def test_queries_that_are_no_text(door: Door, query: str) -> None:
    door.web.post(f"/p/frontend/uploads?{query}", DATA, headers={"Upload-Complete": "?1"}, status=400)
    door.web.options(f"/p/frontend/uploads?{query}", status=400)
    door.web.get(f"{door.path}?{query}", status=400)
    door.web.get(f"{door.path}?{query}", headers={"Upload-Draft-Interop-Version": "9"})


def test_creating_as_the_app_allows(engine: Engine) -> None:
    asked: list[Mapping[str, str]] = []

    def permit(request: Request, metadata: Mapping[str, str]) -> Upload:
        asked.append(metadata)
        return engine.receiver.create("app", max_length=5)

    door = Door(engine, permit)
    headers = {"Upload-Complete": "?0", "Content-Disposition": "inline; filename=x.txt"}
    created = door.web.post("/p/frontend/uploads", DATA[:5], headers=headers, content_type="text/plain", status=201)
    assert created.headers["Location"].startswith("http://localhost/p/frontend/uploads/")
    assert asked[0]["filename"] == "x.txt"
    assert door.web.head(created.headers["Location"]).headers["Upload-Offset"] == "5"
    door.web.post("/p/frontend/uploads", DATA, headers=headers, content_type="text/plain", status=413)


def test_limits_are_announced_as_strict_as_they_will_be(engine: Engine, door: Door) -> None:
    small = engine.ticket(max_length=5)
    for path in (f"/p/frontend/uploads/{small}", f"/p/frontend/uploads?ticket={small}"):
        assert door.web.options(path, status=204).headers["Upload-Limit"] == "max-size=5"
    assert door.web.options("/p/frontend/uploads", status=204).headers["Upload-Limit"] == f"max-size={2**40}"


@pytest.mark.parametrize(
    ("is_wished", "headers", "is_sent"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"Via": "1.1 proxy"}, False),
        (True, {"X-Forwarded-For": "10.0.0.1"}, False),
        (True, {"X-Forwarded-Proto": "https"}, False),
        (True, {"Forwarded": "for=10.0.0.1"}, False),
        (True, {"X-Real-IP": "10.0.0.1"}, False),
        (True, {"Upload-Draft-Interop-Version": "2"}, False),
    ],
)
def test_interim_responses(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_wished: bool, headers: dict[str, str], is_sent: bool
) -> None:
    sent: list[tuple[str, Mapping[str, str]]] = []
    monkeypatch.setattr(servers, "send_interim", lambda environ, *response: sent.append(response))
    door = Door(engine, interim_responses=is_wished)
    about = {"Upload-Draft-Interop-Version": "9", "Upload-Complete": "?0", **headers}
    created = door.web.post(door.path, DATA, headers=about, content_type="text/plain", status=201)
    assert bool(sent) is is_sent
    if sent:
        ((status, told),) = sent
        assert status == "104 Upload Resumption Supported"
        assert told["Location"] == created.headers["Location"]


# -- Origin -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "headers", "is_allowed"),
    [
        ("files.example", {}, True),  # no browser
        ("files.example", {"Origin": "http://files.example"}, True),
        ("files.example", {"Origin": "https://files.example:443"}, True),
        ("files.example:443", {"Origin": "https://files.example"}, True),
        ("FILES.example:8080", {"Origin": "http://files.EXAMPLE:8080"}, True),
        ("[::1]:8080", {"Origin": "http://[::1]:8080"}, True),
        ("[::1]", {"Origin": "http://[::1]"}, True),
        ("files.example:8080", {"Origin": "http://files.example"}, False),
        ("files.example", {"Origin": "http://files.example:8080"}, False),
        ("files.example", {"Origin": FOREIGN}, False),
        ("files.example", {"Origin": "http://files.example.evil.example"}, False),
        ("files.example", {"Origin": "null"}, False),
        ("files.example", {"Origin": ""}, False),
        ("files.example", {"Origin": "files.example"}, False),
        ("files.example", {"Origin": "ftp://files.example"}, False),
        ("files.example", {"Origin": "http://["}, False),
        ("files.example", {"Origin": FOREIGN, "X-Forwarded-Host": "pages.example"}, False),
        ("files.example", {"Origin": FOREIGN, "Forwarded": "host=pages.example;proto=https"}, False),
        ("inside:8000", {"Origin": "https://files.example", "Sec-Fetch-Site": "same-origin"}, True),
        ("inside:8000", {"Origin": "https://files.example", "Sec-Fetch-Site": "same-site"}, False),
        ("inside:8000", {"Origin": "https://files.example", "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_pages_of_other_sites_may_not_upload(
    engine: Engine, door: Door, host: str, headers: dict[str, str], is_allowed: bool
) -> None:
    answer = door.open(Host=host, **headers)
    assert answer.status_int == (200 if is_allowed else 403)
    assert engine.state(door.ticket) is (State.RECEIVING if is_allowed else State.WAITING)
    for method in ("DELETE", "PUT"):
        other = door.web.request(door.path, method=method, headers={"Host": host, **headers}, expect_errors=True)
        assert (other.status_int == 403) is not is_allowed


#: What ends a running request, or changes something.
SHUTTING_OUT = {
    "an opening": ("POST", {"Incoming-Length": "10", "Incoming-Name": "x.bin"}),
    "a chunk": ("PUT", {"Content-Range": "bytes 4-9/10", "Content-Type": "application/octet-stream"}),
    "cancelling": ("DELETE", {}),
    "a tus HEAD": ("HEAD", {"Tus-Resumable": "1.0.0"}),
    "a tus PATCH": ("PATCH", {"Tus-Resumable": "1.0.0", "Upload-Offset": "4"}),
    "a tus DELETE": ("DELETE", {"Tus-Resumable": "1.0.0"}),
    "an override": ("POST", {"Tus-Resumable": "1.0.0", "X-HTTP-Method-Override": "DELETE"}),
    "a HEAD of the drafts": ("HEAD", {"Upload-Draft-Interop-Version": "6"}),
    "a bare HEAD": ("HEAD", {}),
    "a bare GET": ("GET", {}),
    "a PATCH of the drafts": ("PATCH", {"Upload-Complete": "?0", "Upload-Offset": "4"}),
}


@pytest.mark.parametrize(
    "stranger",
    [{"Origin": FOREIGN}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}],
    ids=str,
)
@pytest.mark.parametrize("what", SHUTTING_OUT)
def test_no_page_of_another_site_ends_a_request(
    door: Door, engine: Engine, what: str, stranger: dict[str, str]
) -> None:
    """Not by an image either, whose request has no Origin: where it would shut a sender out, it is refused."""
    method, headers = SHUTTING_OUT[what]
    door.web.post(door.path, DATA[:4], headers={"Upload-Complete": "?0"}, content_type="text/plain", status=201)
    before = engine.receiver.status(door.ticket)
    assert before.session
    answer = door.web.request(door.path, method=method, headers={**headers, **stranger}, status=403)
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert engine.receiver.status(door.ticket) == before


def test_behind_a_proxy_the_public_url_counts(engine: Engine) -> None:
    door = Door(engine, public_url="https://files.example/some/where")
    assert door.open(Host="inside:8000", Origin="https://files.example").status_int == 200
    assert door.open(Host="inside:8000", Origin="http://inside:8000").status_int == 403


def test_pages_that_are_allowed_get_cors(engine: Engine) -> None:
    door = Door(engine, allow_origins=(FOREIGN,))
    answer = door.open(Origin=FOREIGN)
    assert answer.status_int == 200
    assert answer.headers["Access-Control-Allow-Origin"] == FOREIGN
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Retry-After", "Location", "Upload-Offset"} <= set(exposed)
    assert "Origin" in answer.headers["Vary"]
    refused = door.open(Origin=FOREIGN, Incoming_Length="11")
    assert refused.headers["Access-Control-Allow-Origin"] == FOREIGN  # else the page could not read why
    assert "Access-Control-Allow-Credentials" not in answer.headers
    other = door.open(Origin="https://other.example")
    assert (other.status_int, other.headers.get("Access-Control-Allow-Origin")) == (403, None)
    assert "Origin" in other.headers["Vary"]


def test_preflight(engine: Engine) -> None:
    door = Door(engine, allow_origins=(FOREIGN,))
    answer = door.web.options(door.path, headers={"Origin": FOREIGN})
    assert answer.status_int == 204
    assert answer.headers["Access-Control-Allow-Origin"] == FOREIGN
    assert {"POST", "PUT", "DELETE"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
    assert "Incoming-Session" in answer.headers["Access-Control-Allow-Headers"]
    other = door.web.options(door.path, headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_any_origin_but_that_of_nobody(engine: Engine) -> None:
    door = Door(engine, allow_origins=("*",))
    assert door.open(Origin="https://anybody.example").status_int == 200
    assert door.open(Origin="null").status_int == 403


# -- WebSocket --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 426),
        ("POST", {"Upgrade": "websocket"}, 405),
        ("GET", {"Upgrade": "websocket", "Origin": FOREIGN}, 403),
        ("GET", {"Upgrade": "websocket", "Sec-WebSocket-Version": "8"}, 426),
        ("GET", {"Upgrade": "websocket"}, 400),  # by HTTP/1.0, as webtest speaks
    ],
)
def test_websockets_refused(door: Door, method: str, headers: dict[str, str], status: int) -> None:
    answer = door.web.request("/p/frontend/upload_ws", method=method, headers=headers, expect_errors=True)
    assert answer.status_int == status
    if status == 426:
        assert answer.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize("offered", [True, False])
def test_where_no_socket_can_be_had_it_is_said_at_once(engine: Engine, offered: bool) -> None:
    door = Door(engine, websocket=offered)
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = door.web.get(
        "/p/frontend/upload_ws", headers=headers, extra_environ={"SERVER_PROTOCOL": "HTTP/1.1"}, status=501
    )
    assert answer.json["error"]["name"] == "not_implemented"
    assert door.web.get(door.path).json["websocket"] is False


class Talk:
    """A dialogue in a thread of its own, and the browser's end of its connection."""

    def __init__(self, engine: Engine, receive_timeout: float = 10) -> None:
        server, self._socket = socket.socketpair()
        self._socket.settimeout(10)
        self._protocol = ClientProtocol(parse_uri("ws://x/"), state=OPEN)
        self.ticket = engine.ticket()
        connection = Connection(server, b"", True, "test", {})
        self.channel = Channel(connection, handshake({}), longest_text=LONGEST_TEXT, longest_binary=2**20)
        self._conversation = Conversation(engine.receiver, Window(65536, 4))
        self._dialogue = Dialogue(self.channel, self._conversation, engine.receiver, receive_timeout)
        self._thread = threading.Thread(target=self._dialogue.run)
        self._thread.start()

    def say(self, kind: str, **data: Any) -> None:
        self._protocol.send_text(json.dumps({"MsgType": kind, "MsgData": data}).encode())
        self._flush()

    def chunk(self, data: bytes) -> None:
        self._protocol.send_binary(data)
        self._flush()

    def begin(self, length: int = 10) -> None:
        self.say("MsgUploadReq", Id=self.ticket, LengthBytes=length, Name="x.bin")
        assert self.hear() == "MsgUploadConf"
        self.say("MsgAck", Ack=True)

    def hear(self) -> str | int:
        """The type of the next message, or the code of the close."""
        while True:
            for event in self._protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    return str(json.loads(bytes(event.data))["MsgType"])
            if self._protocol.close_rcvd is not None:
                return int(self._protocol.close_rcvd.code)
            data = self._socket.recv(1)  # no more than the next message
            assert data, "the connection ended without a word"
            self._protocol.receive_data(data)
            self._flush()

    def changed(self) -> None:
        """The registry says that something has changed."""
        self._dialogue._wake_if_over()

    def leave(self) -> None:
        self._socket.close()

    def ended(self) -> bool:
        self._thread.join(10)
        return not self._thread.is_alive()

    def end(self) -> None:
        self.leave()
        self.channel.wake()
        assert self.ended()
        self._conversation.close()

    def _flush(self) -> None:
        with suppress(BrokenPipeError):  # it may have said goodbye already
            self._socket.sendall(b"".join(self._protocol.data_to_send()))


@pytest.fixture
def talk(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    monkeypatch.setattr(channel_module, "_LINGER", 0.05)
    talk = Talk(engine)
    yield talk
    talk.end()


def test_a_whole_upload_over_a_websocket(engine: Engine, talk: Talk) -> None:
    engine.start()
    talk.begin()
    talk.chunk(DATA)
    assert [talk.hear(), talk.hear(), talk.hear()] == ["MsgChunkAck", "MsgAllDone", 1000]
    assert talk.ended()


def test_others_complete_it_before_the_last_bytes_are_known_to_be_recorded(
    engine: Engine, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.start()
    talk.begin()
    answer_late(engine, talk.ticket, monkeypatch)
    talk.chunk(DATA)
    assert [talk.hear(), talk.hear(), talk.hear()] == ["MsgChunkAck", "MsgAllDone", 1000]


def test_it_hears_at_once_of_what_others_do(engine: Engine, talk: Talk) -> None:
    talk.begin()
    talk.chunk(DATA[:4])
    assert talk.hear() == "MsgChunkAck"
    engine.receiver.cancel(talk.ticket, "not today")
    assert [talk.hear(), talk.hear()] == ["MsgCancel", 1000]


def test_it_is_sent_away_by_a_newer_connection(engine: Engine, talk: Talk) -> None:
    talk.begin()
    talk.chunk(DATA[:4])
    talk.hear()
    engine.open(talk.ticket, 10).close()
    assert talk.hear() == 1012


def test_it_is_sent_away_when_the_process_ends(engine: Engine, talk: Talk) -> None:
    talk.begin()
    talk.chunk(DATA[:4])
    talk.hear()
    talk.channel.wake()
    assert talk.hear() == 1012
    assert engine.receiver.status(talk.ticket).received == 4


def test_news_while_the_records_can_not_be_read_are_no_trouble(
    engine: Engine, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tells them goes on, with others; and tells again when the records are back."""
    talk.begin()
    talk.chunk(DATA[:4])
    talk.hear()

    def away(_: str) -> None:
        raise Unavailable

    with monkeypatch.context() as trouble:
        trouble.setattr(engine.registry, "get", away)
        talk.changed()
    engine.receiver.cancel(talk.ticket, "not today")
    assert [talk.hear(), talk.hear()] == ["MsgCancel", 1000]


def test_it_ends_when_the_browser_vanishes(engine: Engine, talk: Talk) -> None:
    talk.begin()
    talk.leave()
    assert talk.ended()
    assert engine.state(talk.ticket) is State.RECEIVING


def test_silence_of_who_owes_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_LINGER", 0.05)
    talk = Talk(engine, receive_timeout=0.05)
    assert talk.hear() == 1001
    talk.end()


def test_who_waits_for_the_app_is_pinged(engine: Engine, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PING_INTERVAL", 0.02)
    engine.app.may_answer.clear()
    engine.start()
    talk.begin()
    talk.chunk(DATA)
    assert talk.hear() == "MsgChunkAck"
    pings = 0
    while pings < 3:
        data = talk._socket.recv(2)
        pings += data == b"\x89\x00"
    engine.app.may_answer.set()
    assert talk.hear() == "MsgAllDone"


def test_who_does_not_answer_pings_is_left(engine: Engine, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PING_INTERVAL", 0.02)
    monkeypatch.setattr(module, "_DEAD_AFTER", 0.1)
    talk.begin()
    talk.chunk(DATA)
    assert talk.ended()
