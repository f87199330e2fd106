"""Limits as people meet them: in the engine, at the browsers' door, in the app and over the HTTP API."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from webob import Request
from webtest import TestApp

from incoming_wsgi import Incoming, Permission
from incoming_wsgi.errors import (
    AlreadyComplete,
    Expired,
    Forbidden,
    OverQuota,
    Replaced,
    TooLarge,
    UnsupportedMediaType,
)
from incoming_wsgi.gates.terms import Terms
from incoming_wsgi.gates.visitors import Visitor
from incoming_wsgi.protocols.websocket import Conversation, Send, Window

from .helpers import Child, Clock, Engine, lane_of

HERE, THERE = "192.0.2.7", "192.0.2.8"
DATA = b"0123456789" * 1000


# -- the engine -------------------------------------------------------------------------------------------------


def test_tickets_of_an_owner(engines: Callable[..., Engine]) -> None:
    engine, other = engines(owner_uploads=2), engines(owner_uploads=2)
    first = engine.ticket(owner="me")
    other.ticket(owner="me")
    with pytest.raises(OverQuota):
        engine.ticket(owner="me")
    engine.ticket(owner="you")
    engine.ticket()
    other.receiver.cancel(first, "no more")
    engine.ticket(owner="me")


def test_bytes_of_an_owner(engines: Callable[..., Engine]) -> None:
    engine = engines(owner_bytes=15_000)
    one, two = engine.ticket(owner="me"), engine.ticket(owner="me")
    engine.open(one, 10_000).close()
    with pytest.raises(OverQuota):
        engine.open(two, 10_000)
    engine.open(two, 5_000).close()
    engine.open(one, 10_000).close()  # who is in stays in
    engine.send(one, DATA)  # and what is complete counts no more
    three = engine.ticket(owner="me")
    engine.open(three, 10_000).close()


def test_an_upload_of_unknown_length_stays_within_the_quota(engines: Callable[..., Engine]) -> None:
    engine = engines(owner_bytes=15_000)
    engine.open(engine.ticket(owner="me"), 10_000).close()
    session = engine.receiver.open(engine.ticket(owner="me"), name="x")
    assert session is not None
    with session:
        session.write(0, DATA[:5000])
        session.sync()
        with pytest.raises(Exception, match="5000 are allowed"):
            session.write(5000, b"x")
    with engine.receiver.open(session.upload.id, name="x") as again:  # type: ignore[union-attr]
        assert again.upload.received == 5000


@pytest.mark.parametrize("end", ["cancelled", "expired", "its ticket has ended"])
def test_what_is_over_counts_no_more(engines: Callable[..., Engine], clock: Clock, end: str) -> None:
    """With all its parts, and also where the process that took the bytes is gone."""
    engine, other = (
        engines(owner_bytes=100, owner_uploads=1, address_bytes=100, total_bytes=100, idle=50) for _ in "ab"
    )
    whole = engine.ticket(owner="me", client=HERE, terms=Terms(expires_in=40 if "ticket" in end else None))
    for _ in range(2):
        part = engine.receiver.create_part(whole, 50)
        session = engine.receiver.open(part.id, length=50, protocol="tus")
        assert session is not None
        session.write(0, b"x" * 20)
        session.sync()
    for again in (engine, other):
        with pytest.raises(OverQuota):
            again.receiver.create_part(whole, 1)
        with pytest.raises(OverQuota):
            again.ticket(owner="me", client=HERE)
    if end == "cancelled":
        other.receiver.cancel(whole, "no more")
    else:
        clock.advance(45 if "ticket" in end else 100)
        while other.receiver.sweep():
            pass
    ticket = engine.ticket(owner="me", client=HERE)
    engine.open(ticket, 100).close()


def test_a_length_that_is_told_later_counts(engines: Callable[..., Engine]) -> None:
    """What does not fit is refused, and no byte beyond the quota is taken."""
    engine = engines(owner_bytes=15_000)
    engine.open(engine.ticket(owner="me"), 10_000).close()
    session = engine.receiver.open(engine.ticket(owner="me"), name="x", protocol="tus")
    assert session is not None
    with session:
        with pytest.raises(OverQuota):
            session.declare_length(5_001)
        with pytest.raises(Exception, match="5000 are allowed"):
            session.write(0, DATA[:5001])
        assert session.declare_length(5_000).length == 5_000
        session.write(0, DATA[:5000])
        assert session.sync().is_complete


def test_an_address_counts_from_the_first_opening_on(engines: Callable[..., Engine]) -> None:
    engine = engines(address_uploads=1)
    here, there = engine.receiver.seen_by(Visitor(HERE)), engine.receiver.seen_by(Visitor(THERE))
    one, two = engine.ticket(), engine.ticket()
    here.open(one, length=10, name="x")
    with pytest.raises(OverQuota):
        here.open(two, length=10, name="x")
    there.open(one, length=10, name="x")  # somebody on a journey: still the same upload
    there.open(two, length=10, name="x")
    assert engine.receiver.status(one).client == HERE
    assert engine.receiver.status(two).client == THERE


def test_parts_count_with_their_whole(engines: Callable[..., Engine]) -> None:
    engine = engines(owner_bytes=100, owner_uploads=1)
    whole = engine.ticket(owner="me")
    part = engine.receiver.create_part(whole, 60)
    engine.receiver.open(part.id, length=60, name="x")
    with pytest.raises(OverQuota):
        engine.receiver.create_part(whole, 41)
    engine.receiver.create_part(whole, 40)


def test_connections_of_an_upload(engines: Callable[..., Engine]) -> None:
    engine = engines(connections=2)
    ticket = engine.ticket()
    first = engine.open(ticket, 100)
    second = lane_of(engine.receiver, ticket, first.token)
    with pytest.raises(OverQuota):
        lane_of(engine.receiver, ticket, first.token)
    second.close()
    second.close()  # twice does no harm
    lane_of(engine.receiver, ticket, first.token)
    engine.open(ticket, 100)  # who opens it anew waits for nobody
    with pytest.raises(Replaced):
        lane_of(engine.receiver, ticket, first.token)


def test_the_quota_holds_over_processes(engines: Callable[..., Engine], tmp_path: Path) -> None:
    engines()
    code = """
