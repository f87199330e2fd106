from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webob import Request
from webtest import TestApp

from incoming_wsgi.backend import Backend, Client
from incoming_wsgi.delivery.targets import FinishHosts
from incoming_wsgi.receiver import App, Patience, Receiver
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.upload import State, Upload, is_ticket
from tests.support.waiting import eventually

from .helpers import PlayedApp

FINISH = "http://app.example/finish"
DATA = b"0123456789"


class Server:
    """A back end's door, with two apps behind it; hand-overs are played."""

    def __init__(self, folder: Path) -> None:
        self.app = PlayedApp("wait")
        storage = FileStorage(folder)
        apps = {name: App(name, storage, {"url": self.app}, 2**40) for name in ("photos", "films")}
        self.receiver = Receiver(SQLiteRegistry(folder / "registry.sqlite3"), apps, Patience(3600, 600))
        hosts = FinishHosts(allowed=("app.example",))
        self.door = Backend(
            lambda: self.receiver, [Client(name, f"key of {name}", hosts) for name in ("photos", "films")]
        )
        self.web = TestApp(self.wsgi)

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        return self.door(request, request.path_info.removeprefix("/"))(environ, start_response)

    def call(self, path: str, values: dict[str, str], status: int = 200, key: str = "key of photos") -> str:
        answer = self.web.post(path, values, headers={"Authorization": f"Bearer {key}"}, status=status)
        assert answer.content_type == "text/plain"
        assert answer.headers["Cache-Control"] == "no-store"
        return str(answer.text)

    def get(self, path: str, status: int | None = None, key: str = "key of photos", **headers: str) -> Any:
        return self.web.get(path, headers={"Authorization": f"Bearer {key}", **headers}, status=status)

    def ticket(self, **values: str) -> str:
        return self.call("/new_upload", {"signalFinishURL": FINISH, **values})

    def send(self, ticket: str) -> None:
        session = self.receiver.open(ticket, length=len(DATA), name="x.bin")
        assert session is not None
        with session:
            session.write(0, DATA)
            self.receiver.complete(session.sync())

    def state(self, ticket: str) -> State:
        return self.receiver.status(ticket).state


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.receiver.close()


def test_new_upload(server: Server) -> None:
    ticket = server.ticket(backendSecret="geheim", removeFileWhenFinished="F", maxLength="100", destType="file")
    assert is_ticket(ticket)
    upload = server.receiver.status(ticket)
    assert (upload.target, upload.secret, upload.max_length) == (FINISH, "geheim", 100)
    assert (upload.app, upload.remove_file_when_finished) == ("photos", False)
    assert server.receiver.status(server.ticket()).remove_file_when_finished


def test_a_ticket_for_a_file_that_the_app_knows(server: Server) -> None:
    upload = server.receiver.status(server.ticket(length="100", owner="ada"))
    assert (upload.length, upload.owner) == (100, "ada")


def test_parameters_may_stand_in_the_query_string(server: Server) -> None:
    answer = server.web.post(
        f"/new_upload?signalFinishURL={FINISH}&signalFinishSecret=older+name",
        headers={"Authorization": "Bearer key of photos"},
    )
    assert server.receiver.status(answer.text).secret == "older name"


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, 400),
        ({"signalFinishURL": ""}, 400),
        ({"signalFinishURL": "ftp://app.example/"}, 400),
        ({"signalFinishURL": "/a/path"}, 400),
        ({"signalFinishURL": "http://evil.example/"}, 403),
        ({"signalFinishURL": FINISH, "destType": "s3"}, 400),
        ({"signalFinishURL": FINISH, "removeFileWhenFinished": "yes"}, 400),
        ({"signalFinishURL": FINISH, "maxLength": "-1"}, 400),
        ({"signalFinishURL": FINISH, "length": "many"}, 400),
        ({"signalFinishURL": FINISH, "length": "5", "maxLength": "4"}, 413),
        ({"signalFinishURL": FINISH, "maxLength": "9" * 5000}, 400),
        ({"signalFinishURL": FINISH, "backendSecret": "x" * 1025}, 400),
        ({"signalFinishURL": FINISH, "backendSecret": "a\nb"}, 400),
    ],
)
def test_new_upload_refused(server: Server, values: dict[str, str], status: int) -> None:
    assert server.call("/new_upload", values, status).endswith(".")
    assert server.receiver.find() == []


def test_cancel_upload(server: Server) -> None:
    ticket = server.ticket(backendSecret="geheim")
    server.call("/cancel_upload", {"id": ticket, "backendSecret": "guess"}, 403)
    server.call("/cancel_upload", {"id": ticket}, 403)
    server.call("/cancel_upload", {}, 400)
    server.call("/cancel_upload", {"id": Upload().id}, 400)
    assert server.state(ticket) is State.WAITING
    for _ in range(2):
        assert server.call("/cancel_upload", {"id": ticket, "backendSecret": "geheim"}) == "ok"
    assert server.state(ticket) is State.CANCELLED


def test_finish_upload(server: Server) -> None:
    ticket = server.ticket(backendSecret="geheim")
    values = {"id": ticket, "backendSecret": "geheim"}
    server.call("/finish_upload", values, 412)
    server.receiver.start()
    server.send(ticket)
    eventually(lambda: server.state(ticket) is State.WAITING_FOR_APP)
    server.call("/cancel_upload", values, 412)
    server.call("/finish_upload", {"id": ticket, "backendSecret": "guess"}, 403)
    for _ in range(2):
        assert server.call("/finish_upload", values) == "ok"
    assert server.state(ticket) is State.FINISHED


