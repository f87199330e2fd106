"""tus 1.0.0 without a network: each numbered requirement of docs/requirements.rst that a server is not needed for."""

from __future__ import annotations

import hashlib
import random
import re
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webob import Request, Response

from incoming_wsgi.errors import IncomingError
from incoming_wsgi.frontend import refusal
from incoming_wsgi.protocols import tus
from incoming_wsgi.upload import State, Upload

from ..helpers import NOBODYS, Clock, Engine
from .tus_client import BYTES, UPLOADS, Client, Dripping, encoded, id_of

requirement = pytest.mark.requirement

DATA = random.Random(3).randbytes(1000)

#: Requirements that are deliberately not followed, and why; see docs/requirements.rst.
NOT_FOLLOWED: Mapping[str, str] = {}


@pytest.fixture(autouse=True)
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes is stored in small pieces; and nobody waits for an app, or a request, that can't answer here."""
    monkeypatch.setattr("incoming_wsgi.intake._WAIT_FOR_END", 0.01)
    monkeypatch.setattr("incoming_wsgi.frontend._LONGEST_INTERRUPTION", 0.01)
    monkeypatch.setattr("incoming_wsgi.wire.bodies.PIECE", 100)


@pytest.fixture
def client(engine: Engine) -> Client:
    return Client(engine)


@pytest.fixture
def url(client: Client) -> str:
    """Of an upload of 1000 bytes, without any yet."""
    return client.upload(Upload_Length="1000")


# -- versions and discovery -------------------------------------------------------------------------------------


@requirement("tus-1")
def test_every_answer_names_the_version(client: Client, url: str) -> None:
    answers = [
        client.create(client.ticket(), Upload_Length="5"),
        client.patch(url, 0, b"x"),
        client.head(url),
        client.ask("GET", url),
        client.create(Upload_Length="5"),
        client.create(client.ticket()),
        client.patch(url, 7, b"x"),
        client.ask("PUT", url),
        client.head(f"{UPLOADS}/{Upload().id}"),
        client.head(f"{UPLOADS}/x"),
        client.head(f"{UPLOADS}//x"),
        client.head("/p/frontend/nothing"),
        client.head(url, Content_Length="x"),
        client.delete(url),
        client.delete(url),
    ]
    assert all(answer.headers["Tus-Resumable"] == "1.0.0" for answer in answers)
    assert {answer.status_int for answer in answers} == {200, 201, 204, 400, 403, 404, 405, 409, 410}


@requirement("tus-1")
def test_also_when_nothing_works_at_all() -> None:
    asked = Request.blank("/", headers={"Tus-Resumable": "1.0.0"})
    assert refusal(IncomingError(), asked.environ).headers["Tus-Resumable"] == "1.0.0"
    assert "Tus-Resumable" not in refusal(IncomingError(), Request.blank("/").environ).headers


@requirement("tus-2")
@pytest.mark.parametrize("version", ["0.2.2", "1.0.1", "", "1.0.0, 1.0.0"])
def test_another_version_is_not_processed(client: Client, url: str, version: str) -> None:
    answers = [
        client.head(url, Tus_Resumable=version),
        client.patch(url, 0, b"x", Tus_Resumable=version),
        client.delete(url, Tus_Resumable=version),
        client.create(client.ticket(), Tus_Resumable=version, Upload_Length="5"),
    ]
    assert {answer.status_int for answer in answers} == {412}
    assert {answer.headers["Tus-Version"] for answer in answers} == {"1.0.0"}
    assert client.offset(url) == 0
    assert {upload.state for upload in client.engine.receiver.find()} == {State.WAITING, State.RECEIVING}


@requirement("tus-3")
def test_without_the_version_nothing_is_changed_but_one_may_look(client: Client, url: str) -> None:
    assert client.patch(url, 0, b"x", Tus_Resumable=None).status_int == 412
    assert client.delete(url, Tus_Resumable=None).status_int == 412
    assert client.create(client.ticket(), Tus_Resumable=None, Upload_Length="5").status_int == 412
    looked = client.head(url, Tus_Resumable=None)
    assert (looked.status_int, looked.headers["Upload-Offset"]) == (200, "0")
    assert client.ask("GET", url, headers={"Tus-Resumable": None}).json["received"] == 0


@requirement("tus-3")
def test_who_only_looks_disturbs_nobody(client: Client, url: str) -> None:
    looks = Dripping(DATA, lambda _: client.head(url, Tus_Resumable=None))
    assert chunked(client, url, 0, looks).status_int == 204


@requirement("tus-3")
@pytest.mark.parametrize("header", ["Upload-Complete", "Upload-Incomplete", "Upload-Draft-Interop-Version"])
def test_what_is_of_another_dialect_is_never_treated_as_tus(header: str) -> None:
    assert not tus.is_spoken(Request.blank("/", method="POST", headers={header: "?1", "Upload-Length": "5"}))
    assert not tus.is_spoken(Request.blank("/", method="HEAD"))
    assert tus.is_spoken(Request.blank("/", method="POST", headers={"Upload-Length": "5"}))


@requirement("tus-4", "tus-5", "tus-6", "tus-7", "tus-8", "tus-31", "tus-42", "tus-47", "tus-53")
@requirement("tus-57", "tus-63", "tus-67")
@pytest.mark.parametrize("path", [UPLOADS, f"{UPLOADS}/", f"{UPLOADS}/{NOBODYS}"])
@pytest.mark.parametrize("version", ["1.0.0", "0.1", None])
def test_discovery(engine: Engine, path: str, version: str | None) -> None:
    client = Client(engine, max_length=12345)
    answer = client.ask("OPTIONS", path, headers={"Tus-Resumable": version})
    assert answer.status_int == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Max-Size"] == "12345"
    assert answer.headers["Tus-Extension"].split(",") == [
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "checksum",
        "termination",
        "concatenation",
    ]
    algorithms = answer.headers["Tus-Checksum-Algorithm"]
    assert algorithms == algorithms.lower()
    assert set(algorithms.split(",")) == {"sha1", "sha256", "sha512", "md5", "crc32"}


