from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.wire.bulk import NOTHING, PIECE, Blocks, Bulk, Chain, Lent, Pipe, Piped, buffers, bulk_of, pipes

from ..helpers import piped

DATA = random.Random(7).randbytes(100_000)

KINDS: dict[str, Callable[[bytes], Bulk]] = {
    "bytes": bulk_of,
    "blocks": lambda data: Blocks((data[:7], data[7:7], data[7:50_000], memoryview(data)[50_000:])),
    "chain": lambda data: Chain(
        (bulk_of(data[:7]), NOTHING, Blocks((data[7:9], data[9:70_000])), bulk_of(data[70_000:]))
    ),
    "pipe": piped,
}


@pytest.fixture(params=KINDS)
def piece(request: pytest.FixtureRequest) -> Bulk:
    return KINDS[request.param](DATA)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"")
    return path


def write(piece: Bulk, file: Path, position: int) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        piece.into(descriptor, position)
    finally:
        os.close(descriptor)


def joined(piece: Bulk) -> bytes:
    return b"".join(bytes(block) for block in piece.blocks())


def test_all_of_it_goes_into_a_file(piece: Bulk, file: Path) -> None:
    assert len(piece) == len(DATA)
    write(piece, file, 5)
    piece.release()
    assert file.read_bytes() == bytes(5) + DATA


def test_or_is_read(piece: Bulk) -> None:
    assert joined(piece) == DATA
    piece.release()


@given(st.data())
def test_parts(data: st.DataObject) -> None:
    edges = sorted(data.draw(st.lists(st.integers(0, len(DATA)), max_size=6)))
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    for make in KINDS.values():
        piece = make(DATA)
        assert [joined(piece.part(*edge)) for edge in ranges] == [DATA[slice(*edge)] for edge in ranges]
        piece.release()


def test_a_file_that_takes_only_a_little_at_a_time(piece: Bulk, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwritev(descriptor: int, blocks: list[memoryview], position: int) -> int:
        return os.pwrite(descriptor, next(filter(len, blocks))[:999], position)

    def splice(source: int, target: int, count: int, offset_dst: int) -> int:
        return real_splice(source, target, min(count, 999), offset_dst=offset_dst)

    real_splice = os.splice
    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "splice", splice)
    write(piece, file, 0)
    assert file.read_bytes() == DATA


def test_more_blocks_than_one_call_takes(file: Path) -> None:
    write(Blocks(DATA[start : start + 10] for start in range(0, len(DATA), 10)), file, 0)
    assert file.read_bytes() == DATA


def test_nothing(file: Path) -> None:
    assert not NOTHING
    write(NOTHING, file, 3)
    write(piped(b""), file, 3)
    assert file.read_bytes() == b""


# -- pipes ------------------------------------------------------------------------------------------------------


def test_a_file_system_that_takes_nothing_from_a_pipe(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def splice(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, "no splicing here")

    monkeypatch.setattr(os, "splice", splice)
    piece = piped(DATA)
    write(piece, file, 1)
    piece.release()
    assert file.read_bytes() == b"\0" + DATA


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = piped(DATA)
    descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(OSError, match="No space"):
            piece.into(descriptor, 0)
    finally:
        os.close(descriptor)
    given_back: list[Pipe] = []
    monkeypatch.setattr(pipes, "give_back", given_back.append)
    piece.release()
    assert not given_back  # what is left in it must never get into another upload


def test_a_pipe_with_bytes_in_it_is_lent_to_nobody() -> None:
    piece = piped(DATA)
    joined(piece.part(0, 10))
    piece.release()
    piece.release()
    lent = [pipes.lend() for _ in range(6)]
    for pipe in lent:
        with pytest.raises(BlockingIOError):
            os.read(pipe.reading, 1)
        pipes.give_back(pipe)


def test_a_pipe_that_can_not_be_made_larger_works_as_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    pipe = Pipe()
    pipe.held = os.write(pipe.writing, DATA[:5000])
    write(Piped([pipe]), file, 0)
    pipe.close()
    assert file.read_bytes() == DATA[:5000]


# -- what is lent -----------------------------------------------------------------------------------------------


def test_what_is_lent_is_lent_again() -> None:
    lent = [buffers.lend() for _ in range(10)]
    assert len({id(buffer) for buffer in lent}) == 10
    for buffer in lent:
        Lent(buffer, 5).release()
    again = [buffers.lend() for _ in range(10)]
    kept = {id(buffer) for buffer in lent} & {id(buffer) for buffer in again}
    assert len(kept) == 4  # the others were one too many
    assert all(len(buffer) == PIECE for buffer in again)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells how much memory is in use")
def test_what_is_never_used_of_a_buffer_takes_no_memory() -> None:
    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    kept = [buffers.lend() for _ in range(4)]
    before = used()
    lent = [buffers.lend() for _ in range(20)]
    for buffer in lent:
        buffer[:10] = bytes(10)
    assert used() - before < 20 * PIECE / 4
    assert len(kept) + len(lent) == 24


def test_giving_back_twice() -> None:
    piece = Lent(buffers.lend(), 3)
    piece.release()
    piece.release()
    assert buffers.lend() is not buffers.lend()


def test_two_processes_share_no_pipe() -> None:
    pipes.give_back(Pipe())
    mine = {pipe.reading for pipe in pipes.kept}
    child = os.fork()
    if not child:
        os._exit(bool(pipes.kept))  # would be found in both
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {pipe.reading for pipe in pipes.kept} == mine