import sys
from pathlib import Path
from incoming_wsgi.errors import OverQuota
from tests.helpers import Engine
engine = Engine(Path(sys.argv[1]), owner_uploads=10)
print("ready", flush=True)
sys.stdin.readline()
made = 0
for _ in range(10):
    try:
        engine.ticket(owner="me")
        made += 1
    except OverQuota:
        pass
print(made, flush=True)
engine.close()
"""
    with Child(code, [tmp_path]) as one, Child(code, [tmp_path]) as two, Child(code, [tmp_path]) as three:
        for child in (one, two, three):
            assert child.line() == "ready"
        for child in (one, two, three):
            child.say("go")
        assert sum(int(child.line()) for child in (one, two, three)) == 10


# -- the app and the doors --------------------------------------------------------------------------------------


def app(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b"the app"]


@pytest.fixture
def wrapped(tmp_path: Path) -> Iterator[Callable[..., Incoming]]:
    with ExitStack() as stack:

        def make(**options: Any) -> Incoming:
            incoming = Incoming(app, storage=tmp_path, on_finish=lambda _: "done", **options)
            stack.callback(incoming.close)
            return incoming

        yield make


def create_by_tus(web: TestApp, **environ: str) -> Any:
    name = base64.b64encode(b"x.bin").decode()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": f"filename {name}"}
    url = "/incoming/frontend/uploads"
    return web.post(url, b"", headers=headers, extra_environ=environ, expect_errors=True)


def test_who_creates_without_a_ticket(wrapped: Callable[..., Incoming]) -> None:
    web = TestApp(wrapped(authorize=lambda *_: Permission(), address_tickets="2/h"))
    answers = [create_by_tus(web, REMOTE_ADDR=HERE) for _ in range(3)]
    assert [answer.status_int for answer in answers] == [201, 201, 429]
    assert 0 < int(answers[2].headers["Retry-After"]) <= 1800
    assert answers[2].json["error"]["name"] == "over_quota"
    assert create_by_tus(web, REMOTE_ADDR=THERE).status_int == 201
    local = [create_by_tus(web, REMOTE_ADDR="127.0.0.1").status_int for _ in range(3)]
    assert local == [201, 201, 201]


def test_behind_a_proxy_the_client_counts(wrapped: Callable[..., Incoming]) -> None:
    web = TestApp(wrapped(authorize=lambda *_: Permission(), address_uploads=1, trusted_proxies="127.0.0.1"))

    def ask(claim: str) -> Any:
        return create_by_tus(web, REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR=claim, HTTP_X_FORWARDED_PROTO="https")

    first = ask(HERE)
    assert first.status_int == 201
    assert first.headers["Location"].startswith("https://")
    assert ask(f"9.9.9.9, {HERE}").status_int == 429
    assert ask(THERE).status_int == 201


def test_an_app_is_told_of_the_quota(wrapped: Callable[..., Incoming]) -> None:
    incoming = wrapped(owner_uploads=1, owner_tickets="2/h", total_uploads=2)
    ticket = incoming.new_upload(owner="me")
    with pytest.raises(OverQuota):
        incoming.new_upload(owner="me")
    incoming.cancel_upload(ticket)
    incoming.cancel_upload(incoming.new_upload(owner="me"))
    with pytest.raises(OverQuota, match="lately"):
        incoming.new_upload(owner="me")
    incoming.new_upload()
    incoming.new_upload()
    with pytest.raises(OverQuota, match="here"):
        incoming.new_upload()


def test_tickets_of_a_back_end(wrapped: Callable[..., Incoming]) -> None:
    web = TestApp(wrapped(backend_key="key", backend_tickets="1/h"))
    values = {"signalFinishURL": "/done"}
    headers = {"Authorization": "Bearer key"}
    web.post("/incoming/backend/new_upload", values, headers=headers)
    refused = web.post("/incoming/backend/new_upload", values, headers=headers, status=429)
    assert int(refused.headers["Retry-After"]) > 3000
    assert refused.text == "Too many uploads were begun lately; wait a moment."


class Gate:
    """A body that is not over before it is told to."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def read(self, _size: int = -1) -> bytes:
        self.began.set()
        assert self.may_end.wait(10)
        return b""


