"""Limits as people meet them: in the engine, at the browsers' door, in the app and over the HTTP API."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from incoming_wsgi import Incoming, Permission
from incoming_wsgi.errors import OverQuota, Replaced
from incoming_wsgi.visitors import Visitor

from .helpers import Child, Engine

HERE, THERE = "192.0.2.7", "192.0.2.8"
DATA = b"0123456789" * 1000


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    with ExitStack() as stack:

        def make(**options: Any) -> Engine:
            engine = Engine(tmp_path, **options)
            stack.callback(engine.close)
            return engine

        yield make


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
    second = engine.receiver.session(ticket, first.token)
    with pytest.raises(OverQuota):
        engine.receiver.session(ticket, first.token)
    second.close()
    second.close()  # twice does no harm
    engine.receiver.session(ticket, first.token)
    engine.open(ticket, 100)  # who opens it anew waits for nobody
    with pytest.raises(Replaced):
        engine.receiver.session(ticket, first.token)


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