@requirement("tus-9")
def test_a_method_in_place_of_post(client: Client, url: str) -> None:
    def post(method: str, body: bytes = b"", **headers: str | None) -> int:
        given = {"X-HTTP-Method-Override": method, "Content-Type": BYTES, "Upload-Offset": "0", **headers}
        status: int = client.ask("POST", url, body, given).status_int
        return status

    assert post("patch", DATA[:100]) == 204
    assert client.ask("POST", url, headers={"X-HTTP-Method-Override": "HEAD"}).headers["Upload-Offset"] == "100"
    assert post("DELETE") == 204
    assert post("DELETE") == 410
    assert post("PUT") == 400
    assert post("GET") == 400


@requirement("tus-9")
def test_no_method_in_place_of_others(client: Client, url: str) -> None:
    given = {"X-HTTP-Method-Override": "DELETE"}
    assert client.head(url, X_HTTP_Method_Override="DELETE").status_int == 200
    bare = {**given, "Tus-Resumable": None, "Incoming-Length": "5", "Incoming-Name": "x"}
    client.ask("POST", f"{UPLOADS}/{client.ticket()}", headers=bare)
    assert not [upload for upload in client.engine.receiver.find() if upload.state is State.CANCELLED]


# -- HEAD -------------------------------------------------------------------------------------------------------


@requirement("tus-10", "tus-11", "tus-12", "tus-13", "tus-15")
def test_head(engine: Engine, client: Client, url: str) -> None:
    for offset in (0, 400):
        answer = client.head(url)
        assert answer.status_int == 200
        assert (answer.headers["Upload-Offset"], answer.headers["Upload-Length"]) == (str(offset), "1000")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.body == b""
        assert answer.headers.get("Content-Length", "0") == "0"
        client.patch(url, offset, DATA[offset:400])
    client.patch(url, 400, DATA[400:])
    engine.start()
    engine.until(id_of(url), State.FINISHED)
    assert client.offset(url) == 1000


@requirement("tus-14", "tus-21", "tus-64", "tus-55")
def test_uploads_that_are_not_there(engine: Engine, client: Client, url: str) -> None:
    gone, expired = client.upload(Upload_Length="5"), client.upload(Upload_Length="5")
    client.delete(gone)
    engine.receiver._give_up(engine.receiver.status(id_of(expired)), State.EXPIRED, "idle")
    for there, status in ((f"{UPLOADS}/{Upload().id}", 404), (gone, 410), (expired, 410)):
        for answer in (client.head(there), client.patch(there, 0, b"x"), client.delete(there)):
            assert answer.status_int == status
            assert "Upload-Offset" not in answer.headers
    assert client.ask("GET", gone).json["phase"] == "cancelled"  # but no data


# -- PATCH ------------------------------------------------------------------------------------------------------


@requirement("tus-16", "tus-20", "tus-29", "tus-32")
def test_a_whole_upload(engine: Engine, client: Client, url: str) -> None:
    engine.start()
    answer = client.patch(url, 0, DATA[:300])
    assert (answer.status_int, answer.headers["Upload-Offset"], answer.body) == (204, "300", b"")
    assert "Content-Length" not in answer.headers
    assert client.patch(url, 300, DATA[300:]).headers["Upload-Offset"] == "1000"
    assert engine.until(id_of(url), State.FINISHED).sha256 == hashlib.sha256(DATA).hexdigest()
    assert client.stored(url) == DATA


@requirement("tus-17")
@pytest.mark.parametrize("kind", ["application/octet-stream", "", None, "application/offset", "multipart/form-data"])
def test_bytes_of_another_type(client: Client, url: str, kind: str | None) -> None:
    assert client.patch(url, 0, DATA, Content_Type=kind).status_int == 415
    assert client.offset(url) == 0
    assert client.patch(url, 0, DATA[:5], Content_Type="Application/Offset+Octet-Stream; x=y").status_int == 204


@requirement("tus-18")
@pytest.mark.parametrize(
    ("offset", "status"),
    [
        *((bad, 400) for bad in ("-1", "1.0", "", "0,4", "0x0", "+0", "\u0660", "1e3", " ")),
        ("9" * 5000, 413),
        ("9" * 19, 413),
    ],
)
def test_offsets_that_are_none(client: Client, url: str, offset: str, status: int) -> None:
    answer = client.patch(url, offset.encode().decode("latin-1"), b"x")
    assert answer.status_int == status
    assert client.offset(url) == 0


@requirement("tus-18")
def test_without_an_offset(client: Client, url: str) -> None:
    assert client.patch(url, 0, b"x", Upload_Offset=None).status_int == 400


@requirement("tus-19")
@pytest.mark.parametrize("offset", [0, 99, 101, 1000, 5000])
def test_another_offset(engine: Engine, client: Client, url: str, offset: int) -> None:
    client.patch(url, 0, DATA[:100])
    before = engine.receiver.status(id_of(url))
    answer = client.patch(url, offset, b"x")
    assert answer.status_int == (409 if offset < 1000 or offset > 1000 else 413)
    assert engine.receiver.status(id_of(url)) == before
    assert client.patch(url, 100, DATA[100:200]).status_int == 204


@requirement("tus-19", "tus-82")
def test_a_wrong_offset_ends_no_transfer(client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:100])

    disturbed: list[int] = []

    def disturb(given: int) -> None:
        if given == 300:
            disturbed.append(given)
            assert client.patch(url, 50, b"x").status_int == 409
            assert client.patch(url, 900, b"x" * 200).status_int == 413
            assert client.patch(url, 0, b"x", Content_Type="text/plain").status_int == 415
            assert client.delete(url, Tus_Resumable="2").status_int == 412

    assert chunked(client, url, 100, Dripping(DATA[100:], disturb)).headers["Upload-Offset"] == "1000"
    assert disturbed


@requirement("tus-22")
def test_what_came_of_a_body_that_was_cut_counts(client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:350], length=1000)
    assert client.offset(url) == 350
    assert client.patch(url, 350, DATA[350:]).headers["Upload-Offset"] == "1000"
    assert client.stored(url) == DATA


@requirement("tus-23")
def test_silence_is_not_waited_for(client: Client, url: str) -> None:
    """How long it may last is up to ``receive_timeout``; tests/wire/test_bodies.py has more."""

    class Silent(Dripping):
        def read(self, size: int = -1) -> bytes:
            if self._given >= 200:
                raise TimeoutError
            return super().read(size)

    chunked(client, url, 0, Silent(DATA))
    assert client.offset(url) == 200


