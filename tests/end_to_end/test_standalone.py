"""The stand-alone server, as a back end in any language meets it, and the operator's commands."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import requests

from tests.support.chunk_client import ChunkClient
from tests.support.processes import ROOT, Process, free_port
from tests.support.redis_server import RedisServer
from tests.support.s3_server import CREDENTIALS, S3Server
from tests.support.waiting import eventually

from .conftest import Connect, OpenPage, data_of, sha256

DATA = data_of(3_000_000)


class BackEnd:
    """A back end on its own port that knows nothing of Python's side: it gets calls and answers a word.

    :ivar answers: what it answers, in order; then ``done``.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, str]] = []
        self.answers: list[str | int] = []
        back_end = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                fields = {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
                back_end.calls.append(fields)
                answer = back_end.answers.pop(0) if back_end.answers else "done"
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                self.wfile.write(str(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/arrived"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Standalone:
    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._bind, self._backend_bind = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.public, self.internal = f"http://{self._bind}", f"http://{self._backend_bind}"
        command = [sys.executable, "-m", "incoming_wsgi", "--bind", self._bind, "--backend-bind", self._backend_bind]
        self._process = Process([*command, "--storage", str(folder / "in"), *options], folder / "server.log")
        eventually(self._answers, what="the server answering")

    def _answers(self) -> bool:
        assert self._process.is_running, (self.folder / "server.log").read_text()
        try:
            return requests.get(f"{self.internal}/incoming/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def call(self, name: str, key: str = "", **values: str) -> requests.Response:
        auth = ("x", key) if key else None
        return requests.post(f"{self.internal}/incoming/0.1/backend/{name}", params=values, auth=auth, timeout=10)

    def ticket(self, back_end: BackEnd, key: str = "", **values: str) -> str:
        response = self.call("new_upload", key, signalFinishURL=back_end.url, **values)
        assert response.status_code == 200, response.text
        return response.text

    def stop(self) -> None:
        self._process.stop()


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    made = BackEnd()
    yield made
    made.close()


@contextmanager
def standalone(folder: Path, *options: str) -> Iterator[Standalone]:
    server = Standalone(folder, *options)
    try:
        yield server
    finally:
        server.stop()


def operate(server: Standalone, *words: str) -> str:
    command = [sys.executable, "-c", "import sys; from incoming_wsgi.__main__ import run_operator as r; sys.exit(r())"]
    arguments = [*command, *words, "--storage", str(server.folder / "in")]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_whole_life(tmp_path: Path, back_end: BackEnd, connect: Connect) -> None:
    """As in the seeds: a ticket by POST, a 0.1 front end, the call, `done`; the file stays for the back end."""
    with standalone(tmp_path) as server:
        ticket = server.ticket(back_end, backendSecret="s3cret", removeFileWhenFinished="false")
        connect(server.public, ticket, DATA, "../Übung 1.bin").upload()
    (call,) = back_end.calls
    assert call["id"] == ticket
    assert call["filenameFromBrowser"] == "../Übung 1.bin"
    assert call["backendSecret"] == call["signalFinishSecret"] == "s3cret"
    assert (call["cancelled"], call["cancelReason"]) == ("no", "")
    assert sha256(Path(call["filename"])) == sha256(DATA)


def test_wait_and_finish_later(tmp_path: Path, back_end: BackEnd, connect: Connect) -> None:
    back_end.answers = ["wait"]
    with standalone(tmp_path) as server:
        ticket = server.ticket(back_end, backendSecret="s3cret")
        front_end = connect(server.public, ticket, DATA)
        front_end.open()
        front_end.send_chunks()
        path = Path(eventually(lambda: back_end.calls)[0]["filename"])
        assert server.call("finish_upload", id=ticket, backendSecret="wrong").status_code == 403
        assert server.call("finish_upload", id=ticket, backendSecret="s3cret").text == "ok"
        front_end.finish()
        eventually(lambda: not path.exists(), what="the file being removed")


def test_a_failed_call_is_repeated_with_the_same_event_id(
    tmp_path: Path, back_end: BackEnd, chunk_client: Callable[..., ChunkClient]
) -> None:
    back_end.answers = [500]
    with standalone(tmp_path) as server:
        ticket = server.ticket(back_end)
        chunk_client(server.public, ticket, DATA).upload()
    assert [call["attempt"] for call in back_end.calls] == ["1", "2"]
    assert len({call["eventId"] for call in back_end.calls}) == 1


def test_each_listener_serves_its_own(tmp_path: Path, back_end: BackEnd) -> None:
    with standalone(tmp_path) as server:
        ticket = server.ticket(back_end)
        front, back = f"/incoming/0.1/frontend/uploads/{ticket}", f"/incoming/0.1/backend/uploads/{ticket}"
        assert requests.get(server.public + front, timeout=5).status_code == 200
        assert requests.get(server.internal + back, timeout=5).status_code == 200
        assert requests.get(server.internal + front, timeout=5).status_code == 404
        assert requests.get(server.public + back, timeout=5).status_code == 404
        lie = {"Host": server.internal.removeprefix("http://")}
        assert requests.get(server.public + back, headers=lie, timeout=5).status_code == 404
        assert requests.get(server.public + "/incoming/ready", timeout=5).status_code == 200


def test_the_file_for_a_back_end_elsewhere(
    tmp_path: Path, back_end: BackEnd, chunk_client: Callable[..., ChunkClient]
) -> None:
    back_end.answers = ["wait"]
    with standalone(tmp_path) as server:
        ticket = server.ticket(back_end, backendSecret="s3cret")
        chunk_client(server.public, ticket, DATA).send(chunk_client(server.public, ticket, DATA).open(DATA))
        eventually(lambda: back_end.calls)
        address = f"{server.internal}/incoming/backend/uploads/{ticket}/file"
        assert requests.get(address, timeout=5).status_code == 403
        secret = {"Incoming-Secret": "s3cret"}
        assert requests.get(address, headers=secret, timeout=30).content == DATA
        part = requests.get(address, headers={**secret, "Range": "bytes=1000-1999"}, timeout=5)
        assert (part.status_code, part.content) == (206, DATA[1000:2000])


def test_several_apps_keep_apart(tmp_path: Path, back_end: BackEnd, chunk_client: Callable[..., ChunkClient]) -> None:
    config = tmp_path / "apps.ini"
    config.write_text(
        f"[app:one]\nkey = key-one\nstorage = {tmp_path}/one\nmax_length = 1M\n\n[app:two]\nkey = key-two\n"
    )
    with standalone(tmp_path, "--config", str(config)) as server:
        assert server.call("new_upload", signalFinishURL=back_end.url).status_code == 401
        assert server.call("new_upload", "key-three", signalFinishURL=back_end.url).status_code == 401
        mine, other = server.ticket(back_end, "key-one"), server.ticket(back_end, "key-two")
        assert server.call("cancel_upload", "key-one", id=other).status_code == 400
        address = f"{server.internal}/incoming/backend/uploads/{other}"
        assert requests.get(address, auth=("x", "key-one"), timeout=5).status_code == 404
        assert requests.get(address, auth=("x", "key-two"), timeout=5).status_code == 200
        refused = requests.post(
            f"{server.public}/incoming/frontend/uploads/{mine}",
            headers={"Incoming-Length": "1048577", "Incoming-Name": "x"},
            timeout=5,
        )
        assert refused.status_code == 413
        chunk_client(server.public, mine, DATA[:1000]).open(DATA[:1000])
        chunk_client(server.public, other, DATA).upload()
    folders = {Path(call["filename"]).parents[1] for call in back_end.calls}
    assert folders == {tmp_path / "one", tmp_path / "in" / "two"}


def test_pages_of_another_origin(tmp_path: Path, back_end: BackEnd, open_page: OpenPage) -> None:
    """The library of a central server works on the page of an app elsewhere, if the operator says so."""
    page_server = BackEndWithPage()
    allowed = page_server.url
    try:
        with standalone(tmp_path, "--allow-origin", allowed) as server:
            for transport in ("http", "websocket"):
                ticket = server.ticket(back_end)
                page_server.page = _PAGE.format(host=server.public)
                page = open_page(allowed)
                (tmp_path / "file.bin").write_bytes(DATA)
                page.upload(tmp_path / "file.bin", ticket, transport)
                page.wait_until_finished()
        with standalone(tmp_path) as server:  # and not, if not
            page_server.page = _PAGE.format(host=server.public)
            page = open_page(allowed)
            page.upload(tmp_path / "file.bin", server.ticket(back_end), "websocket")
            page.wait_for("uploader.error_code || uploader.state_msg.includes('again')", 30)
            assert page.get("bytes_acked") == 0
    finally:
        page_server.close()
    assert len(back_end.calls) == 2


_PAGE = """<!doctype html><meta charset="utf-8"><input type="file" id="file">
<script src="{host}/incoming/frontend/incoming.js"></script>"""


class BackEndWithPage:
    """Serves one page, as the app's own server does."""

    def __init__(self) -> None:
        self.page = ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(server.page.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_the_operator_looks_and_helps(
    tmp_path: Path, back_end: BackEnd, chunk_client: Callable[..., ChunkClient]
) -> None:
    back_end.answers = [500]
    with standalone(tmp_path) as server:
        waiting, stuck = server.ticket(back_end), server.ticket(back_end)
        client = chunk_client(server.public, stuck, DATA)
        client.send(client.open())
        eventually(lambda: back_end.calls)
        listing = operate(server, "list")
        assert waiting in listing
        assert "handing_over" in listing
        assert "answered with status 500" in eventually(
            lambda: text if "500" in (text := operate(server, "show", stuck)) else ""
        )
        operate(server, "retry", stuck)
        assert client.wait(client.status())["phase"] == "finished"
        operate(server, "cancel", waiting)
        assert eventually(lambda: [call for call in back_end.calls if call["id"] == waiting])[0]["cancelled"] == "yes"
        assert "cancelled" in operate(server, "list")
        assert "0 closed uploads" in operate(server, "cleanup")


def test_refuses_an_open_back_end_without_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "incoming_wsgi", "--backend-bind", "0.0.0.0:1", "--storage", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert finished.returncode == 2
    assert "--backend-key" in finished.stderr


def test_figures_of_all_workers(tmp_path: Path, back_end: BackEnd, chunk_client: Callable[..., ChunkClient]) -> None:
    """On the internal listener only, and only where they are wanted."""
    with standalone(tmp_path, "--metrics", "yes", "--workers", "2", "--owner-uploads", "3") as server:
        answers = [server.call("new_upload", signalFinishURL=back_end.url, owner="me") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert requests.get(f"{server.public}/incoming/metrics", timeout=10).status_code == 404
        figures = requests.get(f"{server.internal}/incoming/metrics", timeout=10).text
        assert "incoming_uploads_created_total 3.0" in figures
        assert 'incoming_refusals_total{error="over_quota"} 2.0' in figures
        client = chunk_client(server.public, answers[0].text, DATA)
        client.upload()
        eventually(lambda: back_end.calls)
        eventually(
            lambda: (
                'incoming_upload_moves_total{state="finished"} 1.0'
                in requests.get(f"{server.internal}/incoming/metrics", timeout=10).text
            )
        )
        figures = requests.get(f"{server.internal}/incoming/metrics", timeout=10).text
        assert "incoming_received_bytes_total 3e+06" in figures
        trail = operate(server, "trail", answers[0].text)
        assert trail.splitlines()[0].split()[2] == "waiting"
        assert "finished" in trail.splitlines()[-1]
    without = tmp_path / "without"
    without.mkdir()
    with standalone(without) as server:
        assert requests.get(f"{server.internal}/incoming/metrics", timeout=10).status_code == 404


def test_two_servers_for_a_whole_organisation(
    tmp_path: Path,
    back_end: BackEnd,
    chunk_client: Callable[..., ChunkClient],
    ceph: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Redis and Ceph: a ticket from one, chunks by turns, and the back end hears of it once."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = ceph.bucket()
    with RedisServer(tmp_path / "redis", "always") as redis, ExitStack() as stack:
        options = ("--registry", redis.url, "--storage", ceph.url(bucket, part_size=5 * 2**20))
        one, two = (stack.enter_context(standalone(tmp_path / name, *options)) for name in ("one", "two"))
        ticket, data = one.ticket(back_end, removeFileWhenFinished="false"), data_of(12_000_000)
        clients = [chunk_client(server.public, ticket, data) for server in (one, two)]
        clients[0].open()
        clients[1].session = clients[0].session
        for client, start in zip(itertools.cycle(clients), range(0, len(data), 3_000_000), strict=False):
            assert client.put(start, min(start + 3_000_000, len(data))).status_code == 200
        eventually(lambda: clients[1].status()["phase"] == "finished")
        (call,) = back_end.calls
        assert call["id"] == ticket
        place, _, key = call["filename"].removeprefix("s3://").partition("/")
        assert place == bucket
        stored: bytes = ceph.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        assert sha256(stored) == sha256(data)
