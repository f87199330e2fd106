"""How an upload is cut into parts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.errors import TooLarge
from incoming_wsgi.storage.parts import COUNT, LEAST, MIB, MOST, Plan

SIZES = st.sampled_from([LEAST, 16 * MIB, 100 * MIB])
LENGTHS = st.one_of(st.integers(1, 2**20), st.integers(1, 5 * 2**40))


@given(SIZES, LENGTHS, st.data())
def test_a_known_length(size: int, length: int, data: st.DataObject) -> None:
    plan = Plan.of(length, size)
    assert plan.part_size >= size
    position = data.draw(st.integers(0, length - 1))
    part = plan.at(position)
    assert part.start <= position < part.end <= length
    assert 1 <= part.number <= COUNT
    assert len(part) <= MOST
    assert len(part) == plan.part_size or part.end == length
    assert plan.numbered(part.number) == part
    if part.end < length:
        assert plan.at(part.end).number == part.number + 1
        assert plan.at(part.end).start == part.end


@given(SIZES, st.integers(0, 2**40))
def test_an_unknown_length(size: int, position: int) -> None:
    plan = Plan.of(None, size)
    try:
        part = plan.at(position)
    except TooLarge:
        assert position > 500 * 2**30
        return
    assert part.start <= position < part.end
    assert size <= len(part) <= MOST
    assert plan.numbered(part.number) == part
    assert part.number == COUNT or plan.at(part.end).start == part.end
    assert part.number == COUNT or plan.at(part.end).number == part.number + 1


def test_all_parts_of_an_unknown_length() -> None:
    plan = Plan.of(None, 16 * MIB)
    whole = sum(500 * 16 * MIB * step for step in range(1, 21))
    parts = list(plan.parts(whole))
    assert [part.number for part in parts] == list(range(1, COUNT + 1))
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert (parts[0].start, parts[-1].end, len(parts[0]), len(parts[-1])) == (0, whole, 16 * MIB, 320 * MIB)
    with pytest.raises(TooLarge):
        plan.at(whole)


@pytest.mark.parametrize("length", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 3 * 16 * MIB])
@pytest.mark.parametrize("is_known", [True, False])
def test_the_last_part_ends_with_the_file(length: int, is_known: bool) -> None:
    parts = list(Plan.of(length if is_known else None, 16 * MIB).parts(length))
    assert len(parts) == -(-length // (16 * MIB))
    assert sum(map(len, parts)) == length


def test_too_large_for_any_number_of_parts() -> None:
    assert Plan.of(COUNT * MOST, 16 * MIB).at(COUNT * MOST - 1).number == COUNT
    with pytest.raises(TooLarge):
        Plan.of(COUNT * MOST + 1, 16 * MIB)
    with pytest.raises(TooLarge):
        Plan.of(100, 16 * MIB).at(100)