@requirement("tus-24")
def test_never_beyond_the_length(client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:900])
    assert client.patch(url, 900, b"x" * 101).status_int == 413
    assert client.offset(url) == 900
    assert chunked(client, url, 900, b"x" * 150).status_int == 413
    assert client.offset(url) in range(900, 1001)
    assert len(client.stored(url)) <= 1000


@requirement("tus-24", "tus-25")
def test_at_the_end_there_is_room_for_nothing_only(engine: Engine, client: Client, url: str) -> None:
    client.patch(url, 0, DATA)
    engine.start()
    engine.until(id_of(url), State.FINISHED)
    assert client.patch(url, 1000, b"").headers["Upload-Offset"] == "1000"
    assert client.patch(url, 1000, b"x").status_int == 413
    assert chunked(client, url, 1000, b"").status_int == 204
    assert chunked(client, url, 1000, b"x").status_int == 413
    assert client.patch(url, 5, b"").status_int == 409


@requirement("tus-25")
def test_an_empty_patch(client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:100])
    answer = client.patch(url, 100, b"")
    assert (answer.status_int, answer.headers["Upload-Offset"]) == (204, "100")


def chunked(client: Client, url: str, offset: int, body: bytes | Dripping, terminated: bool = True) -> Response:
    headers = {"Transfer-Encoding": "chunked", "Upload-Offset": str(offset), "Content-Type": BYTES}
    environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": terminated}
    return client.ask("PATCH", url, Dripping(body) if isinstance(body, bytes) else body, headers, environ)


@requirement("tus-26")
def test_chunked_coding(client: Client, url: str) -> None:
    assert chunked(client, url, 0, DATA[:250]).status_int == 204
    assert client.offset(url) == 250
    assert chunked(client, url, 250, DATA[250:], terminated=False).status_int == 411
    assert chunked(client, url, 250, DATA[250:]).headers["Upload-Offset"] == "1000"


@requirement("tus-30")
def test_two_lengths_at_once(client: Client, url: str) -> None:
    given = {"Transfer-Encoding": "chunked", "Upload-Offset": "0", "Content-Type": BYTES}
    assert client.ask("PATCH", url, DATA, given).status_int == 400
    assert (
        client.ask("PATCH", url, DATA, {**given, "Transfer-Encoding": "gzip"}, {"CONTENT_LENGTH": ""}).status_int == 501
    )
    assert client.offset(url) == 0


# -- creation ---------------------------------------------------------------------------------------------------


@requirement("tus-32", "tus-79")
@pytest.mark.parametrize(
    ("public_url", "expected"), [("", "http://localhost/p"), ("https://up.example/", "https://up.example/p")]
)
def test_the_location_is_absolute(engine: Engine, public_url: str, expected: str) -> None:
    client, ticket = Client(engine, public_url=public_url), engine.ticket()
    answer = client.create(ticket, Upload_Length="5")
    assert answer.status_int == 201
    assert answer.headers["Location"] == f"{expected}/frontend/uploads/{ticket}"
    assert "Upload-Offset" not in answer.headers
    assert client.offset(urlsplit(answer.headers["Location"]).path) == 0


@requirement("tus-33", "tus-34", "tus-39")
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": "5", "Upload-Defer-Length": "1"},
        *({"Upload-Length": bad} for bad in ("-1", "x", "", "1.5", "5,6")),
        *({"Upload-Defer-Length": bad} for bad in ("0", "2", "", "true")),
        *(
            {"Upload-Length": "5", "Upload-Metadata": bad}
            for bad in ("a !", "a YQ==,a YQ==", ",", "a YQ==,", " ,a", "a Y")
        ),
        *({"Upload-Length": "5", "Upload-Concat": bad} for bad in ("", "final", "whole", "partial;", "final;")),
    ],
)
def test_malformed_creations(client: Client, headers: dict[str, str]) -> None:
    ticket = client.ticket()
    assert client.create(ticket, **headers).status_int == 400
    assert client.engine.state(ticket) is State.WAITING


@requirement("tus-35")
@pytest.mark.parametrize(("length", "status"), [("100", 201), ("101", 413), ("9" * 18, 413), ("9" * 5000, 413)])
def test_the_longest_file(engine: Engine, length: str, status: int) -> None:
    client = Client(engine, max_length=100)
    ticket = engine.ticket()
    assert client.create(ticket, Upload_Length=length).status_int == status
    ticket = engine.ticket(max_length=100)
    assert Client(engine).create(ticket, Upload_Length=length).status_int == status
    assert (engine.state(ticket) is State.WAITING) == (status == 413)


@requirement("tus-36")
def test_an_empty_file_is_complete_at_once(engine: Engine, client: Client) -> None:
    engine.start()
    url = client.upload(Upload_Length="0")
    assert engine.until(id_of(url), State.FINISHED).length == 0
    assert client.offset(url) == 0
    assert len(engine.app.notices) == 1
    assert client.patch(url, 0, b"").status_int == 204


METADATA = f"name dW5i,filename {encoded('Übersicht.pdf')},is_secret,empty ,binary {encoded(bytes(range(256)))}"


@requirement("tus-37", "tus-38")
def test_metadata_comes_back_as_it_was(engine: Engine, client: Client) -> None:
    url = client.upload(Upload_Length="5", Upload_Metadata=METADATA)
    assert client.head(url).headers["Upload-Metadata"] == METADATA
    upload = engine.receiver.status(id_of(url))
    assert upload.filename_from_browser == "Übersicht.pdf"
    assert upload.client_metadata["name"] == "unb"
    assert (upload.client_metadata["is_secret"], upload.client_metadata["empty"]) == ("", "")
    assert upload.client_metadata["binary"].startswith("\x00\x01")


@requirement("tus-39")
@pytest.mark.parametrize("header", ["", " ", None])
def test_no_metadata(client: Client, header: str | None) -> None:
    url = client.upload(Upload_Length="5", Upload_Metadata=header)
    assert "Upload-Metadata" not in client.head(url).headers


@requirement("tus-39")
def test_long_metadata(client: Client) -> None:
    header = f"filename {encoded('x' * 4000)}"
    assert client.head(client.upload(Upload_Length="5", Upload_Metadata=header)).headers["Upload-Metadata"] == header