def test_connections_of_an_address(wrapped: Callable[..., Incoming]) -> None:
    incoming = wrapped(address_connections=1)
    web, slow = TestApp(incoming), Gate()

    def send(ticket: str, peer: str, body: Any = None) -> Any:
        headers = {"Incoming-Length": "10", "Incoming-Name": "x"}
        environ = {"REMOTE_ADDR": peer, **({"wsgi.input": body} if body else {})}
        if body:
            environ["CONTENT_LENGTH"] = "5"
        url = f"/incoming/frontend/uploads/{ticket}"
        request = web.RequestClass.blank(url, environ, method="POST", headers=headers)
        if body is None:
            request.body = b"01234"
        request.content_type = "application/octet-stream"
        return request.get_response(incoming)

    tickets = [incoming.new_upload() for _ in range(3)]
    thread = threading.Thread(target=send, args=(tickets[0], HERE, slow))
    thread.start()
    try:
        assert slow.began.wait(10)
        refused = send(tickets[1], HERE)
        assert refused.status_int == 429
        assert refused.headers["Retry-After"] == "5"
        assert send(tickets[2], THERE).status_int == 200
    finally:
        slow.may_end.set()
        thread.join(10)
    assert send(tickets[1], HERE).status_int == 200


# -- what a ticket is bound to ----------------------------------------------------------------------------------

OWN = {"Incoming-Length": "10", "Incoming-Name": "x.bin"}
FILENAME = "filename " + base64.b64encode(b"x.bin").decode()
TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": FILENAME}
IETF = {"Upload-Complete": "?0", "Content-Disposition": 'attachment; filename="x.bin"'}


