"""A client of tus without a network: its requests go through the browser's door, as a server would hand them in."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from webob import Request, Response

from incoming_wsgi.frontend import Frontend, Permit
from incoming_wsgi.middleware import route

from ..helpers import Engine, manners

UPLOADS = "/p/frontend/uploads"
BYTES = "application/offset+octet-stream"


class Dripping(io.RawIOBase):
    """A body that comes in pieces, and does something between them.

    :param act: called with the number of bytes that have been given, before each piece.
    """

    def __init__(self, data: bytes, act: Callable[[int], object] = lambda _: None, step: int = 100) -> None:
        self._data = data
        self._act = act
        self._step = step
        self._given = 0

    def read(self, size: int = -1) -> bytes:
        self._act(self._given)
        size = self._step if size < 0 else min(size, self._step)
        piece = self._data[self._given : self._given + size]
        self._given += len(piece)
        return piece


class Client:
    """:param changes: of the door's manners."""

    def __init__(self, engine: Engine, permit: Permit | None = None, **changes: Any) -> None:
        self.engine = engine
        self.frontend = Frontend(lambda: engine.receiver, manners(**changes), permit)

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        return route(environ, start_response, "/p", self.frontend, None)

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | io.RawIOBase = b"",
        headers: Mapping[str, str | None] | None = None,
        environ: Mapping[str, Any] | None = None,
        length: int | None = None,
    ) -> Response:
        """:param headers: ``Tus-Resumable`` goes without saying, unless it is ``None``.
        :param length: of the body, where it is not what ``Content-Length`` says.
        """
        given = {"Tus-Resumable": "1.0.0", **(headers or {})}
        request = Request.blank(
            url, method=method, headers={name: value for name, value in given.items() if value is not None}
        )
        stream = io.BytesIO(body) if isinstance(body, bytes) else body
        if isinstance(body, bytes) and length is None:
            length = len(body)
        request.environ.update({"wsgi.input": stream, "CONTENT_LENGTH": str(length or 0), **(environ or {})})
        return request.get_response(self.wsgi)

    def create(self, ticket: str = "", body: bytes = b"", /, **headers: str | None) -> Response:
        query = f"?ticket={ticket}" if ticket else ""
        return self.ask("POST", f"{UPLOADS}{query}", body, named(headers))

    def upload(self, ticket: str = "", /, **headers: str | None) -> str:
        """The URL of a new upload."""
        answer = self.create(ticket or self.ticket(), **headers)
        assert answer.status_int == 201, answer.text
        location: str = answer.headers["Location"]
        return location

    def ticket(self) -> str:
        return self.engine.ticket(remove_file_when_finished=False)

    def patch(
        self,
        url: str,
        offset: int | str,
        body: bytes | io.RawIOBase,
        /,
        length: int | None = None,
        **headers: str | None,
    ) -> Response:
        given = {"Upload-Offset": str(offset), "Content-Type": BYTES, **named(headers)}
        return self.ask("PATCH", url, body, given, length=length)

    def head(self, url: str, /, **headers: str | None) -> Response:
        return self.ask("HEAD", url, headers=named(headers))

    def delete(self, url: str, /, **headers: str | None) -> Response:
        return self.ask("DELETE", url, headers=named(headers))

    def offset(self, url: str) -> int:
        return int(self.head(url).headers["Upload-Offset"])

    def stored(self, url: str) -> bytes:
        return self.engine.stored(id_of(url))


def id_of(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def named(headers: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def encoded(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
