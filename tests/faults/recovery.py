"""The later lives of a story: a process finds what the dead ones have left, clients come back, and all comes to an end.

:func:`recover` can itself be killed and be lived again. The one that comes to its end has checked every promise.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import CLOSED_STATES, State, Upload

from .story import IDLE, Client, File, Place, Story, begin_life

#: Looks at what is left until all must have come to its end; the longest pause between two hand-overs fits into one.
_ROUNDS = 8

_TWO_DAYS = 2 * 86400.0

#: Bytes are where they arrive, or in the last step of their way.
_STORED_STATES = frozenset({State.WAITING, State.RECEIVING, State.PAUSED, State.COMPLETING})


def recover(story: Story, arm: Callable[[], None]) -> None:
    """One more life.

    :param arm: called when the process is to begin to be in danger.
    :raises AssertionError: a promise is broken.
    """
    witness = story.witness()
    arm()
    place = Place(story, witness, begin_life(story, witness))
    place.outlive_leases()
    _check_what_is_there(place)
    place.sweep(expire=False)
    place.deliver()
    _let_clients_come_back(place)
    _wait_for_the_end(place)
    for upload in place.engine.receiver.find():
        judge(place, upload)
        witness.tell("ended", id=upload.id, state=upload.state.value)
    for _ in range(2):
        place.age(_TWO_DAYS)
        place.sweep(expire=True)
        place.engine.registry.maintain()
    check_that_nothing_is_left(place)


def _told(place: Place, what: str, ticket: str) -> list[dict[str, Any]]:
    return [fact for fact in place.witness.told(what) if fact["id"] == ticket]


def _tickets(place: Place) -> Mapping[str, File]:
    """Those that somebody holds, and that have not come to their end in an earlier life."""
    ended = {fact["id"] for fact in place.witness.told("ended")}
    tickets = ((fact["id"], fact["file"]) for fact in place.witness.told("ticket"))
    return {ticket: place.story.files[number] for ticket, number in tickets if ticket not in ended}


def _acknowledged(place: Place, ticket: str) -> Extents:
    extents = Extents()
    for fact in _told(place, "acknowledged", ticket):
        extents = extents.add(fact["start"], fact["end"])
    return extents


# -- at once ----------------------------------------------------------------------------------------------------


def _check_what_is_there(place: Place) -> None:
    for ticket, file in _tickets(place).items():
        upload = place.engine.registry.get(ticket)
        assert upload is not None, f"the ticket {ticket} is forgotten"
        assert upload.state not in (State.DAMAGED, State.UNDELIVERABLE), upload
        for start, end in _acknowledged(place, ticket).ranges:
            assert upload.extents.contains(start, end), f"{start} to {end} was acknowledged: {upload}"
        if upload.state in _STORED_STATES:
            _check_bytes(place, upload, file)


def _check_bytes(place: Place, upload: Upload, file: File) -> None:
    if not upload.received:
        return
    stored = place.engine.stored(upload.id)
    for start, end in upload.extents.ranges:
        assert stored[start:end] == file.data[start:end], f"other bytes between {start} and {end}: {upload}"


# -- the way to the end -----------------------------------------------------------------------------------------


def _let_clients_come_back(place: Place) -> None:
    chance = random.Random(f"{place.story.seed} back")
    tickets = {file.number: ticket for ticket, file in _tickets(place).items()}
    ended = {fact["file"] for fact in place.witness.told("ticket")} - set(tickets)
    for file in place.story.files:
        if file.number in ended or file.fate == "abandoned":
            continue
        client = Client(file, (place,), place.witness, chance, 0, ticket=tickets.get(file.number, ""))
        if file.fate == "cancelled" and client.ticket:
            client.cancel()
        elif file.fate != "cancelled":
            _send_to_the_end(client)


def _send_to_the_end(client: Client) -> None:
    while not client.is_over:
        client.step()
        assert client.steps < 10_000, "a client gets nowhere"


def _wait_for_the_end(place: Place) -> None:
    for _ in range(_ROUNDS):
        place.age(IDLE + 100)
        place.sweep(expire=True)
        place.deliver()
        place.engine.registry.maintain()
    for upload in place.engine.receiver.find():
        assert upload.state in CLOSED_STATES, f"stuck: {upload}"
        assert place.engine.registry.due(upload.id) is None, f"its app has never answered: {upload}"


# -- the end ----------------------------------------------------------------------------------------------------


def judge(place: Place, upload: Upload) -> None:
    tickets = _tickets(place)
    if upload.id not in tickets:  # nobody was told of it
        assert upload.state is State.EXPIRED, upload
        return
    file = tickets[upload.id]
    if upload.state is State.FINISHED:
        _judge_finished(place, upload, file)
    else:
        _judge_given_up(place, upload, file)


def _judge_finished(place: Place, upload: Upload, file: File) -> None:
    assert not _told(place, "cancel", upload.id), f"cancelled, and the app got it: {upload}"
    hand_overs = _told(place, "finished", upload.id)
    assert hand_overs, f"nobody was told of it: {upload}"
    assert {fact["event"] for fact in hand_overs} == {upload.event_id}, hand_overs
    assert {fact["sha256"] for fact in hand_overs} == {file.sha256} == {upload.sha256}, hand_overs
    assert {fact["said"] for fact in hand_overs} == {file.sha256}, hand_overs
    if file.taking:
        _check_taken(place, upload, file)


def _check_taken(place: Place, upload: Upload, file: File) -> None:
    """The app has the file, once, and nothing that a move has left half way."""
    found = list(place.story.taken(file.taking, upload.id).iterdir())
    assert [_sha256(path) for path in found] == [file.sha256], f"{found}: {upload}"


def _judge_given_up(place: Place, upload: Upload, file: File) -> None:
    expired = upload.state is State.EXPIRED
    may = file.fate == "cancelled" if not expired else file.fate in ("abandoned", "cancelled") or place.story.ages
    assert may, f"nobody has given it up: {upload}"
    assert not _told(place, "finished", upload.id), f"given up, and the app got it: {upload}"
    assert not expired or not _is_acknowledged_whole(place, upload, file), f"all bytes had come: {upload}"
    notices = _told(place, "cancelled", upload.id)
    assert {fact["state"] for fact in notices} == {upload.state.value}, f"the app was not told: {notices} {upload}"


def _is_acknowledged_whole(place: Place, upload: Upload, file: File) -> bool:
    return bool(file.data) and _acknowledged(place, upload.id).complete(len(file.data))


def check_that_nothing_is_left(place: Place) -> None:
    engine = place.engine
    assert engine.receiver.find() == []
    assert not any(place.count_rows().values()), place.count_rows()
    assert list((engine.folder / "arriving").iterdir()) == []
    assert {path.name: _sha256(path) for path in (engine.folder / "complete").iterdir()} == _kept(place)


def _kept(place: Place) -> dict[str, str]:
    """The files that the app wanted to find where they are, and left there."""
    numbers = {fact["id"]: fact["file"] for fact in place.witness.told("ticket")}
    finished = [fact["id"] for fact in place.witness.told("ended") if fact["state"] == State.FINISHED.value]
    files = {ticket: place.story.files[numbers[ticket]] for ticket in finished}
    return {ticket: file.sha256 for ticket, file in files.items() if file.kept and not file.taking}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
