"""Incoming!! under gunicorn, as shipped: durability, registry and outbox on."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from tests.support.processes import ROOT
from tests.support.waiting import eventually

from ..load import Lane, Request, Sent, request
from .server import Server

_BYTES = "application/octet-stream"
_LONGEST_WAIT = 300  # seconds for the app to be told of a file


class Ours(Server):
    """:param settings: options of ``Incoming`` that differ from the defaults, as the environment spells them."""

    def __init__(self, name: str, folder: Path, workers: int = 1, **settings: str) -> None:
        super().__init__(name, folder, workers)
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = {f"INCOMING_{key.upper()}": value for key, value in settings.items()}
        self._expected = 0  # files that the app is to be told of

    def command(self) -> list[str]:
        options = ["-k", "gevent", "-w", str(self.workers), "--worker-connections", "8000", "--no-control-socket"]
        return [sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{self.port}", "bench.app:app"]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(ROOT), "RECORD": str(self.folder), **self._settings}

    def ticket(self, **metadata: str) -> str:
        answer = requests.post(f"{self.url}/ticket", params=metadata, timeout=30)
        answer.raise_for_status()
        self._expected += "wait" not in metadata
        return answer.text

    def lanes(self, lengths: Sequence[int]) -> list[Lane]:
        return [self.lane(self.ticket(), length) for length in lengths]

    def tickets(self, count: int) -> list[Request]:
        """Requests for tickets that nobody will use."""
        return [request("POST", "/ticket?wait=")] * count

    def lane(self, ticket: str, length: int, most: int = 0) -> Lane:
        """A file of this length, chunk by chunk; it is opened here.

        :param most: bytes of a chunk, where they are to be shorter than the server allows.
        """
        path = f"/incoming/frontend/uploads/{ticket}"
        headers = {"Incoming-Length": str(length), "Incoming-Name": "large.bin"}
        answer = requests.post(self.url + path, headers=headers, timeout=30)
        answer.raise_for_status()
        status = answer.json()
        size, session = most or status["chunk_size"], status["session"]
        pieces = [(start, min(start + size, length)) for start in range(0, length, size)]
        return [_chunk(path, session, start, end, length) for start, end in pieces]

    def lives(self, count: int, length: int) -> list[Request]:
        """Whole lives of small files: the ticket, then everything else in one request."""
        self._expected += count
        upload = request(
            "POST",
            "/incoming/frontend/uploads/@@",
            length,
            Content_Type=_BYTES,
            Incoming_Length=str(length),
            Incoming_Name="small.bin",
        )
        return [request("POST", "/ticket", keep="b"), upload] * count

    def arrived(self, sent: Sent) -> float:
        events = eventually(self._events, _LONGEST_WAIT, "the app being told")
        return max(sent.ended, *(float(event["done"]) for event in events))

    def told(self, ticket: str) -> float:
        """The moment at which the app was told of a file."""
        events = eventually(self._events, _LONGEST_WAIT, "the app being told")
        return next(float(event["told"]) for event in events if event["id"] == ticket)

    def clear(self) -> None:
        super().clear()
        self._expected = 0
        (self.folder / "events").unlink(missing_ok=True)

    def _events(self) -> list[dict[str, Any]]:
        """Those of the files that tickets were asked for, when they are all there."""
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines] if len(lines) >= self._expected else []


class OursByTus(Ours):
    """As tus clients speak with it."""

    def lane(self, ticket: str, length: int, most: int = 0) -> Lane:  # noqa: ARG002 (all of it at once)
        return by_tus(self.url, ticket, length)


def by_tus(url: str, ticket: str, length: int) -> Lane:
    """A file by tus: its creation, which is said here, then all bytes in one request.

    :param url: of one of ours.
    """
    uploads = "/incoming/frontend/uploads"
    given = {"Upload-Length": str(length), "Tus-Resumable": "1.0.0", "Incoming-Ticket": ticket}
    requests.post(url + uploads, headers=given, timeout=30).raise_for_status()
    return [
        request(
            "PATCH",
            f"{uploads}/{ticket}",
            length,
            Content_Type="application/offset+octet-stream",
            Upload_Offset="0",
            Tus_Resumable="1.0.0",
        )
    ]


def _chunk(path: str, session: str, start: int, end: int, length: int) -> Request:
    return request(
        "PUT",
        path,
        end - start,
        Content_Type=_BYTES,
        Content_Range=f"bytes {start}-{end - 1}/{length}",
        Incoming_Session=session,
    )
