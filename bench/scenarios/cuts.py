"""R: how soon bytes flow again after the link was cut, and how soon a dead link is noticed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.relay import Relay
from tests.support.waiting import eventually

from ..chromium import Tab
from ..peers.ours import Ours
from ..report import Goal, Report, Table
from ..setting import Setting
from .streams import OURS

_TRANSPORTS = {"http": "HTTP", "websocket": "WebSocket"}
_FILE = 4 * 2**30  # bytes; more than can be sent meanwhile
_RATE = 8e6  # bytes per second
_FLOWING = 128 * 1024  # bytes that are more than a question whether the server is there
_FURTHEST = 8_000_000  # bytes until a cut
_SHORT, _LONG = (0.2, 5.0), (8.0, 20.0)  # seconds
_GIVE_UP = 60.0
_LOOK = 0.005
_AFTER_SHORT, _AFTER_LONG, _NOTICED = "after up to 5 s, s", "after 8 to 20 s, s", "a black hole noticed, s"
_BOUNDS = {_AFTER_SHORT: 1, _AFTER_LONG: 5, _NOTICED: 10}  # seconds
_TEXTS = {
    _AFTER_SHORT: "bytes flow again after up to 5 s",
    _AFTER_LONG: "bytes flow again after 8 to 20 s",
    _NOTICED: "a black hole is noticed",
}

_START = """(() => {
    const file = document.getElementById("file").files[0];
    window.uploader = new incoming.Uploader(%s, file, {transport: %s});
    uploader.start();
})()"""


def cuts(setting: Setting) -> Report:
    """Both transports at the same time: what is measured is waiting, not work."""
    room = setting.room("cuts")
    table = Table("After a cut", [_AFTER_SHORT, _AFTER_LONG, _NOTICED])
    file = room / "file.bin"
    with file.open("wb") as out:
        out.truncate(_FILE)
    with Ours(OURS, room / "ours", workers=2) as server, ThreadPoolExecutor(len(_TRANSPORTS)) as threads:

        def measure(transport: str) -> list[tuple[float, float, float]]:
            with Relay(server.port, _RATE) as relay, Tab(room / transport) as tab:
                return Trial(server, relay, tab, file, transport).run(setting.rounds)

        found = dict(zip(_TRANSPORTS, threads.map(measure, _TRANSPORTS), strict=True))
    for transport, rounds in found.items():
        for values in rounds:
            table.add(f"{OURS}, {_TRANSPORTS[transport]}", *values)
    return Report(
        letter="R",
        title="A link that is cut",
        about=f"Chromium with our library sends over a relay at {_RATE / 1e6:g} MB/s, which resets every "
        "connection at a random byte and takes no new ones for a while: once up to 5 s, once longer in "
        f"each round. From the moment on at which it takes them again, the time until {_FLOWING // 1024} "
        "KiB have passed. Then the relay swallows all without a word, until the library says that it has "
        "lost the connection.",
        tables=[table],
        goals=[
            Goal(f"{row}: {_TEXTS[column]}, always at most {bound} s", values, bound, "s", at_least=False, always=True)
            for row, columns in table.rows.items()
            for column, bound in _BOUNDS.items()
            for values in [columns[column]]
        ],
    )


class Trial:
    """One upload that has a hard time."""

    def __init__(self, server: Ours, relay: Relay, tab: Tab, file: Path, transport: str) -> None:
        self._relay = relay
        self._tab = tab
        self._random = random.Random(transport)
        tab.open(f"{relay.url}/page")
        tab.pick(file)
        tab.evaluate(_START % (json.dumps(server.ticket()), json.dumps(transport)))
        eventually(lambda: relay.passed > _FURTHEST, _GIVE_UP, "the upload under way")

    def run(self, rounds: int) -> list[tuple[float, float, float]]:
        return [(self._cut(_SHORT), self._cut(_LONG), self._black_hole()) for _ in range(rounds)]

    def _cut(self, outages: tuple[float, float]) -> float:
        """Seconds from the end of an outage until bytes flow."""
        self._relay.cut_after(self._random.randrange(_FURTHEST))
        eventually(lambda: self._relay.is_cut, _GIVE_UP, "the cut")
        time.sleep(self._random.uniform(*outages))
        return self._mended()

    def _mended(self) -> float:
        passed = self._relay.passed
        self._relay.mend()
        return _seconds_until(lambda: self._relay.passed >= passed + _FLOWING)

    def _black_hole(self) -> float:
        """Seconds until it is noticed."""
        self._relay.swallow()
        took = _seconds_until(lambda: not self._tab.evaluate("uploader.connected"))
        self._relay.drop()
        self._mended()
        return took


def _seconds_until(condition: Callable[[], bool]) -> float:
    """At most as long as anybody would wait."""
    began = time.monotonic()
    while not condition() and time.monotonic() < began + _GIVE_UP:
        time.sleep(_LOOK)
    return time.monotonic() - began
