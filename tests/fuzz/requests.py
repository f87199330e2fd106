"""Requests as bytes, for fuzzers: whatever comes is answered, and what was stored before stays."""

from __future__ import annotations

from incoming_wsgi.protocols import tus
from tests.helpers import Engine
from tests.protocols.tus_client import BYTES, UPLOADS, Client, id_of

_STORED = b"what was there before"
_HEADERS = {*tus.REQUEST_HEADERS, "Trailer", "Transfer-Encoding"}

#: Requests to begin with: a line with method and path, headers, an empty line, the body. ``ID`` is an upload, ``NEW`` a
#: ticket.
SEEDS = tuple(
    text.encode()
    for text in (
        "POST ?ticket=NEW\nTus-Resumable: 1.0.0\nUpload-Length: 5\nUpload-Metadata: filename YQ==,ticket\n\n",
        f"POST /NEW\nTus-Resumable: 1.0.0\nUpload-Defer-Length: 1\nContent-Type: {BYTES}\n\nabc",
        f"PATCH /ID\nTus-Resumable: 1.0.0\nUpload-Offset: 21\nContent-Type: {BYTES}\n\nabc",
        f"PATCH /ID\nTus-Resumable: 1.0.0\nUpload-Offset: 21\nUpload-Checksum: sha1 AAAA\nContent-Type: {BYTES}\n\nabc",
        "HEAD /ID\nTus-Resumable: 1.0.0\n\n",
        "POST /ID\nTus-Resumable: 1.0.0\nX-HTTP-Method-Override: DELETE\n\n",
        "POST ?ticket=NEW\nTus-Resumable: 1.0.0\nUpload-Concat: partial\nUpload-Length: 5\n\n",
        "POST ?ticket=NEW\nTus-Resumable: 1.0.0\nUpload-Concat: final;/p/frontend/uploads/ID uploads/NEW\n\n",
        "OPTIONS /ID\nOrigin: https://pages.example\n\n",
    )
)


class Fuzzed:
    """:param engine: of its own; many uploads are made in it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client = Client(engine, allow_origins=("https://pages.example",))

    def ask(self, data: bytes) -> int:
        """Status of the answer to a request.

        :raises AssertionError: a fault of the server's, or bytes are gone that had been stored.
        """
        url = self._client.upload(Upload_Length="100")
        self._client.patch(url, 0, _STORED)
        head, _, body = data.partition(b"\n\n")
        method, path, headers = _parts(head.decode("latin-1"))
        path = path.replace("ID", id_of(url)).replace("NEW", self._client.ticket())
        status: int = self._client.ask(method, f"{UPLOADS}{path}", body, headers).status_int
        assert 200 <= status < 500 or status == 501, f"answered with {status}"
        self._check(url)
        return status

    def _check(self, url: str) -> None:
        upload = self._engine.receiver.status(id_of(url))
        assert upload.phase == "cancelled" or self._client.stored(url).startswith(_STORED)
        if upload.phase != "cancelled":
            self._engine.receiver.cancel(upload.id, "enough")  # the disk stays small


def _parts(head: str) -> tuple[str, str, dict[str, str | None]]:
    first, *lines = head.split("\n")
    method, _, path = first.partition(" ")
    pairs = (line.partition(": ") for line in lines)
    headers: dict[str, str | None] = {name: value for name, _, value in pairs if name in _HEADERS}
    headers.setdefault("Tus-Resumable", None)
    safe = "".join(char for char in path if "!" <= char <= "~" and char not in "#\\")
    return method if method.isalpha() and method.isascii() else "GET", safe and f"/{safe.lstrip('/')}", headers
