"""What lies beside the bytes of an upload: enough to make its record anew where a registry is lost."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import Damaged
from ..extents import Extents
from ..upload import State, Upload, is_ticket, shortened

log = logging.getLogger("incoming_wsgi")

#: What is found anew, or holds only in one registry.
_NOT_KEPT = frozenset({"id", "version", "session", "active_at", "holder", "location", "moved_to", "reason"})

#: By the kind of a field: of what type it is in JSON.
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "int | None": (int, type(None)),
    "float": (int, float),
    "bool": bool,
    "State": str,
    "Extents": str,
    "tuple[str, ...]": list,
    "Mapping[str, str]": dict,
}
_KINDS = {field.name: str(field.type) for field in fields(Upload) if field.name not in _NOT_KEPT}

#: States that go on where they were; in all others an upload is arriving, or its file waits to be handed over.
_KEPT_STATES = frozenset({State.JOINING, State.COMPLETING})

_FRESH = 1.0  # seconds for which a record is good enough while bytes come: what it lacks is sent again


def record_of(upload: Upload) -> dict[str, Any]:
    """An upload as JSON can say it; there is a secret of the app's back end in it."""
    return {name: _written(getattr(upload, name)) for name in _KINDS}


def upload_of(upload_id: str, record: object) -> Upload:
    """The upload that a record speaks of, closed to all who had it open.

    Fields that an older version did not know have their defaults, those that a newer one knows are passed over.

    :raises Damaged: it is no record.
    """
    try:
        if not isinstance(record, dict):
            raise TypeError
        values: dict[str, Any] = {name: _read(kind, record[name]) for name, kind in _KINDS.items() if name in record}
    except (TypeError, ValueError) as error:
        raise Damaged("What is stored about this upload can't be read.") from error
    upload = Upload(id=upload_id, **values)
    return upload if upload.state in _KEPT_STATES else upload.but(state=State.RECEIVING)


def _written(value: object) -> object:
    if isinstance(value, Extents):
        return value.to_json()
    if isinstance(value, State):
        return value.value
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


def _read(kind: str, value: Any) -> Any:
    is_right = isinstance(value, _TYPES[kind])
    texts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    if not is_right or not all(isinstance(text, str) for text in texts):
        raise TypeError(kind)
    if kind == "Extents":
        return Extents.from_json(str(value))
    return State(value) if kind == "State" else tuple(value) if isinstance(value, list) else value


class Records:
    """Records in a folder that is nobody else's, a small file each. They are not synced: nobody waits for one.

    :raises OSError: it can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, upload: Upload) -> None:
        """:raises OSError: it can't be kept; an older one still is."""
        path = self._path(upload.id)
        fresh = f"{path}.{secrets.token_hex(4)}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(json.dumps(record_of(upload)).encode())
            os.replace(fresh, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(fresh)
            raise

    def refresh(self, upload: Upload) -> None:
        """:meth:`write`, unless somebody has done so a moment ago; what comes of it is not so important."""
        with suppress(OSError):
            if time.time() - os.stat(self._path(upload.id)).st_mtime >= _FRESH:
                self.write(upload)

    def drop(self, upload: Upload) -> None:
        """:raises OSError: it is still there. None is fine."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(upload.id))

    def __iter__(self) -> Iterator[Upload]:
        """Those that can be read."""
        for name in sorted(os.listdir(self._folder)):
            if is_ticket(name):
                try:
                    yield upload_of(name, json.loads((self._folder / name).read_bytes()))
                except FileNotFoundError:
                    continue  # it has just ended
                except (ValueError, Damaged):
                    log.warning("what is kept about the upload %s can't be read", shortened(name))

    def _path(self, upload_id: str) -> str:
        """:raises ValueError: it is no ticket."""
        if not is_ticket(upload_id):
            raise ValueError("not the id of an upload")
        return f"{self._folder}/{upload_id}"
