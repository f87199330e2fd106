"""A and B: large files over HTTP, one at a time and eight at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..measure import ratios
from ..peers.bare import Bare
from ..peers.nginx import Nginx
from ..peers.ours import Ours
from ..peers.server import Server, transfer
from ..peers.tus import TusNode, TusPyServer, TusWsgi
from ..profile import profiles
from ..report import Goal, Report, Table
from ..rounds import in_turn, running
from ..setting import Setting

RATE, CPU, MEMORY = "MB/s", "CPU, s per GiB", "memory at the peak, MiB"

OURS, OURS_PLAIN = "Incoming!!", "Incoming!!, digests off"
NGINX, NGINX_1M = "nginx, default buffer", "nginx, buffer of 1 MiB"
SINK, SPLICE = "discarding sink", "bare splice loop"
SPLICE_HASH, SPLICE_THEN_HASH = "bare splice, SHA-256 beside it", "bare splice, SHA-256 in turn"

_WARM_UP = 8  # files of the round that does not count are shorter by this


def one_stream(setting: Setting) -> Report:
    table, where = _tables("One stream", setting, [setting.size], workers=1)
    return Report(
        letter="A",
        title="One stream",
        about=f"A file of {_size(setting.size)} over one connection, HTTP chunks as long as our server allows, "
        "gunicorn with one gevent worker. The others get the file as they take it: nginx as one PUT, tus "
        "servers as one PATCH.",
        tables=[table, *where],
        goals=_goals_of_one(table),
        remarks=["The bare loops are threads in Python: socket, os.splice through a pipe of 1 MiB, file."],
    )


def eight_streams(setting: Setting) -> Report:
    table, where = _tables("Eight streams", setting, [setting.size // 4] * 8, workers=2)
    return Report(
        letter="B",
        title="Eight streams",
        about=f"Eight files of {_size(setting.size // 4)} at once, a connection each; two worker processes where "
        "a server has workers. tuswsgi, the slowest, is in A only.",
        tables=[table, *where],
        goals=_goals_of_eight(table),
    )


def ours(room: Path, workers: int = 1) -> list[Ours]:
    """With digests, and without, as servers are that compute none."""
    return [
        Ours(OURS, room / "ours", workers),
        Ours(OURS_PLAIN, room / "ours-plain", workers, digest="false"),
    ]


def _contenders(room: Path, workers: int) -> Sequence[Server]:
    alone: list[Server] = [
        TusWsgi("tuswsgi", room / "tuswsgi", workers),  # takes as long as all others together: once is enough
        Bare(SPLICE_THEN_HASH, room / "splice-then-hash", "splice-then-hash"),
    ]
    return [
        *ours(room, workers),
        Nginx(NGINX, room / "nginx", workers),
        Nginx(NGINX_1M, room / "nginx-1m", workers, buffer="1m"),
        TusPyServer("tuspyserver", room / "tuspyserver", workers),
        TusNode("@tus/server", room / "tus-node", workers),
        Bare(SPLICE, room / "splice", "splice"),
        Bare(SPLICE_HASH, room / "splice-hash", "splice-and-hash"),
        *(alone if workers == 1 else ()),
        Bare(SINK, room / "sink", "discard"),
    ]


def _tables(title: str, setting: Setting, lengths: Sequence[int], workers: int) -> tuple[Table, list[Table]]:
    """What everybody did, and where our time went."""
    table = Table(title, [RATE, CPU, MEMORY], plotted=RATE, sink=SINK)

    def measure(server: Server, counts: bool) -> None:
        sample = transfer(server, lengths if counts else [length // _WARM_UP for length in lengths])
        if counts:
            table.add(server.name, sample.rate, sample.cpu, sample.mebibytes)

    with running(_contenders(setting.room(title.lower().replace(" ", "-")), workers)) as servers:
        in_turn(servers, setting.rounds, measure)
        table.reference = OURS_PLAIN
        return table, profiles(servers, lambda server: transfer(server, lengths))


def _goals_of_one(table: Table) -> list[Goal]:
    return [
        at_least(table, "rate beside nginx with 1 MiB", (OURS_PLAIN, NGINX_1M), RATE, 1.15),
        at_least(table, "rate beside nginx as it comes", (OURS_PLAIN, NGINX), RATE, 2.5),
        at_most(table, "CPU beside the bare splice loop", (OURS_PLAIN, SPLICE), CPU, 1.2),
        at_least(table, "rate beside the bare splice loop with a hash", (OURS, SPLICE_HASH), RATE, 0.9),
    ]


def _goals_of_eight(table: Table) -> list[Goal]:
    return [
        at_least(table, "rate beside nginx with 1 MiB", (OURS_PLAIN, NGINX_1M), RATE, 1.1),
        at_most(table, "CPU beside nginx with 1 MiB", (OURS_PLAIN, NGINX_1M), CPU, 1.0),
    ]


def at_least(table: Table, text: str, pair: tuple[str, str], column: str, bound: float) -> Goal:
    """How many times the other's figure ours is to be, at least."""
    values = ratios(*(table.values(row, column) for row in pair))
    return Goal(f"{pair[0]}: {text}, at least {bound:g} times", values, bound)


def at_most(table: Table, text: str, pair: tuple[str, str], column: str, bound: float) -> Goal:
    values = ratios(*(table.values(row, column) for row in pair))
    return Goal(f"{pair[0]}: {text}, at most {bound:g} times", values, bound, at_least=False)


def _size(length: int) -> str:
    return f"{length / 2**30:g} GiB" if length >= 2**30 else f"{length / 2**20:g} MiB"
