"""What the protocols' tests share: the body of a request, and the door that it comes by, without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from incoming_wsgi.errors import Forbidden
from incoming_wsgi.intake import Body, Door
from incoming_wsgi.upload import Upload
from incoming_wsgi.wire.bulk import Blocks, Bulk

from ..helpers import Engine, piped


class Pieces:
    """The body of a request, in pieces as they come; in pipes where they are welcome.

    :param length: bytes that it should have.
    :param step: bytes that come at a time.
    :param error: what is raised after the last.
    :param is_chunked: whether it is in chunked coding: its length is not told.
    """

    def __init__(
        self,
        data: bytes,
        *,
        length: int | None = None,
        step: int = 100,
        error: Exception | None = None,
        is_chunked: bool = False,
    ) -> None:
        self._length = len(data) if length is None else length
        self.length = None if is_chunked else self._length
        self._data = data
        self._step = step
        self._error = error
        self._read = 0

    def read(self, *, splice: bool = False) -> Bulk:
        piece = self._data[self._read : self._read + self._step]
        if not piece and self._error is not None:
            raise self._error
        self._read += len(piece)
        return piped(piece) if splice else Blocks((piece,))

    @property
    def has_ended(self) -> bool:
        return self._read == len(self._data) and self._error is None

    @property
    def was_cut(self) -> bool:
        return self._read < self._length


def door_of(engine: Engine, body: Body | None = None, **changes: Any) -> Door:
    """A door to an engine: whoever has a ticket gets in."""

    def poll(upload_id: str, until: Callable[[Upload], bool], seconds: float) -> Upload:
        return engine.receiver.wait(upload_id, until, seconds)

    def admit(ticket: str, metadata: Mapping[str, str]) -> Upload:
        if not ticket:
            raise Forbidden
        return engine.receiver.status(ticket)

    parts = {
        "chunk_size": 2000,
        "lanes": 3,
        "websocket": True,
        "max_length": 2**40,
        "body": body,
        "poll": poll,
        "location": lambda upload_id: f"http://localhost/incoming/0.1/frontend/uploads/{upload_id}",
        "admit": admit,
        "interrupt": lambda _: None,
    }
    return Door(**{**parts, **changes})
