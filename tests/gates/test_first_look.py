from __future__ import annotations

import gzip
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webtest import TestApp

from incoming_wsgi import FirstBytes, Incoming, Upload
from incoming_wsgi.errors import Cancelled, NoSpace, Unavailable
from incoming_wsgi.gates.first_look import LENGTH, is_of_other_kind
from incoming_wsgi.gates.terms import Terms
from incoming_wsgi.protocols.websocket import Conversation, Send, Window
from incoming_wsgi.upload import State

from ..helpers import Engine, lane_of


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "a")
    return packed.getvalue()


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100)
PDF = b"%PDF-1.7\n" + b"x" * 100
PROGRAM = b"MZ\x90\0" + bytes(200)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)
HTML = b"<!DOCTYPE html><html><script>alert(1)</script>"
SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(100), "image/jpeg"),
        (PDF, "application/pdf"),
        (zipped(), "application/zip"),
        (MP4, "video/mp4"),
        (HTML, "text/html"),
        (b"ID3\x03\0\0\0\0" + bytes(100), "audio/mpeg"),
        (b"a,b,c\n1,2,3\n", ""),
        (b"", ""),
        (bytes(1000), ""),
    ],
)
def test_what_it_is(data: bytes, media_type: str) -> None:
    assert FirstBytes(data).media_type == media_type


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert isinstance(FirstBytes(data).media_type, str)


@pytest.mark.parametrize(
    ("accept", "data", "is_other"),
    [
        ("image/*", PNG, False),
        ("image/*", PROGRAM, True),
        ("image/*", PDF, True),
        ("image/*", HTML, True),
        ("image/*", MP4, True),
        (".jpg, .png", PROGRAM, True),
        (".jpg, .png", PNG, False),
        (".svg", SVG, False),  # XML: may be anything
        (".docx", zipped(), False),
        (".csv, .txt", b"a,b\n", False),
        (".csv, .txt", PNG, True),
        (".mp3", MP4, False),  # sound in the same boxes
        (".tar.gz", gzip.compress(b"x" * 100, mtime=0), False),
        (".pdf", PROGRAM, False),  # not certain
        (".pdf, image/*", PROGRAM, False),
        ("*/*", PROGRAM, False),
        (".of-nobody-knows-what", PNG, False),
    ],
)
def test_what_is_certainly_of_another_kind(accept: str, data: bytes, is_other: bool) -> None:
    assert is_of_other_kind(accept, FirstBytes(data)) is is_other


class Critic:
    """An app's ``on_first_bytes``.

    :ivar seen: what it was shown.
    """

    def __init__(self, *answers: str | Exception | None) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[Upload, FirstBytes]] = []

    def __call__(self, upload: Upload, head: FirstBytes) -> str | None:
        self.seen.append((upload, head))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


DATA = PDF + os.urandom(200_000)


def test_the_app_sees_the_first_bytes_once(engines: Callable[..., Engine]) -> None:
    critic = Critic()
    engine, other = engines(on_first_bytes=critic), engines(on_first_bytes=critic)
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[: LENGTH - 1])
        session.sync()
        assert not critic.seen
        session.write(LENGTH - 1, DATA[LENGTH - 1 : LENGTH + 10])
        session.sync()
        assert len(critic.seen) == 1
        with lane_of(other.receiver, ticket, session.token) as lane:
            lane.write(LENGTH + 10, DATA[LENGTH + 10 :])
            other.receiver.complete(lane.sync())
    ((upload, head),) = critic.seen
    assert (upload.id, upload.state) == (ticket, State.RECEIVING)
    assert head == DATA[:LENGTH]
    assert head.media_type == "application/pdf"


def test_a_refused_file_goes_no_further(engines: Callable[..., Engine]) -> None:
    engine = engines(on_first_bytes=Critic("Only music, please."))
    ticket = engine.ticket()
    with engine.open(ticket, 2**40) as session:
        session.write(0, DATA)
        with pytest.raises(Cancelled, match="Only music, please"):
            session.sync()
    upload = engine.receiver.status(ticket)
    assert (upload.state, upload.public_reason) == (State.CANCELLED, "Only music, please.")
    assert not engine.arriving(ticket).exists()
    due = engine.registry.due(ticket)
    assert due is not None
    assert due.kind == "cancelled"


