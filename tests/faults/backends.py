"""A back end that misbehaves: it takes hand-over calls in a process of its own, which dies at times.

It does what our documentation tells a back end to do: it checks the signature, and acts within ``Once.first_time``.
What it does is written down as it happens, so that the dead tell, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import multiprocessing
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from incoming_wsgi.once import Once
from incoming_wsgi.signatures import BadSignature, verify
from tests.support.processes import records_of

_forked = multiprocessing.get_context("fork")

#: Seconds for which a back end hangs, or drips; longer than the hand-over waits.
_HANGS = 0.3

SIGNING_KEY = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


class BackEnd:
    """One after the other in processes of their own, on one address, by one plan.

    :param misdeeds: what to do wrong with the first, second … call; then it is well.
    :param takes_away: whether it moves the files to itself; else it reads them where they are.
    """

    def __init__(self, folder: Path, misdeeds: list[str], takes_away: bool) -> None:
        self._folder = folder
        self._misdeeds = misdeeds
        self._takes_away = takes_away
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._count = mmap.mmap(-1, 8)  # of calls; shared with the processes
        self._process: Any = None
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/arrived?by=url"
        self.deaths = 0
        (folder / "taken").mkdir()

    def look_after(self) -> None:
        """Start it, if it is not running."""
        if self._process is None or not self._process.is_alive():
            self.deaths += self._process is not None
            self._process = _forked.Process(target=self._serve, daemon=True)
            self._process.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._listener.close()

    @property
    def done_wrong(self) -> list[str]:
        """The misdeeds so far."""
        return self._misdeeds[: int.from_bytes(self._count, "big")]

    def story(self, upload_id: str) -> list[dict[str, str]]:
        """What it has done about an upload, in order."""
        return records_of(self._folder / "story", upload_id)

    def taken(self, upload_id: str) -> Path:
        return self._folder / "taken" / upload_id

    # -- in its process ----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            done = int.from_bytes(self._count, "big")
            self._count[:] = (done + 1).to_bytes(8, "big")
            misdeed = self._misdeeds[done] if done < len(self._misdeeds) else "none"
            threading.Thread(target=self._take, args=(connection, misdeed), daemon=True).start()

    def _take(self, connection: socket.socket, misdeed: str) -> None:
        with connection, contextlib.suppress(OSError):
            if misdeed == "drops the connection before reading":
                return
            headers, body = _request(connection)
            if misdeed == "dies before it acts":
                _die()
            name, _, what = misdeed.partition(", having ")
            if what or misdeed == "none" or misdeed in _DEATHS:
                self._act(headers, body, misdeed)
            if misdeed == "dies before it answers":
                _die()
            _ANSWERS.get(name, _well)(connection)

    def _act(self, headers: Mapping[str, str], body: bytes, misdeed: str) -> None:
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        try:
            event_id = verify([SIGNING_KEY], headers, body)
        except BadSignature:
            self._write_down("refused", form)
            raise
        assert form["eventId"] == event_id
        with Once(self._folder / "events.sqlite3").first_time(event_id) as first:
            if first:
                if misdeed == "dies in the block, before it acts":
                    _die()
                self._write_down("effect", form, sha256=self._use(form))
                if misdeed == "dies in the block, before it takes the file":
                    _die()
                if self._takes_away:
                    os.rename(form["filename"], self.taken(form["id"]))
                if misdeed == "dies in the block":
                    _die()
        self._write_down("settled", form)

    def _use(self, form: Mapping[str, str]) -> str:
        return hashlib.sha256(Path(form["filename"]).read_bytes()).hexdigest()

    def _write_down(self, what: str, form: Mapping[str, str], **more: str) -> None:
        line = {"what": what, "id": form["id"], "event_id": form["eventId"], **more}
        with (self._folder / "story").open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


def _request(connection: socket.socket) -> tuple[dict[str, str], bytes]:
    with connection.makefile("rb") as reader:
        reader.readline()
        headers = {}
        while line := reader.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", 0)))
        if not body or len(body) < int(headers["content-length"]):
            raise ConnectionError("whoever called has died in the middle of it")
        return headers, body


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _well(connection: socket.socket) -> None:
    connection.sendall(_ok(b"done"))


def _ok(body: bytes, length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % length + body


def _says(answer: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(answer)


def _drips(connection: socket.socket) -> None:
    deadline = time.monotonic() + _HANGS
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndone")
    while time.monotonic() < deadline:
        time.sleep(0.02)
        connection.sendall(b" ")


def _hangs(connection: socket.socket) -> None:
    time.sleep(_HANGS)


def _resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


_ANSWERS: Mapping[str, Callable[[socket.socket], None]] = {
    "drops the connection": _says(b""),
    "resets the connection": _resets,
    "hangs": _hangs,
    "drips": _drips,
    "answers garbage": _says(bytes(range(256))),
    "answers half a status line": _says(b"HTTP/1.1 20"),
    "cuts its answer": _says(_ok(b"done", length=100)),
    "answers 500": _says(b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\ndone"),
    "answers 503 with Retry-After": _says(b"HTTP/1.1 503 Oh\r\nRetry-After: 9\r\nContent-Length: 4\r\n\r\ndone"),
    "redirects": _says(b"HTTP/1.1 307 There\r\nLocation: /arrived\r\nContent-Length: 4\r\n\r\ndone"),
    "answers neither done nor wait": _says(_ok(b"donewait")),
    "answers with nothing": _says(_ok(b"")),
    "answers wait, and forgets": _says(_ok(b" wait\n")),
}

_DEATHS = (
    "dies in the block, before it acts",
    "dies in the block, before it takes the file",
    "dies in the block",
    "dies before it answers",
)

#: Of each kind one that has acted, and one that has not.
MISDEEDS = (
    "drops the connection before reading",
    "dies before it acts",
    *_DEATHS,
    *_ANSWERS,
    *(f"{name}, having acted" for name in _ANSWERS),
)


def misdeeds(chance: random.Random, count: int) -> list[str]:
    return [chance.choice(MISDEEDS) for _ in range(count)]
