"""``python -m bench [A B …] [--rounds 5] [--size 1G] [--folder DIR] [--disk DIR] [--write]``

Runs scenarios, all without letters, prints what they found, and with ``--write`` makes the page of the documentation.
When one fails, the others go on; the next ``--write`` measures only what is missing, unless the code has changed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from incoming_wsgi.settings import size

from . import machine, page
from .kept import Kept, code
from .programs import TOOLS
from .report import Report, as_text
from .scenarios import (
    cuts,
    disk,
    in_browser,
    last_byte,
    long_link,
    many_machines,
    slow_uploads,
    small_files,
    streams,
    tus,
    websocket,
)
from .setting import Setting

SCENARIOS: Mapping[str, Callable[[Setting], Report]] = {
    "A": streams.one_stream,
    "B": streams.eight_streams,
    "W": websocket.websocket,
    "U": tus.tus,
    "C": small_files.small_files,
    "D": slow_uploads.slow_uploads,
    "L": long_link.long_link,
    "R": cuts.cuts,
    "H": last_byte.last_byte,
    "J": in_browser.in_browser,
    "F": disk.disk,
    "S": many_machines.many_machines,
}

_KEPT = TOOLS / "reports"


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # servers are ended on the way out
    letters = options.scenarios or list(SCENARIOS)
    if not options.write:
        _end(letters, {letter: _attempt(letter, options) for letter in letters})
        return
    about = machine.description()
    kept = Kept(_KEPT, f"{code()} rounds={options.rounds} size={options.size}")
    reports = {letter: _kept_or_new(letter, options, kept) for letter in letters}
    page.write(about, _end(letters, reports))
    kept.clear()


def _end(letters: Sequence[str], reports: Mapping[str, Report | None]) -> list[Report]:
    """All of them; ends the program where one is missing."""
    found = [report for letter in letters if (report := reports[letter]) is not None]
    print(f"all in {sum(report.seconds for report in found) / 60:.1f} min")
    if failed := [letter for letter in letters if reports[letter] is None]:
        sys.exit(f"failed: {', '.join(failed)}; with --write the others are kept, and it goes on from there")
    return found


def _kept_or_new(letter: str, options: argparse.Namespace, kept: Kept) -> Report | None:
    report = kept.report(letter)
    if report is not None:
        print(f"{letter}: kept from an earlier run of the same code\n", flush=True)
        return report
    report = _attempt(letter, options)
    if report is not None:
        kept.keep(report)
    return report


def _attempt(letter: str, options: argparse.Namespace) -> Report | None:
    """``None`` where it has failed, which is told: the others are of use without it."""
    try:
        return _run(letter, options)
    except Exception:  # noqa: BLE001 (it is told, and ends the run in the end)
        traceback.print_exc()
        print(f"{letter} has failed\n", flush=True)
        return None


def _run(letter: str, options: argparse.Namespace) -> Report:
    began = time.monotonic()
    with _room(options.folder) as folder, _room(options.disk) as disk_folder:
        report = SCENARIOS[letter](Setting(options.rounds, options.size, Path(folder), Path(disk_folder)))
    report.seconds = time.monotonic() - began
    print(as_text(report) + "\n", flush=True)
    return report


def _room(folder: str) -> tempfile.TemporaryDirectory[str]:
    """Removed in the end, even where a browser that is told to end still writes into it."""
    return tempfile.TemporaryDirectory(prefix="incoming-bench-", dir=folder, ignore_cleanup_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", type=str.upper, metavar="LETTER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=size, default="1G", help="of a large file")
    parser.add_argument("--folder", default="/dev/shm", help="in memory")
    parser.add_argument("--disk", default="/var/tmp", help="on a disk")
    parser.add_argument("--write", action="store_true", help="write the page of the documentation")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if options.write and options.scenarios:
        parser.error("the page is written with all scenarios, or not at all")
    return options


if __name__ == "__main__":
    main()
