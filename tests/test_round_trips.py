"""What a chunk costs a registry far away: with files in S3 one round trip, which decides whether it counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from webtest import TestApp

from incoming_wsgi import Incoming
from incoming_wsgi.storage.parts import MIB
from tests.support.redis_server import RedisServer
from tests.support.s3_server import CREDENTIALS, S3Server

CHUNK, CHUNKS = 5 * MIB, 6


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Of this module alone: what it is asked is counted."""
    with RedisServer(tmp_path_factory.mktemp("counted")) as server:
        yield server


class Site:
    """Two processes of an app, that share Redis and a storage."""

    def __init__(self, storage: str, redis: RedisServer) -> None:
        self._redis = redis
        options: dict[str, Any] = {"storage": storage, "registry": redis.url, "on_finish": lambda _: None}
        self.one, self.two = Incoming(lambda *_: [], **options), Incoming(lambda *_: [], **options)
        for each in (self.one, self.two):
            each.start()

    def open(self) -> tuple[str, str]:
        """A ticket and its session."""
        ticket = self.one.new_upload()
        headers = {"Incoming-Length": str(CHUNK * CHUNKS), "Incoming-Name": "x"}
        return ticket, TestApp(self.one).post(f"/incoming/frontend/uploads/{ticket}", headers=headers).json["session"]

    def send(self, process: Incoming, opened: tuple[str, str], number: int, status: int = 200) -> Any:
        ticket, session = opened
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"bytes {number * CHUNK}-{(number + 1) * CHUNK - 1}/{CHUNK * CHUNKS}",
            "Incoming-Session": session,
        }
        path = f"/incoming/frontend/uploads/{ticket}"
        return TestApp(process).put(path, bytes(CHUNK), headers=headers, status=status).json

    def asked(self) -> dict[str, int]:
        """What the scripts that a chunk may need were called, so far; each calls one command that no other does."""
        with self._redis.client() as client:
            stats: Any = client.info("commandstats")
        return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hgetall",)}

    def close(self) -> None:
        self.one.close()
        self.two.close()


@pytest.fixture
def site(rclone: S3Server, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    site = Site(rclone.url(rclone.bucket(), part_size=CHUNK), redis_server)
    yield site
    site.close()


def test_a_chunk_is_one_round_trip(site: Site) -> None:
    """Of the scripts that read an upload; the first one of each process needs a look besides."""
    opened = site.open()
    site.send(site.one, opened, 0)
    site.send(site.two, opened, 1)
    before = site.asked()["hgetall"]
    for number, process in ((2, site.one), (3, site.two), (4, site.one)):
        site.send(process, opened, number)
    assert site.asked()["hgetall"] - before == 3


def test_a_lane_that_was_replaced_records_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the other process has not heard of it yet."""
    opened = site.open()
    site.send(site.one, opened, 0)
    site.send(site.two, opened, 1)
    registry = site.two._engine.get().registry
    seen = registry.glance(opened[0])
    assert seen is not None
    TestApp(site.one).post(
        f"/incoming/frontend/uploads/{opened[0]}",
        headers={"Incoming-Length": str(CHUNK * CHUNKS), "Incoming-Name": "x"},
    )
    monkeypatch.setattr(registry, "glance", lambda _: seen)
    assert site.send(site.two, opened, 2, status=409)["error"]["name"] == "replaced"
    upload = site.one.upload(opened[0])
    assert upload is not None
    assert upload.received == 2 * CHUNK


def test_what_is_cancelled_takes_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = site.open()
    site.send(site.two, opened, 0)
    registry = site.two._engine.get().registry
    seen = registry.glance(opened[0])
    site.one.cancel_upload(opened[0])
    monkeypatch.setattr(registry, "glance", lambda _: seen)
    answer = site.send(site.two, opened, 1, status=410)
    assert answer["error"]["name"] == "cancelled"


def test_a_chunk_that_comes_again(site: Site) -> None:
    """It is answered by how the upload is, and nothing is stored again."""
    opened = site.open()
    for process in (site.one, site.two, site.one):
        assert site.send(process, opened, 0)["received"] == CHUNK
