"""Servers of the tus protocol 1.0: from npm @tus/server, from PyPI tuspyserver and tuswsgi.

Each is set up as its documentation says, and moves a file that is complete into the folder of its app.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from urllib.parse import urlsplit

from ..load import Lane, Request, request
from ..programs import HERE, TOOLS
from .server import Server

PYTHON = TOOLS / "venv" / "bin" / "python"
NODE_PACKAGES = TOOLS / "node"

_VERSION = "1.0.0"


class Tus(Server):
    def environment(self) -> Mapping[str, str]:
        here = {"PORT": str(self.port), "WORKERS": str(self.workers)}
        folders = {"FILES": str(self.files), "UPLOADS": str(self.folder / "uploads")}
        return {**super().environment(), **here, **folders}

    def lanes(self, lengths: Sequence[int]) -> list[Lane]:
        return [[_bytes(self._created(length), length)] for length in lengths]

    def lives(self, count: int, length: int) -> list[Request]:
        """Whole lives of small files: created, then sent, as tus clients do it."""
        return [self._creation(length), _bytes("@@", length)] * count

    def _creation(self, length: int) -> Request:
        return request("POST", "/files/", keep="l", Upload_Length=str(length), Tus_Resumable=_VERSION)

    def _created(self, length: int) -> str:
        """The path of a new upload."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Upload-Length": str(length), "Tus-Resumable": _VERSION, "Content-Length": "0"}
        connection.request("POST", "/files/", headers=headers)
        location = connection.getresponse().headers["Location"]
        connection.close()
        return urlsplit(location).path


class TusNode(Tus):
    """The reference implementation, for node."""

    def command(self) -> list[str]:
        program = NODE_PACKAGES / "tus_server.mjs"  # beside its packages: that is where node looks for them
        shutil.copyfile(HERE / "peers" / "tus_server.mjs", program)
        return [shutil.which("node") or "node", str(program)]


class TusPyServer(Tus):
    """A router for FastAPI, under uvicorn with what makes that fast."""

    def command(self) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self.workers)]
        where = ["--app-dir", str(HERE / "peers"), "--log-level", "warning", "--no-access-log"]
        return [str(PYTHON), "-m", "uvicorn", "tuspyserver_app:app", *options, *where]


class TusWsgi(Tus):
    """A WSGI middleware, under the server that ours runs under."""

    def command(self) -> list[str]:
        options = ["-k", "gevent", "-w", str(self.workers), "--no-control-socket", "--timeout", "120"]
        where = ["--chdir", str(HERE / "peers"), "--bind", f"127.0.0.1:{self.port}"]
        return [str(PYTHON), "-m", "gunicorn", *options, *where, "tuswsgi_app:app"]


def _bytes(path: str, length: int) -> Request:
    return request(
        "PATCH",
        path,
        length,
        Content_Type="application/offset+octet-stream",
        Upload_Offset="0",
        Tus_Resumable=_VERSION,
    )
