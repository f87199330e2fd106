"""Nothing is left out silently: here it is listed at the end, under CI it fails."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from .end_to_end.browser import chromium
from .helpers import CLOCKED, Clock, Engine
from .support.s3_server import CREDENTIALS, Ceph, Rclone, S3Server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

CI = os.environ.get("CI") == "true"

#: Files that take longest begin first: else all others wait at the end for a worker that has got one of them last.
_LONGEST = frozenset({"test_nfs.py", "test_examples.py", "test_s3_trouble.py", "test_rolling_update.py", "test_s3.py"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The wall clock of the engine, to be moved by the test."""
    clock = Clock()
    for module in CLOCKED:
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A receiver on ``tmp_path``, not started."""
    engine = Engine(tmp_path)
    yield engine
    engine.close()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes receivers on ``tmp_path``, each as in a process of its own."""
    with ExitStack() as stack:

        def make(**options: Any) -> Engine:
            engine = Engine(tmp_path, **options)
            stack.callback(engine.close)
            return engine

        yield make


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium; one for all tests, since Playwright can't be started twice in a process."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with Rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One for all tests: it needs seconds, and some 300 MB."""
    with Ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(params=["rclone", "ceph"])
def s3_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Each of them in turn, with its credentials where boto3 looks."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if CI and report.skipped:
        _fail(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = terminalreporter.stats.get("skipped", [])
    if left_out:
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        for report in left_out:
            terminalreporter.write_line(f"{report.nodeid}: {_reason(report)}")


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.longrepr = f"Under CI nothing may be left out: {_reason(report)}"
    report.outcome = "failed"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
