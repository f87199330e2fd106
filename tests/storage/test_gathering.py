"""Memory for parts. How much of it an upload may take is tested with what takes it (test_s3.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

import pytest

from incoming_wsgi.storage.gathering import Gathered, blocks_of, memory
from incoming_wsgi.storage.parts import Part
from incoming_wsgi.wire.bulk import PIECE

START = 5


@pytest.fixture
def gathered() -> Iterator[Gathered]:
    gathered = Gathered(Part(1, 0, 10 * PIECE), START)
    yield gathered
    gathered.release()


def added(gathered: Gathered, *sizes: int) -> bytes:
    pieces = [os.urandom(size) for size in sizes]
    for piece in pieces:
        gathered.add(memoryview(piece))
    return b"".join(pieces)


@pytest.mark.parametrize("sizes", [(1,), (PIECE,), (PIECE - 1, 2), (3 * PIECE,), (7, 2 * PIECE, 100)])
def test_what_was_gathered_is_read(gathered: Gathered, sizes: tuple[int, ...]) -> None:
    data = added(gathered, *sizes)
    assert len(gathered) == len(data)
    assert gathered.end == START + len(data)
    assert b"".join(blocks_of(gathered)) == data


def test_it_can_be_read_again_from_where_a_reader_began(gathered: Gathered) -> None:
    """So botocore does, for the digest and when a call is repeated."""
    data = added(gathered, PIECE + 10)
    for _ in range(2):
        began = gathered.tell()
        digest = sha256()
        for block in iter(lambda: gathered.read(16 * 1024), b""):
            digest.update(block)
        assert digest.digest() == sha256(data).digest()
        gathered.seek(began)


def test_from_the_middle_of_a_block(gathered: Gathered) -> None:
    data = added(gathered, 2 * PIECE + 10)
    gathered.seek(PIECE + 7)
    assert gathered.read() == data[PIECE + 7 : 2 * PIECE]
    assert gathered.read() == data[2 * PIECE :]
    assert not gathered.read()


def test_what_belongs_to_the_next_part_does_not_fit(gathered: Gathered) -> None:
    added(gathered, 9 * PIECE)
    assert len(gathered.fitting(memoryview(bytes(2 * PIECE)))) == PIECE - START


def test_memory_is_used_again_and_not_kept_for_ever(gathered: Gathered) -> None:
    added(gathered, 3 * PIECE)
    gathered.release()
    assert not len(gathered)
    free = len(memory.kept)
    assert free >= 3
    added(gathered, 3 * PIECE)
    assert len(memory.kept) == free - 3
    gathered.release()
    memory.tidy()  # needed a moment ago
    assert len(memory.kept) >= 3
    memory.tidy()
    assert memory.kept == ()
