from __future__ import annotations

import hashlib
import io
import random
import threading
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi import digests
from incoming_wsgi.digests import Digests, Follower, sha256
from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import Upload
from tests.support.waiting import eventually

DATA = random.Random(7).randbytes(100_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the data was big."""
    monkeypatch.setattr(digests, "_PIECE", 1000)
    monkeypatch.setattr(digests, "_STEP", 10_000)
    monkeypatch.setattr(digests, "_BEHIND", 5000)


@pytest.fixture
def without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_openssl", None)


class Memory:
    """What a registry remembers of a hash, and the bytes that have been read."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.saved: list[tuple[int, bytes]] = []
        self.read: set[int] = set()

    def open(self) -> BinaryIO:
        memory = self

        class Noted(io.BytesIO):
            def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
                memory.read.add(self.tell())
                return super().readinto(buffer)

        return Noted(self.data)

    def save(self, position: int, state: bytes) -> None:
        self.saved.append((position, state))

    def follower(self, saved: tuple[int, bytes] | None = None) -> Follower:
        return Follower(self.open, self.save, saved)


def hashed(pieces: list[bytes], state: bytes = b"") -> digests.ResumableHash:
    found = sha256(state)
    for piece in pieces:
        found.update(memoryview(bytearray(piece)))
    return found


@given(st.lists(st.binary(max_size=300)), st.lists(st.binary(max_size=300)))
def test_a_saved_hash_goes_on(first: list[bytes], second: list[bytes]) -> None:
    state = hashed(first).state()
    assert state, "this machine's Python should have an OpenSSL whose hashes can be saved"
    assert hashed(second, state).hexdigest() == hashlib.sha256(b"".join(first + second)).hexdigest()


def test_asking_for_the_digest_does_not_end_the_hash() -> None:
    found = hashed([b"abc"])
    assert found.hexdigest() == found.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    found.update(memoryview(bytearray(b"def")))
    assert found.hexdigest() == hashlib.sha256(b"abcdef").hexdigest()


@pytest.mark.usefixtures("without_openssl")
def test_without_openssl_it_is_right_but_not_saved() -> None:
    found = hashed([b"abc", b"def"])
    assert found.hexdigest() == hashlib.sha256(b"abcdef").hexdigest()
    assert found.state() == b""
    with pytest.raises(ValueError, match="taken up"):
        sha256(b"x" * 112)


@pytest.mark.parametrize("state", [b"x", b"x" * 111, b"x" * 113])
def test_a_state_of_another_shape(state: bytes) -> None:
    with pytest.raises(ValueError, match="taken up"):
        sha256(state)


def test_a_library_that_hashes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests._openssl is not None
    monkeypatch.setattr(digests._OpenSSLHash, "hexdigest", lambda self: "0" * 64)
    assert not digests._works(digests._openssl)


@pytest.mark.usefixtures("small_steps")
def test_it_follows_and_remembers() -> None:
    memory = Memory()
    follower = memory.follower()
    follower.follow(lambda: 4999)  # not worth it
    assert follower.behind(4999) == 4999
    follower.follow(lambda: 50_000)
    assert follower.behind(50_000) < 5000
    assert [position for position, _ in memory.saved] == [10_000, 20_000, 30_000, 40_000, 50_000]
    assert follower.finish(len(DATA)) == DIGEST


@pytest.mark.usefixtures("small_steps")
def test_another_process_goes_on_where_one_stopped() -> None:
    first, second = Memory(), Memory()
    first.follower().follow(lambda: 50_000)
    assert second.follower(first.saved[-1]).finish(len(DATA)) == DIGEST
    assert min(second.read) == 50_000


@pytest.mark.usefixtures("small_steps")
def test_another_process_without_openssl_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Memory(), Memory()
    first.follower().follow(lambda: 50_000)
    monkeypatch.setattr(digests, "_openssl", None)
    assert second.follower(first.saved[-1]).finish(len(DATA)) == DIGEST
    assert min(second.read) == 0
    assert not second.saved


def test_an_empty_file() -> None:
    assert Memory(b"").follower().finish(0) == hashlib.sha256().hexdigest()


@pytest.mark.usefixtures("small_steps")
def test_bytes_that_are_not_there() -> None:
    memory = Memory(DATA[:50_500])
    follower = memory.follower()
    with pytest.raises(EOFError, match="50500 of 60000"):
        follower.finish(len(DATA))
    memory.data = DATA  # nothing was hashed twice, or left out
    assert follower.finish(len(DATA)) == DIGEST


@pytest.mark.usefixtures("small_steps")
def test_two_threads_do_not_hash_the_same_bytes() -> None:
    inside, go_on = threading.Event(), threading.Event()
    memory = Memory()

    def slow_open() -> BinaryIO:
        inside.set()
        go_on.wait(5)
        return memory.open()

    follower = Follower(slow_open, memory.save, None)
    thread = threading.Thread(target=follower.follow, args=(lambda: 20_000,))
    thread.start()
    assert inside.wait(5)
    assert follower.busy
    follower.follow(lambda: 20_000)  # comes back at once
    results: list[str] = []
    finisher = threading.Thread(target=lambda: results.append(follower.finish(len(DATA))))
    finisher.start()
    go_on.set()
    thread.join()
    finisher.join()
    assert results == [DIGEST]
    assert not follower.busy


class Kept:
    """A registry's and a storage's part in :class:`Digests`."""

    def __init__(self) -> None:
        self.saved: dict[str, tuple[int, bytes]] = {}
        self.opened = 0
        self.digests = Digests(self.read, self.save, self.saved.get)

    def read(self, upload: Upload) -> BinaryIO:
        self.opened += 1
        return io.BytesIO(DATA)

    def save(self, upload: Upload, position: int, state: bytes) -> None:
        self.saved[upload.id] = (position, state)


def arrived(upload: Upload, end: int, taken_back: int = 0) -> Upload:
    return Upload(id=upload.id, length=len(DATA), extents=Extents().add(0, end), taken_back=taken_back)


@pytest.mark.usefixtures("small_steps")
def test_what_was_hashed_of_bytes_that_were_taken_back_does_not_count() -> None:
    """The follower may have read what a disk has lost since; another process may have taken it back."""
    kept, upload = Kept(), Upload()
    kept.digests.start(upload)
    kept.digests.advance(arrived(upload, 60_000))
    eventually(lambda: kept.saved.get(upload.id, (0, b""))[0] == 60_000)
    kept.saved.clear()
    opened = kept.opened
    kept.digests.advance(arrived(upload, 90_000, taken_back=1))
    assert kept.digests.finish(arrived(upload, len(DATA), taken_back=1)) == DIGEST
    assert kept.opened > opened
    assert not kept.saved
    kept.digests.start(arrived(upload, 10, taken_back=2))
    kept.digests.advance(arrived(upload, 60_000, taken_back=2))
    eventually(lambda: kept.saved.get(upload.id, (0, b""))[0] == 60_000)


@pytest.mark.usefixtures("small_steps")
def test_an_upload_is_hashed_while_it_arrives() -> None:
    kept, upload = Kept(), Upload()
    kept.digests.start(upload)
    kept.digests.advance(arrived(upload, 4000))
    assert not kept.opened
    kept.digests.advance(arrived(upload, 60_000))
    eventually(lambda: kept.saved.get(upload.id, (0, b""))[0] == 60_000)
    assert kept.digests.finish(arrived(upload, len(DATA))) == DIGEST


@pytest.mark.usefixtures("small_steps")
def test_a_hole_stops_it() -> None:
    kept, upload = Kept(), Upload()
    kept.digests.start(upload)
    kept.digests.advance(Upload(id=upload.id, extents=Extents().add(1, 90_000)))
    assert not kept.opened


@pytest.mark.usefixtures("small_steps")
def test_a_process_that_never_saw_it_goes_on_with_it() -> None:
    first, second, upload = Kept(), Kept(), Upload()
    first.digests.start(upload)
    first.digests.advance(arrived(upload, 60_000))
    eventually(lambda: first.saved.get(upload.id, (0, b""))[0] == 60_000)
    second.saved.update(first.saved)
    second.digests.advance(arrived(upload, 70_000))  # not its own: no business of its
    assert not second.opened
    assert second.digests.finish(arrived(upload, len(DATA))) == DIGEST


def test_what_is_quiet_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, quiet, lively = Kept(), Upload(), Upload()
    kept.digests.start(quiet)
    monkeypatch.setattr(digests, "_PATIENCE", -1.0)
    kept.digests.prune()
    assert not kept.digests._followers
    monkeypatch.setattr(digests, "_PATIENCE", 300.0)
    kept.digests.start(lively)
    kept.digests.prune()
    assert set(kept.digests._followers) == {lively.id}
    kept.digests.drop(lively.id)
    kept.digests.drop(lively.id)
    assert not kept.digests._followers


def test_nothing_is_kept_of_what_is_finished() -> None:
    kept, upload = Kept(), Upload()
    kept.digests.start(upload)
    kept.digests.advance(arrived(upload, 10))
    kept.digests.finish(arrived(upload, len(DATA)))
    assert not any((kept.digests._followers, kept.digests._offsets, kept.digests._touched))


def test_nothing_is_kept_of_what_failed() -> None:
    kept, upload = Kept(), Upload()
    kept.digests.start(upload)
    too_long = Upload(id=upload.id, length=len(DATA) + 1)
    with pytest.raises(EOFError):
        kept.digests.finish(too_long)
    assert not kept.digests._followers
