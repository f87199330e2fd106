"""A WebSocket into S3, which takes bytes in parts: they are acknowledged part by part, not put together from pieces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi.protocols import websocket
from incoming_wsgi.storage.bucket import Bucket
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.storage.s3 import S3Storage
from incoming_wsgi.upload import State
from tests.support.s3_server import S3Server

from ..helpers import Engine
from .test_websocket import FrontEnd

PART = 5 * MIB
LENGTH = 5 * PART + 70_000
DATA = random.Random(11).randbytes(LENGTH)


@pytest.fixture
def engine(s3_server: S3Server, tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path, storage=S3Storage(s3_server.url(s3_server.bucket(), part_size=PART)))
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the parts of parts that are stored."""
    put, keys = Bucket.put, []

    def noted(bucket: Bucket, key: str, data: Any, **more: Any) -> None:
        if key.startswith("claims/") and "-whole-" not in key:
            keys.append(key)
        put(bucket, key, data, **more)

    monkeypatch.setattr(Bucket, "put", noted)
    return keys


def acked(heard: list[Any]) -> int:
    return sum(data["ChunkSize"] for kind, data in heard if kind == "MsgChunkAck")


def holds_back(front_end: FrontEnd) -> bool:
    return front_end.conversation.holds_back


@pytest.mark.parametrize("additions", [0, 1])
def test_a_front_end_that_fills_its_window(engine: Engine, pieces: list[str], additions: int) -> None:
    with FrontEnd(engine, Additions=additions) as front_end:
        ((_, conf),) = front_end.request(LengthBytes=LENGTH)
        size, ahead = conf["ChunkSizeKB"] * 1024, conf["SendAhead"]
        assert size * ahead >= 2 * PART
        front_end.say("MsgAck", Ack=True)
        sent = safe = 0
        while sent < LENGTH:
            end = min(sent + size, LENGTH)
            safe += acked(front_end.chunk(DATA[sent:end]))
            sent = end
            assert engine.receiver.status(front_end.ticket).received >= safe
            assert safe >= sent - (ahead - 1) * size, "a full window is answered"
        assert safe == LENGTH
    engine.until(front_end.ticket, State.FINISHED)
    assert engine.stored(front_end.ticket) == DATA
    assert len(pieces) == 2  # the first chunk was answered at once, so its part came in two


def test_a_slow_front_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears of what is safe every few seconds, and not after each part."""
    monkeypatch.setattr(websocket, "_LONGEST_WAIT", 0)
    with FrontEnd(engine, Additions=1) as front_end:
        front_end.begin(LengthBytes=LENGTH)
        assert [acked(front_end.chunk(DATA[start : start + MIB])) for start in range(0, 3 * MIB, MIB)] == [MIB] * 3


def test_a_front_end_that_waits(engine: Engine) -> None:
    with FrontEnd(engine, Additions=1) as front_end:
        front_end.begin(LengthBytes=LENGTH)
        assert acked(front_end.chunk(DATA[:MIB])) == MIB
        assert not holds_back(front_end)
        assert acked(front_end.chunk(DATA[MIB : 2 * MIB])) == 0
        assert holds_back(front_end)
        front_end.conversation.settle()
        assert not holds_back(front_end)
        assert engine.receiver.status(front_end.ticket).received == 2 * MIB
