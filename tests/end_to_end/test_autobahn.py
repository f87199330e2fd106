"""Autobahn's cases against the WebSocket code, over real servers: what every WebSocket library is held to."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kosoku import FailureError, run_fuzzingclient

from tests.support.processes import AppServer

#: Extensions, which we never agree to: files do not deflate.
COMPRESSION = ("12.*", "13.*")
CASES = 301

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}  # the second: refused in a moment, but not at the very first byte


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_no_case_fails(kind: str, tmp_path: Path) -> None:
    with AppServer(kind, tmp_path, app="tests.support.echo_app:app") as server:
        with ThreadPoolExecutor(1) as thread:  # Playwright's loop may run in this one
            results = thread.submit(asyncio.run, run(f"ws://127.0.0.1:{server.port}")).result()
        failed = {case: outcome for case, outcome in results.items() if not set(outcome) <= GOOD}
        assert failed == {}
        assert len(results) == CASES
        assert "Traceback" not in server.log()


async def run(url: str) -> dict[str, tuple[str, str]]:
    """What came of each case, by its number: what was said, and how it ended."""
    try:
        results = await run_fuzzingclient(url, exclude_cases=COMPRESSION, concurrency=4)
    except FailureError as failure:
        results = failure.results
    return {result.case_id: (result.behavior.value, result.behavior_close.value) for result in results}
