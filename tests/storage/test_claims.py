"""What is said to be there, by names alone: it comes back as it was said, and what competes is told apart."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.extents import Extents
from incoming_wsgi.storage.claims import (
    Claim,
    Opening,
    Owner,
    Stored,
    claims_in,
    counting,
    folder_of,
    name_of_piece,
    names_of,
)
from incoming_wsgi.storage.parts import MIB, Part, Plan
from incoming_wsgi.upload import Upload

PLAN = Plan(5 * MIB, 10_000 * 5 * MIB - 7)
ONE, TWO, THREE = (Owner(number, f"session{number}") for number in (1, 2, 3))
BEGAN = datetime(2026, 1, 1, tzinfo=timezone.utc)

owners = st.builds(Owner, st.integers(0, 10**9), st.text("0123456789abcdef", min_size=8, max_size=8))
parts = st.integers(1, 10_000).map(PLAN.numbered)
etags = st.text(min_size=1, max_size=40)


def read(key: str) -> list[Claim]:
    return list(claims_in(f"claims/x/{key}", PLAN, PLAN.length))


@given(owners, st.dictionaries(parts, etags, min_size=1, max_size=10))
def test_whole_parts(owner: Owner, stored: dict[Part, str]) -> None:
    names = list(names_of(owner, [Stored(part, etag) for part, etag in stored.items()]))
    found = [claim for name, _ in names for claim in read(name)]
    assert {claim.part: claim.etag for claim in found} == stored
    assert all(claim.owner == owner and not claim.is_piece for claim in found)
    assert all((claim.start, claim.end) == (claim.part.start, claim.part.end) for claim in found)
    assert all(claim.key.removeprefix("claims/x/").startswith(folder_of(claim.part)) for claim in found)


@given(owners, parts, st.data())
def test_pieces(owner: Owner, part: Part, data: st.DataObject) -> None:
    start = data.draw(st.integers(part.start, part.end - 1))
    end = data.draw(st.integers(start + 1, part.end))
    (claim,) = read(name_of_piece(owner, part, start, end))
    assert (claim.owner, claim.part, claim.start, claim.end, claim.is_piece) == (owner, part, start, end, True)


def test_equal_claims_are_objects_of_their_own() -> None:
    stored = [Stored(PLAN.numbered(1), "etag")]
    ((one, _),), ((other, _),) = names_of(ONE, stored), names_of(ONE, stored)
    assert one != other


def test_sessions_are_told_apart() -> None:
    uploads = [Upload(epoch=2, session=session) for session in ("a", "b")]
    assert len({Owner.of(upload) for upload in uploads}) == 2
    assert all(Owner.from_text(str(Owner.of(upload))) == Owner.of(upload) for upload in uploads)


def claim_of(owner: Owner, start: int = 0, end: int = 10) -> Claim:
    return Claim("key", owner, PLAN.numbered(1), start, end)


def opening_of(owner: Owner, seconds: float, *recorded: tuple[int, int]) -> Opening:
    return Opening(owner, Extents.of(recorded), BEGAN + timedelta(seconds=seconds))


def test_what_was_recorded_by_the_next_opening_counts() -> None:
    claims = [claim_of(ONE, 0, 10), claim_of(ONE, 10, 20), claim_of(TWO, 10, 20)]
    openings = [opening_of(ONE, 0), opening_of(TWO, 0.2, (0, 10)), opening_of(THREE, 0.4, (0, 20))]
    assert counting(claims, openings) == [claims[0], claims[2]]


def test_who_was_there_before_a_number_was_given_again() -> None:
    again = Owner(TWO.epoch, "again")
    claims = [claim_of(TWO), claim_of(again)]
    openings = [opening_of(ONE, 0), opening_of(TWO, 10), opening_of(again, 20)]
    assert counting(claims, openings) == [claims[1]]


def test_a_mark_that_came_late_changes_nothing() -> None:
    """The second opening was quicker to leave its own."""
    claims = [claim_of(ONE), claim_of(TWO)]
    openings = [opening_of(TWO, 5), opening_of(ONE, 5.3)]
    assert counting(claims, openings) == [claims[1]]


def test_who_has_left_no_mark_goes_by_the_number() -> None:
    claims = [claim_of(TWO)]
    assert counting(claims, [opening_of(ONE, 9)]) == claims
    assert counting(claims, [opening_of(THREE, 9)]) == []
    assert counting(claims, [opening_of(THREE, 9, (0, 10))]) == claims
