"""What every storage keeps to. A storage of one's own passes these tests in a subclass of the contract::

class TestMine(StorageContract):
    @pytest.fixture
    def opened(self, tmp_path): ...
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from incoming_wsgi.errors import Damaged
from incoming_wsgi.extents import Extents
from incoming_wsgi.storage import Data, Storage
from incoming_wsgi.storage.files import FileStorage
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import State, Upload
from incoming_wsgi.wire.bulk import Blocks
from tests.helpers import piped
from tests.support.s3_server import S3Server


def upload_of(length: int) -> Upload:
    """None of its bytes are recorded yet."""
    return Upload(length=length)


def stored(storage: Storage, upload: Upload) -> bytes:
    with storage.read(upload) as file:
        pieces = []
        while piece := file.read(1024 * 1024):
            pieces.append(piece)
        return b"".join(pieces)


def write(storage: Storage, upload: Upload, position: int, data: Data) -> None:
    storage.create(upload)
    writer = storage.open(upload)
    try:
        with writer.exclusive():
            writer.write(position, data)
        writer.flush()
    finally:
        writer.close()


def assert_arrived(storage: Storage, upload: Upload, data: bytes) -> None:
    """Before it is complete; not every storage can be asked."""
    if storage.reads_arriving:
        assert stored(storage, upload) == data


class StorageContract(ABC):
    """Give ``opened``: opens a storage, each time the same one, as another process would."""

    @pytest.fixture
    @abstractmethod
    def opened(self, tmp_path: Path) -> Callable[[], Storage]: ...

    @pytest.fixture
    def storage(self, opened: Callable[[], Storage]) -> Storage:
        return opened()

    @pytest.fixture
    def other(self, storage: Storage, opened: Callable[[], Storage]) -> Storage:
        return opened()

    def test_bytes_lie_where_they_were_put(self, storage: Storage, other: Storage) -> None:
        """In any order, by any process, from any kind of buffer."""
        upload, data = upload_of(300), random.Random(1).randbytes(300)
        write(storage, upload, 200, bytearray(data[200:]))
        write(other, upload, 0, memoryview(data)[:100])
        write(storage, upload, 100, Blocks((data[100:150], b"", data[150:200])))
        assert_arrived(other, upload, data)
        storage.complete(upload)
        assert stored(other, upload) == data

    def test_bytes_that_come_in_a_pipe(self, storage: Storage) -> None:
        """Also where some of them are safe already, and are not to be written again."""
        upload, data = upload_of(300), random.Random(3).randbytes(300)
        piece = piped(data)
        for start, stop in ((10, 100), (100, 110), (250, 290)):
            write(storage, upload, start, piece.part(start, stop))
        piece.release()
        for start, stop in ((0, 10), (110, 250), (290, 300)):
            write(storage, upload, start, data[start:stop])
        storage.complete(upload)
        assert stored(storage, upload) == data

    def test_several_writers(self, storage: Storage, other: Storage) -> None:
        upload = upload_of(40 * 1000)
        data = random.Random(2).randbytes(40 * 1000)

        def lane(one: Storage, first: int) -> None:
            one.create(upload)
            writer = one.open(upload)
            for start in range(first, len(data), 4000):
                with writer.exclusive():
                    writer.write(start, data[start : start + 1000])
            writer.flush()
            writer.close()

        lanes = [threading.Thread(target=lane, args=((storage, other)[n % 2], 1000 * n)) for n in range(4)]
        for thread in lanes:
            thread.start()
        for thread in lanes:
            thread.join()
        storage.complete(upload)
        assert stored(other, upload) == data

    @pytest.mark.parametrize("pieces", [[300], [1, 99, 200]])
    def test_the_first_bytes_can_be_read_early(self, storage: Storage, other: Storage, pieces: list[int]) -> None:
        """And to the end; whoever stored them, and however they came."""
        upload, data = upload_of(300), random.Random(6).randbytes(300)
        with pytest.raises(FileNotFoundError):
            storage.first_bytes(upload, 10)
        begin = 0
        for number, size in enumerate(pieces):
            write((storage, other)[number % 2], upload, begin, data[begin : begin + size])
            begin += size
            assert other.first_bytes(upload, min(begin, 150)) == data[: min(begin, 150)]
        storage.complete(upload)
        assert other.first_bytes(upload, 150) == data[:150]

    def test_what_is_being_completed_is_remembered(self, storage: Storage, other: Storage) -> None:
        """Before its file is complete, after that, and until it is released."""
        upload = Upload(length=4, app="app", secret="geheim")
        storage.create(upload)
        storage.opened(upload)
        write(storage, upload, 0, b"safe")
        storage.remember(replace(upload, state=State.COMPLETING, extents=Extents().add(0, 4)))
        for is_complete in (False, True):
            if is_complete:
                storage.complete(upload)
            (found,) = other.remembered()
            assert (found.id, found.app, found.secret, found.length) == (upload.id, "app", "geheim", 4)
            assert found.extents == Extents().add(0, 4)
        assert found.state is State.COMPLETING
        other.release(upload)
        storage.release(upload)
        assert list(storage.remembered()) == []
        assert stored(storage, upload) == b"safe"

    def test_what_was_joined_is_remembered(self, storage: Storage, other: Storage) -> None:
        whole = Upload(length=8, state=State.JOINING, epoch=1)
        parts = [Upload(length=4, part_of=whole.id, epoch=1) for _ in range(2)]
        whole = replace(whole, parts=tuple(part.id for part in parts))
        storage.remember(whole)
        for part in parts:
            write(storage, part, 0, b"part")
            storage.opened(replace(part, extents=Extents().add(0, 4)))
        for is_joined in (False, True):
            if is_joined:
                storage.join(whole, parts)
            found = {upload.id: upload for upload in other.remembered()}
            assert (found[whole.id].state, found[whole.id].parts) == (State.JOINING, whole.parts)
            assert all(found[part.id].extents.contains(0, 4) for part in parts)
            assert all(found[part.id].state is State.RECEIVING for part in parts)
        others = {upload.id for upload in other.remembered(lambda upload_id: upload_id == whole.id)}
        assert others == {part.id for part in parts}
        assert list(other.remembered(lambda _: True)) == []

    def test_what_is_removed_is_not_remembered(self, storage: Storage, other: Storage) -> None:
        for is_complete in (False, True):
            upload = upload_of(4)
            write(storage, upload, 0, b"safe")
            storage.opened(upload)
            if is_complete:
                storage.remember(upload)
                storage.complete(upload)
            storage.remove(upload)
            assert list(other.remembered()) == []

    def test_opening_again_keeps_what_is_there(self, storage: Storage) -> None:
        upload = upload_of(4)
        write(storage, upload, 0, b"safe")
        storage.create(upload)
        storage.open(upload).close()
        assert_arrived(storage, upload, b"safe")
        storage.complete(upload)
        assert stored(storage, upload) == b"safe"

    @pytest.mark.parametrize("there", [b"", b"12", b"123"])
    def test_less_is_there_than_has_arrived(self, storage: Storage, other: Storage, there: bytes) -> None:
        upload = upload_of(10)
        write(storage, upload, 0, there)
        with pytest.raises(Damaged):
            other.open(replace(upload, extents=Extents().add(2, 4)))
        other.open(replace(upload, extents=Extents().add(0, len(there)))).close()
        assert_arrived(storage, upload, there)

    def test_closing_twice(self, storage: Storage) -> None:
        upload = upload_of(1)
        storage.create(upload)
        writer = storage.open(upload)
        writer.close()
        writer.close()

    def test_uploads_are_kept_apart(self, storage: Storage) -> None:
        one, two = upload_of(3), upload_of(3)
        write(storage, one, 0, b"one")
        write(storage, two, 0, b"two")
        storage.remove(one)
        storage.complete(two)
        assert stored(storage, two) == b"two"
        with pytest.raises(FileNotFoundError):
            storage.read(one)

    def test_reading_what_is_not_there(self, storage: Storage) -> None:
        with pytest.raises(FileNotFoundError):
            storage.read(upload_of(1))

    def test_complete(self, storage: Storage, other: Storage) -> None:
        upload = upload_of(5)
        write(storage, upload, 0, b"12345")
        assert storage.locate(upload) is None
        place = storage.complete(upload)
        assert storage.locate(upload) == place
        assert other.complete(upload) == place  # again, by another process
        assert other.locate(upload) == place
        assert stored(other, upload) == b"12345"

    def test_an_empty_file(self, storage: Storage) -> None:
        upload = upload_of(0)
        storage.create(upload)
        storage.open(upload).close()
        place = storage.complete(upload)
        assert storage.locate(upload) == place
        assert stored(storage, upload) == b""

    def test_what_goes_beyond_the_length_does_not_count(self, storage: Storage) -> None:
        upload = upload_of(5)
        write(storage, upload, 0, b"12345 and more that was never acknowledged")
        storage.complete(upload)
        assert stored(storage, upload) == b"12345"

    def test_too_short(self, storage: Storage) -> None:
        upload = upload_of(6)
        write(storage, upload, 0, b"12345")
        with pytest.raises(Damaged, match=r"6.*5"):
            storage.complete(upload)
        assert_arrived(storage, upload, b"12345")  # kept for the operator
        assert storage.locate(upload) is None
        write(storage, upload, 5, b"6")
        storage.complete(upload)
        assert stored(storage, upload) == b"123456"

    def test_gone(self, storage: Storage) -> None:
        with pytest.raises(Damaged):
            storage.complete(upload_of(5))

    def test_a_length_that_nobody_knows(self, storage: Storage) -> None:
        upload = replace(upload_of(5), length=None)
        write(storage, upload, 0, b"12345")
        with pytest.raises(Damaged):
            storage.complete(upload)

    def test_joining(self, storage: Storage, other: Storage) -> None:
        """Of parts whose ends lie anywhere, one twice, and as often as it takes."""
        data = random.Random(4).randbytes(3 * 4096 + 1)
        parts = [upload_of(length) for length in (4096, 0, 4097, 4096)]
        begin = 0
        for part in parts:
            write(storage, part, 0, data[begin : begin + (part.length or 0)] + b"never acknowledged")
            begin += part.length or 0
        joined = data + data[4096 : 2 * 4096 + 1]
        whole = upload_of(len(joined))
        for one in (storage, other):
            one.join(whole, [*parts, parts[2]])
            assert_arrived(other, whole, joined)
        storage.complete(whole)
        assert stored(other, whole) == joined

    def test_in_one_piece(self, storage: Storage, other: Storage) -> None:
        """Said again by somebody else after the first one has died, and a third opens it as ever: nothing was lost."""
        upload, data = upload_of(1000), random.Random(5).randbytes(1000)
        for one in (storage, other):
            with one.keeping_whole(upload) as keep:
                keep(data)
        other.complete(upload)
        assert stored(storage, upload) == data

    def test_in_one_piece_and_then_in_many(self, storage: Storage, other: Storage) -> None:
        upload, data = upload_of(1000), random.Random(5).randbytes(1000)
        with storage.keeping_whole(upload) as keep:
            keep(bytes(1000))
        write(other, upload, 0, data[:500])
        write(storage, upload, 500, data[500:])
        other.complete(upload)
        assert stored(storage, upload) == data

    def test_what_is_kept(self, storage: Storage) -> None:
        """At the latest all of it is after flushing, and nothing that was not written."""
        upload = upload_of(1000)
        storage.create(upload)
        writer = storage.open(upload)
        written = Extents().add(0, 100).add(300, 400)
        for start, end in written.ranges:
            writer.write(start, bytes(end - start))
            assert not writer.kept(written).minus(written).ranges
        writer.flush()
        assert writer.kept(written) == written
        writer.recorded(replace(upload, extents=written))
        writer.close()

    def test_arriving_since(self, storage: Storage, other: Storage) -> None:
        arriving, complete = upload_of(3), upload_of(3)
        for upload in (arriving, complete):
            write(storage, upload, 0, b"123")
        storage.complete(complete)
        storage.clear(complete)
        assert list(other.arriving_since(-60)) == [arriving.id]
        assert not list(other.arriving_since(60))
        other.quarantine(arriving.id)
        assert not list(storage.arriving_since(-60))

    def test_joining_what_is_not_there(self, storage: Storage) -> None:
        part = upload_of(100)
        with pytest.raises(Damaged):
            storage.join(upload_of(100), [part])
        write(storage, part, 0, b"12345")
        with pytest.raises(Damaged):
            storage.join(upload_of(100), [part])

    def test_remove(self, storage: Storage, other: Storage) -> None:
        arriving, complete = upload_of(1), upload_of(1)
        for upload in (arriving, complete):
            write(storage, upload, 0, b"x")
        storage.complete(complete)
        for upload in (arriving, complete):
            other.remove(upload)
            other.remove(upload)
            assert storage.locate(upload) is None
            with pytest.raises(FileNotFoundError):
                storage.read(upload)

    def test_removed_under_a_writer(self, storage: Storage, other: Storage) -> None:
        """As when an upload is cancelled while bytes come in: nothing is left, and nothing breaks."""
        upload = upload_of(2)
        storage.create(upload)
        writer = storage.open(upload)
        writer.write(0, b"1")
        other.remove(upload)
        writer.write(1, b"2")
        writer.close()
        with pytest.raises(FileNotFoundError):
            storage.read(upload)

    @pytest.mark.parametrize("name", ["../../etc/passwd", "", ".", "x/y", "\0"])
    def test_only_tickets_become_places(self, storage: Storage, name: str) -> None:
        upload = replace(upload_of(1), id=name)
        for ask in (storage.open, storage.read, storage.complete, storage.locate, storage.remove):
            with pytest.raises(ValueError, match="not the id"):
                ask(upload)


class ExclusiveContract(StorageContract):
    """Of a storage that can keep others out."""

    def test_exclusive(self, storage: Storage, other: Storage) -> None:
        upload = upload_of(1)
        storage.create(upload)
        first, second = storage.open(upload), other.open(upload)
        entered = threading.Event()

        def enter() -> None:
            with second.exclusive():
                entered.set()

        thread = threading.Thread(target=enter, daemon=True)
        with first.exclusive():
            thread.start()
            assert not entered.wait(0.05)
        assert entered.wait(5)
        thread.join()
        with pytest.raises(KeyError), first.exclusive():
            raise KeyError
        with second.exclusive():
            pass
        first.close()
        second.close()


class TestFiles(ExclusiveContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Callable[[], Storage]:
        return lambda: FileStorage(tmp_path / "files")


class TestS3(StorageContract):
    @pytest.fixture
    def opened(self, s3_server: S3Server) -> Callable[[], Storage]:
        url = s3_server.url(s3_server.bucket())
        return lambda: S3Storage(url)
