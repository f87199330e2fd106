"""new_upload, cancel_upload, finish_upload."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode

import pytest

from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .conftest import EVERYWHERE, StartServer
from .uploads import DATA, Upload, assert_refused
from .wire import Answer, Connection, ask, request

KEY = ("Authorization", "Bearer key")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
HERE = "/api/arrived"
SECRET = "s3cret"


@pytest.fixture(scope="module", params=EVERYWHERE)
def server(request: pytest.FixtureRequest, server_at: Callable[[str], AppServer]) -> AppServer:
    return server_at(request.param)


def call(server: AppServer, name: str, **values: str) -> Answer:
    """A call of the back end's, its parameters in the body."""
    return call_as(server, name, [KEY], values)


def call_as(server: AppServer, name: str, headers: Iterable[tuple[str, str]], values: Mapping[str, str]) -> Answer:
    return ask(server.port, "POST", f"/incoming/backend/{name}", [*headers, FORM], urlencode(values).encode())


def new_upload(server: AppServer, **values: str) -> Answer:
    return call(server, "new_upload", **{"signalFinishURL": HERE, **values})


# -- who may call -----------------------------------------------------------------------------------------------

CALLS = ("new_upload", "cancel_upload", "finish_upload")


@pytest.fixture(scope="module")
def server_without_back_end(start_server: StartServer) -> AppServer:
    return start_server(BACKEND_KEY="")


@pytest.mark.parametrize("name", CALLS)
def test_api_not_enabled(name: str, server_without_back_end: AppServer) -> None:
    assert_refused(call(server_without_back_end, name, id="x"), 404)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer kez",
        "Bearer ke",
        "Bearer keyy",
        "Bearer KEY",
        "key",
        "Token key",
        "Bearer k\xe9y",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"key").decode(),
        "Basic " + base64.b64encode(b"key:").decode(),
        "Basic " + base64.b64encode(b"x:wrong").decode(),
        "Basic " + base64.b64encode(b"x:\xff\xfe").decode(),
        "Bearer " + 5000 * "k",
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_bad_or_missing_key(name: str, authorization: str | None, upload: Upload) -> None:
    headers = [] if authorization is None else [("Authorization", authorization)]
    values = {"id": upload.ticket, "backendSecret": SECRET, "signalFinishURL": HERE}
    answer = call_as(upload.server, name, headers, values)
    assert_refused(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Basic ")


# -- new_upload -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.org/x",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "gopher://127.0.0.1:25/x",
        "arrived",
        "../arrived",
        "?x=y",
        "//example.org/x",
        "///example.org/x",
        "http:/example.org",
        "http://",
        "http:///path",
        "http://user@example.org/",
        "http://user:password@example.org/",
        "http://:password@example.org/",
        "http://@example.org/",
        "http://example.org/a\r\nX-Injected: yes",
        "/api/arrived\r\nX-Injected: yes",
        "/api/arrived\n",
        "/api/arri\0ved",
        "/api/arrived#fragment",
        "http://example.org/#fragment",
        "http://example.org/#",
        "http://example.org\\@evil.example/",
        "/\\example.org",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org:port/",
        "http://[::1/",
        "http://exa mple.org/",
        "http://" + 2048 * "a" + "/",
        "/" + 2048 * "a",
        "/incoming/backend/new_upload",
        "/incoming",
    ],
)
def test_signal_finish_url_malformed(url: str, server: AppServer) -> None:
    assert_refused(new_upload(server, signalFinishURL=url), 400, about="signalFinishURL")


def test_signal_finish_url_missing(server: AppServer) -> None:
    assert_refused(call(server, "new_upload"), 400, about="signalFinishURL")


@pytest.fixture(scope="module")
def server_with_hosts(start_server: StartServer) -> AppServer:
    return start_server(INCOMING_FINISH_HOSTS="app.example, 127.0.0.2:8000")


