"""Campaign: the engine dies at any call, in the middle of what it asks Redis, and another process goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace

from tests.support.redis_server import RedisServer

from .crash_points import REDIS_CALLS
from .engine_kill import kill_and_recover
from .laboratory import Campaign, Case
from .story import any_story


def case(case: Case) -> None:
    with RedisServer(case.folder / "redis", "") as server:
        kill_and_recover(case, replace(any_story(case.folder, case.random), redis=server.socket_url), REDIS_CALLS)


def _missing() -> str:
    return "" if shutil.which("redis-server") else "redis-server is not installed"


CAMPAIGN = Campaign(
    name="redis-kill",
    about="the same with a registry in Redis: kill -9 before, after and in the middle of what it is asked",
    case=case,
    short=300,
    full=20_000,
    missing=_missing,
    in_memory=True,
)