@requirement("tus-40")
def test_metadata_that_means_harm(engine: Engine, client: Client) -> None:
    """It becomes no header but the one that it came in; the app gets a name that is safe."""
    name, kind = encoded("../a\r\nSet-Cookie: b"), encoded("text/html\r\nX: y")
    header = f"filename {name},filetype {kind}"
    url = client.upload(Upload_Length="5", Upload_Metadata=header)
    answer = client.ask("GET", url)
    assert not {"X", "Set-Cookie"} & set(answer.headers)
    assert answer.content_type == "application/json"
    assert engine.receiver.status(id_of(url)).filename == "aSet-Cookie_ b"


@requirement("tus-40")
def test_a_ticket_in_the_metadata_is_not_given_back(engine: Engine, client: Client) -> None:
    ticket = client.ticket()
    header = f"filename YQ==,ticket {encoded(ticket)},x Yg=="
    answer = client.create(Upload_Length="5", Upload_Metadata=header)
    assert id_of(answer.headers["Location"]) == ticket
    assert client.head(answer.headers["Location"]).headers["Upload-Metadata"] == "filename YQ==,x Yg=="
    assert engine.receiver.status(ticket).client_metadata == {"filename": "a", "x": "b"}


@requirement("tus-41")
def test_a_body_of_another_type_is_no_part_of_the_file(client: Client) -> None:
    ticket = client.ticket()
    assert client.create(ticket, Upload_Length="5", Content_Type="application/json").status_int == 201
    assert client.create(client.ticket(), b"{}", Upload_Length="5", Content_Type="application/json").status_int == 201
    assert re.fullmatch("[0-9a-f-]{36}", ticket)


def test_tickets_by_every_way(client: Client) -> None:
    tickets = [client.ticket() for _ in range(4)]
    given = {"Upload-Length": "5"}
    answers = [
        client.ask("POST", f"{UPLOADS}?ticket={tickets[0]}", headers=given),
        client.ask("POST", f"{UPLOADS}/", headers={**given, "Incoming-Ticket": tickets[1]}),
        client.ask("POST", UPLOADS, headers={**given, "Upload-Metadata": f"ticket {encoded(tickets[2])}"}),
        client.ask("POST", f"{UPLOADS}/{tickets[3]}", headers=given),
    ]
    assert [id_of(answer.headers["Location"]) for answer in answers] == tickets


@pytest.mark.parametrize(("ticket", "status"), [(NOBODYS, 404), ("x", 404), ("%00", 404), ("%ff", 400), ("", 403)])
def test_without_a_good_ticket_nothing_is_created(client: Client, ticket: str, status: int) -> None:
    answer = client.ask("POST", f"{UPLOADS}?ticket={ticket}", headers={"Upload-Length": "5"})
    assert answer.status_int == status
    assert client.engine.receiver.find() == []


def test_the_app_may_decide_instead_of_a_ticket(engine: Engine) -> None:
    asked: list[Mapping[str, str]] = []

    def permit(request: Request, metadata: Mapping[str, str]) -> Upload:
        asked.append(metadata)
        return engine.receiver.create("app", owner="ada", name="hers.txt")

    client = Client(engine, permit)
    answer = client.create(Upload_Length="5", Upload_Metadata=f"filename {encoded('mine.txt')},ticket")
    upload = engine.receiver.status(id_of(answer.headers["Location"]))
    assert asked == [{"filename": "mine.txt"}]
    assert (upload.owner, upload.filename, upload.created_with) == ("ada", "hers.txt", "tus")
    assert client.create(Upload_Length=str(2**41)).status_int == 413  # the app is not even asked
    assert len(asked) == 1


@requirement("tus-35")
def test_what_the_app_has_allowed_for_a_shorter_file(engine: Engine) -> None:
    client = Client(engine, lambda request, metadata: engine.receiver.create("app", max_length=10))
    assert client.create(Upload_Length="11").status_int == 413
    assert [upload.state for upload in engine.receiver.find()] == [State.CANCELLED]
    assert client.create(Upload_Length="10").status_int == 201


def test_creating_again_finds_the_same_upload(engine: Engine, client: Client) -> None:
    ticket = client.ticket()
    url = client.upload(ticket, Upload_Length="1000")
    client.patch(url, 0, DATA[:300])
    before = engine.receiver.status(ticket)
    assert client.upload(ticket, Upload_Length="1000") == url
    assert engine.receiver.status(ticket) == before
    assert client.create(ticket, Upload_Length="999").status_int == 400
    assert client.offset(url) == 300
    client.patch(url, 300, DATA[300:])
    assert client.upload(ticket, Upload_Length="1000") == url
    client.engine.start()
    engine.until(ticket, State.FINISHED)
    assert client.upload(ticket, Upload_Length="1000") == url
    assert client.stored(url) == DATA


# -- creation with upload ---------------------------------------------------------------------------------------


@requirement("tus-43", "tus-46")
@pytest.mark.parametrize("size", [0, 400, 1000])
def test_bytes_with_the_creation(client: Client, size: int) -> None:
    answer = client.create(
        client.ticket(), DATA[:size], Upload_Length="1000", Content_Type=BYTES, Upload_Checksum=sha1(DATA[:size])
    )
    assert (answer.status_int, answer.headers["Upload-Offset"]) == (201, str(size))
    url = answer.headers["Location"]
    assert client.offset(url) == size
    client.patch(url, size, DATA[size:])
    assert client.stored(url) == DATA


@requirement("tus-44")
def test_a_body_of_another_type_is_not_stored(client: Client) -> None:
    answer = client.create(client.ticket(), DATA, Upload_Length="1000", Content_Type="text/plain")
    assert (answer.status_int, "Upload-Offset" in answer.headers) == (201, False)
    assert client.offset(answer.headers["Location"]) == 0


@requirement("tus-45")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": "999"}, 413),
        ({"Upload-Length": "x"}, 400),
        ({"Tus-Resumable": "3"}, 412),
        ({"Upload-Checksum": "sha1 x"}, 400),
        ({"Upload-Metadata": ","}, 400),
    ],
)
def test_all_is_checked_before_a_byte_is_read(client: Client, headers: dict[str, str], status: int) -> None:
    ticket = client.ticket()
    given = {"Upload-Length": "1000", "Content-Type": BYTES, **headers}
    assert client.create(ticket, DATA, **given).status_int == status
    assert client.engine.state(ticket) is State.WAITING


