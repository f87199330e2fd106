"""The IETF's resumable uploads, without a server; a real engine is behind them. Each requirement has its test."""

from __future__ import annotations

import base64
import hashlib
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webob import Request, Response

from incoming_wsgi.errors import Forbidden, IncomingError
from incoming_wsgi.protocols import chunks, resumable
from incoming_wsgi.upload import State, Upload, is_ticket
from incoming_wsgi.wire import fields, interop, servers
from incoming_wsgi.wire.bulk import Bulk
from tests.support.waiting import eventually

from ..helpers import Clock, Engine
from .doors import Pieces, door_of

DATA = random.Random(5).randbytes(1000)
VERSIONS = sorted(interop.VERSIONS)
PROBLEMS = "https://iana.org/assignments/http-problem-types#"
#: A client that says no version.
RFC = 0

#: Requirements that are deliberately not followed, and why.
NOT_FOLLOWED: Mapping[str, str] = {
    "ietf-19": "With durability=fsync the offset never decreases. Otherwise a power cut may take bytes that were told "
    "of: the client is asked for them again, since an upload that is dead would have to send all of them again.",
    "ietf-35": "The server does not know what a proxy takes. The configuration that is recommended for nginx lifts its "
    "limit; behind one that can't, tus and our own library send small requests.",
}

in_every_version = pytest.mark.parametrize("version", [RFC, *VERSIONS])


class Client:
    """A client of one upload.

    :param version: the interop version that it speaks; 0: it says none.
    """

    def __init__(self, engine: Engine, version: int = RFC, ticket: str = "", **options: Any) -> None:
        self.engine = engine
        self.version = version
        self.spoken = interop.interop_of(version or None, says_incomplete=False)
        self.ticket = ticket or engine.ticket(remove_file_when_finished=False, **options)
        self.interim: list[dict[str, str]] = []
        self.interrupted: list[str] = []

    def ask(self, method: str, body: bytes | Pieces = b"", upload_id: str | None = None, /, **headers: str) -> Response:
        """A request for the upload, or for what is at another id; refusals are answers, too."""
        about = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.version:
            about["Upload-Draft-Interop-Version"] = str(self.version)
        upload_id = self.ticket if upload_id is None else upload_id
        request = Request.blank(f"/{upload_id}", method=method, headers=about)
        door = door_of(
            self.engine,
            Pieces(body) if isinstance(body, bytes) else body,
            interim=lambda headers: self.interim.append(dict(headers)),
            interrupt=self.interrupted.append,
        )
        try:
            return resumable.respond(request, upload_id, self.engine.receiver, door)
        except IncomingError as error:
            known = self.engine.registry.get(upload_id) if is_ticket(upload_id) else None
            return resumable.refusal(error, request, known, door)

    def says(self, is_complete: bool) -> dict[str, str]:
        return {name.replace("-", "_"): value for name, value in self.spoken.marks(complete=is_complete).items()}

    def create(self, body: bytes | Pieces = b"", /, *, is_complete: bool = False, **headers: str) -> Response:
        return self.ask("POST", body, **self.says(is_complete), **headers)

    def append(
        self, offset: int, body: bytes | Pieces = b"", /, *, is_complete: bool = False, **headers: str
    ) -> Response:
        about = {"Content_Type": "application/partial-upload", "Upload_Offset": str(offset), **self.says(is_complete)}
        return self.ask("PATCH", body, **{**about, **headers})

    def head(self, **headers: str) -> Response:
        return self.ask("HEAD", **headers)

    @property
    def upload(self) -> Upload:
        return self.engine.receiver.status(self.ticket)

    def is_told_complete(self, answer: Response) -> bool | None:
        """What an answer says of the upload."""
        return self.spoken.means(fields.boolean(answer.headers.get(self.spoken.completeness)))


class Acting(Pieces):
    """A body in whose middle something happens."""

    def __init__(self, data: bytes, act: Callable[[], object], **options: Any) -> None:
        super().__init__(data, **options)
        self._act = act

    def read(self, *, splice: bool = False) -> Bulk:
        if self._read == 500:
            self._act()
        return super().read(splice=splice)


@pytest.fixture
def client(engine: Engine) -> Client:
    return Client(engine)