@pytest.mark.parametrize(
    "host",
    [
        "other.example",
        "app.example.evil.example",
        "evil-app.example",
        "app.example.",
        "app.exampl",
        "xn--app.example",
        "127.0.0.2",
        "127.0.0.2:8001",
        "127.0.0.1:8000",
        "127.0.0.1",
        "localhost",
        "[::1]",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_signal_finish_url_outside_the_allow_list(scheme: str, host: str, server_with_hosts: AppServer) -> None:
    assert_refused(new_upload(server_with_hosts, signalFinishURL=f"{scheme}://{host}/done"), 403)


@pytest.mark.parametrize("host", ["app.example", "APP.example", "app.example:8080", "127.0.0.2:8000"])
def test_signal_finish_url_inside_the_allow_list(host: str, server_with_hosts: AppServer) -> None:
    assert new_upload(server_with_hosts, signalFinishURL=f"http://{host}/done").status == 200


@pytest.fixture(scope="module")
def server_for_the_public(start_server: StartServer) -> AppServer:
    return start_server(INCOMING_FINISH_HOSTS="*")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "017700000001",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[fe80::1]",
        "[fc00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
        "LOCALHOST",
    ],
)
def test_signal_finish_url_private_after_resolving(host: str, server_for_the_public: AppServer) -> None:
    assert_refused(new_upload(server_for_the_public, signalFinishURL=f"http://{host}/done"), 403)


@pytest.mark.parametrize("host", ["93.184.215.14", "[2606:4700::1111]"])
def test_signal_finish_url_public(host: str, server_for_the_public: AppServer) -> None:
    assert new_upload(server_for_the_public, signalFinishURL=f"http://{host}/done").status == 200


