from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.errors import BadRequest
from incoming_wsgi.wire.checksums import ALGORITHMS, Checksum, Expectation, Trailed


def value(algorithm: str, data: bytes) -> bytes:
    if algorithm == "crc32":
        return zlib.crc32(data).to_bytes(4, "big")
    return hashlib.new(algorithm, data).digest()


def fits(expected: Expectation, *pieces: bytes) -> bool:
    check = expected.begin()
    for piece in pieces:
        check.update(piece)
    return check.fits()


@given(algorithm=st.sampled_from(sorted(ALGORITHMS)), pieces=st.lists(st.binary(max_size=20)), flipped=st.integers(0))
def test_before_and_behind_the_bytes(algorithm: str, pieces: list[bytes], flipped: int) -> None:
    right = Checksum(algorithm, value(algorithm, b"".join(pieces)))
    position = flipped % len(right.value)
    wrong = Checksum(
        algorithm, right.value[:position] + bytes([right.value[position] ^ 1]) + right.value[position + 1 :]
    )
    for expected, result in ((right, True), (wrong, False)):
        assert fits(expected, *pieces) is result
        assert fits(Trailed(lambda told=expected: told), *pieces) is result  # type: ignore[misc]


def test_what_was_to_follow_the_bytes_has_not() -> None:
    def nothing() -> Checksum:
        raise BadRequest

    with pytest.raises(BadRequest):
        fits(Trailed(nothing), b"x")