@pytest.fixture(autouse=True)
def brief_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody hands over, the final answer need not wait for that."""
    if "running" not in request.fixturenames:
        monkeypatch.setattr("incoming_wsgi.intake._WAIT_FOR_END", 0.0)


@pytest.fixture
def running(engine: Engine) -> Engine:
    engine.start()
    return engine


def digest_of(data: bytes, algorithm: str = "sha-256") -> str:
    value = hashlib.new(algorithm.replace("-", ""), data).digest()
    return f"{algorithm}=:{base64.b64encode(value).decode()}:"


def limits(answer: Response) -> dict[str, int]:
    pairs = (member.split("=") for member in answer.headers["Upload-Limit"].split(", "))
    return {name: int(value) for name, value in pairs}


# -- the way it should go ---------------------------------------------------------------------------------------


@in_every_version
def test_a_whole_upload(running: Engine, version: int) -> None:
    client = Client(running, version)
    created = client.create(Upload_Length="1000")
    assert (created.status_int, client.is_told_complete(created)) == (201, False)
    assert client.append(0, DATA[:400]).headers["Upload-Offset"] == "400"
    assert client.head().headers["Upload-Offset"] == "400"
    done = client.append(400, DATA[400:], is_complete=True)
    assert (done.status_int, done.json["state"], client.is_told_complete(done)) == (200, "finished", True)
    assert running.complete(client.ticket).read_bytes() == DATA
    assert done.headers.get("Upload-Draft-Interop-Version") == (str(version) if version else None)


@in_every_version
def test_a_whole_upload_in_one_request(running: Engine, version: int) -> None:
    client = Client(running, version)
    assert client.create(DATA, is_complete=True).json["state"] == "finished"
    assert running.complete(client.ticket).read_bytes() == DATA


def test_one_begun_in_our_own_dialect_goes_on(running: Engine, client: Client) -> None:
    with running.open(client.ticket, 1000) as session:
        session.write(0, DATA[:300])
        session.sync()
    assert client.head().headers["Upload-Offset"] == "300"
    assert client.append(300, DATA[300:], is_complete=True).json["state"] == "finished"


# -- fields -----------------------------------------------------------------------------------------------------

MALFORMED = ["", "x", "-1", "1.0", "0x1", "1, 2", "9" * 16, "\u00e4", '"1"', "1;"]


@pytest.mark.requirement("ietf-1")
@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_number_is_as_if_absent(engine: Engine, text: str) -> None:
    client = Client(engine, 8)
    assert client.create(Upload_Length=text).status_int == 201
    assert client.upload.length is None
    assert client.append(0, b"x", Upload_Offset=text).status_int == 400
    assert client.upload.received == 0


@pytest.mark.requirement("ietf-1")
@pytest.mark.parametrize("text", ["", "1", "true", "?2", "?", "?1, ?0", "?1?1"])
def test_a_malformed_boolean_is_as_if_absent(client: Client, text: str) -> None:
    assert client.ask("POST", DATA, Upload_Complete=text).status_int == 400
    client.create()
    assert client.append(0, DATA, Upload_Complete=text).status_int == 400
    assert client.upload.received == 0


@pytest.mark.requirement("ietf-1")
@pytest.mark.parametrize("version", [3, 4, 5, 6, 7])
def test_older_versions_refuse_what_is_malformed(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    assert client.create(Upload_Length="x").status_int == 400
    client.create()
    malformed: dict[str, Any] = {client.spoken.completeness.replace("-", "_"): "x"}
    assert client.append(0, DATA, **malformed).status_int == 400
    assert client.upload.state is State.RECEIVING


@pytest.mark.requirement("ietf-1")
def test_parameters_are_legal(client: Client) -> None:
    assert client.ask("POST", Upload_Complete="?0;x=1", Upload_Length="1000;a;b=2").status_int == 201
    assert client.upload.length == 1000
    assert client.append(0, DATA[:9], Upload_Offset="0;x", Upload_Complete="?0;y=z").status_int == 204


@pytest.mark.requirement("ietf-2")
@in_every_version
def test_limits_by_version(engine: Engine, version: int) -> None:
    client = Client(engine, version, max_length=5000)
    for answer in (client.create(), client.head(), client.append(0, b"x")):
        if version in (3, 4, 5):
            assert "Upload-Limit" not in answer.headers
        else:
            assert limits(answer).keys() == {"max-size", "expires" if version == 6 else "max-age"}
            assert limits(answer)["max-size"] == 5000


@pytest.mark.requirement("ietf-3")
@in_every_version
def test_whose_answer_it_is(running: Engine, version: int) -> None:
    client = Client(running, version)
    assert client.is_told_complete(client.create()) is False
    assert client.is_told_complete(client.append(0, DATA[:10])) is False
    assert client.is_told_complete(client.append(0, DATA[:10])) is False  # refused
    assert client.is_told_complete(client.append(10, DATA[10:], is_complete=True)) is True


def test_which_requests_are_ours() -> None:
    def is_spoken(**headers: str) -> bool:
        about = {name.replace("_", "-"): value for name, value in headers.items()}
        return resumable.is_spoken(Request.blank("/", headers=about))

    assert is_spoken(Upload_Complete="?1")
    assert is_spoken(Upload_Incomplete="?0")
    assert is_spoken(Upload_Draft_Interop_Version="99")
    assert is_spoken(Content_Type="application/partial-upload")
    assert not is_spoken()
    assert not is_spoken(Upload_Complete="1", Upload_Offset="5")
    assert not is_spoken(Upload_Complete="?1", Tus_Resumable="1.0.0")


def test_an_unknown_version_is_the_newest_and_is_not_repeated(engine: Engine) -> None:
    client = Client(engine, 999)
    assert "Upload-Draft-Interop-Version" not in client.create(DATA).headers
    assert client.interim == []


def test_a_client_that_says_incomplete_and_no_version(engine: Engine, client: Client) -> None:
    answer = client.ask("POST", DATA[:5], Upload_Incomplete="?1")
    assert (answer.status_int, answer.headers["Upload-Incomplete"]) == (201, "?1")


# -- discovery --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-4")
@pytest.mark.requirement("ietf-5")
def test_discovery(engine: Engine) -> None:
    door = door_of(engine, max_length=5000)
    assert resumable.discovery(door)["Upload-Limit"] == "max-size=5000"


# -- creation ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-6")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_complete", [True, False])
def test_an_upload_is_announced_before_its_body_is_read(running: Engine, version: int, is_complete: bool) -> None:
    client = Client(running, version)
    told: list[int] = []
    client.create(Acting(DATA, lambda: told.append(len(client.interim))), is_complete=is_complete)
    assert told == [1]
    (announced,) = client.interim
    assert announced["Location"].endswith(f"/uploads/{client.ticket}")
    assert announced["Upload-Draft-Interop-Version"] == str(version)
    assert ("Upload-Limit" in announced) == (version >= 6)


@pytest.mark.requirement("ietf-6")
def test_who_says_no_version_is_announced_nothing(running: Engine, client: Client) -> None:
    client.create(DATA)
    assert client.interim == []


@pytest.mark.requirement("ietf-7")
def test_one_location(engine: Engine) -> None:
    client = Client(engine, 9)
    created = client.create(DATA[:500])
    assert created.headers["Location"] == client.interim[0]["Location"]
    assert client.create().headers["Location"] == created.headers["Location"]
    assert "Location" not in client.append(500, DATA[500:], is_complete=True).headers


@pytest.mark.requirement("ietf-8")
@in_every_version
@pytest.mark.parametrize("size", [0, 10])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_creation_with_more_to_come(engine: Engine, version: int, size: int, method: str) -> None:
    client = Client(engine, version)
    answer = client.ask(method, DATA[:size], **client.says(False))
    assert answer.status_int == 201
    assert answer.headers["Location"].endswith(client.ticket)
    assert answer.headers["Upload-Offset"] == str(size)
    assert ("Upload-Limit" in answer.headers) == (version not in (3, 4, 5))
    assert client.upload.created_with == "ietf"


@pytest.mark.requirement("ietf-9")
@pytest.mark.parametrize("body", [b"", DATA])
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_creation_with_all_of_it(running: Engine, body: bytes, is_chunked: bool, method: str) -> None:
    client = Client(running)
    answer = client.ask(method, Pieces(body, is_chunked=is_chunked), Upload_Complete="?1")
    assert (answer.status_int, answer.json["state"]) == (200, "finished")
    assert (answer.headers["Upload-Complete"], answer.headers["Upload-Offset"]) == ("?1", str(len(body)))
    assert running.complete(client.ticket).read_bytes() == body


def test_a_slow_app_does_not_hold_the_answer(engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incoming_wsgi.intake._WAIT_FOR_END", 0.02)
    answer = client.create(DATA, is_complete=True)
    assert (answer.status_int, answer.json["phase"], answer.headers["Upload-Complete"]) == (200, "processing", "?1")


@pytest.mark.requirement("ietf-10")
@in_every_version
def test_the_length_is_recorded(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    client.create(DATA[:100], Upload_Length="1000")
    assert client.upload.length == 1000
    cut = Client(engine, version)
    cut.create(Pieces(DATA[:100], length=1000), is_complete=True)
    assert cut.upload.length == 1000
    unknown = Client(engine, version)
    unknown.create(Pieces(DATA[:100], is_chunked=True))
    assert unknown.upload.length is None


@pytest.mark.requirement("ietf-10")
@in_every_version
@pytest.mark.parametrize("is_complete", [True, False])
def test_two_lengths_in_one_request(engine: Engine, version: int, is_complete: bool) -> None:
    client = Client(engine, version)
    answer = client.create(DATA, is_complete=is_complete, Upload_Length="999")
    assert (answer.status_int, answer.json["type"]) == (400, PROBLEMS + "inconsistent-upload-length")
    assert client.upload.state is State.WAITING
    assert client.create(DATA, is_complete=True, Upload_Length="1001").status_int == 400


@pytest.mark.requirement("ietf-10")
def test_a_longer_body_than_its_length_in_chunked_coding(engine: Engine, client: Client) -> None:
    answer = client.create(Pieces(DATA, is_chunked=True), Upload_Length="950")
    assert answer.status_int == 400
    assert client.upload.state is State.CANCELLED


@pytest.mark.requirement("ietf-11")
@in_every_version
@pytest.mark.parametrize("is_chunked", [True, False])
@pytest.mark.parametrize("is_complete", [True, False])
def test_a_creation_that_is_cut(engine: Engine, version: int, is_chunked: bool, is_complete: bool) -> None:
    client = Client(engine, version)
    answer = client.create(Pieces(DATA[:300], length=1000, is_chunked=is_chunked), is_complete=is_complete)
    assert answer.status_int == 400
    told = client.head()
    assert (told.headers["Upload-Offset"], client.is_told_complete(told)) == ("300", False)
    assert client.append(300, DATA[300:], is_complete=True).status_int == 200
    assert client.engine.stored(client.ticket) == DATA


@pytest.mark.requirement("ietf-12")
@pytest.mark.requirement("ietf-31")
@pytest.mark.parametrize("version", VERSIONS)
def test_progress_is_told_and_never_decreases(engine: Engine, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "_PROGRESS_BYTES", 300)
    monkeypatch.setattr(resumable, "_RECORD_SECONDS", 0.0)
    client = Client(engine, version)
    client.create(DATA[:100])
    client.interim.clear()
    client.append(100, DATA[100:])
    told = [int(headers["Upload-Offset"]) for headers in client.interim]
    assert told == ([400, 700, 1000] if version >= 5 else [])
    assert all("Location" not in headers for headers in client.interim)


@pytest.mark.requirement("ietf-12")
def test_progress_is_told_after_a_while(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(resumable, "_RECORD_SECONDS", 0.0)
    client = Client(engine, 9)
    client.create(DATA)
    assert [headers["Upload-Offset"] for headers in client.interim[1:]] == [str(n) for n in range(100, 1001, 100)]


@pytest.mark.requirement("ietf-13")
def test_no_interim_response_but_over_http_1_1() -> None:
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        for protocol in ("HTTP/1.0", "HTTP/2", "HTTP/2.0", ""):
            environ = {"gunicorn.socket": here, "SERVER_PROTOCOL": protocol}
            servers.send_interim(environ, "104 Upload Resumption Supported", {"A": "b"})
        with pytest.raises(BlockingIOError):
            there.recv(1)
        environ["SERVER_PROTOCOL"] = "HTTP/1.1"
        servers.send_interim(environ, "104 Upload Resumption Supported", {"A": "b"})
        assert there.recv(100) == b"HTTP/1.1 104 Upload Resumption Supported\r\nA: b\r\n\r\n"


def test_an_interim_response_that_nobody_can_read() -> None:
    here, there = socket.socketpair()
    with here:
        there.close()
        servers.send_interim({"gunicorn.socket": here, "SERVER_PROTOCOL": "HTTP/1.1"}, "104 X", {})
    servers.send_interim({"wsgi.input": None, "SERVER_PROTOCOL": "HTTP/1.1"}, "104 X", {})


@pytest.mark.requirement("ietf-14")
def test_what_is_known_of_the_file(engine: Engine, client: Client) -> None:
    disposition = "inline; filename=\"fallback.txt\"; filename*=UTF-8''%C3%9Cber%20sicht.pdf"
    client.create(DATA[:10], Content_Type="application/pdf", Content_Encoding="gzip", Content_Disposition=disposition)
    assert client.upload.filename_from_browser == "Über sicht.pdf"
    assert client.upload.client_metadata == {
        "filename": "Über sicht.pdf",
        "filetype": "application/pdf",
        "content-encoding": "gzip",
        "content-disposition": disposition,
    }
    assert client.engine.stored(client.ticket) == DATA[:10]


@pytest.mark.requirement("ietf-15")
def test_addresses_can_not_be_guessed(engine: Engine) -> None:
    tickets = {Client(engine).create().headers["Location"].rpartition("/")[2] for _ in range(20)}
    assert len(tickets) == 20
    assert all(map(is_ticket, tickets))


@pytest.mark.requirement("ietf-16")
def test_without_upload_complete_it_creates_nothing(engine: Engine) -> None:
    client = Client(engine, 8)
    assert client.ask("POST", DATA).status_int == 400
    assert client.ask("POST", DATA, Upload_Complete="yes").status_int == 400
    assert client.upload.state is State.WAITING


def test_the_same_ticket_again_is_the_same_upload(running: Engine, client: Client) -> None:
    """Of a client that could not know that some has arrived: it begins anew."""
    client.create(Pieces(DATA[:350], length=1000), is_complete=True)
    assert client.create(DATA, is_complete=True).json["state"] == "finished"
    assert running.complete(client.ticket).read_bytes() == DATA
    assert client.create(DATA, is_complete=True).json["state"] == "finished"


def test_another_file_under_the_same_ticket(engine: Engine, client: Client) -> None:
    client.create(Pieces(DATA[:350], length=1000), is_complete=True)
    answer = client.create(DATA[:349] + b"X" + DATA[350:], is_complete=True)
    assert (answer.status_int, answer.json["error"]["name"]) == (409, "file_changed")
    assert engine.arriving(client.ticket).read_bytes() == DATA[:350]
    assert client.create(b"", is_complete=True).json["type"] == PROBLEMS + "inconsistent-upload-length"


def test_creation_without_ticket_is_for_the_app_to_allow(engine: Engine) -> None:
    client = Client(engine)
    answer = client.ask("POST", DATA, "", Upload_Complete="?0")
    assert (answer.status_int, answer.json["error"]["name"]) == (403, Forbidden.name)
    answer = client.ask("HEAD", b"", "", Upload_Draft_Interop_Version="8")
    assert answer.status_int == 404


# -- offset retrieval -------------------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-17")
@in_every_version
@pytest.mark.parametrize("length", [None, 1000])
def test_the_offset(engine: Engine, version: int, length: int | None) -> None:
    client = Client(engine, version)
    about: dict[str, Any] = {"Upload_Length": str(length)} if length else {}
    client.create(DATA[:10], **about)
    told = client.head()
    assert (told.status_int, told.body) == (204, b"")
    assert (told.headers["Upload-Offset"], client.is_told_complete(told)) == ("10", False)
    assert told.headers.get("Upload-Length") == (str(length) if length else None)
    got = client.ask("GET")
    assert (got.status_int, got.json["offset"], got.headers["Upload-Offset"]) == (200, 10, "10")


@pytest.mark.requirement("ietf-18")
def test_the_offset_is_accepted_by_the_next_append(engine: Engine, client: Client) -> None:
    """Though another process is in the middle of a transfer: it ends."""
    client.create()
    told: list[Response] = []
    body = Acting(DATA, lambda: told.append(client.head()))
    assert client.append(0, body).status_int == 409
    offset = int(told[0].headers["Upload-Offset"])
    assert client.upload.offset == offset
    assert client.append(offset, DATA[offset:], is_complete=True).status_int == 200
    assert engine.stored(client.ticket) == DATA


@pytest.mark.requirement("ietf-20")
@in_every_version
def test_what_is_finished_or_unknown(running: Engine, version: int) -> None:
    client = Client(running, version)
    client.create(DATA, is_complete=True)
    told = client.head()
    assert (told.status_int, told.headers["Upload-Offset"], client.is_told_complete(told)) == (204, "1000", True)
    assert client.ask("HEAD", b"", Upload().id).status_int == 404
    assert client.ask("PATCH", b"", Upload().id, Upload_Offset="0", **client.says(True)).status_int in (404, 415)


@pytest.mark.requirement("ietf-21")
@in_every_version
@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
def test_fields_that_do_not_belong(engine: Engine, version: int, method: str) -> None:
    client = Client(engine, version)
    client.create()
    expected = 400 if version in (3, 4, 5, 6) else 204
    assert client.ask(method, Upload_Offset="0").status_int == expected
    if method == "HEAD":
        assert client.ask(method, **client.says(False)).status_int == expected
        assert client.ask(method).status_int == 204


# -- append -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-22")
@in_every_version
def test_what_an_append_must_have(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    client.create()
    of_any_type = client.append(0, DATA[:10], Content_Type="application/octet-stream")
    assert of_any_type.status_int == (201 if version in (3, 4, 5) else 415)
    at = str(client.upload.offset)
    nowhere = client.ask("PATCH", DATA[:10], Content_Type="application/partial-upload", **client.says(False))
    assert nowhere.status_int == 400
    silent = client.ask("PATCH", DATA[:10], Content_Type="application/partial-upload", Upload_Offset=at)
    assert silent.status_int == (200 if version in (3, 4, 5, 6) else 400)
    assert (client.upload.state is State.RECEIVING) == (version not in (3, 4, 5, 6))


@pytest.mark.requirement("ietf-23")
@in_every_version
@pytest.mark.parametrize("offset", [0, 99, 101, 10**14])
def test_an_append_elsewhere(engine: Engine, version: int, offset: int) -> None:
    client = Client(engine, version)
    client.create(DATA[:100])
    answer = client.append(offset, b"X" * 10, is_complete=True)
    assert (answer.status_int, answer.headers["Upload-Offset"]) == (409, "100")
    assert client.is_told_complete(answer) is False
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == PROBLEMS + "mismatching-upload-offset"
    assert (answer.json["expected-offset"], answer.json["provided-offset"]) == (100, offset)
    assert engine.stored(client.ticket) == DATA[:100]


@pytest.mark.requirement("ietf-24")
@in_every_version
def test_an_append_with_more_to_come(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    client.create()
    for start in (0, 300, 300):
        answer = client.append(start, DATA[start : start + 300] if client.upload.offset == start else b"")
        assert answer.headers["Upload-Offset"] == str(client.upload.offset)
    answer = client.append(600)
    assert answer.status_int == (201 if version in (3, 4, 5, 6) else 204)
    assert client.is_told_complete(answer) is False


@pytest.mark.requirement("ietf-25")
@in_every_version
@pytest.mark.parametrize("size", [0, 700])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_the_last_append(running: Engine, version: int, size: int, is_chunked: bool) -> None:
    client = Client(running, version)
    client.create(DATA[: 1000 - size])
    answer = client.append(1000 - size, Pieces(DATA[1000 - size :], is_chunked=is_chunked), is_complete=True)
    assert (answer.status_int, answer.json["phase"], client.is_told_complete(answer)) == (200, "finished", True)
    assert running.complete(client.ticket).read_bytes() == DATA


@pytest.mark.requirement("ietf-26")
@in_every_version
def test_reaching_the_length_does_not_complete(engine: Engine, version: int, clock: Clock) -> None:
    client = Client(engine, version)
    client.create(DATA[:100], Upload_Length="1000")
    answer = client.append(100, DATA[100:])
    assert client.is_told_complete(answer) is False
    clock.advance(60)
    engine.receiver.sweep()
    chunks.respond(Request.blank("/"), client.ticket, engine.receiver, door_of(engine, Pieces(b"")))
    assert client.upload.state is State.RECEIVING
    told = client.head()
    assert (told.headers["Upload-Offset"], client.is_told_complete(told)) == ("1000", False)
    assert client.append(1000, is_complete=True).status_int == 200


@pytest.mark.requirement("ietf-26")
def test_what_nobody_completes_expires(engine: Engine, client: Client, clock: Clock) -> None:
    client.create(DATA, Upload_Length="1000")
    clock.advance(4000)
    engine.receiver.sweep()
    assert client.upload.state is State.EXPIRED
    assert client.head().status_int == 410


@pytest.mark.requirement("ietf-27")
@in_every_version
def test_lengths_that_do_not_agree(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    client.create(DATA[:100], Upload_Length="1000")
    for answer in (
        client.append(100, DATA[100:999], is_complete=True),
        client.append(100, DATA[100:200], Upload_Length="1001"),
    ):
        assert (answer.status_int, answer.json["type"]) == (400, PROBLEMS + "inconsistent-upload-length")
    assert client.upload.received == 100
    short = client.append(100, Pieces(DATA[100:200], is_chunked=True), is_complete=True)
    assert (short.status_int, short.headers["Upload-Offset"]) == (400, "200")
    assert client.upload.state is State.RECEIVING


@pytest.mark.requirement("ietf-27")
def test_the_length_of_a_last_append_is_recorded(engine: Engine, client: Client) -> None:
    client.create(DATA[:100])
    client.append(100, Pieces(DATA[100:300], length=900), is_complete=True)
    assert client.upload.length == 1000
    assert client.append(300, DATA[300:999], is_complete=True).status_int == 400


@pytest.mark.requirement("ietf-28")
@in_every_version
@pytest.mark.parametrize("is_chunked", [True, False])
@pytest.mark.parametrize("is_complete", [True, False])
def test_more_than_the_length(engine: Engine, version: int, is_chunked: bool, is_complete: bool) -> None:
    client = Client(engine, version)
    client.create(DATA[:100], Upload_Length="950")
    answer = client.append(100, Pieces(DATA[100:], is_chunked=is_chunked), is_complete=is_complete)
    assert answer.status_int == 400
    if version in (3, 4, 5, 6):
        assert client.upload.state is State.RECEIVING
        assert client.upload.received <= 950
    else:
        assert client.head().status_int == 410
        assert client.append(100, DATA[100:950], is_complete=True).status_int == 410


@pytest.mark.requirement("ietf-29")
@in_every_version
@pytest.mark.parametrize("is_chunked", [True, False])
def test_an_append_that_is_cut(engine: Engine, version: int, is_chunked: bool) -> None:
    client = Client(engine, version)
    client.create(DATA[:100], Upload_Length="1000")
    answer = client.append(100, Pieces(DATA[100:950], length=900, is_chunked=is_chunked), is_complete=True)
    assert (answer.status_int, answer.headers["Upload-Offset"]) == (400, "950")
    assert client.upload.state is State.RECEIVING
    assert engine.stored(client.ticket) == DATA[:950]


@pytest.mark.requirement("ietf-30")
@in_every_version
def test_nothing_is_appended_to_what_is_finished(running: Engine, version: int) -> None:
    client = Client(running, version)
    first = client.create(DATA, is_complete=True)
    for answer in (client.append(1000, b"more"), client.append(1000, b"more", is_complete=True), client.append(1000)):
        assert answer.status_int == 400
        kind = PROBLEMS + "completed-upload" if version in (6, 7, 8) else "about:blank"
        assert answer.json["type"] == kind
    again = client.append(1000, is_complete=True)
    assert (again.status_int, again.json, client.is_told_complete(again)) == (200, first.json, True)
    assert running.complete(client.ticket).read_bytes() == DATA


@pytest.mark.requirement("ietf-32")
@in_every_version
def test_refusals_tell_the_offset(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    client.create(DATA[:100])
    refused = client.ask("PATCH", DATA, Content_Type="application/partial-upload", **client.says(False))
    assert (refused.status_int, refused.headers["Upload-Offset"]) == (400, "100")
    assert client.is_told_complete(refused) is False
    assert refused.json["error"]["name"] == "bad_request"
    unknown = client.ask("HEAD", b"", Upload().id)
    assert (unknown.status_int, unknown.headers.get("Upload-Offset")) == (404, None)


@pytest.mark.requirement("ietf-33")
def test_an_append_in_chunked_coding(engine: Engine, client: Client) -> None:
    client.create()
    assert client.append(0, Pieces(DATA, is_chunked=True)).headers["Upload-Offset"] == "1000"


def test_methods_that_there_are_not(client: Client) -> None:
    answer = client.ask("TRACE")
    assert (answer.status_int, "PATCH" in answer.headers["Allow"]) == (405, True)


def test_a_body_whose_end_the_server_does_not_tell(engine: Engine, client: Client) -> None:
    request = Request.blank("/", method="POST", headers={"Upload-Complete": "?1"})
    with pytest.raises(IncomingError) as raised:
        resumable.respond(request, client.ticket, engine.receiver, door_of(engine, None))
    assert raised.value.status == 411


# -- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-34")
@in_every_version
def test_what_is_too_large(engine: Engine, version: int) -> None:
    client = Client(engine, version, max_length=900)
    for answer in (
        client.create(DATA, is_complete=True),
        client.create(DATA),
        client.create(Upload_Length="1000"),
        client.create(Pieces(DATA, is_chunked=True), is_complete=True),
    ):
        assert answer.status_int == 413
        if version not in (3, 4, 5):
            assert limits(answer) == {"max-size": 900}
    assert client.upload.received <= 900
    assert client.append(client.upload.offset, is_complete=False).status_int in (201, 204)


@pytest.mark.requirement("ietf-36")
def test_how_long_an_upload_lives(engine: Engine, client: Client, clock: Clock) -> None:
    client.create()
    assert limits(client.head())["max-age"] == 3600
    clock.advance(600)
    assert limits(client.head())["max-age"] == 3000


# -- cancelling and concurrency ---------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-37")
@in_every_version
def test_cancelling(engine: Engine, version: int) -> None:
    client = Client(engine, version)
    client.create(DATA[:100])
    assert client.ask("DELETE").status_int == 204
    assert client.upload.state is State.CANCELLED
    assert client.head().status_int == 410
    assert client.append(100, DATA[100:], is_complete=True).status_int == 410
    assert client.ask("DELETE").status_int == 410
    assert client.create(DATA, is_complete=True).status_int == 410


@pytest.mark.parametrize("answer", ["done", "wait"])
def test_cancelling_what_the_app_has_been_given(running: Engine, client: Client, answer: str) -> None:
    running.app.answers = [answer]
    client.create(DATA, is_complete=True)
    running.until(client.ticket, State.FINISHED if answer == "done" else State.WAITING_FOR_APP)
    assert client.ask("DELETE").status_int == 409
    assert running.stored(client.ticket) == DATA


@pytest.mark.requirement("ietf-38")
@pytest.mark.requirement("ietf-39")
def test_cancelling_ends_a_transfer(engine: Engine, client: Client) -> None:
    client.create()
    deletions: list[Response] = []

    def delete() -> None:
        client.interrupted.clear()
        deletions.append(client.ask("DELETE"))

    ended = client.append(0, Acting(DATA, delete), is_complete=True)
    assert (deletions[0].status_int, ended.status_int) == (204, 410)
    assert client.interrupted == [client.ticket]
    assert not engine.arriving(client.ticket).exists()


@pytest.mark.requirement("ietf-39")
@pytest.mark.parametrize("is_complete", [True, False])
def test_a_newer_append_ends_the_older(engine: Engine, client: Client, is_complete: bool) -> None:
    client.create()
    junk = b"X" * 500
    answers: list[Response] = []

    def go_on() -> None:
        offset = int(client.head().headers["Upload-Offset"])
        answers.append(client.append(offset, DATA[offset:], is_complete=is_complete))

    ended = client.append(0, Acting(DATA[:500] + junk, go_on), is_complete=True)
    assert answers[0].status_int in (200, 204)
    assert ended.status_int in (400, 409)
    assert engine.stored(client.ticket) == DATA


@pytest.mark.requirement("ietf-39")
def test_an_append_that_was_overtaken_after_its_offset_was_checked(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create()
    opening = engine.receiver.open

    def overtaken(upload_id: str, **options: Any) -> Any:
        monkeypatch.undo()
        client.append(0, DATA[:10])
        return opening(upload_id, **options)

    monkeypatch.setattr(engine.receiver, "open", overtaken)
    answer = client.append(0, b"X" * 20)
    assert (answer.status_int, answer.headers["Upload-Offset"]) == (409, "10")
    assert engine.stored(client.ticket) == DATA[:10]


# -- digests ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("ietf-40")
@pytest.mark.requirement("ietf-43")
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_the_digest_of_a_request(engine: Engine, client: Client, algorithm: str) -> None:
    client.create()
    wrong = client.append(0, b"X" * 500, Content_Digest=digest_of(DATA[:500], algorithm))
    assert (wrong.status_int, wrong.json["error"]["name"]) == (400, "digest_mismatch")
    assert wrong.headers["Upload-Offset"] == "0"
    right = client.append(0, DATA[:500], Content_Digest=f"md5=:AA==:, {digest_of(DATA[:500], algorithm)}")
    assert right.headers["Upload-Offset"] == "500"
    other = client.append(500, DATA[500:], Content_Digest="unknown=:AAAA:", is_complete=True)
    assert other.status_int == 200
    assert Client(engine).create(DATA, Content_Digest=digest_of(b"x", algorithm)).status_int == 400


@pytest.mark.requirement("ietf-41")
@pytest.mark.requirement("ietf-43")
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
@pytest.mark.parametrize("header", ["Repr_Digest", "Unencoded_Digest"])
def test_the_digest_of_the_file(running: Engine, algorithm: str, header: str) -> None:
    said: dict[str, Any] = {header: digest_of(DATA, algorithm)}
    right = Client(running)
    right.create(DATA[:500], **said)
    assert right.append(500, DATA[500:], is_complete=True).json["phase"] == "finished"
    wrong = Client(running)
    said = {header: digest_of(DATA[1:], algorithm)}
    wrong.create(DATA[:500], **said)
    answer = wrong.append(500, DATA[500:], is_complete=True)
    assert (answer.status_int, answer.json["error"]["name"]) == (400, "digest_mismatch")
    assert wrong.upload.state is State.DAMAGED
    assert {notice.upload.id for notice in running.app.notices} == {right.ticket}
    assert wrong.head().status_int == 410


@pytest.mark.requirement("ietf-41")
@pytest.mark.parametrize("data", [b"", DATA])
def test_the_digest_of_the_file_where_none_is_computed(tmp_path: Path, data: bytes) -> None:
    engine = Engine(tmp_path / "x", digest=False)
    engine.start()
    right, wrong = Client(engine), Client(engine)
    assert right.create(data, is_complete=True, Repr_Digest=digest_of(data)).status_int == 200
    assert wrong.create(data, is_complete=True, Repr_Digest=digest_of(b"x")).status_int == 400
    engine.close()


@pytest.mark.requirement("ietf-41")
def test_bytes_that_did_not_count_are_not_of_the_file(running: Engine, client: Client) -> None:
    """They may still lie behind its end."""
    client.create(DATA[:500], Repr_Digest=digest_of(DATA[:500], "sha-512"))
    client.append(500, DATA[500:], Content_Digest=digest_of(b"x"))
    assert client.append(500, is_complete=True).json["phase"] == "finished"
    assert running.complete(client.ticket).read_bytes() == DATA[:500]


def test_the_digest_of_the_decoded_file_is_another_one(running: Engine, client: Client) -> None:
    answer = client.create(DATA, is_complete=True, Unencoded_Digest=digest_of(b"x"), Content_Encoding="gzip")
    assert answer.json["phase"] == "finished"


@pytest.mark.requirement("ietf-42")
def test_the_digest_is_told_to_who_wants_it(running: Engine, client: Client) -> None:
    client.create(DATA[:500])
    answer = client.append(500, DATA[500:], is_complete=True, Want_Repr_Digest="sha-512=3, sha-256=1, unknown=9")
    assert answer.headers["Repr-Digest"] == digest_of(DATA)
    assert "Repr-Digest" not in client.append(1000, is_complete=True, Want_Repr_Digest="sha-256=0").headers
    assert "Repr-Digest" not in client.append(1000, is_complete=True).headers


# -- anything ---------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(max_codepoint=255), max_size=30)
FIELD = TEXT | st.sampled_from(["?1", "?0", "0", "5", "?1;a", "sha-256=:AAAA:", "a=1", "attachment; filename=x"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "X"]),
    version=st.sampled_from([RFC, *VERSIONS]),
    headers=st.dictionaries(st.sampled_from(resumable.REQUEST_HEADERS), FIELD, max_size=6),
    body=st.binary(max_size=20),
    is_chunked=st.booleans(),
)
def test_any_request_has_an_answer(
    engine: Engine, method: str, version: int, headers: Mapping[str, str], body: bytes, is_chunked: bool
) -> None:
    client = Client(engine, version)
    about = {name.replace("-", "_"): value for name, value in headers.items() if not name.startswith("Upload-Draft")}
    answer = client.ask(method, Pieces(body, is_chunked=is_chunked), **about)
    assert 200 <= answer.status_int < 500


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    """What a client, or its network, does next."""
    return {
        "verb": draw(st.sampled_from(["create", "append", "append", "append", "head", "delete"])),
        "astray": draw(st.sampled_from([0, 0, 0, 0, 1, -1, 100])),
        "size": draw(st.integers(0, 400)),
        "is_complete": draw(st.sampled_from([False, False, False, True])),
        "cut": draw(st.sampled_from([0, 0, 0, 1, 50])),
        "is_chunked": draw(st.booleans()),
        "digest": draw(st.sampled_from(["", "", "right", "wrong"])),
        "length": draw(st.sampled_from(["", "", "1000", "500", "x"])),
    }


class Model:
    """What must hold after each step of a conversation."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.offset = 0
        self.may_be_complete = False
        self.is_over = False

    def take(self, step: Mapping[str, Any]) -> None:
        verb = step["verb"]
        if verb in ("create", "append"):
            answer = self._send(step)
        elif verb == "head":
            answer = self.client.head()
        else:
            answer = self.client.ask("DELETE")
        assert 200 <= answer.status_int < 500
        self._check(answer)

    def _send(self, step: Mapping[str, Any]) -> Response:
        upload = self.client.upload
        offset = 0 if step["verb"] == "create" else max(0, upload.offset + step["astray"])
        data = DATA[offset : offset + step["size"]] if offset in (0, upload.offset) else b"X" * step["size"]
        kept = data[: max(0, len(data) - step["cut"])]
        body = Pieces(kept, length=len(data), is_chunked=step["is_chunked"])
        headers = {"Upload_Length": step["length"]} if step["length"] else {}
        if step["digest"]:
            headers["Content_Digest"] = digest_of(data if step["digest"] == "right" else data + b"X")
        if step["verb"] == "create":
            answer = self.client.create(body, is_complete=step["is_complete"], **headers)
        else:
            answer = self.client.append(offset, body, is_complete=step["is_complete"], **headers)
        if answer.status_int < 300:
            assert kept == data or upload.state not in (State.WAITING, State.RECEIVING)
            assert step["digest"] != "wrong" or self.may_be_complete
            self.may_be_complete |= step["is_complete"]
        return answer

    def _check(self, answer: Response) -> None:
        upload = self.client.upload
        assert (upload.state not in (State.WAITING, State.RECEIVING, State.CANCELLED)) <= self.may_be_complete
        assert upload.state is not State.CANCELLED or not self.may_be_complete
        if upload.state is State.CANCELLED:
            self.is_over = True
            return
        assert not self.is_over
        assert upload.offset >= self.offset
        assert upload.received == upload.offset
        self.offset = upload.offset
        if upload.offset:
            assert self.client.engine.stored(upload.id)[: upload.offset] == DATA[: upload.offset]
        told = answer.headers.get("Upload-Offset")
        assert told in (None, str(upload.offset))
        if self.client.is_told_complete(answer):
            assert self.may_be_complete


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(version=st.sampled_from([RFC, *VERSIONS]), conversation=st.lists(steps(), max_size=12))
def test_any_conversation(engines: Engine, version: int, conversation: list[dict[str, Any]]) -> None:
    """No byte is lost, no other byte gets in, and nothing is complete before the client has said so."""
    model = Model(Client(engines, version))
    for step in conversation:
        model.take(step)
    if model.may_be_complete:
        eventually(lambda: model.client.upload.state is State.HANDING_OVER)
        assert engines.complete(model.client.ticket).read_bytes() == DATA[: model.offset]


def test_every_requirement_has_a_test_or_a_reason() -> None:
    module = globals()
    marked = {
        mark.args[0]
        for name, test in module.items()
        if name.startswith("test_")
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "requirement"
    }
    assert marked | NOT_FOLLOWED.keys() == {f"ietf-{number}" for number in range(1, 44)}
    assert not marked & NOT_FOLLOWED.keys()
