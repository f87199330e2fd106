"""What a scenario found out: tables, goals and remarks, as data, which becomes JSON, text or a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .measure import middle, ratios

#: How near to the discarding sink a result may come before the load generator is suspected, as a part of its rate.
NEAR_THE_SINK = 0.9


@dataclass
class Table:
    """Who, and what was measured, one value a round.

    :ivar columns: headings, with units.
    :ivar rows: name of a server, and its values for each column.
    :ivar plotted: the column that becomes a plot; empty for none.
    :ivar sink: the row that tells what the load generator can do; empty where that is no question.
    :ivar reference: the row that the others are compared with, by the first column; empty for none.
    """

    title: str
    columns: Sequence[str]
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    plotted: str = ""
    sink: str = ""
    reference: str = ""

    def add(self, row: str, *values: float) -> None:
        """One round's values, in the order of the columns."""
        cells = self.rows.setdefault(row, {column: [] for column in self.columns})
        for column, value in zip(self.columns, values, strict=True):
            cells[column].append(value)

    def values(self, row: str, column: str) -> list[float]:
        return self.rows[row][column]

    def is_near_sink(self, row: str) -> bool:
        """Whether the load generator may be what was measured."""
        if not self.sink or row == self.sink:
            return False
        column = self.columns[0]
        return middle(self.values(row, column)) >= NEAR_THE_SINK * middle(self.values(self.sink, column))


@dataclass
class Goal:
    """What was wanted: the median of ``values`` at least, or at most, the ``bound``.

    :ivar always: the worst one decides, not the median.
    """

    text: str
    values: list[float]
    bound: float
    unit: str = ""
    at_least: bool = True
    always: bool = False

    @property
    def figure(self) -> float:
        if self.always:
            return min(self.values) if self.at_least else max(self.values)
        return middle(self.values)

    @property
    def is_met(self) -> bool:
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


@dataclass
class Report:
    """One scenario.

    :ivar about: what was done, a paragraph or two.
    :ivar remarks: what else there is to know about the figures.
    """

    letter: str
    title: str
    about: str
    tables: list[Table]
    goals: list[Goal]
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def report_from_json(data: dict[str, Any]) -> Report:
    tables = [Table(**table) for table in data["tables"]]
    goals = [Goal(**goal) for goal in data["goals"]]
    return Report(**{**data, "tables": tables, "goals": goals})


def number(value: float) -> str:
    """Two or three digits that count, or all of a whole number."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def spread(values: Sequence[float]) -> str:
    """The median, and from where to where."""
    middle_one, least, most = map(number, (middle(values), min(values), max(values)))
    return middle_one if least == most else f"{middle_one} ({least} to {most})"


def as_text(report: Report) -> str:
    """For a terminal."""
    lines = [f"{report.letter}: {report.title}"]
    for table in report.tables:
        lines += ["", f"  {table.title}", *(f"    {line}" for line in _text_table(table))]
    lines += ["", *(f"  {_verdict(goal)}" for goal in report.goals), *(f"  * {remark}" for remark in report.remarks)]
    return "\n".join([*lines, f"  took {report.seconds:.0f} s"])


def cells(table: Table) -> list[list[str]]:
    """Headings and rows, as text; rows near the sink are marked."""
    rows = [["", *table.columns, *_reference(table)]]
    for name, values in table.rows.items():
        mark = " †" if table.is_near_sink(name) else ""
        rows.append([name + mark, *(spread(values[column]) for column in table.columns), *_compared(table, name)])
    return rows


def _reference(table: Table) -> list[str]:
    return [f"{table.reference}: times as fast"] if table.reference else []


def _compared(table: Table, row: str) -> list[str]:
    """How many times as fast the reference is as this row."""
    if not table.reference:
        return []
    column = table.columns[0]
    return [spread(ratios(table.values(table.reference, column), table.values(row, column)))]


def _text_table(table: Table) -> list[str]:
    rows = cells(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _verdict(goal: Goal) -> str:
    word = "met    " if goal.is_met else "NOT met"
    return f"{word} {goal.text}: {spread(goal.values)}{goal.unit and ' ' + goal.unit}"