def open_by(dialect: str, web: TestApp, ticket: str, **environ: str) -> Any:
    """An opening in one of the dialects, of a file ``x.bin``; the answer's status."""
    if dialect == "websocket":
        return open_by_websocket(web.app, ticket, environ)
    headers = {"own": OWN, "whole": OWN, "tus": TUS, "ietf": IETF}[dialect]
    body = b"0123456789" if dialect == "whole" else b""
    return web.post(
        f"/incoming/frontend/uploads/{ticket}",
        body,
        headers=headers,
        content_type="" if dialect == "tus" else "application/octet-stream",
        extra_environ=environ,
        expect_errors=True,
    ).status_int


def open_by_websocket(incoming: Incoming, ticket: str, environ: dict[str, str]) -> int:
    """Without a socket; as the numbers that the others answer with."""
    receiver = incoming._frontend._receiver_for({**Request.blank("/").environ, **environ})
    conversation = Conversation(receiver, Window(65536, 4))
    data = {"Id": ticket, "Name": "x.bin", "LengthBytes": 10}
    answer = conversation.text(json.dumps({"MsgType": "MsgUploadReq", "MsgData": data}))[0]
    assert isinstance(answer, Send)
    message = json.loads(answer.text)
    conversation.close()
    codes = {TooLarge.code: 413, Forbidden.code: 403, UnsupportedMediaType.code: 415, Expired.code: 410}
    return 200 if message["MsgType"] == "MsgUploadConf" else codes[message["MsgData"]["ErrorCode"]]


DIALECTS = ("own", "whole", "tus", "ietf", "websocket")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_only_kinds_that_the_ticket_is_for(wrapped: Callable[..., Incoming], dialect: str) -> None:
    web = TestApp(wrapped())
    assert open_by(dialect, web, web.app.new_upload(accept=".jpg, image/*")) == 415
    assert open_by(dialect, web, web.app.new_upload(accept=".jpg, x.*")) in (200, 201)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_more_than_the_ticket_allows(wrapped: Callable[..., Incoming], dialect: str) -> None:
    web = TestApp(wrapped())
    ticket = web.app.new_upload(max_length=9)
    if dialect == "ietf":  # whose other openings do not tell the length
        headers = {**IETF, "Upload-Length": "10"}
        url = f"/incoming/frontend/uploads/{ticket}"
        assert web.post(url, b"", headers=headers, expect_errors=True).status_int == 413
    else:
        assert open_by(dialect, web, ticket) == 413
    assert web.app.upload(ticket).received == 0
    assert open_by(dialect, web, web.app.new_upload(max_length=10)) in (200, 201)


class Unread:
    """A body that must not be read before the app has been asked."""

    def __init__(self) -> None:
        self.may_be_read = False

    def read(self, _size: int = -1) -> bytes:
        assert self.may_be_read
        return b""


@pytest.mark.parametrize("allows", [True, False])
@pytest.mark.parametrize("headers", [{"Tus-Resumable": "1.0.0", "Upload-Length": "10"}, {"Upload-Complete": "?1"}])
def test_the_app_decides_before_a_byte_is_read(
    wrapped: Callable[..., Incoming], headers: dict[str, str], allows: bool
) -> None:
    body = Unread()

    def authorize(request: Request, _metadata: Any) -> Permission | None:
        assert request.body == b""
        body.may_be_read = True
        return Permission() if allows else None

    incoming = wrapped(authorize=authorize)
    environ: Any = {"wsgi.input": body, "CONTENT_LENGTH": "10"}
    request = Request.blank("/incoming/frontend/uploads", environ, method="POST", headers=headers)
    request.content_type = "application/offset+octet-stream"
    status = request.get_response(incoming).status_int
    assert body.may_be_read
    assert (status == 403) is not allows


