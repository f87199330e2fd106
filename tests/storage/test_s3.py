"""What is special about uploads in S3: parts that are sent meanwhile, pieces, and connections that come too late."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incoming_wsgi.errors import Damaged, TooLarge, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.storage import SyncFailed, claims, gathering, s3_writer
from incoming_wsgi.storage.bucket import Bucket
from incoming_wsgi.storage.claims import Owner
from incoming_wsgi.storage.gathering import Room
from incoming_wsgi.storage.parts import MIB, Plan
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import Upload
from tests.support.s3_server import CREDENTIALS, Ceph, S3Server
from tests.support.waiting import eventually

PART = 5 * MIB
LENGTH = 3 * PART + 1000
DATA = random.Random(6).randbytes(LENGTH)


class Place:
    """A bucket with a storage in it, and what a test looks at there."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = server.bucket()
        self.url = server.url(self.bucket, part_size=PART)
        self.storage = S3Storage(self.url)
        self._client = server.client()

    def another(self) -> S3Storage:
        """As another machine has it."""
        return S3Storage(self.url)

    def keys(self, folder: str = "") -> list[str]:
        answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=f"up/loads/{folder}")
        return [entry["Key"].removeprefix("up/loads/") for entry in answer.get("Contents", ())]

    def claims(self, upload: Upload) -> list[str]:
        return [key.partition("/")[2].partition("/")[2] for key in self.keys(f"claims/{upload.id}/")]

    def multiparts(self) -> list[Any]:
        try:
            found: list[Any] = self._client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        except self._client.exceptions.NoSuchUpload:
            return []
        return found

    def whole(self, upload: Upload) -> bytes:
        with self.storage.read(upload) as file:
            data = bytearray()
            while block := file.read(MIB):
                data += block
            return bytes(data)

    def object(self, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=self.bucket, Key=f"up/loads/{key}")["Body"].read()
        return data


@pytest.fixture
def place(s3_server: S3Server) -> Place:
    return Place(s3_server)


