"""C: whole lives of many small files."""

from __future__ import annotations

from ..load import Request, send
from ..peers.ours import Ours
from ..peers.server import Sample, measured
from ..peers.tus import Tus, TusNode, TusPyServer, TusWsgi
from ..profile import profiles
from ..report import Report, Table
from ..rounds import in_turn, running
from ..setting import Setting
from .streams import OURS, at_least, ours

_FILES, _LENGTH, _LANES = 500, 64 * 1024, 8
_WARM_UP = 40  # files of the round that does not count
_RATE, _CPU, _MEMORY = "files a second", "CPU, ms a file", "memory at the peak, MiB"
_FIRST, _SECOND = "first request, ms", "second request, ms"
_TUSPYSERVER, _TUS_NODE = "tuspyserver", "@tus/server"


def small_files(setting: Setting) -> Report:
    room = setting.room("small-files")
    table = Table("Small files", [_RATE, _CPU, _FIRST, _SECOND, _MEMORY], plotted=_RATE, reference=OURS)
    contenders: list[Ours | Tus] = [
        *ours(room, workers=2),
        TusPyServer(_TUSPYSERVER, room / "tuspyserver", workers=2),
        TusNode(_TUS_NODE, room / "tus-node", workers=2),
        TusWsgi("tuswsgi", room / "tuswsgi", workers=2),
    ]

    def measure(server: Ours | Tus, counts: bool) -> None:
        files = _FILES if counts else _WARM_UP
        sample = _sample(server, files)
        if counts:
            latencies = [1000 * seconds for seconds in sample.sent.latencies]
            cost = 1000 * sample.cpu_seconds / files
            table.add(server.name, files / sample.seconds, cost, *latencies, sample.mebibytes)

    with running(contenders) as servers:
        in_turn(servers, setting.rounds, measure)
        where = profiles(servers, lambda server: _sample(server, _FILES))
    return Report(
        letter="C",
        title="Small files",
        about=f"{_FILES} files of {_LENGTH // 1024} KiB, each from its ticket until the app has it, {_LANES} at "
        "a time; two worker processes. Ours: a request for the ticket; a second one opens, sends, hands "
        "over and is answered when the app is done. The tus servers: one creates the upload, the second "
        "sends it, and a hook moves the file.",
        tables=[table, *where],
        goals=[
            at_least(table, "rate beside tuspyserver", (OURS, _TUSPYSERVER), _RATE, 2),
            at_least(table, "rate beside @tus/server", (OURS, _TUS_NODE), _RATE, 4),
        ],
        remarks=["A tus server gives a file to its app once: if that fails then, the file is not offered again."],
    )


def _sample(server: Ours | Tus, files: int) -> Sample:
    counts = [files // _LANES + (lane < files % _LANES) for lane in range(_LANES)]
    lanes: list[list[Request]] = [server.lives(count, _LENGTH) for count in counts]
    return measured(server, lambda: send(server.port, lanes))