@pytest.mark.parametrize("dialect", DIALECTS)
def test_only_the_browser_that_the_ticket_is_for(wrapped: Callable[..., Incoming], dialect: str) -> None:
    web = TestApp(wrapped())
    ticket = web.app.new_upload(bind_cookie="session=abc")
    assert open_by(dialect, web, ticket) == 403
    assert open_by(dialect, web, ticket, HTTP_COOKIE="session=abd") == 403
    assert web.app.upload(ticket).state.value == "waiting"
    assert open_by(dialect, web, ticket, HTTP_COOKIE="a=b; session=abc") in (200, 201)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_only_the_network_that_the_ticket_is_for(wrapped: Callable[..., Incoming], dialect: str) -> None:
    web = TestApp(wrapped())
    ticket = web.app.new_upload(bind_network="192.0.2.0/24")
    assert open_by(dialect, web, ticket, REMOTE_ADDR="198.51.100.1") == 403
    assert open_by(dialect, web, ticket, REMOTE_ADDR="192.0.2.77") in (200, 201)


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_who_has_but_the_ticket_learns_and_changes_nothing(wrapped: Callable[..., Incoming], method: str) -> None:
    web = TestApp(wrapped())
    ticket = web.app.new_upload(bind_cookie="session=abc")
    url = f"/incoming/frontend/uploads/{ticket}"
    refused = web.request(url, method=method, expect_errors=True)
    assert refused.status_int == 403
    assert b"waiting" not in refused.body
    assert web.app.upload(ticket).state.value == "waiting"
    assert web.request(url, method=method, headers={"Cookie": "session=abc"}).status_int == 200


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_app_is_asked_at_each_opening(wrapped: Callable[..., Incoming], dialect: str) -> None:
    asked: list[tuple[str, str]] = []
    answers = [False, True]

    def authorize_opening(request: Any, upload: Any) -> bool:
        asked.append((request.headers.get("Cookie", ""), upload.id))
        assert request.body == b""
        return answers.pop(0)

    web = TestApp(wrapped(authorize_opening=authorize_opening))
    ticket = web.app.new_upload()
    assert open_by(dialect, web, ticket, HTTP_COOKIE="session=abc") == 403
    assert web.app.upload(ticket).received == 0
    assert open_by(dialect, web, ticket) in (200, 201)
    assert asked == [("session=abc", ticket), ("", ticket)]


@pytest.mark.parametrize("dialect", ["own", "whole", "tus", "ietf"])
def test_an_app_that_fails_to_decide(
    wrapped: Callable[..., Incoming], dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request, upload: Any) -> bool:
        raise RuntimeError(f"a bug over {upload.id}")

    web = TestApp(wrapped(authorize_opening=fail))
    ticket = web.app.new_upload()
    assert open_by(dialect, web, ticket) == 503
    assert web.app.upload(ticket).state.value == "waiting"
    assert "RuntimeError: a bug over" in caplog.text
    assert ticket not in caplog.text


def test_an_app_that_fails_to_decide_about_somebody_without_a_ticket(wrapped: Callable[..., Incoming]) -> None:
    def fail(*_: Any) -> Permission:
        raise KeyError("user")

    answer = create_by_tus(TestApp(wrapped(authorize=fail)))
    assert answer.status_int == 503
    assert "KeyError" not in answer.text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_ticket_ends(engines: Callable[..., Engine], tmp_path: Path, clock: Clock, dialect: str) -> None:
    with closing(Incoming(app, storage=tmp_path, on_finish=lambda _: "done")) as incoming:
        web = TestApp(incoming)
        ticket, other = incoming.new_upload(expires_in=100), incoming.new_upload(expires_in=100)
        clock.advance(99)
        incoming.renew_upload(other, expires_in=50)
        clock.advance(2)
        assert open_by(dialect, web, ticket) == 410
        assert open_by(dialect, web, other) in (200, 201)


def test_a_busy_upload_ends_with_its_ticket(engines: Callable[..., Engine], clock: Clock) -> None:
    engine = engines()
    ticket = engine.ticket(terms=Terms(expires_in=100))
    session = engine.open(ticket, 1000)
    session.write(0, b"x" * 100)
    session.sync()
    clock.advance(50)
    assert engine.receiver.expires_in(engine.receiver.status(ticket)) == 50
    engine.receiver.sweep()
    engine.receiver.renew(ticket, 100)
    clock.advance(99)
    engine.receiver.sweep()
    session.write(100, b"y" * 100)
    session.sync()
    clock.advance(2)
    engine.receiver.sweep()
    assert engine.state(ticket).value == "expired"
    with pytest.raises(Expired):
        session.write(200, b"z")
    with pytest.raises(Expired):
        engine.receiver.renew(ticket, 100)


