"""Bars for a table's column: the median, and a line from the least to the most. SVG, for light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from .measure import middle
from .report import number

_WIDTH, _LABELS, _FIGURES = 720, 250, 70  # pixels: all, names at the left, figures at the right
_BAR, _STEP, _TOP = 16, 26, 12
_YARDSTICKS = ("bare", "discarding", "one TCP")

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333; }
.ours { fill: #2a6f97; } .peer { fill: #a9b4bd; } .yardstick { fill: #dfe4e8; }
.spread { stroke: #333; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd; }
  .ours { fill: #61a5c2; } .peer { fill: #6c757d; } .yardstick { fill: #43494f; }
  .spread { stroke: #ddd; }
}"""


def bars(title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """An SVG image.

    :param rows: name, and its values of all rounds.
    """
    most = max(max(values) for values in rows.values()) or 1.0
    scale = (_WIDTH - _LABELS - _FIGURES) / most
    height = 2 * _TOP + _STEP * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}\n</style>",
    ]
    for index, (name, values) in enumerate(rows.items()):
        lines += _bar(_TOP + _STEP * index, name, values, scale)
    return "\n".join([*lines, "</svg>", ""])


def _bar(top: int, name: str, values: Sequence[float], scale: float) -> list[str]:
    baseline, center = top + _BAR - 3, top + _BAR / 2
    length, least, most = (scale * value for value in (middle(values), min(values), max(values)))
    left, right = _LABELS + least, _LABELS + most
    return [
        f'<text x="{_LABELS - 10}" y="{baseline}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{_kind(name)}" x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}"/>',
        f'<line class="spread" x1="{left:.1f}" y1="{center:g}" x2="{right:.1f}" y2="{center:g}"/>',
        f'<text x="{max(right, _LABELS + length) + 8:.1f}" y="{baseline}">{number(middle(values))}</text>',
    ]


def _kind(name: str) -> str:
    if name.startswith("Incoming!!"):
        return "ours"
    return "yardstick" if name.startswith(_YARDSTICKS) else "peer"