def test_a_short_file_is_shown_whole(engines: Callable[..., Engine]) -> None:
    critic = Critic(None, "No.")
    engine = engines(on_first_bytes=critic)
    engine.send(engine.ticket(), b"short")
    with pytest.raises(Cancelled):
        engine.send(engine.ticket(), b"short")
    assert [head for _, head in critic.seen] == [b"short", b"short"]


def test_a_file_that_comes_in_one_piece(engines: Callable[..., Engine]) -> None:
    critic = Critic(None, "No.")
    engine = engines(on_first_bytes=critic)
    welcome, other = engine.ticket(), engine.ticket()
    assert engine.receiver.take_whole(welcome, DATA[:100_000], name="x") is not None
    assert engine.stored(welcome) == DATA[:100_000]
    with pytest.raises(Cancelled):
        engine.receiver.take_whole(other, DATA[:100_000], name="x")
    assert engine.state(other) is State.CANCELLED
    assert not engine.arriving(other).exists()
    assert [head for _, head in critic.seen] == [DATA[:LENGTH]] * 2


def test_a_file_made_of_parts(engines: Callable[..., Engine]) -> None:
    critic = Critic("No.")
    engine = engines(on_first_bytes=critic)
    whole = engine.ticket()
    parts = make_parts(engine, whole, DATA[:40_000], DATA[40_000:])
    assert not critic.seen
    with pytest.raises(Cancelled):
        engine.receiver.join(whole, parts, name="x", protocol="tus", client_metadata={}, notes={})
    assert critic.seen[0][1] == DATA[:LENGTH]
    assert engine.state(whole) is State.CANCELLED


def test_an_empty_part_hides_nothing(engines: Callable[..., Engine]) -> None:
    critic = Critic("No.")
    engine = engines(on_first_bytes=critic)
    whole = engine.ticket()
    parts = make_parts(engine, whole, b"", PROGRAM)
    with pytest.raises(Cancelled):
        engine.receiver.join(whole, parts, name="x", protocol="tus", client_metadata={}, notes={})
    assert critic.seen[0][1] == PROGRAM


def test_bytes_that_a_power_cut_has_taken_are_looked_at_again(engines: Callable[..., Engine]) -> None:
    """Others may come in their place."""
    critic = Critic(None, "No.")
    engine = engines(on_first_bytes=critic)
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:LENGTH])
        session.sync()
    engine.take_back(ticket)
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, PROGRAM + bytes(LENGTH))
        with pytest.raises(Cancelled):
            session.sync()
    assert engine.state(ticket) is State.CANCELLED


def test_who_dies_over_the_look_has_decided_nothing(engines: Callable[..., Engine]) -> None:
    """Another process that completes the upload looks again."""
    engine = engines(on_first_bytes=Critic(RuntimeError("a bug"), RuntimeError("again"), "No."))
    ticket = engine.ticket()
    with engine.open(ticket, 5) as session:
        session.write(0, b"short")
        with pytest.raises(Unavailable):
            session.sync()
    upload = engine.receiver.status(ticket)
    assert upload.is_complete
    with pytest.raises(Unavailable):
        engine.receiver.complete(upload)
    assert engine.state(ticket) is State.RECEIVING
    with pytest.raises(Cancelled):
        engine.receiver.complete(upload)
    assert engine.state(ticket) is State.CANCELLED


def test_two_lanes_at_once(engines: Callable[..., Engine]) -> None:
    """The second one goes on while the first one looks."""
    looking, may_go_on = threading.Event(), threading.Event()

    def slow(_upload: Upload, _head: FirstBytes) -> str:
        looking.set()
        may_go_on.wait(10)
        return "No."

    engine = engines(on_first_bytes=slow)
    ticket = engine.ticket()
    errors: list[Exception] = []
    with engine.open(ticket, 2**30) as first, lane_of(engine.receiver, ticket, first.token) as second:

        def send() -> None:
            try:
                first.write(0, DATA)
                first.sync()
            except Cancelled as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        assert looking.wait(10)
        second.write(len(DATA), b"more")
        second.sync()
        may_go_on.set()
        thread.join(10)
        with pytest.raises(Cancelled, match=r"No\."):
            second.write(len(DATA) + 4, b"more")
    assert len(errors) == 1


