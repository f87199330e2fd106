"""The page says what was measured: verdicts are computed, marks are set, and it comes back from its own figures."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from docutils.core import publish_doctree

from bench import page
from bench.plot import bars
from bench.report import Goal, Report, Table, cells, number, report_from_json, spread

MACHINE = {"Kernel": "Linux 1.2", "nginx": "nginx/1.2"}


def a_report() -> Report:
    table = Table("Streams & more", ["MB/s", "CPU, s per GiB"], plotted="MB/s", sink="discarding sink")
    for rate in (100.0, 300.0, 200.0):
        table.add("Incoming!!", rate, 0.5)
        table.add("<other>", 2 * rate, 1.25)
        table.add("discarding sink", 410, 0.1)
    goals = [
        Goal("rate, at least 2 times", [1.0, 2.5, 1.9], 2),
        Goal("memory, at most 64 KiB", [64.0], 64, "KiB", at_least=False),
    ]
    return Report("A", "One stream", "What was done.", [table], goals, ["A remark."])


def test_goal_goes_by_the_median() -> None:
    at_least, at_most = a_report().goals
    assert (at_least.figure, at_least.is_met) == (1.9, False)
    assert (at_most.figure, at_most.is_met) == (64, True)
    assert Goal("", [2.0, 9.0, 1.0], 2).is_met


def test_goal_of_each_round_goes_by_the_worst() -> None:
    assert not Goal("", [2.0, 9.0, 1.0], 2, always=True).is_met
    assert not Goal("", [2.0, 9.0, 1.0], 8, at_least=False, always=True).is_met
    assert Goal("", [2.0, 9.0, 1.0], 9, at_least=False, always=True).is_met


def test_page_is_valid_and_says_it_all(tmp_path: Path) -> None:
    page.write(MACHINE, [a_report()], tmp_path)
    text = (tmp_path / "performance.rst").read_text()
    publish_doctree(text, settings_overrides={"halt_level": 2})
    assert "1 of 2 are met." in text
    assert "1.90 (1.00 to 2.50)" in text
    assert "200 (100 to 300)" in text
    assert (tmp_path / "performance" / "a.svg").exists()


def test_page_can_be_written_again_from_its_figures(tmp_path: Path) -> None:
    page.write(MACHINE, [a_report()], tmp_path)
    found = json.loads((tmp_path / "performance" / "figures.json").read_text())
    assert found["machine"] == MACHINE
    assert [report_from_json(report) for report in found["reports"]] == [a_report()]


def test_others_are_compared_with_the_reference() -> None:
    table = a_report().tables[0]
    table.reference = "Incoming!!"
    assert [row[-1] for row in cells(table)] == ["Incoming!!: times as fast", "1.00", "0.50", "0.49 (0.24 to 0.73)"]


def test_who_is_near_the_sink_is_marked() -> None:
    names = [row[0] for row in cells(a_report().tables[0])]
    assert names == ["", "Incoming!!", "<other> †", "discarding sink"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (99.94, "99.9"), (9.994, "9.99"), (0.1234, "0.12"), (0.01234, "0.012"), (0, "0.00")],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_spread_of_one_is_one_figure() -> None:
    assert spread([2.0]) == "2.00"


def test_bars_are_as_long_as_the_medians() -> None:
    image = ET.fromstring(bars("a & b", {"Incoming!!": [50, 100], "<other>": [150, 150]}))  # noqa: S314 (our own)
    ours, other = image.findall("{*}rect")
    assert float(other.attrib["width"]) == 2 * float(ours.attrib["width"])
    assert [text.text for text in image.findall("{*}text")] == ["Incoming!!", "75.0", "<other>", "150"]