def test_nobody_touches_anothers_tickets(server: Server) -> None:
    ticket, films = server.ticket(), "key of films"
    for call in ("/cancel_upload", "/finish_upload"):
        server.call(call, {"id": ticket}, 400, key=films)
    server.get(f"/uploads/{ticket}", 404, key=films)
    server.get(f"/uploads/{ticket}/file", 404, key=films)
    assert server.get(f"/uploads/{ticket}", 200).json["id"] == ticket


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize(
    ("authorization", "is_in"),
    [
        ("Bearer key of photos", True),
        ("bearer key of photos", True),
        (basic("anybody:key of photos"), True),
        (basic(":key of photos"), True),
        (basic("key of photos"), False),
        (basic("key of photos:"), False),
        (basic(b"x:\xff"), False),
        ("Basic \xe9", False),
        ("Basic !", False),
        ("Bearer", False),
        ("Bearer key", False),
        ("Bearer key of photo", False),
        ("Bearer ", False),
        ("key of photos", False),
        ("Digest key of photos", False),
        ("", False),
    ],
)
def test_keys(server: Server, authorization: str, is_in: bool) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    answer = server.web.post("/new_upload", {"signalFinishURL": FINISH}, headers=headers, expect_errors=True)
    assert answer.status_int == (200 if is_in else 401)
    if not is_in:
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert "key" not in answer.text.replace("back-end key", "")


def test_without_a_key_is_all_or_nothing(server: Server) -> None:
    door = Backend(lambda: server.receiver, [Client("photos", "", FinishHosts(allowed=("app.example",)))])
    response = door(Request.blank("/", POST={"signalFinishURL": FINISH}), "new_upload")
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/new_upload", 405, "POST"),
        ("PUT", "/cancel_upload", 405, "POST"),
        ("POST", "/uploads/x", 405, "GET, HEAD"),
        ("GET", "/", 404, None),
        ("GET", "/uploads", 404, None),
        ("GET", "/uploads/", 404, None),
        ("GET", "/uploads/x/file/y", 404, None),
        ("GET", "/uploads/x/", 404, None),
        ("POST", "/new_upload/", 404, None),
        ("POST", "/NEW_UPLOAD", 404, None),
    ],
)
def test_addresses(server: Server, method: str, path: str, status: int, allow: str | None) -> None:
    headers = {"Authorization": "Bearer key of photos"}
    answer = server.web.request(path, method=method, headers=headers, expect_errors=True)
    assert answer.status_int == status
    assert answer.headers.get("Allow") == allow


def test_forms_that_are_none(server: Server) -> None:
    def post(body: bytes, **more: Any) -> int:
        headers = {"Authorization": "Bearer key of photos", **more.pop("headers", {})}
        return int(server.web.post("/new_upload", body, headers=headers, expect_errors=True, **more).status_int)

    assert post(b"{}", content_type="application/json") == 415
    assert post(b"x=" + b"y" * 70_000) == 413
    assert post(b"signalFinishURL=%FF") == 400
    assert post(f"signalFinishURL={FINISH}&signalFinishURL={FINISH}".encode()) == 400
    assert server.receiver.find() == []


def test_status(server: Server) -> None:
    ticket = server.ticket()
    server.receiver.start()
    server.send(ticket)
    eventually(lambda: server.state(ticket) is State.WAITING_FOR_APP)
    status = server.get(f"/uploads/{ticket}").json
    assert (status["state"], status["phase"], status["length"]) == ("waiting_for_app", "processing", len(DATA))
    assert Path(status["filename"]).read_bytes() == DATA
    assert status["filenameFromBrowser"] == "x.bin"
    assert (status["owner"], status["clientMetadata"]) == ("", {})
    assert len(status["sha256"]) == 64


def test_the_file_itself(server: Server) -> None:
    ticket = server.ticket(backendSecret="geheim")
    path = f"/uploads/{ticket}/file"
    server.get(path, 403)
    assert server.get(f"{path}?backendSecret=geheim", 412).status_int == 412
    server.receiver.start()
    server.send(ticket)
    eventually(lambda: server.state(ticket) is State.WAITING_FOR_APP)
    secret = {"Incoming-Secret": "geheim"}
    server.get(path, 403, **{"Incoming-Secret": "guess"})
    whole = server.get(path, 200, **secret)
    assert whole.body == DATA
    assert whole.content_type == "application/octet-stream"
    part = server.get(path, 206, **secret, Range="bytes=3-5")
    assert (part.body, part.headers["Content-Range"]) == (b"345", "bytes 3-5/10")
    assert server.get(path, 206, **secret, Range="bytes=-2").body == b"89"
    server.get(path, 416, **secret, Range="bytes=10-")
    assert server.get(path, 304, **{**secret, "If-None-Match": whole.headers["ETag"]}).body == b""
    assert server.web.head(path, headers={"Authorization": "Bearer key of photos", **secret}).content_length == 10
    server.call("/finish_upload", {"id": ticket, "backendSecret": "geheim"})
    server.get(path, 404, **secret)
