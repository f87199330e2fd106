"""An upload in the middle of which a bad request comes, and what must hold of it afterwards."""

from __future__ import annotations

import hashlib
import random
import re
from typing import Any

from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .wire import Answer, Connection, WebSocket, request

#: The file that is on its way, and how many bytes of it are safe when the bad request comes.
DATA = random.Random(7).randbytes(100_000)
SAFE = 40_000

#: What no stranger may see: places in the file system, lines of code, traces.
_INTERNALS = re.compile(rb"Traceback|\.py\b|File \"|/tmp|/home|/work|/usr|site-packages|incoming_wsgi|sqlite", re.I)

_TRANSIENT = (423, 503, 507)


class Upload:
    """A file that has arrived in part."""

    def __init__(self, server: AppServer, ticket: str = "", data: bytes = DATA, safe: int = SAFE) -> None:
        self.server = server
        self.data = data
        self.ticket = ticket or server.ticket()
        self.client = ChunkClient(server.url, self.ticket, data)
        self.client.open()
        if safe:
            assert self.client.put(0, safe).status_code == 200
        self.before = self._facts()

    @property
    def path(self) -> str:
        return f"/incoming/frontend/uploads/{self.ticket}"

    @property
    def safe(self) -> int:
        received: int = self.before["received"]
        return received

    def chunk_headers(self, start: int, end: int, **changes: str | None) -> list[tuple[str, str]]:
        """The headers of a good chunk, changed by a test; ``None`` leaves one out."""
        headers: dict[str, str | None] = {
            "Content-Range": f"bytes {start}-{end - 1}/{len(self.data)}",
            "Content-Type": "application/octet-stream",
            "Incoming-Session": self.client.session,
        }
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        return [(name, value) for name, value in headers.items() if value is not None]

    def assert_unchanged(self) -> None:
        """State and bytes are what they were."""
        assert self._facts() == self.before

    def accept_growth(self) -> None:
        """More may have arrived meanwhile; nothing may be lost."""
        now = self._facts()
        assert now["received"] >= self.before["received"]
        self.before = now

    def complete(self) -> None:
        """Send what is missing, and see the app get the file, once and unspoilt."""
        self.client.send(self.client.open())
        self.wait_until_finished()
        self.assert_arrived()

    def wait_until_finished(self) -> None:
        eventually(lambda: self.client.status()["phase"] == "finished", what="the end of the hand-over")

    def send_the_rest(self) -> None:
        """Send what is missing, and do not wait for what the app does with the file."""
        with Connection(self.server.port) as connection:
            rest = self.chunk_headers(self.safe, len(self.data))
            connection.send(request("PUT", self.path, rest, self.data[self.safe :]))
            eventually(lambda: self.client.status()["phase"] != "uploading")

    def assert_arrived(self) -> None:
        arrived = self.server.wait_for_file(self.ticket).read_bytes()
        assert hashlib.sha256(arrived).digest() == hashlib.sha256(self.data).digest()
        assert len([event for event in self.server.events(self.ticket) if event["kind"] == "finished"]) == 1

    def close(self) -> None:
        self.client.http.close()

    def _facts(self) -> dict[str, Any]:
        status = self.client.status()
        return {name: status[name] for name in ("state", "received", "missing", "length")}

    # -- by WebSocket -----------------------------------------------------------------------------------------

    def connect(self) -> WebSocket:
        """A WebSocket that has said nothing yet."""
        return WebSocket(self.server.port)

    def ask_for(self, socket: WebSocket) -> None:
        """Say the first message of the protocol."""
        socket.say("MsgUploadReq", Id=self.ticket, LengthBytes=len(self.data), Name="file.bin")

    def resume(self) -> WebSocket:
        """A WebSocket with the handshake behind it: chunks are due."""
        socket = self.connect()
        self.ask_for(socket)
        kind, conf = socket.hear()
        assert (kind, conf["FilePos"]) == ("MsgUploadConf", self.safe)
        socket.say("MsgAck", Ack=True)
        return socket


def assert_refused(answer: Answer, status: int, *, about: str = "") -> None:
    """An error as it should be: of that status, short, in a sentence, never cached, and showing nothing of the inside.

    :param about: a word that the sentence has.
    """
    assert answer.status == status, answer
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status in _TRANSIENT:
        assert int(answer.headers["retry-after"]) >= 1
    assert not _INTERNALS.search(answer.body), answer.body
    assert_sentence(sentence_of(answer), about)


def assert_sentence(sentence: str, about: str = "") -> None:
    """One sentence that a stranger can act on."""
    assert 10 < len(sentence) < 200, sentence
    assert sentence.endswith("."), sentence
    assert about.lower() in sentence.lower(), sentence
    assert not _INTERNALS.search(sentence.encode()), sentence


def sentence_of(answer: Answer) -> str:
    """What an error says: text from the back-end API, JSON from everything else."""
    if answer.headers["content-type"].startswith("text/plain"):
        return answer.body.decode()
    error = answer.json()["error"]
    assert set(error) == {"code", "name", "message", "retryable"}
    return str(error["message"])
