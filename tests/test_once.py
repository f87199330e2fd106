"""Once: what is told several times is acted on once, whatever happens meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from incoming_wsgi import once
from incoming_wsgi.once import Once

from .helpers import ROOT, Clock


def test_the_first_time_is_the_only_one(tmp_path: Path) -> None:
    for _ in range(2):  # also after a restart
        events = Once(tmp_path / "events")
        with events.first_time("a") as first, Once(tmp_path / "others").first_time("b") as other:
            assert first == other
    with Once(tmp_path / "events").first_time("a") as first:
        assert not first


def test_what_failed_was_not_the_first_time(tmp_path: Path) -> None:
    events = Once(tmp_path / "events")
    with pytest.raises(OSError, match="disk"), events.first_time("a"):
        raise OSError("disk full")
    with events.first_time("a") as first:
        assert first


def test_whoever_dies_in_it_has_not_done_it(tmp_path: Path) -> None:
    script = (
        "import os, sys; from incoming_wsgi.once import Once\n"
        "with Once(sys.argv[1]).first_time('a') as first: print(first, flush=True); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "events"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("True", 9)
    with Once(tmp_path / "events").first_time("a") as first:
        assert first


def test_of_many_at_the_same_time_one_is_first(tmp_path: Path) -> None:
    firsts: list[bool] = []
    ready = threading.Barrier(8)

    def act() -> None:
        ready.wait()
        with Once(tmp_path / "events").first_time("a") as first:
            firsts.append(first)

    threads = [threading.Thread(target=act) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == [False] * 7 + [True]


def test_the_memory_outlasts_all_repetitions_and_then_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(once, "time", clock)
    events = Once(tmp_path / "events")
    for days, expected in ((0, True), (29, False), (2, True)):
        clock.advance(days * 86400)
        with events.first_time("a") as first:
            assert first is expected
