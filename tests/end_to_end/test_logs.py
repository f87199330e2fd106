"""Every kind of request, with tickets and secrets in all places where they can be: none of them is whole in any log."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.bad_inputs.wire import WebSocket, ask
from tests.support.chunk_client import ChunkClient
from tests.support.nginx import Nginx
from tests.support.processes import ROOT, AppServer, free_port
from tests.support.waiting import eventually

from .test_standalone import BackEnd, Standalone, standalone

KEY, SECRET = "k3y-of-the-back-end", "s3cret-of-the-ticket"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
UPLOADS = "/incoming/frontend/uploads"
DATA = bytes(1000)


def documented_options() -> tuple[str, ...]:
    """gunicorn's, for its access log."""
    text = (ROOT / "docs" / "deployment.rst").read_text("utf-8")
    found = re.search(r"gunicorn (--access-logfile .*) …", text)
    assert found is not None
    return tuple(shlex.split(found[1]))


class Scene:
    """:ivar whole: what must be in no log."""

    def __init__(self, server: AppServer, nginx: Nginx) -> None:
        self.server = server
        self.nginx = nginx
        self.whole: list[str] = [KEY, SECRET]

    def ticket(self, **parameters: str) -> str:
        """By the back-end API, with a secret in the query and in the form."""
        headers = {"Authorization": f"Bearer {KEY}"}
        given = {"signalFinishURL": "/api/arrived", **parameters}
        url = f"{self.server.url}/incoming/backend/new_upload"
        answer = requests.post(url, params={**given, "backendSecret": SECRET}, headers=headers, timeout=10)
        assert answer.ok, answer.text
        self.whole.append(answer.text)
        return answer.text

    def own_dialect(self, url: str) -> None:
        client = ChunkClient(url, self.ticket(), DATA, name=SECRET)
        status = client.open()
        self.whole.append(client.session)
        client.put(0, 10)
        client.put(0, 10, **{"Incoming-Session": "another"})
        client.put(900, 1100)
        client.http.post(f"{client.resource}/pause", headers={"Incoming-Session": client.session}, timeout=10)
        client.http.put(client.resource, data=b"x", timeout=10)
        client.http.put(client.resource, data=b"x", headers={"Origin": "null"}, timeout=10)
        client.http.get(client.resource + client.resource[-36:], timeout=10)
        client.http.get(f"{client.resource}?wait=%ff", timeout=10)
        client.send({**client.open(), "chunk_size": status["chunk_size"]})
        eventually(lambda: client.status()["phase"] != "uploading")
        client.cancel()
        client.http.close()

    def dialects_of_others(self, port: int) -> None:
        tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000"}
        draft = {"Upload-Complete": "?0", "Upload-Draft-Interop-Version": "8"}
        for good in (tus, draft):
            ticket = self.ticket()
            encoded = base64.b64encode(ticket.encode()).decode()
            self.whole.append(encoded)
            path = f"{UPLOADS}/{ticket}"
            metadata = {"Upload-Metadata": f"ticket {encoded}"} if good is tus else {}
            ask(port, "POST", UPLOADS, {**good, **metadata}.items(), b"")
            ask(port, "POST", UPLOADS, {**good, "Incoming-Ticket": ticket}.items(), b"")
            ask(port, "POST", f"{UPLOADS}?ticket={ticket}", good.items(), b"")
            ask(port, "POST", f"{UPLOADS}?ticket={ticket}&again={ticket}", {**good, "Upload-Length": "x"}.items(), b"")
            ask(port, "HEAD", path, good.items())
            for headers in ({**good, "Upload-Offset": "0"}, {**good, "Upload-Offset": "9"}, {"Origin": "null"}):
                media_type = "application/offset+octet-stream" if good is tus else "application/partial-upload"
                ask(port, "PATCH", path, {**headers, "Content-Type": media_type}.items(), b"0123456789")
            ask(port, "DELETE", path, {name: good[name] for name in list(good)[:1]}.items())
            ask(port, "PATCH", path, good.items(), b"x")

    def websockets(self, port: int) -> None:
        for length in (3, -1):
            ticket = self.ticket()
            with WebSocket(port) as socket:
                socket.say("MsgUploadReq", Id=ticket, LengthBytes=length, Name=SECRET)
                socket.say("MsgAck", Ack=True)
                socket.chunk(b"abc")
                socket.say("MsgCancel", Reason=SECRET)
                socket.hear_until_the_end()
            with WebSocket(port) as socket:
                socket.text(f'{{"MsgType": "{SECRET}", "MsgData": {{"Id": "{ticket}"}}')
                socket.hear_until_the_end()
            with WebSocket(port) as socket:
                socket.say(ticket, Id=ticket)
                socket.say("MsgUploadReq", Id=ticket + "x", LengthBytes=1, Name="x")
                socket.hear_until_the_end()

    def back_end(self) -> None:
        ticket = self.ticket()
        for key in (KEY, KEY + "x"):
            for call in ("cancel_upload", "finish_upload"):
                for secret in (SECRET + "x", SECRET):
                    url = f"{self.server.url}/incoming/backend/{call}"
                    given = {"id": ticket, "backendSecret": secret}
                    headers = {"Authorization": f"Bearer {key}"}
                    requests.post(url, params=given, headers=headers, timeout=10)
                    requests.post(url, data=given, headers={**headers, **FORM}, timeout=10)
        unreachable = self.ticket(signalFinishURL=f"/nowhere/{SECRET}?token={SECRET}")
        client = ChunkClient(self.server.url, unreachable, b"x")
        client.open(b"x")
        client.http.close()
        eventually(lambda: f"hand-over of {unreachable[:8]}" in self.server.log(), what="the refused hand-over")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder: Path = tmp_path_factory.mktemp("logs")
    env = {"LEVEL": "DEBUG", "BACKEND_KEY": KEY}
    with (
        AppServer("gevent", folder, env, options=documented_options()) as server,
        Nginx(folder / "nginx", server.port, recommended=True) as nginx,
    ):
        yield Scene(server, nginx)


