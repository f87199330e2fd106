"""A client of the HTTP chunks, by hand: as plain as a script that somebody would write after reading the docs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry


class Refused(AssertionError):
    """The server did not answer with 200."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text}")
        self.status = response.status_code


class ChunkClient:
    """:param url: of the server, ``http://…``."""

    def __init__(self, url: str, ticket: str, data: bytes, name: str = "file.bin") -> None:
        self.http = requests.Session()
        # A server may close a connection that was idle, just as it is used again; to ask twice does no harm.
        self.http.mount("http://", HTTPAdapter(max_retries=Retry(2, allowed_methods=["GET"])))
        self.resource = f"{url}/incoming/frontend/uploads/{ticket}"
        self.data = data
        self._name = name
        self.session = ""
        self.chunk_size = 0

    def open(self, body: bytes = b"") -> dict[str, Any]:
        headers = {
            "Incoming-Length": str(len(self.data)),
            "Incoming-Name": quote(self._name),
            "Content-Type": "application/octet-stream",
        }
        status = self.answer(self.http.post(self.resource, data=body, headers=headers, timeout=60))
        self.session = status.get("session", "")
        self.chunk_size = status["chunk_size"]
        return status

    def put(self, start: int, end: int, **headers: str) -> requests.Response:
        """One chunk; the answer as it comes."""
        about = {
            "Content-Range": f"bytes {start}-{end - 1}/{len(self.data)}",
            "Content-Type": "application/octet-stream",
            "Incoming-Session": self.session,
        }
        return self.http.put(self.resource, data=self.data[start:end], headers={**about, **headers}, timeout=60)

    def head(self, start: int, end: int) -> bytes:
        """The head of the same request, for those who send its body by hand."""
        resource = urlsplit(self.resource)
        lines = (
            f"PUT {resource.path} HTTP/1.1",
            f"Host: {resource.netloc}",
            f"Content-Range: bytes {start}-{end - 1}/{len(self.data)}",
            f"Content-Length: {end - start}",
            "Content-Type: application/octet-stream",
            f"Incoming-Session: {self.session}",
        )
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode()

    def send(self, status: dict[str, Any]) -> dict[str, Any]:
        """What is missing by ``status``, chunk by chunk."""
        while status["missing"]:
            start, end = status["missing"][0]
            status = self.answer(self.put(start, min(end, start + self.chunk_size)))
        return status

    def wait(self, status: dict[str, Any]) -> dict[str, Any]:
        """Until the app is done with the file."""
        while status["phase"] in ("uploading", "processing"):
            params = {"wait": "5", "since": str(status["version"])}
            status = self.answer(self.http.get(self.resource, params=params, timeout=60))
        return status

    def upload(self) -> dict[str, Any]:
        return self.wait(self.send(self.open()))

    def status(self) -> dict[str, Any]:
        return self.answer(self.http.get(self.resource, timeout=60))

    def cancel(self) -> requests.Response:
        return self.http.delete(self.resource, timeout=60)

    @staticmethod
    def answer(response: requests.Response) -> dict[str, Any]:
        if response.status_code != 200:
            raise Refused(response)
        status: dict[str, Any] = response.json()
        return status