def test_what_a_ticket_accepts_holds_for_the_bytes_too(engines: Callable[..., Engine]) -> None:
    engine = engines()
    ticket = engine.ticket(terms=Terms(accept="image/*"))
    with engine.open(ticket, len(PROGRAM), "holiday.jpg") as session:
        session.write(0, PROGRAM)
        with pytest.raises(Cancelled, match=r"portable-executable.*image/\*"):
            session.sync()
    welcome = engine.ticket(terms=Terms(accept="image/*"))
    with engine.open(welcome, len(PNG), "holiday.png") as session:
        session.write(0, PNG)
        engine.receiver.complete(session.sync())


# -- nothing gets past the look ---------------------------------------------------------------------------------


def make_parts(engine: Engine, whole: str, *pieces: bytes) -> list[str]:
    """Parts of an upload, complete."""
    made = []
    for data in pieces:
        part = engine.receiver.create_part(whole, len(data))
        session = engine.receiver.open(part.id, length=len(data), protocol="tus")
        assert session is not None
        with session:
            session.write(0, data)
            session.sync()
        made.append(part.id)
    return made


def join(engine: Engine, whole: str, parts: list[str]) -> Upload:
    return engine.receiver.join(whole, parts, name="x", protocol="tus", client_metadata={}, notes={})


class Meanwhile:
    """An ``on_first_bytes`` that does not want programs; with the first file something else happens meanwhile.

    :ivar seen: what it was shown.
    """

    def __init__(self) -> None:
        self.act: Callable[[Upload], object] = lambda _: None
        self.seen: list[bytes] = []

    def __call__(self, upload: Upload, head: FirstBytes) -> str | None:
        self.seen.append(bytes(head))
        if len(self.seen) == 1:
            self.act(upload)
        return "No programs." if head.startswith(b"MZ") else None


def test_another_file_while_a_whole_one_is_looked_at(engines: Callable[..., Engine]) -> None:
    """Somebody opens the ticket for a program while the app still looks at the picture that has come in one piece."""
    critic = Meanwhile()
    engine = engines(on_first_bytes=critic)
    ticket = engine.ticket()
    sessions = []

    def open_for_a_program(_upload: Upload) -> None:
        sessions.append(engine.open(ticket, len(PROGRAM)))
        sessions[0].write(0, PROGRAM[:50])
        sessions[0].sync()

    critic.act = open_for_a_program
    assert engine.receiver.take_whole(ticket, PNG, name="x") is None
    assert engine.stored(ticket)[:50] == PROGRAM[:50], "what is safe is not written over"
    with sessions[0] as session:
        session.write(50, PROGRAM[50:])
        with pytest.raises(Cancelled, match="No programs"):
            engine.receiver.complete(session.sync())
    assert engine.state(ticket) is State.CANCELLED


