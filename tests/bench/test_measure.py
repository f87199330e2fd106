"""Processor time and memory are those of the whole tree, and ratios are taken round by round."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import ProcessTree, Watch, middle, ratios
from tests.support.waiting import eventually

TICKS = os.sysconf("SC_CLK_TCK")
WORKER = """
import time
blob = bytearray(40 * 2**20)
while time.process_time() < 0.5: pass
print(flush=True)
time.sleep(60)
"""
MASTER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKER!r}])"


def a_process(proc: Path, pid: int, ticks: tuple[int, int, int, int], children: str, kib: int) -> None:
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True)
    (folder / "task" / str(pid) / "children").write_text(children)
    between = " ".join("0" for _ in range(10))
    (folder / "stat").write_text(f"{pid} (a name) of) S {between} {' '.join(map(str, ticks))} 0 0\n")
    (folder / "smaps_rollup").write_text(
        f"00-ff ---p 0 00:00 0 [rollup]\nRss: 9999 kB\nPss: {kib} kB\nPss_Anon: 7 kB\n"
    )


def test_tree_adds_up_all_descendants(tmp_path: Path) -> None:
    a_process(tmp_path, 1, (10, 20, 3, 4), "2 3 ", 100)
    a_process(tmp_path, 2, (100, 0, 0, 0), "4", 200)
    a_process(tmp_path, 3, (0, 0, 0, 1), "", 400)
    a_process(tmp_path, 4, (1000, 0, 0, 0), "", 800)
    a_process(tmp_path, 5, (9, 9, 9, 9), "", 9)
    tree = ProcessTree(1, tmp_path)
    assert sorted(tree.pids()) == [1, 2, 3, 4]
    assert tree.cpu() == pytest.approx(1138 / TICKS)
    assert tree.memory() == 1500 * 1024


def test_process_that_is_gone_counts_nothing(tmp_path: Path) -> None:
    tree = ProcessTree(7, tmp_path)
    assert (tree.pids(), tree.cpu(), tree.memory()) == ([7], 0, 0)


def test_watch_sees_a_child_work() -> None:
    with subprocess.Popen([sys.executable, "-c", MASTER], stdout=subprocess.PIPE) as process:
        try:
            with Watch(process.pid) as watch:
                assert process.stdout is not None
                process.stdout.readline()
        finally:
            for pid in ProcessTree(process.pid).pids():
                os.kill(pid, 9)
    assert 0.4 < watch.cpu < 2
    assert watch.memory > 40 * 2**20
    eventually(lambda: process.poll() is not None)


def test_ratios_are_taken_round_by_round() -> None:
    found = ratios([10, 5, 30], [5, 5, 10])
    assert found == [2, 1, 3]
    assert middle(found) == 2


def test_ratios_need_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])
