"""Writes ``docs/performance.rst``, its plots and the raw figures; ``python -m bench.page`` does it from those again."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from .plot import bars
from .report import Goal, Report, Table, cells, report_from_json, spread

DOCS = Path(__file__).resolve().parent.parent / "docs"
_WIDTH = 120

_ABOVE = """
How fast it is, beside servers that people would use instead. ``make bench`` measures and writes this page; it takes
less than half an hour. One scenario by itself, by its letter below::

    python -m bench A --rounds 5

Machines differ, and this one may be busy: look at ratios and at CPU per GiB before you look at MB/s. A figure is the
median of all rounds, in brackets the least and the most. All raw figures are in ``performance/figures.json``.
"""

_HOW = """
In each round all servers take their turn, in one run, and every second round backwards. A ratio is computed round by
round, since both sides of it have had the same weather then; what is given is the median of the ratios. In most
scenarios a first round, often a shorter one, warms everything up and does not count. MB are millions of bytes. The rate
of an upload is measured from the first byte until the file is where its app wants it: hashed, recorded and handed over,
where a server does that.

CPU is user and system time of all processes of the server, from the kernel's accounts; memory is theirs as well (PSS),
at its peak. Where no browser is named, a C program sends prepared bytes with sendfile. In the same run it sends to a
server that lets the kernel throw the bytes away: whoever comes within a tenth of that is marked with †, since then the
load generator may be what was measured.

Where our time goes was sampled (py-spy, 250 times a second) in runs of their own, which that slows down. A sample is
booked on the innermost module of ours, with all that it called, the kernel included; the rest on the package that was
busy.

Ours runs as shipped, with durability, registry and outbox on. "Digests off" is the same with ``digest=False``. The
others are set up as their documentation says, with files in the same place as ours.
"""

_NOT_TOLD = """
* Loopback is no network: no packet is lost, none is late (but for the scenarios with a relay), and there is no TLS.
* Server and load generator share the processors. Where each has its own, rates are higher, and further apart.
* But for H and F, files are kept in memory, so that servers are compared and not disks. Work that the kernel does for
  nobody in particular, such as writing pages back, is in nobody's CPU.
* The servers do not promise the same. nginx keeps nothing of an upload that was interrupted. The tus servers go on
  where it stopped, but neither hash the file nor tell the app again if that failed.
"""


def write(machine: Mapping[str, str], reports: Sequence[Report], docs: Path = DOCS) -> None:
    """:param machine: what :func:`bench.machine.description` says."""
    folder = docs / "performance"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for report in reports:
        for name, table in _plots(report).items():
            rows = {row: values[table.plotted] for row, values in table.rows.items()}
            (folder / name).write_text(bars(f"{table.title}, {table.plotted}", rows))
    figures = {"machine": machine, "reports": [report.as_json() for report in reports]}
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (docs / "performance.rst").write_text(page(machine, reports))


def page(machine: Mapping[str, str], reports: Sequence[Report]) -> str:
    parts = [
        _heading("Performance", "="),
        _ABOVE.strip(),
        _heading("The goals", "-"),
        _goals(reports),
        *(_section(report) for report in reports),
        _heading("How it was measured", "-"),
        _HOW.strip(),
        _heading("The machine", "-"),
        _machine(machine),
        _heading("What the figures do not tell", "-"),
        _NOT_TOLD.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _goals(reports: Sequence[Report]) -> str:
    rows = [["", "Goal", "Figure", ""]]
    rows += [[report.letter, *_goal(goal)] for report in reports for goal in report.goals]
    met = sum(goal.is_met for report in reports for goal in report.goals)
    return f"{met} of {len(rows) - 1} are met.\n\n{_table(rows, '   :widths: 5 60 25 10')}"


def _goal(goal: Goal) -> list[str]:
    figure = spread(goal.values) + (f" {goal.unit}" if goal.unit else "")
    return [goal.text, figure, "met" if goal.is_met else "**not met**"]


def _section(report: Report) -> str:
    plots = {table.title: name for name, table in _plots(report).items()}
    parts = [_heading(f"{report.letter}: {report.title}", "-"), _wrapped(report.about)]
    for table in report.tables:
        if len(report.tables) > 1:
            parts.append(f"**{table.title}**")
        parts.append(_table(cells(table)))
        if table.title in plots:
            parts.append(f".. image:: performance/{plots[table.title]}\n   :alt: {table.title}: {table.plotted}")
    return "\n\n".join([*parts, *map(_wrapped, report.remarks)])


def _plots(report: Report) -> dict[str, Table]:
    """Files and what they show."""
    plotted = [table for table in report.tables if table.plotted]
    names = [
        f"{report.letter.lower()}{number if len(plotted) > 1 else ''}.svg" for number in range(1, len(plotted) + 1)
    ]
    return dict(zip(names, plotted, strict=True))


def _machine(machine: Mapping[str, str]) -> str:
    return "\n".join(f"{name}\n{textwrap.indent(_wrapped(text, _WIDTH - 4), '    ')}" for name, text in machine.items())


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def _wrapped(text: str, width: int = _WIDTH) -> str:
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def _table(rows: Sequence[Sequence[str]], *options: str) -> str:
    """A list-table: its cells may be as long as they like."""
    lines = [".. list-table::", "   :header-rows: 1", *options, ""]
    for row in rows:
        lines += [f"   {'* -' if not index else '  -'} {cell}".rstrip() for index, cell in enumerate(row)]
    return "\n".join(lines)


if __name__ == "__main__":
    found = json.loads((DOCS / "performance" / "figures.json").read_text())
    write(found["machine"], [report_from_json(report) for report in found["reports"]])