def test_a_whole_file_that_could_not_be_stored(engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """That it was welcome says nothing of the next one under this ticket."""
    critic = Meanwhile()
    engine = engines(on_first_bytes=critic)
    ticket = engine.ticket()

    def full(_upload: Upload) -> None:
        raise NoSpace

    with monkeypatch.context() as patched:
        patched.setattr(engine.storage, "create", full)
        with pytest.raises(NoSpace):
            engine.receiver.take_whole(ticket, PNG, name="x")
    with pytest.raises(Cancelled, match="No programs"):
        engine.send(ticket, PROGRAM)


def test_other_parts_while_some_are_looked_at(engines: Callable[..., Engine]) -> None:
    critic = Meanwhile()
    engine = engines(on_first_bytes=critic)
    whole = engine.ticket()
    picture, program = make_parts(engine, whole, PNG, PROGRAM)

    def join_the_program(_upload: Upload) -> None:
        with pytest.raises(Cancelled):
            join(engine, whole, [program])

    critic.act = join_the_program
    with pytest.raises(Cancelled):
        join(engine, whole, [picture])
    assert engine.state(whole) is State.CANCELLED
    assert critic.seen == [PNG, PROGRAM]


def test_a_join_that_did_not_happen(engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of the next one are looked at, too."""
    engine = engines(on_first_bytes=Meanwhile())
    whole = engine.ticket()
    picture, program = make_parts(engine, whole, PNG, PROGRAM)
    save = engine.registry.save

    def no_joining(before: Upload, after: Upload, **more: Any) -> Upload:
        if after.state is State.JOINING:
            raise Unavailable
        return save(before, after, **more)

    with monkeypatch.context() as patched:
        patched.setattr(engine.registry, "save", no_joining)
        with pytest.raises(Unavailable):
            join(engine, whole, [picture])
    with pytest.raises(Cancelled, match="No programs"):
        join(engine, whole, [program])


def test_a_part_is_never_taken_for_a_whole(engines: Callable[..., Engine]) -> None:
    """Nobody looks at parts, nor at their names."""
    engine = engines(on_first_bytes=Meanwhile())
    part = engine.receiver.create_part(engine.ticket(terms=Terms(accept=".jpg")), len(PROGRAM))
    assert engine.receiver.take_whole(part.id, PROGRAM, name="x.exe") is None
    assert engine.state(part.id) is State.WAITING


def test_bytes_that_the_disk_has_lost_are_looked_at_when_they_come_again(engines: Callable[..., Engine]) -> None:
    engine = engines(on_first_bytes=Meanwhile())
    ticket = engine.ticket()
    with engine.open(ticket, 100_000) as session:
        session.write(0, PNG + bytes(80_000))
        session.sync()
    assert engine.receiver.status(ticket).was_seen
    engine.take_back(ticket)
    assert engine.receiver.status(ticket).received == 0
    with engine.open(ticket, 100_000) as session:
        session.write(0, PROGRAM + bytes(80_000))
        with pytest.raises(Cancelled, match="No programs"):
            session.sync()


def test_the_app_may_cancel_while_it_looks(engines: Callable[..., Engine]) -> None:
    critic = Meanwhile()
    engine = engines(on_first_bytes=critic)
    critic.act = lambda upload: engine.receiver.cancel(upload.id, "I have changed my mind.")
    ticket = engine.ticket()
    with pytest.raises(Cancelled, match="changed my mind"):
        engine.send(ticket, PNG)
    critic.seen.clear()
    ticket = engine.ticket()
    with pytest.raises(Cancelled, match="changed my mind"):
        engine.receiver.take_whole(ticket, PNG, name="x")
    critic.seen.clear()
    whole = engine.ticket()
    parts = make_parts(engine, whole, PNG)
    with pytest.raises(Cancelled, match="changed my mind"):
        join(engine, whole, parts)


# -- as each dialect says it ------------------------------------------------------------------------------------

REFUSAL = "Only music, please."


@pytest.fixture
def web(tmp_path: Path) -> Iterator[TestApp]:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b""]

    incoming = Incoming(app, storage=tmp_path, on_finish=lambda _: "done", on_first_bytes=lambda *_: REFUSAL)
    yield TestApp(incoming)
    incoming.close()


@pytest.mark.parametrize("size", [1000, 300_000])
def test_our_own_dialect(web: TestApp, size: int) -> None:
    ticket = web.app.new_upload()
    headers = {"Incoming-Length": str(size), "Incoming-Name": "x"}
    url = f"/incoming/frontend/uploads/{ticket}"
    refused = web.post(url, b"x" * size, headers=headers, content_type="application/octet-stream", status=410)
    assert refused.json["error"] == {"code": 13, "name": "cancelled", "message": REFUSAL, "retryable": False}
    assert (refused.json["phase"], refused.json["reason"]) == ("cancelled", REFUSAL)
    assert web.get(url).json["reason"] == REFUSAL


def test_tus(web: TestApp) -> None:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Content-Type": "application/offset+octet-stream"}
    url = f"/incoming/frontend/uploads?ticket={web.app.new_upload()}"
    refused = web.post(url, b"123456789", headers=headers, status=410)
    assert REFUSAL in refused.text


def test_ietf(web: TestApp) -> None:
    url = f"/incoming/frontend/uploads/{web.app.new_upload()}"
    refused = web.post(url, b"123456789", headers={"Upload-Complete": "?1"}, status=410)
    assert refused.content_type == "application/problem+json"
    assert refused.json["detail"] == REFUSAL


def test_the_websocket(web: TestApp) -> None:
    conversation = Conversation(web.app._engine.get(), Window(65536, 4))
    data = {"Id": web.app.new_upload(), "Name": "x", "LengthBytes": 9}
    conversation.text(json.dumps({"MsgType": "MsgUploadReq", "MsgData": data}))
    conversation.text(json.dumps({"MsgType": "MsgAck", "MsgData": {"Ack": True}}))
    actions = conversation.binary(b"123456789")
    conversation.close()
    assert isinstance(actions[0], Send)
    assert json.loads(actions[0].text) == {"MsgType": "MsgCancel", "MsgData": {"Reason": REFUSAL}}
