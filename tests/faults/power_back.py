"""What must be there when the power is back, and the last life: with all power, everything comes to its end."""

from __future__ import annotations

import hashlib
from pathlib import Path

from incoming_wsgi import receiver
from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import State, Upload
from tests.support.waiting import eventually

from .powered import _PATIENCE, File, Place, Plan, send_all

#: States in which a file is the app's, or is being offered to it.
_OFFERED = frozenset({State.HANDING_OVER, State.WAITING_FOR_APP, State.FINISHED})

#: How far an upload has come, as its client sees it.
_WAY = {
    State.WAITING: 0,
    State.RECEIVING: 1,
    State.COMPLETING: 2,
    State.HANDING_OVER: 3,
    State.WAITING_FOR_APP: 3,
    State.FINISHED: 4,
}


def check_what_is_there(place: Place) -> None:
    """:raises AssertionError: something is gone that was promised, or other than it was."""
    for ticket, file in place.tickets().items():
        upload = place.engine.registry.get(ticket)
        assert upload is not None, f"the ticket {ticket} is forgotten"
        _check_record(place, upload)
        _check_bytes(place, upload, file)


def _check_record(place: Place, upload: Upload) -> None:
    assert upload.state in _WAY, f"{upload.state.value}: {upload}"
    promised = _acknowledged(place, upload.id) if place.plan.fsync else _synced(place, upload.id)
    for start, end in promised.ranges:
        assert upload.extents.contains(start, end), f"{start} to {end} was promised: {upload}"
    if place.facts("finished", upload.id):
        assert upload.state in _OFFERED, f"the app was told of it: {upload}"
    if place.plan.fsync:
        _check_way(place, upload)
    elif upload.state not in _OFFERED:
        again = _acknowledged(place, upload.id).received - upload.extents.received
        place.witness.tell("again", bytes=max(0, again))


def _check_way(place: Place, upload: Upload) -> None:
    seen = [State(fact["state"]) for fact in place.facts("seen", upload.id)]
    seen += [State.FINISHED for _ in place.facts("done", upload.id)]
    furthest = max((_WAY[state] for state in seen), default=0)
    assert _WAY[upload.state] >= furthest, f"{seen[-5:]} was seen: {upload}"


def _check_bytes(place: Place, upload: Upload, file: File) -> None:
    """What counts is what was sent; where the app may have the file, it need not be here."""
    if not upload.received:
        return
    try:
        stored = place.engine.stored(upload.id)
    except FileNotFoundError:
        assert upload.state in _OFFERED, f"the bytes are gone: {upload}"
        return
    for start, end in upload.extents.ranges:
        assert stored[start:end] == file.data[start:end], f"other bytes between {start} and {end}: {upload}"


def _acknowledged(place: Place, ticket: str) -> Extents:
    extents = Extents()
    for fact in place.facts("acknowledged", ticket):
        extents = extents.add(fact["start"], fact["end"])
    return extents


def _synced(place: Place, ticket: str) -> Extents:
    extents = Extents()
    for fact in place.facts("synced", ticket):
        extents = extents.merge(Extents.of(map(tuple, fact["ranges"])))
    return extents


# -- the end ----------------------------------------------------------------------------------------------------


def live_to_the_end(plan: Plan, boot: int) -> None:
    """The last life: the power stays, and the app takes every file.

    :raises AssertionError: a promise is broken.
    """
    place = Place(plan, boot, lambda: "done", lambda: None)
    check_what_is_there(place)
    place.engine.start()
    senders = send_all(place, boot)
    eventually(lambda: all(sender.has_ended for sender in senders), _PATIENCE, "the end of all uploads")
    for sender in senders:
        assert not sender.failure, sender.failure
    for ticket, file in place.tickets().items():
        _judge(place, place.engine.receiver.status(ticket), file)
    _check_that_nothing_is_left(place)


def _judge(place: Place, upload: Upload, file: File) -> None:
    assert upload.state is State.FINISHED, upload
    hand_overs = place.facts("finished", upload.id)
    assert hand_overs, f"nobody was told of it: {upload}"
    assert {fact["event"] for fact in hand_overs} == {upload.event_id}, hand_overs
    assert {fact["sha256"] for fact in hand_overs} == {file.sha256} == {upload.sha256}, hand_overs
    assert {fact["said"] for fact in hand_overs} == {file.sha256}, hand_overs
    if file.taking:
        found = list(place.plan.taken(upload.id).iterdir())
        assert [_sha256(path) for path in found if path.name != "half"] == [file.sha256], f"{found}: {upload}"


def _check_that_nothing_is_left(place: Place) -> None:
    receiver._TOMBSTONE = 0.0

    def is_swept() -> bool:
        with place.engine.registry.alone("sweep") as alone:
            if alone:
                place.engine.receiver.sweep()
        return not tickets & {upload.id for upload in place.engine.receiver.find()}

    tickets = set(place.tickets())
    kept = {ticket: file for ticket, file in place.tickets().items() if file.kept}
    eventually(is_swept, _PATIENCE, "the last sweep")
    assert not list((place.engine.folder / "arriving").iterdir())
    complete = {path.name: _sha256(path) for path in (place.engine.folder / "complete").iterdir()}
    assert {ticket for ticket, file in kept.items() if not file.taking} <= set(complete) <= set(kept), complete
    for ticket, digest in complete.items():
        assert digest == kept[ticket].sha256, f"{ticket} has other bytes than were sent"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