@pytest.fixture
def strict(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    """In a server that keeps to all of S3."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return Place(ceph)


def upload_of(length: int | None = LENGTH, **more: Any) -> Upload:
    return Upload(length=length, epoch=1, **more)


def write(storage: S3Storage, upload: Upload, spans: Iterable[tuple[int, int]], data: bytes = DATA) -> Upload:
    """Each in a writer of its own; the upload as it is recorded then."""
    for start, end in spans:
        writer = storage.open(upload)
        writer.write(start, data[start:end])
        writer.flush()
        upload = replace(upload, extents=upload.extents.add(start, end))
        writer.recorded(upload)
        writer.close()
    return upload


def opened(storage: S3Storage, upload: Upload) -> Upload:
    """By the next opening."""
    upload = replace(upload, epoch=upload.epoch + 1)
    storage.opened(upload)
    return upload


def test_parts_go_as_they_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_writer, "_UNCLAIMED", 3600)
    upload = upload_of()
    place.storage.create(upload)
    write(place.storage, upload, [(0, LENGTH)])
    claims = place.claims(upload)
    assert all(claim.startswith(f"0000/{Owner.of(upload)}-whole-") for claim in claims)
    assert len(claims) < 4, "some of the parts are claimed together"
    assert sorted(part[0] for claim in claims for part in claim.split("-")[2].split("!")) == ["1", "2", "3", "4"]
    assert place.storage.complete(upload) == f"s3://{place.bucket}/up/loads/complete/{upload.id}"
    assert place.whole(upload) == DATA
    place.storage.clear(upload)
    assert place.keys() == [f"complete/{upload.id}"]
    assert place.multiparts() == []


@pytest.mark.parametrize("end", ["release", "remove"])
def test_who_has_completed_it_died_before_it_cleared_up(place: Place, end: str) -> None:
    upload = upload_of()
    place.storage.create(upload)
    place.storage.complete(write(place.storage, upload, [(0, LENGTH)]))
    assert len(place.keys()) > 1
    getattr(place.another(), end)(upload)
    assert place.keys() == ([f"complete/{upload.id}"] if end == "release" else [])


def test_parts_are_kept_while_more_comes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """When their claim is due."""
    monkeypatch.setattr(s3_writer, "_UNCLAIMED", 0)
    upload = upload_of()
    place.storage.create(upload)
    writer = place.storage.open(upload)
    writer.write(0, DATA[: PART + 10])
    written = Extents().add(0, PART + 10)
    eventually(lambda: writer.kept(written) == Extents().add(0, PART))
    assert place.claims(upload)
    writer.flush()
    assert writer.kept(written) == written
    writer.close()


def test_pieces_are_composed_by_whoever_has_the_last_one(place: Place) -> None:
    upload = upload_of()
    place.storage.create(upload)
    upload = write(place.storage, upload, [(0, 1000)])
    upload = write(place.another(), upload, [(1000, PART + 5)])
    eventually(lambda: len(place.claims(upload)) == 2)
    assert sorted("whole" in claim for claim in place.claims(upload)) == [False, True]
    upload = write(place.storage, upload, [(PART + 5, LENGTH)])
    place.another().complete(upload)
    place.another().clear(upload)
    assert place.whole(upload) == DATA
    assert place.keys() == [f"complete/{upload.id}"]


def test_a_length_that_is_known_late(place: Place) -> None:
    upload = upload_of(None)
    place.storage.create(upload)
    upload = write(place.storage, upload, [(0, LENGTH)])
    with pytest.raises(Damaged):
        place.storage.complete(upload)
    upload = replace(upload, length=LENGTH)
    place.another().complete(upload)
    assert place.whole(upload) == DATA


def test_no_byte_of_an_unknown_length(place: Place) -> None:
    upload = upload_of(None)
    place.storage.create(upload)
    upload = replace(upload, length=0)
    place.storage.complete(upload)
    place.storage.clear(upload)
    assert place.whole(upload) == b""
    assert place.multiparts() == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, LENGTH - 1), max_size=5, unique=True), st.randoms(use_true_random=False))
def test_any_cuts_in_any_order(place: Place, cuts: list[int], order: random.Random) -> None:
    """By two machines, some of it twice."""
    points = [0, *sorted(cuts), LENGTH]
    spans = list(itertools.pairwise(points))
    order.shuffle(spans)
    upload = upload_of()
    place.storage.create(upload)
    for span in [*spans, spans[0]]:
        upload = write(order.choice([place.storage, place.another()]), upload, [span])
    place.another().complete(upload)
    assert place.whole(upload) == DATA


OTHER = bytes(LENGTH)


def test_a_part_that_comes_late_with_other_bytes(strict: Place) -> None:
    """It takes the place of the one that was acknowledged, and that is noticed."""
    upload = upload_of()
    strict.storage.create(upload)
    old = strict.storage.open(upload)
    newer = write(strict.another(), opened(strict.another(), upload), [(0, LENGTH)])
    old.write(0, OTHER[:PART])
    old.flush()
    with pytest.raises(SyncFailed) as caught:
        strict.another().complete(newer)
    assert caught.value.facts["start_anew"]
    anew = replace(newer, taken_back=1, extents=Extents())
    strict.storage.create(anew)
    old.write(PART, OTHER[PART : PART + 10])
    old.flush()
    strict.another().complete(write(strict.another(), anew, [(0, PART + 10), (PART + 10, LENGTH)]))
    strict.another().clear(anew)
    assert strict.whole(anew) == DATA
    assert strict.keys() == [f"complete/{anew.id}"]
    assert strict.multiparts() == []


def test_what_was_not_recorded_does_not_count(strict: Place) -> None:
    """A part that was stored and not acknowledged before the next opening, which then brought other bytes in pieces."""
    upload = upload_of()
    strict.storage.create(upload)
    write(strict.storage, upload, [(0, PART)], OTHER)  # not recorded
    write(strict.storage, upload, [(PART, PART + 100)], OTHER)
    newer = opened(strict.storage, upload)
    spans = [(0, 1000), (1000, PART), (PART, PART + 10), (PART + 10, 2 * PART), (2 * PART, LENGTH)]
    newer = write(strict.another(), newer, spans)
    strict.another().complete(newer)
    assert strict.whole(newer) == DATA


def test_a_number_that_was_given_twice(strict: Place) -> None:
    """A registry had lost an opening: the next one got its number. What the lost one stored does not count."""
    upload = upload_of(session="before")
    strict.storage.create(upload)
    strict.storage.opened(upload)
    write(strict.storage, upload, [(0, PART)], OTHER)
    again = replace(upload, session="again")
    strict.another().create(again)
    strict.another().opened(again)
    spans = [(0, 1000), (1000, PART), (PART, LENGTH)]
    again = write(strict.another(), again, spans)
    strict.another().complete(again)
    assert strict.whole(again) == DATA


def test_openings_that_were_lost(strict: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what they had recorded; those that came in their place count, under the same numbers."""
    monkeypatch.setattr(claims, "_AT_ONCE", timedelta(0))
    upload = upload_of(session="one")
    strict.storage.create(upload)
    upload = write(strict.storage, upload, [(0, 1000)])
    for number in (2, 3):
        lost = replace(upload, epoch=number, session=f"lost {number}")
        strict.storage.opened(lost)
        write(strict.storage, lost, [(1000, PART - 1)], OTHER)
    for number in (2, 3):
        upload = replace(upload, epoch=number, session=f"again {number}")
        strict.another().opened(upload)
        end = (number - 1) * PART
        upload = write(strict.another(), upload, [(upload.extents.end, end - 500), (end - 500, end)])
    upload = write(strict.another(), upload, [(2 * PART, LENGTH)])
    strict.another().complete(upload)
    assert strict.whole(upload) == DATA


def test_a_lost_opening_that_had_composed_a_part(strict: Place) -> None:
    """Bytes of an earlier one are in there, and nowhere else."""
    upload = upload_of(session="one")
    strict.storage.create(upload)
    upload = write(strict.storage, upload, [(0, 1000)])
    lost = replace(upload, epoch=2, session="lost")
    strict.storage.opened(lost)
    write(strict.storage, lost, [(1000, PART)])
    eventually(lambda: len([key for key in strict.claims(upload) if key.startswith("0000/")]) == 1)
    upload = replace(upload, epoch=2, session="again")
    strict.another().opened(upload)
    upload = write(strict.another(), upload, [(1000, LENGTH)])
    with pytest.raises(SyncFailed) as caught:
        strict.another().complete(upload)
    assert caught.value.facts["start_anew"]


def test_a_part_that_was_not_recorded_before_its_pieces_came(place: Place) -> None:
    """From the same connection: nobody knows which were acknowledged."""
    upload = upload_of()
    place.storage.create(upload)
    write(place.storage, upload, [(0, PART)], OTHER)
    upload = write(place.storage, upload, [(0, 1000), (1000, PART - 1)])
    upload = write(place.storage, upload, [(PART - 1, LENGTH)])
    with pytest.raises(SyncFailed) as caught:
        place.another().complete(upload)
    assert caught.value.facts["start_anew"]


def test_who_discards_leaves_what_others_have_claimed(place: Place) -> None:
    """Two lanes of one client have brought the same bytes; one of them did not get to the end of its chunk."""
    upload = upload_of()
    place.storage.create(upload)
    cut = place.another().open(upload)
    cut.write(0, DATA[:PART])
    cut.flush()
    upload = write(place.storage, upload, [(0, LENGTH)])
    cut.discard()
    place.another().complete(upload)
    assert place.whole(upload) == DATA


def test_two_lanes_that_differ(place: Place) -> None:
    """Nobody knows which bytes were acknowledged: none of them get into the file."""
    upload = upload_of()
    place.storage.create(upload)
    write(place.storage, upload, [(0, 1000)], OTHER)
    upload = write(place.another(), upload, [(0, 1000)])
    upload = write(place.another(), upload, [(1000, LENGTH)])
    with pytest.raises(SyncFailed):
        place.another().complete(upload)


def test_creating_at_the_same_time(strict: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one wins; the other one leaves nothing behind."""
    upload, other = upload_of(), strict.another()
    put = Bucket.put

    def late(bucket: Bucket, key: str, data: bytes, **more: Any) -> None:
        monkeypatch.setattr(Bucket, "put", put)
        other.create(upload)
        put(bucket, key, data, **more)

    monkeypatch.setattr(Bucket, "put", late)
    strict.storage.create(upload)
    assert len(strict.multiparts()) == 1
    upload = write(strict.storage, upload, [(0, PART)])
    upload = write(other, upload, [(PART, LENGTH)])
    other.complete(upload)
    assert strict.whole(upload) == DATA


def test_the_sidecar_could_make_a_record_anew(place: Place) -> None:
    upload = upload_of(app="photos", target="/api/done", secret="s", metadata={"x": "y"}, event_id="msg_1")
    place.storage.create(upload)
    kept = json.loads(place.object(f"arriving/{upload.id}"))["upload"]
    for name in ("app", "target", "secret", "event_id", "length", "metadata"):
        assert kept[name] == getattr(upload, name)


def test_a_sidecar_that_is_none(place: Place) -> None:
    upload = upload_of()
    place.server.client().put_object(Bucket=place.bucket, Key=f"up/loads/arriving/{upload.id}", Body=b"[]")
    with pytest.raises(Damaged):
        place.storage.open(upload)


def test_a_multipart_upload_that_somebody_aborted(place: Place) -> None:
    """As a rule of the bucket may do, after some days."""
    upload = upload_of()
    place.storage.create(upload)
    upload = write(place.storage, upload, [(0, PART)])
    (multipart,) = place.multiparts()
    place.server.client().abort_multipart_upload(
        Bucket=place.bucket, Key=multipart["Key"], UploadId=multipart["UploadId"]
    )
    writer = place.storage.open(upload)
    writer.write(PART, DATA[PART:])
    with pytest.raises(Unavailable):
        writer.flush()
    writer.close()
    with pytest.raises(Damaged):
        place.another().complete(replace(upload, extents=Extents().add(0, LENGTH)))


def test_over_tls(ceph: Ceph, strict: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bytes are not part of the signature."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ceph.certificate))
    storage, upload = S3Storage(ceph.url(strict.bucket, ceph.tls_endpoint, part_size=PART)), upload_of()
    storage.create(upload)
    storage.complete(write(storage, upload, [(0, PART + 10), (PART + 10, LENGTH)]))
    storage.clear(upload)
    assert strict.whole(upload) == DATA
    assert strict.keys() == [f"complete/{upload.id}"]


def test_reading_from_anywhere(place: Place) -> None:
    upload = upload_of()
    place.storage.create(upload)
    place.storage.complete(write(place.storage, upload, [(0, LENGTH)]))
    with place.storage.read(upload) as file:
        for position in (LENGTH - 10, 0, PART - 3):
            assert file.seek(position) == position
            assert file.read(7) == DATA[position : position + 7]
        assert file.seek(-3, 2) == LENGTH - 3
        assert file.read() == DATA[-3:]
        assert file.read(1) == b""


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Of an upload in parts of 16 MiB; who finds none there does not wait."""
    monkeypatch.setattr(gathering, "_PATIENCE", 0.01)
    return Room(Plan.of(2**31, 16 * MIB))


def test_memory_is_bounded(room: Room) -> None:
    for part in range(3):
        room.take(part, 16 * MIB)
        room.send(part, 16 * MIB)
    room.take("next", 8 * MIB)
    with pytest.raises(Unavailable):
        room.take("next", 1)
    room.give_back(0, 16 * MIB, has_flown=True)
    room.take("next", 8 * MIB)


def test_when_little_memory_is_left_one_part_at_a_time_grows(room: Room) -> None:
    """All of them together could fill it, and none would ever be full."""
    lanes = "abcd"
    for lane in lanes:
        room.take(lane, 10 * MIB)
    room.take("b", MIB)
    for lane in "acd":
        with pytest.raises(Unavailable):
            room.take(lane, MIB)
    room.take("b", 5 * MIB)
    room.send("b", 16 * MIB)
    for lane in "acd":  # the first one that asks
        room.take("a", MIB)
        if lane != "a":
            with pytest.raises(Unavailable):
                room.take(lane, MIB)


def test_who_goes_lets_others_grow(room: Room) -> None:
    room.take("a", 40 * MIB)
    room.take("b", MIB)
    room.give_back("b", MIB)
    room.take("c", MIB)


def test_a_part_that_is_larger_than_all_memory(room: Room) -> None:
    """Where the length was not known parts grow: one is held then."""
    room.take("large", 50 * MIB)
    room.take("large", 50 * MIB)
    room.send("large", 100 * MIB)
    with pytest.raises(Unavailable):
        room.take("next", MIB)
    room.give_back("large", 100 * MIB, has_flown=True)
    room.take("next", MIB)


class Lanes:
    """Connections that bring parts, a MiB at a time, into memory that they share.

    :ivar gathering: MiB that each has of its part.
    """

    def __init__(self, part: int) -> None:
        self._room = Room(Plan.of(2**31, part * MIB))
        self._part = part
        self._flying = 0
        self.gathering: dict[int, int] = {}

    def bring(self, lane: int) -> bool:
        """Whether there is room for one more."""
        try:
            self._room.take(lane, MIB)
        except Unavailable:
            return False
        assert self._room._taken <= max(56, 2 * self._part) * MIB
        self.gathering[lane] = self.gathering.get(lane, 0) + 1
        if self.gathering[lane] == self._part:
            self._room.send(lane, self.gathering.pop(lane) * MIB)
            self._flying += 1
        return True

    def store(self) -> None:
        """All that was sent has arrived."""
        for _ in range(self._flying):
            self._room.give_back(None, self._part * MIB, has_flown=True)
        self._flying = 0


@given(st.lists(st.integers(0, 5), max_size=300), st.integers(5, 30))
def test_lanes_do_not_wait_for_each_other_for_ever(asking: list[int], part: int) -> None:
    """In whatever turns they ask: once all that was sent is stored, somebody may go on, until all parts are full."""
    lanes = Lanes(part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_PATIENCE", 0)
        for lane in asking:
            lanes.bring(lane)
        while lanes.gathering:
            lanes.store()
            assert any(lanes.bring(lane) for lane in tuple(lanes.gathering))


def test_more_than_the_storage_takes(place: Place) -> None:
    with pytest.raises(TooLarge):
        place.storage.create(upload_of(10_000 * 5 * 2**30 + 1))