def test_no_log_has_one(scene: Scene) -> None:
    for url, port in ((scene.server.url, scene.server.port), (scene.nginx.url, scene.nginx.port)):
        scene.own_dialect(url)
        scene.dialects_of_others(port)
        scene.websockets(port)
    scene.back_end()
    logs = scene.server.log() + scene.nginx.logs()
    assert [line for line in logs.splitlines() if any(text in line for text in scene.whole)] == []
    tickets = [text for text in scene.whole if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", text)]
    assert len(tickets) > 10
    assert all(ticket[:8] in logs for ticket in tickets), "a log should help to find what happened"
    assert " PATCH " in scene.server.log(), "gunicorn's access log is on"
    assert f"{UPLOADS}/" in scene.nginx.logs(), "and so is that of nginx"


class Alone(Scene):
    """The stand-alone server: tickets are had by its internal listener, files are announced to another program."""

    def __init__(self, server: Standalone, nginx: Nginx, back_end: BackEnd) -> None:
        super().__init__(server, nginx)  # type: ignore[arg-type]  # as far as it is used here
        self._standalone, self._back_end = server, back_end

    def ticket(self, **parameters: str) -> str:
        made: str = self._standalone.ticket(self._back_end, KEY, backendSecret=SECRET, **parameters)
        self.whole.append(made)
        return made

    def calls(self) -> None:
        """Of the back end: right ones, and with a key or a secret that is wrong."""
        for key in (KEY, KEY + "x"):
            for secret in (SECRET, SECRET + "x"):
                ticket = self.ticket()
                for call in ("finish_upload", "renew_upload", "cancel_upload"):
                    self._standalone.call(call, key, id=ticket, backendSecret=secret, expiresIn="100")
                address = f"{self._standalone.internal}/incoming/backend/uploads/{ticket}/file"
                requests.get(address, params={"backendSecret": secret}, auth=("x", key), timeout=10)

    def unreachable(self) -> str:
        """One whose back end is not there; the URL has a secret, too."""
        url = f"http://127.0.0.1:{free_port()}/{SECRET}?token={SECRET}"
        made = self._standalone.call("new_upload", KEY, signalFinishURL=url, backendSecret=SECRET).text
        self.whole.append(made)
        client = ChunkClient(self._standalone.public, made, b"x")
        client.open(b"x")
        client.http.close()
        return made


@pytest.fixture
def back_end() -> Iterator[BackEnd]:
    made = BackEnd()
    yield made
    made.close()


def test_no_log_of_the_stand_alone_server_has_one(tmp_path: Path, back_end: BackEnd) -> None:
    """At level debug, its access log included."""
    with standalone(tmp_path, "--log-level", "debug", "--backend-key", KEY) as server:
        port = int(server.public.rpartition(":")[2])
        with Nginx(tmp_path / "nginx", port, recommended=True) as nginx:
            scene = Alone(server, nginx, back_end)
            for url in (server.public, nginx.url):
                scene.own_dialect(url)
                scene.dialects_of_others(int(url.rpartition(":")[2]))
                scene.websockets(int(url.rpartition(":")[2]))
            scene.calls()
            unreachable = scene.unreachable()
            log = tmp_path / "server.log"
            eventually(lambda: f"hand-over of {unreachable[:8]}" in log.read_text(), what="the failed hand-over")
            logs = log.read_text() + nginx.logs()
    logs += (tmp_path / "server.log").read_text()
    assert [line for line in logs.splitlines() if any(text in line for text in scene.whole)] == []
    tickets = [text for text in scene.whole if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", text)]
    assert len(tickets) > 10
    assert all(ticket[:8] in logs for ticket in tickets), "a log should help to find what happened"
