"""Clients of the IETF's resumable uploads: curl, tus-js-client, and what falls over the wire byte by byte."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.wire import Answer, Connection, ask, request
from tests.needs import need
from tests.support.nginx import Nginx
from tests.support.processes import ROOT, AppServer
from tests.support.waiting import eventually

from .conftest import StartServer, assert_arrived_once, data_of, sha256

MIB = 1 << 20
UPLOADS = "/incoming/frontend/uploads"
DATA = data_of(3 * MIB + 5)

PARTIAL = ("Content-Type", "application/partial-upload")


#: A server, and where it can be reached.
Address = tuple[AppServer, str]


@pytest.fixture(params=["direct", "nginx"])
def address(request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path) -> Iterator[Address]:
    """By itself, or by an nginx as the documentation has it, with TLS and HTTP/2."""
    server = start_server(INCOMING_INTERIM_RESPONSES="yes")
    if request.param == "direct":
        yield server, server.url
        return
    with Nginx(tmp_path / "nginx", server.port, recommended=True, tls=True) as nginx:
        yield server, nginx.url


@pytest.fixture
def server(start_server: StartServer) -> AppServer:
    return start_server()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(DATA)
    return path


# -- curl -------------------------------------------------------------------------------------------------------


def curl(*arguments: str, data: bytes | None = None) -> Answer:
    """One request; its last answer."""
    command = [need("curl"), "--silent", "--show-error", "--include", "--insecure", "--max-time", "60", *arguments]
    run = subprocess.run(command, input=data, capture_output=True, check=True, timeout=90)
    head, _, body = run.stdout.partition(b"\r\n\r\n")
    while re.match(rb"HTTP/\S+ 1\d\d", head):
        head, _, body = body.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Answer(int(status.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body)


def headers(*lines: str) -> list[str]:
    return [part for line in lines for part in ("--header", line)]


@pytest.mark.requirement("ietf-8", "ietf-17", "ietf-24", "ietf-25")
@pytest.mark.parametrize("version", ["", "8"])
def test_curl(address: Address, file: Path, version: str) -> None:
    server, url = address
    ticket = server.ticket()
    about = headers(f"Upload-Draft-Interop-Version: {version}") if version else []
    name = "Content-Disposition: attachment; filename*=UTF-8''%C3%BCber.bin"
    created = curl("-X", "POST", f"{url}{UPLOADS}?ticket={ticket}", *about, *headers("Upload-Complete: ?0", name))
    assert created.status == 201
    location = created.headers["location"]
    assert location.startswith(url)
    partial = headers(": ".join(PARTIAL))
    part = ("-X", "PATCH", location, *about, *partial, "--data-binary", "@-")
    appended = curl(*part, *headers("Upload-Offset: 0", "Upload-Complete: ?0"), data=DATA[:MIB])
    assert appended.status == 204
    told = curl("--head", location, *about)
    assert (told.status, told.headers["upload-offset"], told.headers["upload-complete"]) == (204, str(MIB), "?0")
    assert "max-age" in told.headers["upload-limit"]
    astray = curl(*part, *headers("Upload-Offset: 5", "Upload-Complete: ?0"), data=b"x")
    assert (astray.status, astray.json()["expected-offset"]) == (409, MIB)
    done = curl(*part, *headers(f"Upload-Offset: {MIB}", "Upload-Complete: ?1"), data=DATA[MIB:])
    assert (done.status, done.json()["phase"], done.headers["upload-complete"]) == (200, "finished", "?1")
    assert_arrived_once(server, ticket, sha256(DATA))
    assert server.events(ticket)[0]["name"] == "über.bin"


@pytest.mark.requirement("ietf-9", "ietf-13", "ietf-33")
@pytest.mark.parametrize("length", ["known", "chunked"])
def test_curl_sends_all_in_one_request(address: Address, file: Path, length: str) -> None:
    server, url = address
    ticket = server.ticket()
    about = headers("Upload-Complete: ?1", "Upload-Draft-Interop-Version: 9", "Expect: 100-continue")
    source = ("--upload-file", str(file) if length == "known" else "-")
    done = curl(*source, f"{url}{UPLOADS}/{ticket}", *about, data=DATA)
    assert (done.status, done.json()["phase"]) == (200, "finished")
    assert_arrived_once(server, ticket, sha256(DATA))


def test_a_file_in_one_request_that_is_longer_than_our_own_chunks(address: Address, tmp_path: Path) -> None:
    server, url = address
    ticket = server.ticket()
    file = tmp_path / "long.bin"
    with file.open("wb") as empty:
        empty.truncate(65 * MIB)
    done = curl("--upload-file", str(file), f"{url}{UPLOADS}/{ticket}", *headers("Upload-Complete: ?1"))
    assert (done.status, done.json()["received"]) == (200, 65 * MIB)
    assert_arrived_once(server, ticket, sha256(file))


@pytest.mark.requirement("ietf-37")
def test_curl_cancels(address: Address) -> None:
    server, url = address
    location = f"{url}{UPLOADS}/{server.ticket()}"
    assert curl("-X", "POST", location, *headers("Upload-Complete: ?0")).status == 201
    assert curl("-X", "DELETE", location).status == 204
    assert curl("--head", location).status == 410


@pytest.mark.requirement("ietf-4")
def test_curl_asks_for_the_limits(address: Address) -> None:
    _, url = address
    answer = curl("-X", "OPTIONS", url + UPLOADS)
    assert (answer.status, answer.headers["upload-limit"]) == (204, f"max-size={2**40}")
    assert "PATCH" in answer.headers["allow"]


# -- tus-js-client ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["ietf-draft-03", "ietf-draft-05"])
def test_tus_js_client(address: Address, file: Path, protocol: str) -> None:
    server, url = address
    ticket = server.ticket()
    assert (ROOT / "tests" / "javascript" / "node_modules" / "tus-js-client").is_dir(), (
        "tests/javascript.sh installs it"
    )
    script = str(ROOT / "tests" / "support" / "tus_upload.mjs")
    command = [need("node"), script, protocol, f"{url}{UPLOADS}?ticket={ticket}", str(file), str(MIB)]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"NODE_TLS_REJECT_UNAUTHORIZED": "0"}, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert ticket in run.stdout, "it did not stop and go on"
    assert_arrived_once(server, ticket, sha256(DATA))


# -- on the wire ------------------------------------------------------------------------------------------------


def begin(method: str, path: str, *about: tuple[str, str], length: int | None = len(DATA)) -> bytes:
    """The head of a request whose body is to follow, of that length or in chunked coding."""
    framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
    return request(method, path, (framing, *about))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def offset_of(server: AppServer, path: str) -> tuple[int, str]:
    told = ask(server.port, "HEAD", path, [("Upload-Draft-Interop-Version", "9")])
    assert told.status == 204
    return int(told.headers["upload-offset"]), told.headers["upload-complete"]


def go_on(server: AppServer, path: str, offset: int) -> Answer:
    about = [PARTIAL, ("Upload-Offset", str(offset)), ("Upload-Complete", "?1")]
    return ask(server.port, "PATCH", path, about, DATA[offset:])


def reset(connection: Connection) -> None:
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def finish(connection: Connection) -> None:
    connection.send_nothing_more()
    connection.everything()


@pytest.mark.requirement("ietf-11", "ietf-29")
@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_cut_requests(kind: str, start_server: StartServer) -> None:
    """Of each kind of request, with each kind of framing, by each kind of end: a contiguous beginning is kept."""
    server = start_server(kind)
    for verb in ("POST", "PATCH"):
        for cut in (reset, finish):
            for length in (len(DATA), None):
                _is_kept_when_cut(server, verb, cut, length)


def _is_kept_when_cut(server: AppServer, verb: str, cut: Callable[[Connection], None], length: int | None) -> None:
    ticket = server.ticket()
    path = f"{UPLOADS}/{ticket}"
    complete = ("Upload-Complete", "?1")
    about = [complete, PARTIAL, ("Upload-Offset", "0")] if verb == "PATCH" else [complete]
    sent = 2 * MIB
    with Connection(server.port) as connection:
        connection.send(begin(verb, path, *about, length=length))
        connection.send(DATA[:sent] if length else chunk(DATA[:sent]))
        eventually(lambda: state(server, ticket)["state"] == "receiving")  # a request that is not there can't be ended
        if cut is reset and length:  # which may take what the server has not read yet
            eventually(lambda: received(server, ticket) > 0)
        cut(connection)
    offset, is_complete = offset_of(server, path)
    if cut is finish and length:
        assert offset == sent
    assert (cut is finish) <= offset <= sent, (verb, cut, length)  # gunicorn drops the last piece in chunked coding
    assert is_complete == "?0"
    done = go_on(server, path, offset)
    assert (done.status, done.json().get("phase")) == (200, "finished"), done
    assert_arrived_once(server, ticket, sha256(DATA))


def state(server: AppServer, ticket: str) -> dict[str, Any]:
    """How an upload is getting on, asked of the app: that ends no transfer."""
    return ask(server.port, "GET", f"/state/{ticket}").json()


def received(server: AppServer, ticket: str) -> int:
    """Bytes that are safe."""
    return int(state(server, ticket)["received"])


@pytest.mark.requirement("ietf-18", "ietf-38", "ietf-39")
@pytest.mark.parametrize("kind", ["pywsgi", "gevent"])
@pytest.mark.parametrize("verb", ["POST", "PATCH"])
def test_a_newer_request_ends_a_hung_one(start_server: StartServer, kind: str, verb: str) -> None:
    """In the same process; of two, perhaps in the other."""
    server = start_server(kind)
    ticket = server.ticket()
    path = f"{UPLOADS}/{ticket}"
    about = [("Upload-Complete", "?1"), *([PARTIAL, ("Upload-Offset", "0")] if verb == "PATCH" else [])]
    with Connection(server.port) as hung:
        hung.send(begin(verb, path if verb == "PATCH" else f"{UPLOADS}?ticket={ticket}", *about) + DATA[:MIB])
        eventually(lambda: received(server, ticket) == MIB)
        assert offset_of(server, path) == (MIB, "?0")
        done = go_on(server, path, MIB)
        assert (done.status, done.json()["phase"]) == (200, "finished")
    assert_arrived_once(server, ticket, sha256(DATA))


def test_a_worker_that_dies_in_the_middle(server: AppServer) -> None:
    ticket = server.ticket()
    path = f"{UPLOADS}/{ticket}"
    with Connection(server.port) as connection:
        connection.send(begin("PUT", path, ("Upload-Complete", "?1")) + DATA[:MIB])
        eventually(lambda: received(server, ticket) == MIB)
        server.kill()
    server.start()
    assert offset_of(server, path) == (MIB, "?0")
    assert go_on(server, path, MIB).json()["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))


@pytest.mark.requirement("ietf-26")
def test_a_crash_between_the_last_byte_and_completion(server: AppServer) -> None:
    """The client finds all of it here, and not complete; an empty request completes it."""
    ticket = server.ticket()
    path = f"{UPLOADS}/{ticket}"
    about = [("Upload-Complete", "?0"), ("Upload-Length", str(len(DATA)))]
    assert ask(server.port, "POST", path, about, DATA).status == 201
    server.kill()
    server.start()
    assert offset_of(server, path) == (len(DATA), "?0")
    assert go_on(server, path, len(DATA)).json()["phase"] == "finished"
    assert_arrived_once(server, ticket, sha256(DATA))
