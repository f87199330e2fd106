from __future__ import annotations

import secrets
from dataclasses import FrozenInstanceError, replace
from itertools import product

import pytest

from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import (
    CLOSED_STATES,
    MOVES,
    OPEN_STATES,
    ForbiddenMove,
    State,
    Upload,
    is_ticket,
    new_ticket,
    shortened,
)

#: All bytes are here and the app has not said the last word.
WITH_THE_APP = {State.JOINING, State.COMPLETING, State.HANDING_OVER, State.WAITING_FOR_APP}


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_an_upload_moves_by_the_table_and_only_by_it(before: State, after: State) -> None:
    upload = Upload(state=before)
    if after in MOVES[before]:
        assert upload.to(after, reason="why") == Upload(
            id=upload.id, state=after, reason="why", created_at=upload.created_at, active_at=upload.active_at
        )
    else:
        with pytest.raises(ForbiddenMove, match=f"{before.value} to {after.value}"):
            upload.to(after)


def test_every_state_can_be_reached_and_left_towards_an_end() -> None:
    reached = {State.WAITING}
    while more := {after for before in reached for after in MOVES[before]} - reached:
        reached |= more
    assert reached == set(State)
    for state in State:
        assert MOVES[state] or state in CLOSED_STATES | {State.DAMAGED}, f"there is no way out of {state}"


def test_a_closed_upload_stays_closed() -> None:
    assert not any(MOVES[state] for state in CLOSED_STATES)


def test_a_file_that_is_with_the_app_can_be_neither_cancelled_nor_expired() -> None:
    for state in WITH_THE_APP | {State.UNDELIVERABLE, State.DAMAGED}:
        assert not MOVES[state] & {State.CANCELLED, State.EXPIRED}


def test_bytes_can_be_owed_again_until_the_app_has_been_told() -> None:
    backwards = {state for state in State if MOVES[state] & OPEN_STATES} - OPEN_STATES
    assert backwards == {State.COMPLETING}


def test_the_groups_do_not_overlap() -> None:
    assert not OPEN_STATES & WITH_THE_APP
    assert not WITH_THE_APP & CLOSED_STATES
    assert not OPEN_STATES & CLOSED_STATES


@pytest.mark.parametrize("state", list(State))
def test_each_state_has_a_phase(state: State) -> None:
    phase = Upload(state=state).phase
    assert phase in ("uploading", "processing", "finished", "cancelled", "failed")
    assert (phase == "uploading") == (state in OPEN_STATES)
    assert (phase == "processing") == (state in WITH_THE_APP)


def test_an_upload_is_a_value() -> None:
    upload = Upload()
    with pytest.raises(FrozenInstanceError):
        upload.length = 5  # type: ignore[misc]


def test_complete() -> None:
    assert not Upload(extents=Extents().add(0, 5)).is_complete  # the length is not known
    assert not Upload(length=6, extents=Extents().add(0, 5)).is_complete
    assert not Upload(length=6, extents=Extents().add(1, 6)).is_complete
    assert Upload(length=5, extents=Extents().add(0, 5)).is_complete
    assert Upload(length=0).is_complete


def test_tickets() -> None:
    tickets = {new_ticket() for _ in range(100)}
    assert len(tickets) == 100
    assert all(map(is_ticket, tickets))
    # uuid4 would always have a 4 here.
    assert len({ticket[14] for ticket in tickets}) > 1


def test_all_bits_of_a_ticket_are_from_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def token_bytes(count: int) -> bytes:
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)
    assert new_ticket().replace("-", "") == bytes(range(16)).hex()
    assert asked == [16]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../../../../etc/passwd",
        "00000000-0000-0000-0000-00000000000",
        "00000000-0000-0000-0000-0000000000000",
        "00000000-0000-0000-0000-000000000000\n",
        "00000000-0000-0000-0000-00000000000A",
        "00000000000000000000000000000000",
        "00000000-0000-0000-0000-00000000000/",
        "\u06600000000-0000-0000-0000-000000000000",
    ],
)
def test_not_a_ticket(text: str) -> None:
    assert not is_ticket(text)


def test_a_log_does_not_give_the_ticket_away() -> None:
    ticket = new_ticket()
    assert ticket.startswith(shortened(ticket)[:8])
    assert len(shortened(ticket)) < 10


def test_an_upload_with_other_values() -> None:
    upload = Upload(app="app", length=5)
    changed = upload.but(length=6, owner="me")
    assert changed == replace(upload, length=6, owner="me")
    assert upload.length == 5
    assert hash(changed.id) == hash(upload.id)
    with pytest.raises(TypeError, match="has no lenght"):
        upload.but(lenght=6)
