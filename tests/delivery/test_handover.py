from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from webob import Request, Response

from incoming_wsgi.delivery.handover import (
    CallableHandler,
    FinishedUpload,
    Notice,
    Outcome,
    PathHandler,
    URLHandler,
    form,
    handler_for,
)
from incoming_wsgi.registry import Delivery
from incoming_wsgi.signatures import key_of, verify
from incoming_wsgi.upload import State, Upload

from ..needs import need


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    complete = tmp_path / "complete"
    complete.write_bytes(b"12345")
    return Upload(
        state=State.HANDING_OVER,
        app="app",
        length=5,
        sha256="ab" * 32,
        location=str(complete),
        filename_from_browser="../../Übersicht?.pdf",
        metadata={"owner": "me"},
        client_metadata={"filetype": "image/png", "ü": "\u2028"},
        owner="ada",
        secret="gehe|m",
        event_id="msg_1",
        base_url="https://example.org:8443/mounted",
        target="/api/arrived?kind=photo",
    )


def notice_of(upload: Upload, kind: str = "finished", attempt: int = 0) -> Notice:
    delivery = Delivery(upload.event_id, upload.id, "app", kind, "callable", attempt=attempt)
    return Notice(upload, delivery, upload.location if kind == "finished" else "")


class Moves(list[str]):
    """Where files were said to be going."""

    def record(self, upload: Upload, target: str) -> None:
        self.append(target)


@pytest.fixture
def moves() -> Moves:
    return Moves()


# -- what on_finish gets ----------------------------------------------------------------------------------------


def test_finished_upload(upload: Upload, moves: Moves) -> None:
    finished = FinishedUpload(notice_of(upload, attempt=2), moves.record)
    assert finished.id == upload.id
    assert finished.path == upload.location
    assert finished.filename == "Übersicht_.pdf"
    assert finished.filename_from_browser == "../../Übersicht?.pdf"
    assert (finished.length, finished.sha256) == (5, "ab" * 32)
    assert (finished.event_id, finished.attempt) == ("msg_1", 3)
    assert finished.metadata == {"owner": "me"}
    assert (finished.owner, finished.client_metadata) == ("ada", {"filetype": "image/png", "ü": "\u2028"})
    assert finished.secret == "gehe|m"
    with finished.open() as file:
        assert file.read() == b"12345"


def test_move_to_is_recorded_before_it_happens(upload: Upload, tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def record(_: Upload, target: str) -> None:
        seen.append((target, Path(target).exists()))

    finished = FinishedUpload(notice_of(upload), record)
    place = finished.move_to(f"{tmp_path}/files/")
    assert seen == [(str(tmp_path / "files" / "Übersicht_.pdf"), False)]
    assert place == finished.path == seen[0][0]
    with finished.open() as file:
        assert file.read() == b"12345"
    assert finished.move_to(f"{tmp_path}/files/") == place  # again, in the same call


def test_move_to_again_in_a_later_attempt(upload: Upload, moves: Moves, tmp_path: Path) -> None:
    place = FinishedUpload(notice_of(upload), moves.record).move_to(f"{tmp_path}/files/")
    later = replace(upload, moved_to=moves[-1])
    assert FinishedUpload(notice_of(later, attempt=1), moves.record).move_to(f"{tmp_path}/files/") == place


@pytest.mark.parametrize("path", ["{}/../out", "/etc/x", "{}-2/x", "{}/link/x"])
def test_move_to_does_not_leave_the_folder(upload: Upload, moves: Moves, tmp_path: Path, path: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "link").symlink_to("/tmp")
    finished = FinishedUpload(notice_of(upload), moves.record)
    with pytest.raises(ValueError, match="is not inside"):
        finished.move_to(path.format(folder), within=str(folder))
    assert not moves
    assert Path(finished.path).exists()
    assert finished.move_to(f"{folder}/", within=str(folder)) == str(folder / "Übersicht_.pdf")


# -- a callable -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (None, "done"),
        ("done", "done"),
        (" done\n", "done"),
        ("wait", "wait"),
        ("", "failed"),
        ("ok", "failed"),
        (True, "failed"),
        (0, "failed"),
    ],
)
def test_what_a_callable_answers(upload: Upload, moves: Moves, answer: object, word: str) -> None:
    heard: list[FinishedUpload] = []

    def on_finish(finished: FinishedUpload) -> object:
        heard.append(finished)
        return answer

    outcome = CallableHandler(on_finish, None, moves.record).deliver(notice_of(upload))
    assert outcome.word == word
    assert bool(outcome.error) == (word == "failed")
    assert [finished.id for finished in heard] == [upload.id]


