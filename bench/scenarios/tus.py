"""U: a large file as tus clients send it, in one PATCH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..peers.ours import OursByTus
from ..peers.server import Server, transfer
from ..peers.tus import TusNode, TusPyServer
from ..report import Goal, Report, Table
from ..rounds import in_turn, running
from ..setting import Setting
from .streams import CPU, MEMORY, OURS, OURS_PLAIN, RATE, at_least, ours

BY_TUS, PLAIN_BY_TUS = "Incoming!! by tus", "Incoming!! by tus, digests off"
TUSPYSERVER, TUS_NODE = "tuspyserver", "@tus/server"

_WARM_UP = 8  # the file of the round that does not count is shorter by this


def tus(setting: Setting) -> Report:
    table = Table("By tus", [RATE, CPU, MEMORY], plotted=RATE)

    def measure(server: Server, counts: bool) -> None:
        sample = transfer(server, [setting.size if counts else setting.size // _WARM_UP])
        if counts:
            table.add(server.name, sample.rate, sample.cpu, sample.mebibytes)

    with running(_contenders(setting.room("by-tus"))) as servers:
        in_turn(servers, setting.rounds, measure)
    table.reference = PLAIN_BY_TUS
    return Report(
        letter="U",
        title="By tus",
        about="One file over one connection: by tus in one PATCH, and in chunks of our own. gunicorn with one gevent "
        "worker.",
        tables=[table],
        goals=_goals(table),
    )


def _contenders(room: Path) -> Sequence[Server]:
    return [
        *ours(room),
        OursByTus(BY_TUS, room / "tus"),
        OursByTus(PLAIN_BY_TUS, room / "tus-plain", digest="false"),
        TusPyServer(TUSPYSERVER, room / "tuspyserver"),
        TusNode(TUS_NODE, room / "tus-node"),
    ]


def _goals(table: Table) -> list[Goal]:
    return [
        at_least(table, "rate beside our own chunks", (PLAIN_BY_TUS, OURS_PLAIN), RATE, 0.9),
        at_least(table, "rate beside our own chunks", (BY_TUS, OURS), RATE, 0.9),
        # Neither of these computes a digest.
        at_least(table, "rate beside tuspyserver", (PLAIN_BY_TUS, TUSPYSERVER), RATE, 1.0),
        at_least(table, "rate beside @tus/server", (PLAIN_BY_TUS, TUS_NODE), RATE, 1.0),
    ]
