"""A bench that fails in one scenario loses none of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import __main__ as program
from bench.kept import Kept, code
from bench.report import Goal, Report, Table
from bench.setting import Setting


def a_report(letter: str) -> Report:
    table = Table("Streams", ["MB/s"])
    table.add("Incoming!!", 100.0)
    return Report(letter, "Title", "What was done.", [table], [Goal("rate", [1.0], 2)])


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    Kept(tmp_path / "new", "this").keep(a_report("A"))
    assert Kept(tmp_path / "new", "this").report("A") == a_report("A")
    assert Kept(tmp_path / "new", "this").report("B") is None


def test_reports_of_other_code_are_not_used(tmp_path: Path) -> None:
    Kept(tmp_path, "this").keep(a_report("A"))
    assert Kept(tmp_path, "that").report("A") is None


def test_nothing_is_left_of_a_run_that_is_over(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "this")
    kept.keep(a_report("A"))
    kept.clear()
    assert kept.report("A") is None
    assert not list(tmp_path.iterdir())


def test_code_is_known_by_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench").mkdir()
    source = tmp_path / "bench" / "one.py"
    source.write_text("a = 1")
    monkeypatch.setattr("bench.kept._ROOT", tmp_path)
    before = code()
    assert code() == before
    source.write_text("a = 2")
    assert code() != before


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Letters of the pages that were written."""
    pages: list[list[str]] = []
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(program, "_KEPT", tmp_path / "reports")
    monkeypatch.setattr("bench.machine.description", dict)
    monkeypatch.setattr("bench.page.write", lambda _, reports: pages.append([one.letter for one in reports]))
    return pages


def bench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scenarios: dict[str, Callable[[Setting], Report]], *options: str
) -> None:
    folders = ["--folder", str(tmp_path), "--disk", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench", *folders, *options])
    monkeypatch.setattr(program, "SCENARIOS", scenarios)
    program.main()


def test_one_that_fails_is_told_and_only_that_is_measured_again(
    written: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured: list[str] = []

    def scenario(letter: str) -> Callable[[Setting], Report]:
        def measure(_: Setting) -> Report:
            measured.append(letter)
            if letter == "B" and measured.count("B") == 1:
                raise RuntimeError("a server hung up")
            return a_report(letter)

        return measure

    scenarios = {letter: scenario(letter) for letter in "ABC"}
    with pytest.raises(SystemExit, match="failed: B"):
        bench(monkeypatch, tmp_path, scenarios, "--write")
    assert "a server hung up" in capsys.readouterr().err
    assert measured == ["A", "B", "C"]
    assert not written
    bench(monkeypatch, tmp_path, scenarios, "--write")
    assert measured == ["A", "B", "C", "B"]
    assert written == [["A", "B", "C"]]
    bench(monkeypatch, tmp_path, scenarios, "--write")
    assert measured[4:] == ["A", "B", "C"]  # the page is there: this is a new run


def test_nothing_is_kept_where_no_page_is_written(
    written: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(monkeypatch, tmp_path, {"A": lambda _: a_report("A")})
    assert not written
    assert not (tmp_path / "reports").exists()