@requirement("tus-46")
def test_a_wrong_checksum_with_the_creation(client: Client) -> None:
    ticket = client.ticket()
    given = {"Upload-Length": "1000", "Content-Type": BYTES, "Upload-Checksum": sha1(b"other")}
    assert client.create(ticket, DATA[:100], **given).status_int == 460
    assert client.offset(f"{UPLOADS}/{ticket}") == 0


def test_bytes_with_a_creation_that_is_repeated(client: Client) -> None:
    ticket = client.ticket()
    url = client.upload(ticket, Upload_Length="1000")
    client.patch(url, 0, DATA[:300])
    again = client.create(ticket, b"X" * 500, Upload_Length="1000", Content_Type=BYTES)
    assert again.headers["Upload-Offset"] == "500"
    assert client.stored(url) == DATA[:300] + b"X" * 200  # what is safe is never written again
    client.patch(url, 500, DATA[500:])
    last = client.create(ticket, DATA, Upload_Length="1000", Content_Type=BYTES)
    assert (last.status_int, last.headers["Upload-Offset"]) == (201, "1000")


# -- deferred length --------------------------------------------------------------------------------------------


@requirement("tus-46", "tus-47", "tus-48", "tus-49", "tus-52")
def test_a_length_that_is_told_later(engine: Engine, client: Client) -> None:
    engine.start()
    answer = client.create(client.ticket(), DATA[:100], Upload_Defer_Length="1", Content_Type=BYTES)
    assert (answer.status_int, answer.headers["Upload-Offset"]) == (201, "100")
    url = answer.headers["Location"]
    for end in (300, 1000):
        head = client.head(url)
        assert head.headers["Upload-Defer-Length"] == "1"
        assert "Upload-Length" not in head.headers
        offset = int(head.headers["Upload-Offset"])
        assert client.patch(url, offset, DATA[offset:end]).status_int == 204
    assert engine.state(id_of(url)) is State.RECEIVING
    assert client.patch(url, 1000, b"", Upload_Length="1000").status_int == 204
    head = client.head(url)
    assert head.headers["Upload-Length"] == "1000"
    assert "Upload-Defer-Length" not in head.headers
    engine.until(id_of(url), State.FINISHED)
    assert client.stored(url) == DATA


@requirement("tus-50")
def test_a_length_never_changes(client: Client, url: str) -> None:
    deferred = client.upload(Upload_Defer_Length="1")
    assert client.patch(deferred, 0, DATA[:100], Upload_Length="1000").status_int == 204
    for there in (url, deferred):
        offset = client.offset(there)
        assert client.patch(there, offset, b"x", Upload_Length="1001").status_int == 400
        assert client.patch(there, offset, b"x", Upload_Length="999").status_int == 400
        assert client.offset(there) == offset
        assert client.patch(there, offset, b"x", Upload_Length="1000").status_int == 204
        assert client.head(there).headers["Upload-Length"] == "1000"


@requirement("tus-51")
def test_lengths_that_can_not_be(engine: Engine) -> None:
    client = Client(engine)
    url = client.upload(engine.ticket(max_length=500), Upload_Defer_Length="1")
    client.patch(url, 0, DATA[:100])
    for length, status in (("99", 400), ("x", 400), ("-5", 400), ("501", 413), ("9" * 30, 413), ("110", 413)):
        assert client.patch(url, 100, DATA[100:150], Upload_Length=length).status_int == status, length
        assert client.head(url).headers["Upload-Defer-Length"] == "1"
        assert client.offset(url) == 100
    assert client.patch(url, 100, DATA[100:501]).status_int == 413
    assert chunked(client, url, 100, DATA[100:700]).status_int == 413
    assert len(client.stored(url)) <= 500


@requirement("tus-49", "tus-19")
def test_a_length_with_a_wrong_offset_is_not_taken(client: Client) -> None:
    url = client.upload(Upload_Defer_Length="1")
    assert client.patch(url, 5, b"x", Upload_Length="1000").status_int == 409
    assert client.head(url).headers["Upload-Defer-Length"] == "1"


# -- expiration -------------------------------------------------------------------------------------------------


@requirement("tus-53", "tus-54", "tus-56")
def test_when_it_expires(engine: Engine, client: Client, clock: Clock) -> None:
    created = client.create(client.ticket(), Upload_Length="1000")
    url = created.headers["Location"]
    for answer in (created, client.patch(url, 0, DATA[:10]), client.head(url)):
        expires = answer.headers["Upload-Expires"]
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", expires)
        assert abs(parsedate_to_datetime(expires).timestamp() - clock.now - 3600) < 5
    last = client.patch(url, 10, DATA[10:])
    assert "Upload-Expires" not in last.headers
    assert "Upload-Expires" not in client.head(url).headers


@requirement("tus-55", "tus-56")
def test_it_does_expire(engine: Engine, client: Client, clock: Clock) -> None:
    url, done = client.upload(Upload_Length="5"), client.upload(Upload_Length="5")
    client.patch(done, 0, b"12345")
    clock.advance(3700)
    engine.receiver.sweep()
    assert client.head(url).status_int == 410
    assert client.offset(done) == 5


# -- checksum ---------------------------------------------------------------------------------------------------


def sha1(data: bytes) -> str:
    return checksum("sha1", data)


def checksum(algorithm: str, data: bytes) -> str:
    if algorithm == "crc32":
        return f"crc32 {encoded(zlib.crc32(data).to_bytes(4, 'big'))}"
    return f"{algorithm} {encoded(hashlib.new(algorithm, data).digest())}"


@requirement("tus-57", "tus-58", "tus-62")
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512", "md5", "crc32"])
def test_checksums(client: Client, url: str, algorithm: str) -> None:
    first, second = DATA[:400], DATA[400:]
    assert client.patch(url, 0, first, Upload_Checksum=checksum(algorithm, first)).status_int == 204
    wrong = client.patch(url, 400, b"X" * 600, Upload_Checksum=checksum(algorithm, second))
    assert wrong.status == "460 Checksum Mismatch"
    assert client.offset(url) == 400
    assert client.patch(url, 400, second, Upload_Checksum=checksum(algorithm, second)).status_int == 204
    assert client.stored(url) == DATA


@requirement("tus-58", "tus-59")
@pytest.mark.parametrize(
    "header", ["sha3 AAAA", "SHA1 AAAA", "", "sha1", "sha1 ", "sha1 !", "sha1 AAAA", "sha1  AAAA", "crc32 AAAAAAA="]
)
def test_checksums_that_can_not_be_checked(client: Client, url: str, header: str) -> None:
    assert client.patch(url, 0, DATA, Upload_Checksum=header).status_int == 400
    assert client.offset(url) == 0