def test_what_a_callable_raises_is_an_attempt_that_failed(upload: Upload, moves: Moves) -> None:
    def on_finish(finished: FinishedUpload) -> None:
        raise KeyError(finished.id)

    with pytest.raises(KeyError):
        CallableHandler(on_finish, None, moves.record).deliver(notice_of(upload))


def test_a_process_without_on_finish_takes_no_file(upload: Upload, moves: Moves) -> None:
    outcome = CallableHandler(None, None, moves.record).deliver(notice_of(upload))
    assert outcome.word == "failed"


@pytest.mark.parametrize("kind", ["cancelled", "expired"])
def test_on_cancel(upload: Upload, moves: Moves, kind: str) -> None:
    heard: list[tuple[Upload, str]] = []
    ended = replace(upload, reason="changed my mind")
    handler = CallableHandler(None, lambda one, reason: heard.append((one, reason)), moves.record)
    assert handler.deliver(notice_of(ended, kind)) == Outcome("done")
    assert heard == [(ended, "changed my mind")]
    assert CallableHandler(None, None, moves.record).deliver(notice_of(ended, kind)) == Outcome("done")


# -- into the wrapped app ---------------------------------------------------------------------------------------


class WrappedApp:
    """A WSGI app that notes its requests."""

    def __init__(self, status: str = "200 OK", body: bytes = b"done", **headers: str) -> None:
        self._status = status
        self._body = body
        self._headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.requests: list[Request] = []
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append(Request(environ))
        start_response(self._status, self._headers)
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield from (self._body[:2], self._body[2:])

    def close(self) -> None:
        self.closed += 1


def test_the_wrapped_app_hears_the_host_as_the_browser_said_it(upload: Upload) -> None:
    app = WrappedApp()
    PathHandler(app).deliver(notice_of(replace(upload, base_url="http://example.org")))
    assert app.requests[0].environ["HTTP_HOST"] == "example.org"


def test_the_wrapped_app_is_called_as_by_the_one_who_got_the_ticket(upload: Upload) -> None:
    app = WrappedApp()
    assert PathHandler(app).deliver(notice_of(upload, attempt=1)) == Outcome("done")
    (request,) = app.requests
    assert request.method == "POST"
    assert request.url == "https://example.org:8443/mounted/api/arrived?kind=photo"
    assert (request.script_name, request.path_info) == ("/mounted", "/api/arrived")
    assert request.environ["incoming.handover"] is True
    assert dict(request.POST.items()) == {
        "id": upload.id,
        "filename": upload.location,
        "filenameFromBrowser": "../../Übersicht?.pdf",
        "backendSecret": "gehe|m",
        "signalFinishSecret": "gehe|m",
        "cancelled": "no",
        "cancelReason": "",
        "length": "5",
        "sha256": "ab" * 32,
        "eventId": "msg_1",
        "attempt": "2",
        "owner": "ada",
        "clientMetadata": json.dumps({"filetype": "image/png", "ü": "\u2028"}),
    }
    assert app.closed == 1


def test_a_cancelled_upload_has_no_file(upload: Upload) -> None:
    fields = form(notice_of(replace(upload, reason="too slow", location=""), "cancelled"))
    assert (fields["filename"], fields["cancelled"], fields["cancelReason"]) == ("", "yes", "too slow")


ANSWERS = [
    ("200 OK", b"done", "finished", Outcome("done")),
    ("200 OK", b" done \r\n", "finished", Outcome("done")),
    ("201 Created", b"wait", "finished", Outcome("wait")),
    ("200 OK", b"", "finished", None),
    ("200 OK", b"ok", "finished", None),
    ("200 OK", b"\xff\xfe", "finished", None),
    ("200 OK", b"<html>done</html>", "finished", None),
    ("302 Found", b"done", "finished", None),
    ("404 Not Found", b"done", "finished", None),
    ("500 Internal Server Error", b"done", "finished", None),
    ("200 OK", b"whatever", "cancelled", Outcome("done")),
    ("204 No Content", b"", "expired", Outcome("done")),
    ("500 Internal Server Error", b"done", "cancelled", None),
]


