"""Requests for the resource of an upload, without a server; a real engine is behind them."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webob import Request, Response

from incoming_wsgi import intake
from incoming_wsgi.errors import (
    AlreadyComplete,
    BadRequest,
    DigestMismatch,
    FileChanged,
    IncomingError,
    LengthRequired,
    MethodNotAllowed,
    NoSpace,
    Replaced,
    TooLarge,
    TooLate,
    TooSlow,
    Unavailable,
    UnknownUpload,
    UnsupportedMediaType,
)
from incoming_wsgi.intake import Body, Door
from incoming_wsgi.protocols import chunks
from incoming_wsgi.upload import NOTHING, State, Upload
from incoming_wsgi.wire.bulk import Blocks, Bulk

from ..helpers import Clock, Engine
from .doors import Pieces, door_of

DATA = random.Random(2).randbytes(1000)
BLANK = Request.blank("/")


class Client:
    """A client of one upload."""

    def __init__(self, engine: Engine, ticket: str = "") -> None:
        self.engine = engine
        self.ticket = ticket or engine.ticket(remove_file_when_finished=False)
        self.session = ""
        self.polled: list[float] = []

    def ask(self, method: str, body: Body | None, headers: dict[str, str], query: str = "") -> Response:
        request = Request.blank(f"/{self.ticket}{query}", method=method, headers=headers)
        return chunks.respond(request, self.ticket, self.engine.receiver, self.door(body))

    def door(self, body: Body | None) -> Door:
        def poll(upload_id: str, until: Callable[[Upload], bool], seconds: float) -> Upload:
            self.polled.append(seconds)
            return self.engine.receiver.wait(upload_id, until, seconds)

        return door_of(self.engine, body, poll=poll)

    def open(self, body: bytes | Pieces = b"", /, **headers: str) -> dict[str, Any]:
        given = {"Incoming-Length": "1000", "Incoming-Name": "x.bin", **named(headers)}
        answer: dict[str, Any] = self.ask("POST", Pieces(body) if isinstance(body, bytes) else body, given).json
        self.session = answer.get("session", "")
        return answer

    def chunk(self, start: int, end: int, body: bytes | Pieces | None = None, /, **headers: str) -> dict[str, Any]:
        body = DATA[start:end] if body is None else body
        given = {
            "Content-Range": f"bytes {start}-{end - 1}/1000",
            "Content-Type": "application/octet-stream",
            "Incoming-Session": self.session,
            **named(headers),
        }
        answer: dict[str, Any] = self.ask("PUT", Pieces(body) if isinstance(body, bytes) else body, given).json
        return answer

    def status(self, query: str = "") -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", Pieces(b""), {}, query).json
        return answer


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def digest_of(data: bytes, algorithm: str = "sha-256") -> str:
    value = hashlib.new(algorithm.replace("-", ""), data).digest()
    return f"{algorithm}=:{base64.b64encode(value).decode()}:"


@pytest.fixture
def client(engine: Engine) -> Client:
    return Client(engine)


# -- the way it should go ---------------------------------------------------------------------------------------


def test_a_whole_upload(engine: Engine, client: Client) -> None:
    engine.start()
    opened = client.open()
    assert opened.pop("session")
    assert opened == client.status()
    assert opened == {
        "id": client.ticket,
        "state": "receiving",
        "phase": "uploading",
        "version": opened["version"],
        "length": 1000,
        "received": 0,
        "offset": 0,
        "missing": [[0, 1000]],
        "reopen": False,
        "chunk_size": 2000,
        "lanes": 3,
        "websocket": True,
        "reason": "",
    }
    answer = client.chunk(300, 600)
    assert (answer["received"], answer["offset"], answer["missing"]) == (300, 0, [[0, 300], [600, 1000]])
    client.chunk(600, 1000)
    assert client.chunk(0, 300)["state"] == "finished"  # the app was quick
    assert engine.complete(client.ticket).read_bytes() == DATA


def test_a_small_file_is_one_request(engine: Engine, client: Client) -> None:
    engine.start()
    assert client.open(DATA)["state"] == "finished"
    assert engine.complete(client.ticket).read_bytes() == DATA


def test_a_small_file_takes_the_short_way(engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start()
    with monkeypatch.context() as patch:
        patch.setattr(engine.receiver, "open", None)  # nobody asks for a session
        answer = client.open(DATA)
    assert (answer["state"], answer["received"], answer["missing"]) == ("finished", 1000, [])
    assert client.session == engine.receiver.status(client.ticket).session
    assert client.open(DATA)["state"] == "finished"  # the answer was lost: it is asked again


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_a_small_file_that_comes_slowly_is_opened_first(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    engine.start()
    clock = Clock()
    monkeypatch.setattr(chunks, "time", clock)
    seen: list[State] = []

    class Slow(Pieces):
        def read(self, *, splice: bool = False) -> Bulk:
            seen.append(engine.state(client.ticket))
            clock.advance(delay)
            return super().read(splice=splice)

    assert client.open(Slow(DATA, step=400))["state"] == "finished"
    waited = [State.WAITING] * 3
    assert seen == (waited if not delay else [State.WAITING, State.RECEIVING, State.RECEIVING])
    assert engine.complete(client.ticket).read_bytes() == DATA


def test_an_empty_file_is_one_request(engine: Engine, client: Client) -> None:
    engine.start()
    assert client.open(Incoming_Length="0")["state"] == "finished"


def test_a_slow_app_does_not_hold_the_last_answer(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_WAIT_FOR_END", 0.02)
    assert client.open(DATA)["phase"] == "processing"


def test_a_repeated_chunk_is_harmless(engine: Engine, client: Client) -> None:
    client.open()
    client.chunk(0, 300)
    assert client.chunk(0, 300, b"X" * 300)["received"] == 300
    assert client.chunk(200, 400)["received"] == 400
    assert engine.arriving(client.ticket).read_bytes() == DATA[:400]


def test_the_last_chunk_again_after_the_end(engine: Engine, client: Client) -> None:
    engine.start()
    client.open()
    client.chunk(0, 1000)
    assert client.chunk(500, 1000)["state"] == "finished"


def test_opening_again_tells_what_is_missing(client: Client) -> None:
    client.open(DATA[:100])
    client.chunk(300, 400)
    first = client.session
    again = client.open()
    assert again["missing"] == [[100, 300], [400, 1000]]
    with pytest.raises(Replaced):
        client.chunk(100, 300, Incoming_Session=first)
    assert client.chunk(100, 300)["offset"] == 400


def test_opening_what_is_complete(engine: Engine, client: Client) -> None:
    engine.start()
    client.open(DATA)
    again = client.open()
    assert again["state"] == "finished"
    assert "session" not in again


def test_many_gaps_are_not_all_told(client: Client) -> None:
    client.open()
    for start in range(0, 400, 2):
        client.engine.registry.add_extents(client.ticket, client.session, NOTHING.add(start, start + 1))
    assert len(client.status()["missing"]) == 64


def test_names(engine: Engine, client: Client) -> None:
    client.open(Incoming_Name="%C3%9Cber%2Fsicht%00.pdf")
    assert engine.receiver.status(client.ticket).filename_from_browser == "Über/sicht\0.pdf"


def test_pause_and_cancel(engine: Engine, client: Client) -> None:
    client.open(DATA[:100])
    request = Request.blank("/", method="POST", headers={"Incoming-Session": client.session})
    answer = chunks.pause(request, client.ticket, engine.receiver, client.door(Pieces(b"")))
    assert answer.json["state"] == "paused"
    with pytest.raises(MethodNotAllowed):
        chunks.pause(Request.blank("/"), client.ticket, engine.receiver, client.door(None))
    for reason in ("no%20more", "again"):
        answer = client.ask("DELETE", Pieces(b""), {"Incoming-Reason": reason})
        assert (answer.json["state"], answer.json["reason"]) == ("cancelled", "no more")


def test_too_late_to_cancel(engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_WAIT_FOR_END", 0)
    client.open(DATA)
    with pytest.raises(TooLate):
        client.ask("DELETE", Pieces(b""), {})


# -- waiting ----------------------------------------------------------------------------------------------------


def test_a_status_that_is_waited_for(client: Client) -> None:
    version = client.open()["version"]
    assert client.status(f"?wait=0&since={version}")["version"] == version
    assert client.status(f"?wait=5&since={version - 1}")["version"] == version
    assert client.status(f"?wait=0.02&since={version}")["version"] == version
    assert client.status("?wait=5")["version"] == version  # since when was not said
    client.status(f"?wait=9999&since={version - 1}")
    assert client.polled == [5, 0.02, 25]


def test_asking_completes_what_was_left(engine: Engine, client: Client) -> None:
    """The process that had the last byte died before it could."""
    engine.start()
    with engine.open(client.ticket, 1000) as session:
        session.write(0, DATA)
        session.sync()
    client.status()
    engine.until(client.ticket, State.FINISHED)


@pytest.mark.parametrize("query", ["?wait=x", "?wait=-1", "?wait=1e5", "?wait=nan", "?wait=99999", "?wait="])
def test_a_wait_that_means_nothing(client: Client, query: str) -> None:
    with pytest.raises(BadRequest):
        client.status(query)


@pytest.mark.parametrize("since", ["", "x", "-1", "1.5", "9" * 5000])
def test_a_since_that_means_nothing_breaks_nothing(client: Client, since: str) -> None:
    try:
        assert client.status(f"?wait=0.01&since={since}")["state"] == "waiting"
    except IncomingError as error:
        assert error.status == 400  # noqa: PT017


# -- bodies that end early --------------------------------------------------------------------------------------


def test_what_came_before_the_cut_counts(client: Client) -> None:
    client.open()
    assert client.chunk(0, 1000, Pieces(DATA[:350], length=1000))["received"] == 350
    assert client.status()["state"] == "receiving"


@pytest.mark.parametrize("error", [TooSlow(), NoSpace()])
def test_what_came_before_trouble_counts(client: Client, error: IncomingError) -> None:
    client.open()
    with pytest.raises(type(error)):
        client.chunk(0, 1000, Pieces(DATA[:350], length=1000, error=error))
    assert client.status()["received"] == 350


def test_an_opening_that_is_cut(client: Client) -> None:
    opened = client.open(Pieces(DATA[:350], length=1000))
    assert (opened["received"], opened["state"]) == (350, "receiving")
    assert opened["session"]


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_a_digest_is_checked(engine: Engine, client: Client, algorithm: str) -> None:
    client.open(DATA[:100], Content_Digest=digest_of(DATA[:100], algorithm))
    assert client.status()["received"] == 100
    with pytest.raises(DigestMismatch):
        client.chunk(100, 200, b"X" * 100, Content_Digest=digest_of(DATA[100:200], algorithm))
    assert client.status()["received"] == 100  # none of it was kept
    client.chunk(100, 200, Content_Digest=digest_of(DATA[100:200], algorithm))
    assert engine.arriving(client.ticket).read_bytes()[:200] == DATA[:200]


def test_a_body_that_stalls_is_recorded(engine: Engine, client: Client) -> None:
    """Another process has to know what has come, should this one die meanwhile."""
    client.open()
    seen: list[int] = []

    class Stalling(Pieces):
        def read(self, *, splice: bool = False) -> Bulk:
            seen.append(engine.receiver.status(client.ticket).received)
            stalls = self._read == 300 and len(seen) == 4
            return Blocks(()) if stalls else super().read(splice=splice)

    client.chunk(0, 1000, Stalling(DATA))
    assert seen[:5] == [0, 0, 0, 0, 300]


def test_what_can_not_be_checked_does_not_count(client: Client) -> None:
    client.open()
    cut = Pieces(DATA[:350], length=1000)
    assert client.chunk(0, 1000, cut, Content_Digest=digest_of(DATA))["received"] == 0
    with pytest.raises(TooSlow):
        client.chunk(0, 1000, Pieces(DATA[:350], length=1000, error=TooSlow()), Content_Digest=digest_of(DATA))
    assert client.status()["received"] == 0


def test_it_was_replaced_in_the_middle_of_a_body(engine: Engine, client: Client) -> None:
    client.open()

    class Taken(Pieces):
        def read(self, *, splice: bool = False) -> Bulk:
            if self._read == 300:
                engine.open(client.ticket, 1000).close()
            return super().read(splice=splice)

    with pytest.raises(Replaced):
        client.chunk(0, 1000, Taken(DATA))
    assert client.status()["state"] == "receiving"


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"Incoming_Length": ""}, BadRequest),
        ({"Incoming_Length": "-1"}, BadRequest),
        ({"Incoming_Length": "1e3"}, BadRequest),
        ({"Incoming_Length": "9" * 5000}, BadRequest),
        ({"Incoming_Length": str(2**63)}, BadRequest),
        ({"Incoming_Length": str(2**41)}, TooLarge),
        ({"Incoming_Name": "%FF"}, BadRequest),
        ({"Incoming_Name": "x" * 4097}, BadRequest),
        ({"Incoming_Fingerprint": "with a space"}, BadRequest),
        ({"Incoming_Fingerprint": "x" * 129}, BadRequest),
        ({"Content_Digest": "md5=:AAAA:"}, BadRequest),
        ({"Content_Digest": "sha-256=:A:"}, BadRequest),
        ({"Content_Digest": "sha-256"}, BadRequest),
    ],
)
def test_a_malformed_opening(client: Client, headers: dict[str, str], error: type[IncomingError]) -> None:
    with pytest.raises(error):
        client.open(**headers)
    assert client.status()["state"] == "waiting"


def test_headers_that_are_missing(client: Client) -> None:
    for headers in ({"Incoming-Length": "5"}, {"Incoming-Name": "x"}):
        with pytest.raises(BadRequest, match="Incoming-"):
            client.ask("POST", Pieces(b""), headers)
    client.open()
    with pytest.raises(BadRequest, match="Content-Range"):
        client.ask("PUT", Pieces(b"x"), {"Incoming-Session": client.session})


def test_another_file(client: Client) -> None:
    client.open(Incoming_Fingerprint="f:1")
    for headers in ({"Incoming_Length": "999"}, {"Incoming_Fingerprint": "f:2"}):
        with pytest.raises(FileChanged):
            Client(client.engine, client.ticket).open(**headers)
    assert client.chunk(0, 500)["received"] == 500


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("bytes 0-99/999", BadRequest),
        ("bytes 0-98/1000", BadRequest),
        ("bytes 0-100/1000", BadRequest),
        ("bytes 99-0/1000", BadRequest),
        ("bytes 950-1049/1000", TooLarge),
        ("bytes 0-99/*", BadRequest),
        ("bytes */1000", BadRequest),
        ("bytes=0-99/1000", BadRequest),
        ("BYTES 0-99/1000", BadRequest),
        ("bytes 0-99/1000,bytes 0-99/1000", BadRequest),
        ("bytes 0-99/" + "9" * 19, BadRequest),
        ("bytes 0-99/" + "9" * 5000, BadRequest),
        ("", BadRequest),
    ],
)
def test_a_range_that_does_not_fit(client: Client, header: str, error: type[IncomingError]) -> None:
    client.open()
    with pytest.raises(error):
        client.chunk(0, 100, Content_Range=header)
    assert client.status()["received"] == 0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(alphabet="bytes 0123456789-/*=,", max_size=30)
    | st.builds("bytes {}-{}/{}".format, *3 * [st.integers(-1, 1100) | st.integers(2**62, 2**65)])
)
def test_any_range_is_taken_or_refused(client: Client, header: str) -> None:
    before = client.status()
    if before["state"] == "waiting":
        before = client.open()
    try:
        first, last, total = chunks._content_range(Request.blank("/", headers={"Content-Range": header}))
    except IncomingError as error:
        assert error.status in (400, 413)  # noqa: PT017
        return
    assert 0 <= first < last <= total < 2**63
    assert header == f"bytes {first}-{last - 1}/{total}" or header.lstrip("bytes ").startswith("0")


@pytest.mark.parametrize("session", ["", "x", "ü"])
def test_a_session_of_somebody_else(client: Client, session: str) -> None:
    client.open(DATA[:100])
    for start, end in ((100, 200), (0, 100)):  # also for bytes that are here already
        with pytest.raises(Replaced):
            client.chunk(start, end, Incoming_Session=session)


def test_a_body_of_the_wrong_kind(client: Client) -> None:
    client.open()
    with pytest.raises(UnsupportedMediaType):
        client.chunk(0, 100, Content_Type="text/plain")
    with pytest.raises(LengthRequired):
        client.ask("PUT", None, {"Content-Range": "bytes 0-99/1000", "Incoming-Session": client.session})
    with pytest.raises(TooLarge):
        client.open(b"x" * 2001, Incoming_Length="5000")
    with pytest.raises(TooLarge):
        client.open(b"x" * 11, Incoming_Length="10")


def test_after_the_end(engine: Engine, client: Client) -> None:
    engine.start()
    client.open(DATA)
    upload = engine.receiver.status(client.ticket)
    other = engine.registry.create(replace(upload, id=Upload().id, extents=Upload().extents))
    with pytest.raises(AlreadyComplete):
        Client(engine, other.id).chunk(0, 100, Incoming_Session=upload.session)


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "CONNECT", "get"])
def test_methods(client: Client, method: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        client.ask(method, None, {})
    assert set(caught.value.facts["allow"]) == {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}


def test_an_unknown_ticket(engine: Engine) -> None:
    with pytest.raises(UnknownUpload):
        Client(engine, Upload().id).status()


# -- refusals ---------------------------------------------------------------------------------------------------


def test_a_refusal_tells_what_happened_and_how_things_stand(client: Client) -> None:
    client.open(DATA[:100])
    upload = client.engine.receiver.status(client.ticket)
    response = chunks.refusal(NoSpace(retry_after=9.7), BLANK, upload, client.door(None))
    assert response.status_code == 507
    assert response.headers["Retry-After"] == "10"
    assert response.json == {"error": NoSpace().as_json(), **client.status()}
    response = chunks.refusal(MethodNotAllowed(allow=("GET", "PUT")), BLANK, None, client.door(None))
    assert response.headers["Allow"] == "GET, PUT"
    assert set(response.json) == {"error"}


def test_no_secret_is_told(engine: Engine, client: Client) -> None:
    ticket = engine.ticket(secret="geheim", metadata={"owner": "somebody"}, base_url="http://inside/")
    client = Client(engine, ticket)
    opened = client.open(DATA[:100])
    session = opened.pop("session")
    told = str([opened, client.status()])
    for secret in ("geheim", "somebody", "inside", session, str(engine.folder)):
        assert secret not in told


def test_bytes_that_a_disk_has_lost_are_asked_for_again(engine: Engine, client: Client) -> None:
    engine.start()
    client.open()
    client.chunk(0, 300)
    engine.take_back(client.ticket)
    status = client.status()
    assert (status["reopen"], status["received"], status["missing"]) == (True, 0, [[0, 1000]])
    with pytest.raises(Unavailable, match="open it anew"):
        client.chunk(300, 600)
    assert client.open()["reopen"] is False
    assert client.chunk(0, 1000)["state"] == "finished"
    assert engine.complete(client.ticket).read_bytes() == DATA