@requirement("tus-60")
def test_of_a_body_that_was_cut_nothing_is_kept_where_it_can_not_be_checked(client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:350], length=1000, Upload_Checksum=sha1(DATA))
    assert client.offset(url) == 0
    client.patch(url, 0, DATA, Upload_Checksum=sha1(DATA))
    assert client.stored(url) == DATA


@requirement("tus-61")
def test_a_checksum_behind_the_body_where_those_are_lost(client: Client, url: str) -> None:
    """Where they are not lost: tests/end_to_end/test_tus_wire.py."""
    assert client.patch(url, 0, DATA, Trailer="x, Upload-Checksum").status_int == 400
    assert client.patch(url, 0, DATA, Trailer="x").status_int == 204


# -- termination ------------------------------------------------------------------------------------------------


@requirement("tus-63", "tus-64")
def test_termination(engine: Engine, client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:100])
    answer = client.delete(url)
    assert (answer.status_int, answer.body) == (204, b"")
    assert not engine.arriving(id_of(url)).exists()
    engine.start()


@requirement("tus-65")
def test_termination_while_bytes_come(client: Client, url: str) -> None:
    deleted: list[int] = []

    def act(given: int) -> None:
        if given == 300 and not deleted:
            deleted.append(0)
            deleted.append(client.delete(url).status_int)

    assert chunked(client, url, 0, Dripping(DATA, act)).status_int == 410
    assert deleted == [0, 204]
    assert client.head(url).status_int == 410


@requirement("tus-63", "tus-66")
def test_what_the_app_has_is_not_ours_to_delete(engine: Engine, client: Client, url: str) -> None:
    client.patch(url, 0, DATA)
    engine.start()
    engine.until(id_of(url), State.FINISHED)
    assert client.delete(url).status_int == 403
    assert client.stored(url) == DATA


@requirement("tus-66")
@pytest.mark.parametrize("state", [State.HANDING_OVER, State.WAITING_FOR_APP])
def test_what_the_app_is_just_being_given_can_not_be_deleted(
    engine: Engine, client: Client, url: str, state: State
) -> None:
    """For how that ends nobody knows yet."""
    engine.app.answers = ["wait"]
    client.patch(url, 0, DATA)
    if state is State.WAITING_FOR_APP:
        engine.start()
    engine.until(id_of(url), state)
    assert client.delete(url).status_int == 409
    assert client.offset(url) == len(DATA)
    assert client.stored(url) == DATA


# -- concatenation ----------------------------------------------------------------------------------------------


def parts_of(client: Client, ticket: str, *pieces: bytes) -> list[str]:
    """URLs of parts that are complete."""
    urls = []
    for piece in pieces:
        url = client.upload(ticket, Upload_Length=str(len(piece)), Upload_Concat="partial", Upload_Metadata="part")
        client.patch(url, 0, piece)
        urls.append(url)
    return urls


@requirement("tus-67")
def test_a_part_is_an_upload_like_any_other_but_for_the_app(engine: Engine, client: Client) -> None:
    engine.start()
    ticket = client.ticket()
    url = client.upload(ticket, Upload_Length="1000", Upload_Concat="partial")
    client.patch(url, 0, DATA[:300])
    head = client.head(url)
    assert (head.headers["Upload-Concat"], head.headers["Upload-Offset"]) == ("partial", "300")
    client.patch(url, 300, DATA[300:])
    engine.receiver.sweep()
    assert client.offset(url) == 1000
    assert engine.app.notices == []
    assert id_of(url) != ticket


@requirement("tus-67")
def test_parts_with_bytes_in_their_creation_and_of_unknown_length(client: Client) -> None:
    ticket = client.ticket()
    given = {"Upload-Concat": "partial", "Content-Type": BYTES}
    first = client.create(ticket, DATA[:400], **given, Upload_Length="400").headers["Location"]
    second = client.create(ticket, DATA[400:600], **given, Upload_Defer_Length="1").headers["Location"]
    client.patch(second, 200, DATA[600:], Upload_Length="600")
    url = client.upload(ticket, Upload_Concat=f"final;{first} {second}")
    assert client.stored(url) == DATA


@requirement("tus-68", "tus-69", "tus-70", "tus-72", "tus-73")
@pytest.mark.parametrize("form", ["{url}", "{path}", "uploads/{id}"])
@pytest.mark.parametrize("space", ["", " "])
def test_an_upload_from_parts(engine: Engine, client: Client, form: str, space: str) -> None:
    engine.start()
    ticket = client.ticket()
    urls = parts_of(client, ticket, DATA[600:], DATA[:600], b"")
    order = [urls[1], urls[0], urls[2], urls[1]]
    listed = " ".join(form.format(url=url, path=urlsplit(url).path, id=id_of(url)) for url in order)
    header = f"final;{space}{listed}"
    answer = client.create(ticket, Upload_Concat=header, Upload_Metadata=METADATA)
    assert answer.status_int == 201
    url = answer.headers["Location"]
    upload = engine.until(ticket, State.FINISHED)
    head = client.head(url)
    assert head.headers["Upload-Concat"] == header
    assert head.headers["Upload-Metadata"] == METADATA
    assert head.headers["Upload-Length"] == head.headers["Upload-Offset"] == "1600"
    assert client.stored(url) == DATA + DATA[:600]
    assert upload.filename == "Übersicht.pdf"
    assert len(engine.app.notices) == 1
    assert client.head(urls[0]).status_int == 404  # the parts have become the file
    assert client.create(ticket, Upload_Concat=header).status_int == 201  # the answer was lost, say


