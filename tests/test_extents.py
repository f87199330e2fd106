from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.extents import Extents

END = 60

ranges = st.tuples(st.integers(0, END), st.integers(0, END)).map(lambda pair: (min(pair), max(pair)))


def built(pieces: list[tuple[int, int]]) -> tuple[Extents, set[int]]:
    """The same pieces as extents, and as a plain set of byte positions."""
    extents, model = Extents(), set[int]()
    for start, end in pieces:
        extents = extents.add(start, end)
        model |= set(range(start, end))
    return extents, model


@given(st.lists(ranges))
def test_extents_are_a_set_of_bytes(pieces: list[tuple[int, int]]) -> None:
    extents, model = built(pieces)
    assert {byte for start, end in extents.ranges for byte in range(start, end)} == model
    assert extents.received == len(model)
    assert extents.end == max(model, default=-1) + 1
    assert extents.offset == next(byte for byte in range(END + 2) if byte not in model)
    # The shortest way to write the set, so that equal sets are equal extents.
    assert Extents.of(extents.ranges) == extents


@given(st.lists(ranges), ranges)
def test_missing_and_contains(pieces: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    extents, model = built(pieces)
    gaps = list(extents.missing(*asked))
    assert {byte for start, end in gaps for byte in range(start, end)} == set(range(*asked)) - model
    assert all(start < end for start, end in gaps)
    assert extents.contains(*asked) == (set(range(*asked)) <= model)


@given(st.lists(ranges), st.lists(ranges))
def test_minus(pieces: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    (extents, model), (other, its_model) = built(pieces), built(others)
    left = extents.minus(other)
    assert {byte for start, end in left.ranges for byte in range(start, end)} == model - its_model
    assert Extents.of(left.ranges) == left


@given(st.lists(ranges), st.integers(0, END))
def test_complete(pieces: list[tuple[int, int]], length: int) -> None:
    extents, model = built(pieces)
    assert extents.complete(length) == (set(range(length)) <= model)
    assert not extents.complete(None)


@given(st.lists(ranges), st.randoms())
def test_order_of_arrival_does_not_matter(pieces: list[tuple[int, int]], random: Random) -> None:
    shuffled = random.sample(pieces, len(pieces))
    assert built(shuffled)[0] == built(pieces)[0]


@given(st.lists(ranges))
def test_json_there_and_back(pieces: list[tuple[int, int]]) -> None:
    extents, _ = built(pieces)
    assert Extents.from_json(extents.to_json()) == extents


def test_extents_never_change() -> None:
    first = Extents().add(0, 10)
    first.add(10, 20)
    assert first.ranges == ((0, 10),)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (-5, -1)])
def test_no_range(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="no byte range"):
        Extents().add(start, end)


@pytest.mark.parametrize(
    "text", ["[[5,5]]", "[[5,4]]", "[[-1,2]]", "[[0,5],[5,9]]", "[[4,9],[0,2]]", "[[1]]", "{", "[1"]
)
def test_text_that_is_no_extents(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Extents.from_json(text)