@pytest.mark.parametrize(("status", "body", "kind", "expected"), ANSWERS)
def test_what_the_wrapped_app_answers(
    upload: Upload, status: str, body: bytes, kind: str, expected: Outcome | None
) -> None:
    """Only 2xx with ``done`` or ``wait`` counts; for a cancelled upload the body does not matter."""
    app = WrappedApp(status, body)
    outcome = PathHandler(app).deliver(notice_of(upload, kind))
    assert outcome == expected or (expected is None and outcome.word == "failed" and outcome.error)
    assert app.closed == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("999999999", 6 * 3600),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after(upload: Upload, header: str, seconds: float | None) -> None:
    app = WrappedApp("503 Service Unavailable", b"", Retry_After=header)
    assert PathHandler(app).deliver(notice_of(upload)).retry_after == seconds


# -- over HTTP --------------------------------------------------------------------------------------------------


class BackEnd:
    """A back end on a port of its own.

    :param context: to speak TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        self.raw: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[str], Response] = lambda path: Response(body=b"done")
        back_end = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                back_end.raw.append(({name.lower(): value for name, value in self.headers.items()}, raw))
                back_end.requests.append((self.path, parse_qs(raw.decode(), keep_blank_values=True)))
                response = back_end.answer(self.path)
                self.send_response(response.status_code)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(response.body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    back_end = BackEnd()
    yield back_end
    back_end.close()


def at(upload: Upload, url: str) -> Notice:
    return notice_of(replace(upload, target=url))


def test_a_back_end_is_called(upload: Upload, back_end: BackEnd) -> None:
    notice = at(upload, f"{back_end.url}/finish?x=1")
    assert URLHandler(5).deliver(notice) == Outcome("done")
    ((path, fields),) = back_end.requests
    assert path == "/finish?x=1"
    assert {name: value for name, (value,) in fields.items()} == form(notice)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Response(body=b"wait"), "wait"),
        (Response(body=b"do"), "failed"),
        (Response(body=b""), "failed"),
        (Response(body=b"done" + b" " * 10_000_000), "done"),  # nobody reads all of it
        (Response(body=b"x" * 10_000_000), "failed"),
        (Response(status=500, body=b"done"), "failed"),
    ],
)
def test_what_a_back_end_answers(upload: Upload, back_end: BackEnd, answer: Response, word: str) -> None:
    back_end.answer = lambda path: answer
    assert URLHandler(5).deliver(at(upload, back_end.url)).word == word


def test_a_call_is_signed_with_each_key(upload: Upload, back_end: BackEnd) -> None:
    old, new = ("whsec_" + base64.b64encode(bytes([number] * 24)).decode() for number in (1, 2))
    notice = at(upload, back_end.url)
    assert URLHandler(5, map(key_of, (old, new))).deliver(notice).word == "done"
    ((headers, body),) = back_end.raw
    assert verify([old], headers, body) == verify([new], headers, body) == notice.delivery.event_id


def test_without_a_key_nothing_is_signed(upload: Upload, back_end: BackEnd) -> None:
    URLHandler(5).deliver(at(upload, back_end.url))
    assert not [name for name in back_end.raw[0][0] if name.startswith("webhook")]


#: What a back end may say without an end: its beginning, and what goes on.
ENDLESS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b"d"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "the length of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;", b"x"),
    "what unpacks to nothing": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\3",
        b"\0\0\0\xff\xff",
    ),
    "status line": (b"HTTP/1.1 200 O", b"K"),
    "header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_that_drips_is_not_waited_for(upload: Upload, what: str) -> None:
    """A drop a tenth of a second, for ever: each one would begin a time-out of the socket anew."""
    stop = threading.Event()
    start, more = ENDLESS[what]

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(start)
            while not stop.wait(0.1):
                connection.sendall(more)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        rescue = threading.Timer(5, stop.set)
        rescue.start()
        outcome = URLHandler(1).deliver(at(upload, f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        was_waited_for = stop.is_set()
        rescue.cancel()
        stop.set()
        thread.join()
    assert not was_waited_for
    assert (outcome.word, outcome.error) == ("failed", "the call ended with Timeout")


def test_the_url_is_not_told(upload: Upload) -> None:
    """It may have a secret in it; errors are logged, and shown to operators."""
    outcome = URLHandler(1).deliver(at(upload, "http://127.0.0.1:9/arrived?token=hidden"))
    assert outcome.word == "failed"
    assert "hidden" not in outcome.error
    assert "127.0.0.1" not in outcome.error


def test_work_on_the_file_may_leave_the_event_loop(upload: Upload) -> None:
    finished = FinishedUpload(notice_of(upload), lambda upload, target: None)
    assert finished.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        finished.run(divmod, 7, 0)


def test_no_redirect_is_followed(upload: Upload, back_end: BackEnd) -> None:
    """The address was checked when the ticket was made; another one never was."""
    back_end.answer = lambda path: Response(status=307, location=f"{back_end.url}/elsewhere")
    assert URLHandler(5).deliver(at(upload, f"{back_end.url}/finish")).word == "failed"
    assert [path for path, _ in back_end.requests] == ["/finish"]


def test_the_environment_has_no_say(upload: Upload, back_end: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert URLHandler(5).deliver(at(upload, back_end.url)).word == "done"


def test_the_address_is_asked_for_once(upload: Upload, back_end: BackEnd) -> None:
    """A DNS that answers first with one address and then with another has no say."""
    asked: list[str] = []

    def addresses_of(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    port = urlsplit(back_end.url).port
    notice = at(upload, f"http://backend.example:{port}/finish?x=1")
    assert URLHandler(5, addresses_of=addresses_of).deliver(notice).word == "done"
    assert asked == ["backend.example"]
    assert back_end.raw[0][0]["host"] == f"backend.example:{port}"
    assert back_end.requests[0][0] == "/finish?x=1"


def test_a_host_that_listens_at_one_of_its_addresses(upload: Upload, back_end: BackEnd) -> None:
    handler = URLHandler(5, addresses_of=lambda _: ["::1", "127.0.0.2", "127.0.0.1"])
    assert handler.deliver(at(upload, back_end.url)).word == "done"
    assert len(back_end.requests) == 1


def test_an_address_that_is_not_allowed_is_not_called(upload: Upload, back_end: BackEnd) -> None:
    def refuse(_: str) -> list[str]:
        raise PermissionError

    outcome = URLHandler(5, addresses_of=refuse).deliver(at(upload, back_end.url))
    assert outcome == Outcome("failed", "the call ended with PermissionError")
    assert not back_end.requests


def test_tls_is_with_the_host_and_not_with_its_address(
    upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "certificate.pem"
    command = f"""
        {need("openssl")} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=backend.example
        -addext subjectAltName=DNS:backend.example -keyout {tmp_path}/key.pem -out {certificate}
    """
    subprocess.run(command.split(), check=True, capture_output=True)
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    back_end = BackEnd(context)
    port = urlsplit(back_end.url).port
    try:
        handler = URLHandler(5, addresses_of=lambda _: ["127.0.0.1"])
        assert handler.deliver(at(upload, f"https://backend.example:{port}/finish")).word == "done"
        wrong = handler.deliver(at(upload, f"https://other.example:{port}/finish"))
        assert wrong == Outcome("failed", "the call ended with SSLError")
        assert len(back_end.requests) == 1
    finally:
        back_end.close()


def test_a_busy_back_end_says_when_to_come_back(upload: Upload, back_end: BackEnd) -> None:
    back_end.answer = lambda path: Response(status=503, retry_after=90)
    assert URLHandler(5).deliver(at(upload, back_end.url)).retry_after == 90


def test_a_back_end_that_is_not_there(upload: Upload) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert URLHandler(5).deliver(at(upload, url)) == Outcome("failed", "the call ended with ConnectionError")


def test_a_back_end_that_hangs(upload: Upload, back_end: BackEnd) -> None:
    go_on = threading.Event()

    def hang(path: str) -> Response:
        go_on.wait(10)
        return Response(body=b"done")

    back_end.answer = hang
    assert URLHandler(0.05).deliver(at(upload, back_end.url)) == Outcome("failed", "the call ended with Timeout")
    go_on.set()


@pytest.mark.parametrize(
    ("target", "kind"), [("", "callable"), ("/api/x", "path"), ("http://x/", "url"), ("https://x/", "url")]
)
def test_who_takes_it(target: str, kind: str) -> None:
    assert handler_for(target) == kind
