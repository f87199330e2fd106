"""Requests in all dialects, as a server would hand them in: good ones that have been spoilt in some places."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from incoming_wsgi.backend import Backend, Client
from incoming_wsgi.delivery.targets import FinishHosts
from incoming_wsgi.frontend import Frontend
from incoming_wsgi.middleware import route
from tests.helpers import Engine, manners

from .choices import Choices
from .engines import Forgetful, give_up

_LENGTH = 300  # bytes of the files
_TICKET_USES = 50  # after which another is taken
_UPLOADS = "/p/frontend/uploads"
_BYTES = "application/offset+octet-stream"
_OK = frozenset({200, 201, 204, 206, 304})
_PARTIAL = "application/partial-upload"
_DIGEST = base64.b64encode(bytes(32)).decode()

#: dialect: method, address and headers of good requests; ``TICKET`` stands for one.
_GOOD: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("POST", f"{_UPLOADS}/TICKET", {"Incoming-Length": "300", "Incoming-Name": "a%20b", "Incoming-Fingerprint": "x"}),
    ("PUT", f"{_UPLOADS}/TICKET", {"Content-Range": "bytes 0-9/300", "Incoming-Session": "SESSION"}),
    ("PUT", f"{_UPLOADS}/TICKET", {"Content-Range": "bytes 0-9/300", "Content-Digest": f"sha-256=:{_DIGEST}:"}),
    ("GET", f"{_UPLOADS}/TICKET", {}),
    ("GET", f"{_UPLOADS}/TICKET?wait=0&since=1", {}),
    ("HEAD", f"{_UPLOADS}/TICKET", {"Tus-Resumable": "1.0.0"}),
    ("DELETE", f"{_UPLOADS}/TICKET", {"Incoming-Reason": "why"}),
    ("POST", f"{_UPLOADS}/TICKET/pause", {"Incoming-Session": "SESSION"}),
    ("OPTIONS", f"{_UPLOADS}/TICKET", {"Origin": "https://other.example"}),
    ("POST", f"{_UPLOADS}?ticket=TICKET", {"Tus-Resumable": "1.0.0", "Upload-Length": "300"}),
    ("POST", _UPLOADS, {"Tus-Resumable": "1.0.0", "Upload-Defer-Length": "1", "Upload-Metadata": "ticket TICKET64"}),
    ("POST", f"{_UPLOADS}?ticket=TICKET", {"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Upload-Concat": "partial"}),
    (
        "POST",
        f"{_UPLOADS}?ticket=TICKET",
        {"Tus-Resumable": "1.0.0", "Upload-Concat": f"final;{_UPLOADS}/TICKET http://localhost{_UPLOADS}/TICKET"},
    ),
    (
        "PATCH",
        f"{_UPLOADS}/TICKET",
        {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": _BYTES, "Upload-Checksum": "sha1 AAAA"},
    ),
    ("POST", f"{_UPLOADS}/TICKET", {"Tus-Resumable": "1.0.0", "X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0"}),
    ("POST", f"{_UPLOADS}/TICKET", {"Upload-Complete": "?0", "Upload-Length": "300", "Content-Disposition": "x"}),
    ("PATCH", f"{_UPLOADS}/TICKET", {"Upload-Complete": "?1", "Upload-Offset": "0", "Content-Type": _PARTIAL}),
    ("POST", _UPLOADS, {"Upload-Draft-Interop-Version": "6", "Upload-Incomplete": "?1", "Incoming-Ticket": "TICKET"}),
    ("HEAD", f"{_UPLOADS}/TICKET", {"Upload-Draft-Interop-Version": "9"}),
    ("PATCH", f"{_UPLOADS}/TICKET", {"Upload-Draft-Interop-Version": "3", "Upload-Offset": "0", "Repr-Digest": "x"}),
    ("GET", "/p/frontend/upload_ws", {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}),
    ("GET", "/p/frontend/incoming.js", {"If-None-Match": '"x"', "Range": "bytes=0-1"}),
    ("POST", "/p/backend/new_upload?signalFinishURL=/x&destType=file", {"Authorization": "Bearer key"}),
    ("POST", "/p/backend/cancel_upload?id=TICKET", {"Authorization": "Basic OmtleQ=="}),
    ("POST", "/p/backend/finish_upload?id=TICKET", {"Authorization": "Bearer key"}),
)  # fmt: skip

_NAMES = tuple(sorted({name for _, _, headers in _GOOD for name in headers} | {"Content-Length", "Transfer-Encoding"}))
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X", "")
_SPOILT = (
    "", "0", "1", "-1", "+5", "300", "301", "1.5", "0x10", "9223372036854775807", "9223372036854775808", 50 * "9",
    "?0", "?1", "?2", "()", '"', "a=1, b", "a;b=?0", ":AAAA:", "=", ",", ";", "bytes 0-0/1", "bytes 5-2/300",
    "bytes */300", "final;", "final;//[", "final;http://[::1/x", "partial", "chunked", "chunked, gzip", "13", "null",
    "https://other.example", "a\r\nX-Injected: 1", "\x00", "\x7f", "é", "ÿþ", "%", "%00", "%ff", "a b,c d",
    "filename w6k=,filename w6k=", 5000 * "a", "name \x80", "form-data; filename*=UTF-8''%ff",
    'attachment; filename="\\', "a; filename*=idna''x", "a; filename*=utf-7''%2B2AA-",
    "filename ====", "sha1 ", "md5 AAAA", "Basic !",
)  # fmt: skip


class RequestsTarget:
    """:ivar done: requests that have been made."""

    about = "requests"

    def __init__(self, folder: Path) -> None:
        self._engine = Engine(folder, handler=Forgetful())
        self._engine.start()
        self._ticket, self._uses = self._engine.ticket(), 0
        self._session = ""
        self._frontend = Frontend(lambda: self._engine.receiver, manners(allow_origins=("https://other.example",)))
        hosts = FinishHosts(allowed=(), path=True, prefix="/p")
        self._backend = Backend(lambda: self._engine.receiver, [Client("app", "key", hosts)])
        self.done = 0

    def close(self) -> None:
        self._engine.close()

    def try_one(self, data: bytes) -> None:
        """One request.

        :raises Exception: where nothing may be raised.
        """
        self.done += 1
        self._next_ticket()
        status, headers, body = self._answer(self._environ(Choices(data)))
        assert status in _OK or 400 <= status < 500 or status in (501, 503, 507), (status, body)
        for name, value in headers:
            assert re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value), (name, value)
            assert name.lower() != "x-injected"
        assert b"Traceback" not in body

    def _answer(self, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        told: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            told[:] = [int(status[:3]), headers]
            return lambda _: None

        pieces = route(environ, start, "/p", self._frontend, self._backend)
        body = b"".join(pieces)
        if hasattr(pieces, "close"):
            pieces.close()
        status, headers = told
        return status, headers, body

    def _next_ticket(self) -> None:
        self._uses += 1
        if self._uses >= _TICKET_USES:
            give_up(self._engine, self._ticket)
            self._ticket, self._uses = self._engine.ticket(), 0
            with self._engine.open(self._ticket, _LENGTH) as session:
                self._session = session.token

    # -- what is asked ------------------------------------------------------------------------------------------

    def _environ(self, choices: Choices) -> dict[str, Any]:
        method, url, given = choices.pick(_GOOD)
        headers = {name: self._filled(value) for name, value in given.items()}
        url = self._filled(url)
        body = choices.some(choices.pick((0, 10, 40, 400)))
        headers.setdefault("Content-Length", str(len(body)))
        for _ in range(choices.pick((0, 1, 1, 2, 3))):
            headers[choices.pick(_NAMES)] = self._spoilt(choices)
        if choices.chance(8):
            headers.pop(choices.pick(tuple(headers)))
        if choices.chance(8):
            method = choices.pick(_METHODS)
        if choices.chance(8):
            place = choices.below(len(url) + 1)
            url = url[:place] + self._spoilt(choices)[:50] + url[place:]
        return self._as_environ(method, url, headers, body)

    def _filled(self, text: str) -> str:
        encoded = base64.b64encode(self._ticket.encode()).decode()
        return text.replace("TICKET64", encoded).replace("TICKET", self._ticket).replace("SESSION", self._session)

    def _spoilt(self, choices: Choices) -> str:
        if choices.chance(3):
            return choices.some(30).decode("latin-1")
        return choices.pick(_SPOILT)

    @staticmethod
    def _as_environ(method: str, url: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        path, _, query = url.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": url,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "localhost",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.input_terminated": True,
            "wsgi.errors": io.StringIO(),
            "wsgi.version": (1, 0),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        for name, value in headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"] = value
        return environ