def test_renewing_begins_the_idle_time_anew(engines: Callable[..., Engine], clock: Clock) -> None:
    engine = engines(idle=100)
    ticket, left = engine.ticket(), engine.ticket()
    clock.advance(90)
    engine.receiver.renew(ticket, None)
    clock.advance(90)
    engine.receiver.sweep()
    assert engine.state(ticket).value == "waiting"
    assert engine.state(left).value == "expired"


def test_renewing_does_not_disturb_who_is_sending(engines: Callable[..., Engine]) -> None:
    engine = engines()
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:5000])
        session.sync()
        engine.receiver.renew(ticket, 1000)
        session.write(5000, DATA[5000:])
        engine.receiver.complete(session.sync())
    with pytest.raises(AlreadyComplete):
        engine.receiver.renew(ticket, 1000)


def test_connections_of_a_ticket(engines: Callable[..., Engine]) -> None:
    engine = engines(connections=10)
    session = engine.open(engine.ticket(terms=Terms(max_connections=1)), 100)
    with pytest.raises(OverQuota):
        lane_of(engine.receiver, session.upload.id, session.token)


def test_parts_have_the_connections_of_their_whole(engines: Callable[..., Engine]) -> None:
    """However many there are; who sends one of them anew comes in the place of an old connection only."""
    engine = engines(connections=10)
    whole = engine.ticket(terms=Terms(max_connections=2))
    parts = [engine.receiver.create_part(whole, 10).id for _ in range(3)]
    one, two = (engine.open(part, 10) for part in parts[:2])
    with pytest.raises(OverQuota):
        engine.open(parts[2], 10)
    one.close()
    with engine.open(parts[2], 10), pytest.raises(OverQuota):
        engine.open(parts[0], 10)
    two.close()


def test_a_part_is_bound_like_its_whole(engines: Callable[..., Engine]) -> None:
    engine = engines()
    whole = engine.ticket(terms=Terms(bind_cookie="a=b", accept=".jpg"))
    part = engine.receiver.create_part(whole, 10)
    with pytest.raises(Forbidden):
        engine.receiver.seen_by(Visitor()).open(part.id, length=10)
    assert engine.receiver.seen_by(Visitor(cookies="a=b")).open(part.id, length=10) is not None


def test_terms_and_renewal_over_http(wrapped: Callable[..., Incoming]) -> None:
    web = TestApp(wrapped(backend_key="key"))
    headers = {"Authorization": "Bearer key"}
    values = {
        "signalFinishURL": "/done",
        "backendSecret": "s",
        "accept": ".jpg",
        "expiresIn": "100",
        "maxConnections": "2",
        "bindCookie": "a=b",
        "bindNetwork": "192.0.2.0/24",
    }
    ticket = web.post("/incoming/backend/new_upload", values, headers=headers).text
    made = web.app.upload(ticket)
    assert (made.accept, made.max_connections, made.bound_network) == (".jpg", 2, "192.0.2.0/24")
    renewal = {"id": ticket, "backendSecret": "s", "expiresIn": "1000"}
    assert web.post("/incoming/backend/renew_upload", renewal, headers=headers).text == "ok"
    assert web.app.upload(ticket).expires_at > made.expires_at + 890
    wrong = {**renewal, "backendSecret": "t"}
    web.post("/incoming/backend/renew_upload", wrong, headers=headers, status=403)
    web.post("/incoming/backend/renew_upload", {**renewal, "expiresIn": "0"}, headers=headers, status=400)
    for name, value in (("accept", "x"), ("bindNetwork", "x"), ("bindCookie", "x"), ("maxConnections", "-1")):
        web.post("/incoming/backend/new_upload", {**values, name: value}, headers=headers, status=400)
