"""L: one file over a long and fast link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from ..chromium import Tab, upload
from ..link import Link
from ..load import request, send, send_by_websocket
from ..peers.bare import Bare
from ..peers.ours import Ours
from ..report import Goal, Report, Table
from ..rounds import in_turn
from ..setting import Setting
from .in_browser import new_file
from .streams import OURS, RATE

_LINK, _ROUND_TRIP = 125e6, 0.1  # bytes per second: 1 Gbit/s; seconds
_AT_LEAST = 0.9
_PART = "part of the link, %"
_HTTP, _WEBSOCKET = f"{OURS}, Chromium, HTTP", f"{OURS}, Chromium, WebSocket"
_OLD, _TCP = "window of 0.1 (512 KiB, four ahead)", "one TCP stream, discarding sink"
_SMALLER = 8  # a window that is too small need not be watched for so long

#: Sends a file and gives bytes per second.
Way = Callable[[], float]


def long_link(setting: Setting) -> Report:
    room = setting.room("long-link")
    table = Table("Over the long link", [RATE, _PART], plotted=RATE)
    with ExitStack() as stack:
        ours = stack.enter_context(Ours(OURS, room / "ours"))
        sink = stack.enter_context(Bare(_TCP, room / "sink", "discard"))
        tab = stack.enter_context(Tab(room / "profile"))
        link, to_sink = (stack.enter_context(Link(port, _LINK, _ROUND_TRIP)) for port in (ours.port, sink.port))
        file = new_file(room / "file.bin", setting.size)

        def by_browser(transport: str) -> float:
            seconds = upload(tab, link.url, ours.ticket(), file, transport)
            ours.clear()
            return setting.size / seconds

        def by_old_window() -> float:
            length = setting.size // _SMALLER
            sent = send_by_websocket(link.port, length, ours.ticket())
            ours.clear()
            return length / sent.seconds

        def by_stream() -> float:
            return setting.size / send(to_sink.port, [[request("PUT", "/any", setting.size)]]).seconds

        ways: Mapping[str, Way] = {
            _HTTP: lambda: by_browser("http"),
            _WEBSOCKET: lambda: by_browser("websocket"),
            _OLD: by_old_window,
            _TCP: by_stream,
        }
        _fill(table, ways, setting.rounds)
    return Report(
        letter="L",
        title="A long link",
        about=f"A file of {setting.size / 2**30:g} GiB over a relay with a round trip of "
        f"{_ROUND_TRIP * 1000:.0f} ms and {_LINK * 8 / 1e9:g} Gbit/s, which holds no more bytes than are "
        "on their way in one round trip. Chromium with our library, which is told nothing of the link; "
        "for comparison the window of 0.1, and one TCP stream to a server that throws all away.",
        tables=[table],
        goals=[_goal(table, row) for row in (_HTTP, _WEBSOCKET)],
        remarks=["The relay is a program, not a wire: nothing is lost on it, and TCP has nothing to slow down for."],
    )


def _fill(table: Table, ways: Mapping[str, Way], rounds: int) -> None:
    def measure(name: str, counts: bool) -> None:
        rate = ways[name]()
        if counts:
            table.add(name, rate / 1e6, 100 * rate / _LINK)

    in_turn(list(ways), rounds, measure, warm_up=False)


def _goal(table: Table, row: str) -> Goal:
    parts = [percent / 100 for percent in table.values(row, _PART)]
    return Goal(f"{row}: part of the link, at least {_AT_LEAST}", parts, _AT_LEAST)