class RedirectingBackEnd(ThreadingHTTPServer):
    """Redirects the first call of each kind, and takes the next ones."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Redirect)
        self.status = status
        self.calls: list[str] = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Redirect(BaseHTTPRequestHandler):
    server: RedirectingBackEnd

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append(self.path)
        first = len(self.server.calls) == 1
        body = b"done"
        self.send_response(self.server.status if first else 200)
        if first:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 (the base class wants it)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server_with_neighbours(start_server: StartServer) -> AppServer:
    return start_server(INCOMING_FINISH_HOSTS="127.0.0.1")


def test_a_redirect_is_a_failed_call(server_with_neighbours: AppServer) -> None:
    """Of whichever kind: nobody follows it, the file stays, and the next call is made as the first was."""
    kinds = (301, 302, 303, 307, 308)
    back_ends = [RedirectingBackEnd(status) for status in kinds]
    try:
        uploads = [_sent_to(server_with_neighbours, back_end) for back_end in back_ends]
        for back_end, upload in zip(back_ends, uploads, strict=True):
            eventually(lambda back_end=back_end: len(back_end.calls) == 2)  # type: ignore[misc]
            assert back_end.calls == ["/done", "/done"]
            upload.wait_until_finished()
            upload.close()
    finally:
        for back_end in back_ends:
            back_end.__exit__()


def _sent_to(server: AppServer, back_end: RedirectingBackEnd) -> Upload:
    answer = new_upload(server, signalFinishURL=f"http://127.0.0.1:{back_end.server_port}/done")
    upload = Upload(server, answer.body.decode())
    upload.send_the_rest()
    return upload


@pytest.mark.parametrize("kind", ["", "s3", "File", "file ", "file\0", "../file", 100_0 * "f"])
def test_dest_type_unknown(kind: str, server: AppServer) -> None:
    assert_refused(new_upload(server, destType=kind), 400, about="destType")


@pytest.mark.parametrize(
    "junk", ["", "yes", "no", "2", "-1", "tRUE", "on", " true", "true ", "null", "1.0", "\0", "t\r\n"]
)
def test_boolean_junk(junk: str, server: AppServer) -> None:
    assert_refused(new_upload(server, removeFileWhenFinished=junk), 400, about="removeFileWhenFinished")


@pytest.mark.parametrize("junk", ["", "-1", "1.5", "1e3", "0x10", "true", "1,000", str(2**63), 5000 * "9", "١٢"])
def test_max_length_junk(junk: str, server: AppServer) -> None:
    assert_refused(new_upload(server, maxLength=junk), 400, about="maxLength")


@pytest.mark.parametrize(
    "secret", [1025 * "s", 600 * "é", "a\0b", "a\nb", "a\rb", "a\tb", "a\x7fb", "a\x1b[31mb", "a\u202eb", "a\u2028b"]
)
@pytest.mark.parametrize("name", ["backendSecret", "signalFinishSecret"])
def test_secret_over_1_kib_or_with_control_characters(name: str, secret: str, server: AppServer) -> None:
    assert_refused(new_upload(server, **{name: secret}), 400, about="secret")


@pytest.mark.parametrize("name", CALLS)
def test_body_over_64_kib(name: str, upload: Upload) -> None:
    assert_refused(call(upload.server, name, id=upload.ticket, filler=65_536 * "x"), 413)


@pytest.mark.parametrize("name", CALLS)
def test_body_of_unknown_length(name: str, upload: Upload) -> None:
    body = b"5\r\nid=ab\r\n0\r\n\r\n"
    with Connection(upload.server.port) as connection:
        connection.send(
            request("POST", f"/incoming/backend/{name}", [KEY, FORM, ("Transfer-Encoding", "chunked")]) + body
        )
        # nginx reads it, and says how long it is: then it is a form without a good id.
        assert_refused(connection.answer(), 400 if upload.server.kind == "nginx" else 411)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "application/octet-stream",
        "application/x-www-form-urlencodedx",
        "x",
        "/",
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_wrong_media_type(name: str, media_type: str, upload: Upload) -> None:
    body = urlencode({"id": upload.ticket, "backendSecret": SECRET, "signalFinishURL": HERE}).encode()
    answer = ask(upload.server.port, "POST", f"/incoming/backend/{name}", [KEY, ("Content-Type", media_type)], body)
    assert_refused(answer, 415)


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"'])
def test_media_type_with_a_charset(charset: str, server: AppServer) -> None:
    form = ("Content-Type", f"{FORM[1]}; charset={charset}")
    body = urlencode({"signalFinishURL": HERE}).encode()
    assert ask(server.port, "POST", "/incoming/backend/new_upload", [KEY, form], body).status == 200


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "rot13", "nonsense", "utf-16le"])
def test_media_type_with_another_charset(charset: str, server: AppServer) -> None:
    form = ("Content-Type", f"{FORM[1]}; charset={charset}")
    body = urlencode({"signalFinishURL": HERE}).encode()
    assert_refused(ask(server.port, "POST", "/incoming/backend/new_upload", [KEY, form], body), 415)


@pytest.mark.parametrize("where", ["both in the query", "both in the body", "one in each", "with different values"])
@pytest.mark.parametrize("name", CALLS)
def test_repeated_parameter(name: str, where: str, upload: Upload) -> None:
    values = urlencode({"id": upload.ticket, "backendSecret": SECRET, "signalFinishURL": HERE})
    other = "backendSecret=other" if where == "with different values" else f"backendSecret={SECRET}"
    query = f"{values}&{other}" if "query" in where else other if where == "one in each" else ""
    body = "" if "query" in where else values if where == "one in each" else f"{values}&{other}"
    answer = ask(upload.server.port, "POST", f"/incoming/backend/{name}?{query}", [KEY, FORM], body.encode())
    assert_refused(answer, 400, about="twice")


@pytest.mark.parametrize("text", ["%FF", "%C3", "%ED%A0%80", "%", "%zz"])
@pytest.mark.parametrize("where", ["query", "body"])
def test_parameters_that_are_not_utf_8(where: str, text: str, upload: Upload) -> None:
    values = f"id={upload.ticket}&backendSecret={text}"
    query, body = (values, b"") if where == "query" else ("", values.encode())
    answer = ask(upload.server.port, "POST", f"/incoming/backend/cancel_upload?{query}", [KEY, FORM], body)
    assert answer.status in (400, 403)
    assert_refused(answer, answer.status)


# -- cancel_upload and finish_upload ----------------------------------------------------------------------------

MALFORMED_IDS = (
    "",
    "x",
    "../../etc/passwd",
    "00000000-0000-0000-0000-00000000000",
    "{00000000-0000-0000-0000-000000000000}",
    "00000000-0000-0000-0000-000000000000\n",
    "00000000000000000000000000000000",
    "\0",
    "é" * 36,
    "%",
    5000 * "a",
)


@pytest.mark.parametrize("ticket", [*MALFORMED_IDS, "00000000-0000-4000-8000-000000000000"])
@pytest.mark.parametrize("name", ["cancel_upload", "finish_upload"])
def test_id_malformed_or_unknown(name: str, ticket: str, server: AppServer) -> None:
    assert_refused(call(server, name, id=ticket, backendSecret=SECRET), 400)


@pytest.mark.parametrize("name", ["cancel_upload", "finish_upload"])
def test_id_missing(name: str, server: AppServer) -> None:
    assert_refused(call(server, name, backendSecret=SECRET), 400, about="id")


@pytest.mark.parametrize("secret", [None, "", "s3cre", "s3crett", "S3CRET", " s3cret", "s3cret ", "é", 1024 * "s"])
@pytest.mark.parametrize("name", ["cancel_upload", "finish_upload"])
def test_secret_wrong_or_absent(name: str, secret: str | None, upload: Upload) -> None:
    values = {} if secret is None else {"backendSecret": secret}
    answer = call(upload.server, name, id=upload.ticket, **values)
    assert_refused(answer, 403, about="secret")
    assert SECRET.encode() not in answer.body


def test_finish_while_bytes_are_missing(upload: Upload) -> None:
    assert_refused(call(upload.server, "finish_upload", id=upload.ticket, backendSecret=SECRET), 412)


@pytest.mark.parametrize("data", [DATA, b""], ids=["a file", "a ticket"])
def test_cancel_repeated_and_finish_of_what_is_cancelled(data: bytes, server: AppServer) -> None:
    with closing(Upload(server, data=data, safe=len(data) // 2)) if data else closing(Ticket(server)) as upload:
        for _ in range(3):
            answer = call(server, "cancel_upload", id=upload.ticket, backendSecret=SECRET)
            assert (answer.status, answer.body) == (200, b"ok")
        assert_refused(call(server, "finish_upload", id=upload.ticket, backendSecret=SECRET), 412)
        heard = eventually(lambda: server.events(upload.ticket))
        assert [event["kind"] for event in heard] == ["cancelled"]


class Ticket:
    """An upload that nobody has begun."""

    def __init__(self, server: AppServer) -> None:
        self.ticket = server.ticket()

    def close(self) -> None:
        pass


def handed_over(server: AppServer, **metadata: str) -> Upload:
    """An upload that is with the app."""
    upload = Upload(server, server.ticket(**metadata))
    upload.send_the_rest()
    eventually(lambda: server.events(upload.ticket), what="the hand-over")
    return upload


def state_of(upload: Upload) -> str:
    return str(upload.client.status()["state"])


def test_cancel_while_handing_over(server: AppServer) -> None:
    with closing(handed_over(server, leisure="1")) as upload:
        assert state_of(upload) == "handing_over"
        assert_refused(call(server, "cancel_upload", id=upload.ticket, backendSecret=SECRET), 412)
        upload.wait_until_finished()
        upload.assert_arrived()
        assert_refused(call(server, "cancel_upload", id=upload.ticket, backendSecret=SECRET), 412)


def test_cancel_while_the_app_takes_its_time(server: AppServer) -> None:
    with closing(handed_over(server, answer="wait")) as upload:
        eventually(lambda: state_of(upload) == "waiting_for_app")
        assert_refused(call(server, "cancel_upload", id=upload.ticket, backendSecret=SECRET), 412)
        stored = server.folder / "incoming" / "complete" / upload.ticket
        assert stored.read_bytes() == DATA
        for _ in range(3):
            answer = call(server, "finish_upload", id=upload.ticket, backendSecret=SECRET)
            assert (answer.status, answer.body) == (200, b"ok")
        assert state_of(upload) == "finished"
        assert not stored.exists()


def test_finish_racing_the_wait_answer(server: AppServer) -> None:
    """It comes while the app has not yet said ``wait``; what it says then changes nothing."""
    with closing(handed_over(server, answer="wait", leisure="0.5")) as upload:
        assert state_of(upload) == "handing_over"
        answer = call(server, "finish_upload", id=upload.ticket, backendSecret=SECRET)
        assert (answer.status, answer.body) == (200, b"ok")
        assert state_of(upload) == "finished"
        with closing(handed_over(server, answer="done", leisure="0.6")) as later:
            later.wait_until_finished()
        assert state_of(upload) == "finished"
        assert len(server.events(upload.ticket)) == 1
