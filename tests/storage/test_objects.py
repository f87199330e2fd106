"""A file in a bucket, as the app is given it; moves are asked for again after every kind of end in the middle."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from incoming_wsgi.delivery.handover import FinishedUpload, Notice
from incoming_wsgi.errors import IncomingError, NotImplementedHere
from incoming_wsgi.registry import Delivery
from incoming_wsgi.storage import objects
from incoming_wsgi.storage.bucket import Bucket
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import Upload
from tests.support.s3_server import CREDENTIALS, S3Server

DATA = random.Random(8).randbytes(700_000)


class Given:
    """A complete file, and what was recorded of its moves."""

    def __init__(self, server: S3Server, data: bytes = DATA) -> None:
        self.server = server
        self.bucket = server.bucket()
        self.storage = S3Storage(server.url(self.bucket, part_size=5 * MIB))
        upload = Upload(length=len(data), filename_from_browser="a cät.jpg")
        self.storage.create(upload)
        writer = self.storage.open(upload)
        writer.write(0, data)
        writer.flush()
        writer.close()
        self.upload = replace(upload, location=self.storage.complete(upload))
        self.storage.clear(upload)

    def file(self) -> FinishedUpload:
        """As each attempt to hand it over gives it."""
        here = self.storage.locate(self.upload)
        path = here or self.upload.moved_to or self.upload.location
        delivery = Delivery("event", self.upload.id, "app", "finished", "callable")
        return FinishedUpload(Notice(self.upload, delivery, path, self.storage.remote(self.upload)), self._record)

    def _record(self, upload: Upload, target: str) -> None:
        assert upload.id == self.upload.id
        self.upload = replace(self.upload, moved_to=target)

    def keys(self) -> list[str]:
        answer = self.server.client().list_objects_v2(Bucket=self.bucket)
        return [entry["Key"] for entry in answer.get("Contents", ())]

    def at(self, key: str) -> bytes:
        data: bytes = self.server.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data


@pytest.fixture
def given(s3_server: S3Server) -> Given:
    return Given(s3_server)


def test_reading(given: Given, tmp_path: Path) -> None:
    file = given.file()
    assert file.path == f"s3://{given.bucket}/up/loads/complete/{given.upload.id}"
    with file.open() as opened:
        assert opened.read() == DATA
    file.download_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_url_for_others(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    file = Given(ceph).file()
    answer = requests.get(file.presigned_url(60), timeout=10)
    assert answer.content == DATA
    for seconds in (0, 8 * 86400):
        with pytest.raises(ValueError, match="seconds"):
            file.presigned_url(seconds)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a%20c%C3%A4t.jpg"


def test_only_files_in_s3_have_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    upload = Upload(length=len(DATA), location=str(tmp_path / "file"))
    delivery = Delivery("event", upload.id, "app", "finished", "callable")
    file = FinishedUpload(Notice(upload, delivery, upload.location), lambda *_: None)
    with pytest.raises(NotImplementedHere):
        file.presigned_url()
    file.download_to(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


def test_moving_to_a_key(given: Given) -> None:
    file = given.file()
    assert file.move_to("cats/tom.jpg") == file.path == f"s3://{given.bucket}/cats/tom.jpg"
    assert given.keys() == ["cats/tom.jpg"]
    assert given.at("cats/tom.jpg") == DATA
    again = given.file()
    assert again.move_to("cats/tom.jpg") == file.path
    assert given.keys() == ["cats/tom.jpg"]


def test_moving_into_a_folder(given: Given) -> None:
    client = given.server.client()
    client.put_object(Bucket=given.bucket, Key=f"cats/{given.upload.filename}", Body=b"mine")
    target = given.file().move_to("cats/")
    assert target == f"s3://{given.bucket}/cats/a cät (2).jpg"
    assert given.at("cats/a cät (2).jpg") == DATA
    assert given.at("cats/a cät.jpg") == b"mine"


def test_moving_to_another_bucket(given: Given) -> None:
    other = given.server.bucket()
    assert given.file().move_to(f"s3://{other}/x") == f"s3://{other}/x"
    assert given.server.client().get_object(Bucket=other, Key="x")["Body"].read() == DATA


def test_what_is_there_already(given: Given) -> None:
    given.server.client().put_object(Bucket=given.bucket, Key="x", Body=b"mine")
    with pytest.raises(FileExistsError):
        given.file().move_to("x")
    assert given.at("x") == b"mine"
    given.file().move_to("x", overwrite=True)
    assert given.at("x") == DATA


@pytest.mark.parametrize("wanted", ["s3://", "s3://bucket", "s3:///x", ""])
def test_what_is_no_place(given: Given, wanted: str) -> None:
    with pytest.raises(ValueError, match="key"):
        given.file().move_to(wanted)
    assert given.storage.locate(given.upload)


CALLS: dict[str, Callable[[Given, Path], str]] = {
    "key": lambda given, _: given.file().move_to("x"),
    "folder": lambda given, _: given.file().move_to("x/"),
    "home": lambda given, folder: given.file().move_to(folder / "x"),
}


class Died(BaseException): ...


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("is_heard", [True, False])
def test_dying_at_every_call(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, is_heard: bool
) -> None:
    """Before the server hears of it, or before we hear from the server: whoever is given it next goes on."""
    call_bucket = Bucket.call_bucket
    number = 0
    while True:
        number += 1
        given, left = Given(s3_server), number

        def dying(bucket: Bucket, operation: str, **parameters: Any) -> dict[str, Any]:
            nonlocal left
            left -= 1
            if left == 0 and not is_heard:
                raise Died
            answer = call_bucket(bucket, operation, **parameters)
            if left == 0:
                raise Died
            return answer

        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "call_bucket", dying)
            try:
                CALLS[kind](given, folder)
                break
            except Died:
                pass
        target = CALLS[kind](given, folder)
        assert given.storage.locate(given.upload) is None
        if kind == "home":
            assert Path(target).read_bytes() == DATA
            assert [path.name for path in folder.iterdir()] == ["x"]
        else:
            keys = given.keys()
            assert [f"s3://{given.bucket}/{key}" for key in keys] == [target]
            assert given.at(keys[0]) == DATA
    assert number > 2


def test_a_small_file_over_another_of_the_same_length(s3_server: S3Server) -> None:
    """Whoever dies before the copy has not moved it, although a file of this length was there already."""
    older, newer = Given(s3_server), Given(s3_server)
    for given, data in ((older, b"old!"), (newer, b"new!")):
        given.storage, given.bucket = older.storage, older.bucket
        given.upload = Upload(length=4)
        with given.storage.keeping_whole(given.upload) as keep:
            keep(data)
        given.upload = replace(given.upload, location=given.storage.complete(given.upload))
    target = older.file().move_to("x")
    newer.upload = replace(newer.upload, moved_to=target)
    assert newer.file().move_to("x", overwrite=True) == target
    assert older.at("x") == b"new!"


def test_a_very_long_file(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of 5 MiB for 5 GiB."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    data = random.Random(9).randbytes(12 * MIB)
    given = Given(ceph, data)
    monkeypatch.setattr(objects, "_ONE_COPY", 5 * MIB)
    monkeypatch.setattr(objects, "_PIECE", 5 * MIB)
    call_bucket = Bucket.call_bucket

    def failing(bucket: Bucket, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation == "complete_multipart_upload":
            raise IncomingError
        return call_bucket(bucket, operation, **parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "call_bucket", failing)
        with pytest.raises(IncomingError):
            given.file().move_to("x")
    assert not ceph.client().list_multipart_uploads(Bucket=given.bucket).get("Uploads")
    given.file().move_to("x")
    assert given.at("x") == data


def test_gone(given: Given) -> None:
    given.storage.remove(given.upload)
    move: Callable[[str], str] = given.file().move_to
    with pytest.raises(FileNotFoundError):
        move("x")
