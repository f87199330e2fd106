"""What an operator sees and does: ``incoming list``, ``show``, ``trail``, ``retry``, ``recover``, ``drain``, …"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

from .draining import Mark
from .errors import Unavailable
from .receiver import Receiver
from .upload import State, Upload

_LOOK = 0.1  # seconds between two looks whether a machine is empty

_COLUMNS = ("ID", "STATE", "RECEIVED", "LENGTH", "LAST ACTIVE", "APP", "FILE")


def list_uploads(receiver: Receiver) -> Iterator[str]:
    """A line for each upload, the longest idle first, under a line of headings."""
    ahead = _ahead(receiver)
    rows = [_COLUMNS, *(_row(upload, ahead) for upload in receiver.find())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def show(receiver: Receiver, upload_id: str) -> Iterator[str]:
    """All that is known of an upload, but for its secret.

    :raises UnknownUpload: there is none.
    """
    upload = receiver.status(upload_id)
    delivery = receiver.registry.due(upload.id)
    ahead = _ahead(receiver)
    facts = {
        "id": upload.id,
        "state": upload.state.value,
        "app": upload.app,
        "file name": repr(upload.filename_from_browser),
        "length": "unknown" if upload.length is None else f"{upload.length} bytes",
        "received": f"{upload.received} bytes",
        "missing": ", ".join(f"{start}-{end - 1}" for start, end in upload.extents.missing(0, upload.length or 0)),
        "created": _time(upload.created_at),
        "last active": _time(upload.active_at + ahead),
        "file": upload.moved_to or upload.location,
        "sha256": upload.sha256,
        "handed over to": upload.target or "the app's on_finish",
        "reason": upload.reason,
    }
    if delivery is not None:
        facts["attempts"] = str(delivery.attempt)
        facts["next attempt"] = _time(delivery.due_at + ahead)
        facts["last error"] = delivery.error
    return (f"{name + ':':16}{_printable(value)}" for name, value in facts.items() if value)


def trail(receiver: Receiver, upload_id: str) -> Iterator[str]:
    """What has happened to an upload, a line each, the earliest first.

    :raises UnknownUpload: there is none.
    """
    upload, ahead = receiver.status(upload_id), _ahead(receiver)
    for entry in receiver.registry.trail(upload.id):
        about = "  ".join(f"{name}={_printable(text)}" for name, text in entry.about.items())
        yield f"{_time(entry.at + ahead)}  {entry.state.value:16}{about}".rstrip()


def retry(receiver: Receiver, upload_id: str) -> Iterator[str]:
    """Hand a file over again, now.

    :raises UnknownUpload, NotReady: it is not there, or not waiting for that.
    """
    receiver.retry(upload_id)
    yield f"{upload_id} will be handed over again as soon as a server process looks."


def cancel(receiver: Receiver, upload_id: str) -> Iterator[str]:
    """Give an upload up and delete its bytes.

    :raises UnknownUpload, TooLate: it is not there, or its hand-over has begun.
    """
    receiver.cancel(upload_id, "cancelled by the operator")
    yield f"{upload_id} is cancelled."


def cleanup(receiver: Receiver) -> Iterator[str]:
    """Expire what is idle and forget what is long closed, now instead of at the next sweep."""
    before = len(receiver.find())
    while receiver.sweep():
        pass
    yield f"{before - len(receiver.find())} closed uploads were forgotten."


def drain(mark: Mark, seconds: float) -> Iterator[str]:
    """Have all processes of this machine empty themselves, and wait until they are empty.

    :raises Unavailable: they were not after so many seconds; they go on with that.
    :raises OSError: the drain file can't be used.
    """
    mark.put(draining=True)
    yield "This machine takes no more uploads; it answers /incoming/ready with 503."
    deadline = time.monotonic() + seconds
    while not mark.is_everybody_empty():
        if time.monotonic() > deadline:
            raise Unavailable("Some bytes, or hand-overs, are still under way; what has arrived is safe in any case.")
        time.sleep(_LOOK)
    yield "It is empty, and can be stopped."


def undrain(mark: Mark) -> Iterator[str]:
    """Have this machine take uploads again.

    :raises OSError: the drain file can't be used.
    """
    mark.put(draining=False)
    yield "This machine takes uploads again."


def recover(receiver: Receiver) -> Iterator[str]:
    """Make the records anew that a registry has lost, from what lies in the storages.

    :raises Unavailable: a storage can't be read now, or somebody else is at it.
    """
    anew = known = 0
    for upload, is_anew in receiver.recover():
        anew, known = anew + is_anew, known + (not is_anew)
        if is_anew:
            yield f"{upload.id}  {_prospect(upload)}"
    receiver.registry.sync()
    yield f"{anew} uploads are known again; {known} were known."


def _prospect(upload: Upload) -> str:
    if upload.state is State.RECEIVING and not (upload.is_complete_by_length and not upload.part_of):
        length = "?" if upload.length is None else upload.length
        return f"{upload.received} of {length} bytes are here"
    return "will be handed over as soon as a server process looks"


def _printable(text: str) -> str:
    """Without what would move the cursor of the operator's terminal: some of it is a stranger's words."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _row(upload: Upload, ahead: float) -> tuple[str, ...]:
    length = "?" if upload.length is None else str(upload.length)
    name = upload.filename if upload.filename_from_browser else ""
    return (
        upload.id,
        upload.state.value,
        str(upload.received),
        length,
        _time(upload.active_at + ahead),
        upload.app,
        name,
    )


def _ahead(receiver: Receiver) -> float:
    """Seconds by which the wall clock is ahead of the registry's, which does not count when the machine is off."""
    return time.time() - receiver.registry.now()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