@requirement("tus-70")
def test_an_upload_that_is_not_joined_yet_has_no_offset(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = client.ticket()
    urls = parts_of(client, ticket, b"12", b"34")
    monkeypatch.setattr(engine.receiver, "_roll_forward_in_background", lambda _: None)
    url = client.upload(ticket, Upload_Concat="final;" + " ".join(urls))
    head = client.head(url)
    assert (head.status_int, head.headers["Upload-Length"]) == (200, "4")
    assert "Upload-Offset" not in head.headers


@requirement("tus-71")
def test_no_bytes_for_an_upload_from_parts(client: Client) -> None:
    ticket = client.ticket()
    url = client.upload(ticket, Upload_Concat="final;" + " ".join(parts_of(client, ticket, b"12", b"34")))
    for offset in (0, 4):
        assert client.patch(url, offset, b"x").status_int == 403
    assert client.stored(url) == b"1234"


@requirement("tus-74")
def test_unfinished_parts_can_not_be_joined(client: Client) -> None:
    ticket = client.ticket()
    urls = parts_of(client, ticket, b"12")
    urls.append(client.upload(ticket, Upload_Length="5", Upload_Concat="partial"))
    assert client.create(ticket, Upload_Concat="final;" + " ".join(urls)).status_int == 400
    client.patch(urls[1], 0, b"34567")
    url = client.upload(ticket, Upload_Concat="final;" + " ".join(urls))
    assert client.stored(url) == b"1234567"


@requirement("tus-75")
def test_what_can_not_be_joined(engine: Engine, client: Client) -> None:
    ticket, other = client.ticket(), client.ticket()
    (mine,), (strange,) = parts_of(client, ticket, b"12"), parts_of(client, other, b"34")
    whole = client.upload(Upload_Length="5")
    foreign = f"http://other.example{urlsplit(mine).path}"
    bad = [strange, whole, foreign, f"{UPLOADS}/{Upload().id}", "http://[/", "ftp:x", f"//{id_of(mine)}", id_of(mine)]
    for url in bad:
        assert client.create(ticket, Upload_Concat=f"final;{mine} {url}").status_int == 400, url
    given = {"Upload-Concat": f"final;{mine}"}
    assert client.create(ticket, **given, Upload_Length="2").status_int == 400
    assert client.create(ticket, b"x", **given, Content_Type=BYTES).status_int == 400
    assert client.create(**given).status_int == 403
    assert client.create(Upload_Concat="partial", Upload_Length="2").status_int == 403
    assert engine.state(ticket) is State.WAITING
    assert client.create(ticket, **given).status_int == 201
    assert client.create(ticket, Upload_Concat="partial", Upload_Length="2").status_int == 403


@requirement("tus-75")
def test_parts_are_limited_together(engine: Engine, client: Client) -> None:
    ticket = engine.ticket(max_length=10)
    parts_of(client, ticket, b"123456")
    assert client.create(ticket, Upload_Concat="partial", Upload_Length="5").status_int == 413


@requirement("tus-76")
def test_all_parts_live_under_one_ticket(engine: Engine, client: Client) -> None:
    ticket = client.ticket()
    url = client.upload(ticket, Upload_Concat="final;" + " ".join(parts_of(client, ticket, b"1", b"2", b"3", b"4")))
    assert id_of(url) == ticket
    assert client.stored(url) == b"1234"


# -- pages of other origins -------------------------------------------------------------------------------------

FOREIGN = "https://pages.example"


@requirement("tus-8", "tus-77")
def test_a_preflight(engine: Engine) -> None:
    client = Client(engine, allow_origins=(FOREIGN,))
    given = {"Origin": FOREIGN, "Access-Control-Request-Method": "PATCH", "Tus-Resumable": None}
    answer = client.ask("OPTIONS", f"{UPLOADS}/{Upload().id}", headers=given)
    assert answer.status_int == 204
    assert answer.headers["Access-Control-Allow-Origin"] == FOREIGN
    assert {"POST", "HEAD", "PATCH", "DELETE", "OPTIONS", "GET"} <= listed(
        answer.headers["Access-Control-Allow-Methods"]
    )
    assert listed(
        "Authorization, Content-Type, Origin, X-Requested-With, X-Request-ID, X-HTTP-Method-Override, Tus-Resumable, "
        "Upload-Length, Upload-Offset, Upload-Metadata, Upload-Defer-Length, Upload-Concat, Upload-Checksum"
    ) <= listed(answer.headers["Access-Control-Allow-Headers"])
    assert int(answer.headers["Access-Control-Max-Age"]) >= 7200  # more than that no browser keeps it


def listed(header: str) -> set[str]:
    return set(header.split(", "))


@requirement("tus-78")
def test_what_foreign_pages_may_read(engine: Engine) -> None:
    client = Client(engine, allow_origins=(FOREIGN,))
    ticket = engine.ticket()
    for answer in (
        client.create(ticket, Origin=FOREIGN, Upload_Length="5"),
        client.create(ticket, Origin=FOREIGN, Upload_Length="x"),
        client.head(f"{UPLOADS}/{Upload().id}", Origin=FOREIGN),
        client.patch(f"{UPLOADS}/{ticket}", 0, b"x", Origin=FOREIGN, Content_Length="y"),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == FOREIGN
        assert "Origin" in answer.headers["Vary"]
        assert listed(
            "Location, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Defer-Length, Upload-Concat, "
            "Upload-Expires, Tus-Version, Tus-Resumable, Tus-Max-Size, Tus-Extension, Tus-Checksum-Algorithm"
        ) <= listed(answer.headers["Access-Control-Expose-Headers"])


def test_pages_of_others_may_do_nothing(client: Client, url: str) -> None:
    assert client.patch(url, 0, b"x", Origin=FOREIGN).status_int == 403
    assert client.create(client.ticket(), Origin=FOREIGN, Upload_Length="5").status_int == 403


# -- several at once --------------------------------------------------------------------------------------------


@requirement("tus-22", "tus-81", "tus-82")
@pytest.mark.parametrize("process", ["this", "another"])
def test_who_comes_later_takes_over(engine: Engine, client: Client, url: str, process: str) -> None:
    """A connection hangs, and the same client comes by another one."""
    other = client if process == "this" else Client(engine)
    offsets: list[int] = []

    def act(given: int) -> None:
        if given == 300 and not offsets:
            offsets.append(other.offset(url))
            answer = other.patch(url, offsets[0], DATA[offsets[0] :])
            offsets.append(int(answer.headers["Upload-Offset"]))

    late = chunked(client, url, 0, Dripping(b"Y" * 1000, act))
    assert late.status_int in (403, 409)
    first = offsets[0]
    assert offsets[1] == 1000
    assert client.stored(url) == b"Y" * first + DATA[first:]


@requirement("tus-82")
def test_an_offset_that_was_right_before_the_fence_is_looked_at_again(
    engine: Engine, client: Client, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process records bytes between our look at the offset and our taking over."""
    client.patch(url, 0, DATA[:100])
    opened = engine.receiver.open

    def late(upload_id: str, **opening: object) -> object:
        monkeypatch.undo()
        assert client.patch(url, 100, DATA[100:200]).status_int == 204
        return opened(upload_id, protocol="tus")

    monkeypatch.setattr(engine.receiver, "open", late)
    assert client.patch(url, 100, b"Z" * 300).status_int == 409
    assert client.offset(url) == 200
    assert client.stored(url) == DATA[:200]


@requirement("tus-82")
def test_twenty_uploads_at_once(client: Client) -> None:
    urls = [client.upload(Upload_Length="1000") for _ in range(20)]
    for start in range(0, 1000, 100):
        for number, url in enumerate(urls):
            client.patch(url, start, bytes([number]) * 100)
    assert [client.stored(url) for url in urls] == [bytes([number]) * 1000 for number in range(20)]


@requirement("tus-83")
@pytest.mark.parametrize("name", ["..%2f", "%00", "x" * 3000, "%ff%fe", "a/b", "..", "%2e%2e/x", ";", "%c3%bc"])
@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "POST", "GET"])
def test_strange_ids(client: Client, name: str, method: str) -> None:
    answer = client.ask(method, f"{UPLOADS}/{name}", headers={"Upload-Length": "5"})
    assert 400 <= answer.status_int < 500


# -- with other dialects ----------------------------------------------------------------------------------------


def test_an_upload_begun_in_our_dialect_goes_on_in_tus(engine: Engine, client: Client) -> None:
    ticket = client.ticket()
    with engine.open(ticket, 1000) as session:
        session.write(0, DATA[:100])
        session.write(400, DATA[400:600])  # by another lane
        session.sync()
    url = f"{UPLOADS}/{ticket}"
    assert client.offset(url) == 100
    assert client.patch(url, 100, DATA[100:400]).headers["Upload-Offset"] == "600"
    assert client.patch(url, 600, DATA[600:]).headers["Upload-Offset"] == "1000"
    assert client.stored(url) == DATA


def test_an_upload_whose_length_the_app_knows_needs_no_creation(engine: Engine, client: Client) -> None:
    url = f"{UPLOADS}/{engine.ticket(length=5, remove_file_when_finished=False)}"
    head = client.head(url)
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("0", "5")
    client.patch(url, 0, b"12345")
    assert client.stored(url) == b"12345"


def test_bytes_that_a_disk_has_lost_are_asked_for_again(engine: Engine, client: Client, url: str) -> None:
    client.patch(url, 0, DATA[:300])
    engine.take_back(id_of(url))
    assert client.patch(url, 300, DATA[300:]).status_int == 409
    assert client.offset(url) == 0
    client.patch(url, 0, DATA)
    assert client.stored(url) == DATA


# -- whole conversations ----------------------------------------------------------------------------------------

_headers = st.dictionaries(
    st.sampled_from(["Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata", "Upload-Concat"])
    | st.sampled_from(["Upload-Checksum", "Tus-Resumable", "Content-Type", "X-HTTP-Method-Override", "Trailer"]),
    st.sampled_from(
        ["0", "1", "5", "-1", "partial", "final;", "final;x", "sha1 AAAA", "1.0.0", BYTES, "PATCH", ",", ""]
    )
    | st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40),
    max_size=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["POST", "PATCH", "HEAD", "DELETE", "GET", "OPTIONS", "PUT"]),
    at=st.sampled_from(["", "/", "/ID", "?ticket=ID", "/ID?ticket=x", "/ID/pause", "/%00", "?ticket=%ff"]),
    headers=_headers,
    body=st.binary(max_size=20),
)
def test_any_request_is_answered(client: Client, method: str, at: str, headers: dict[str, str], body: bytes) -> None:
    ticket = client.ticket()
    answer = client.ask(method, UPLOADS + at.replace("ID", ticket), body, headers)
    assert 200 <= answer.status_int < 500 or answer.status_int == 501
    if answer.status_int >= 400:
        assert client.engine.receiver.status(ticket).received == 0


#: What a client does next: how many bytes it sends, and what happens to them.
_step = st.tuples(
    st.sampled_from(
        ["whole", "cut", "checked", "wrong checksum", "wrong offset", "overlong", "chunked", "head", "again"]
    ),
    st.integers(0, 400),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_step, max_size=12), is_deferred=st.booleans(), first=st.integers(0, 1000))
def test_any_conversation_loses_no_byte(
    client: Client, steps: list[tuple[str, int]], is_deferred: bool, first: int
) -> None:
    """Against a model: the offset that the client has to be told."""
    length = {"Upload_Defer_Length": "1"} if is_deferred else {"Upload_Length": "1000"}
    ticket = client.ticket()
    created = client.create(ticket, DATA[:first], **length, Content_Type=BYTES)
    url, offset = created.headers["Location"], first
    assert created.headers["Upload-Offset"] == str(first)
    for kind, size in steps:
        piece = DATA[offset : offset + size]
        end = offset + len(piece)
        if kind == "whole":
            answer, offset = client.patch(url, offset, piece), end
        elif kind == "cut":
            answer, offset = client.patch(url, offset, piece, length=max(len(piece), min(1000 - offset, 500))), end
        elif kind == "checked":
            answer, offset = client.patch(url, offset, piece, Upload_Checksum=sha1(piece)), end
        elif kind == "wrong checksum":
            answer = client.patch(url, offset, piece, Upload_Checksum=sha1(b"another"))
            assert answer.status_int == (
                413 if offset == 1000 and piece else 460 if offset < 1000 or is_deferred else 204
            )
        elif kind == "wrong offset":
            answer = client.patch(url, offset + size + 1, b"")
            assert answer.status_int == 409
        elif kind == "overlong" and not is_deferred:
            answer = client.patch(url, offset, b"!" * 1001)
            assert answer.status_int == 413
        elif kind == "chunked":
            answer, offset = chunked(client, url, offset, piece), end
        elif kind == "again":
            assert client.upload(ticket, **length) == url
        assert client.offset(url) == offset, kind
    rest = client.patch(url, offset, DATA[offset:], Upload_Length="1000")
    assert (rest.status_int, rest.headers["Upload-Offset"]) == (204, "1000")
    assert client.stored(url) == DATA
