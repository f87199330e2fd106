"""W: one large file over a WebSocket, as a front end of Incoming!! 0.1 sends it."""

from __future__ import annotations

from ..load import send_by_websocket
from ..peers.bare import Bare
from ..peers.nginx import Nginx
from ..peers.ours import Ours
from ..peers.server import Sample, Server, measured, transfer
from ..profile import profiles
from ..report import Goal, Report, Table
from ..rounds import in_turn, running
from ..setting import Setting
from .streams import CPU, MEMORY, NGINX_1M, OURS_PLAIN, RATE, SINK, at_least, ours

_MOST_CPU = 0.75  # seconds per GiB


def websocket(setting: Setting) -> Report:
    room = setting.room("websocket")
    table = Table("One WebSocket", [RATE, CPU, MEMORY], plotted=RATE, sink=SINK)
    contenders: list[Server] = [
        *ours(room),
        Nginx(NGINX_1M, room / "nginx", buffer="1m"),
        Bare("bare thread server", room / "bare", "write"),
        Bare(SINK, room / "sink", "discard"),
    ]

    def measure(server: Server, counts: bool) -> None:
        sample = _sample(server, setting.size)
        if counts:
            table.add(server.name, sample.rate, sample.cpu, sample.mebibytes)

    with running(contenders) as servers:
        in_turn(servers, setting.rounds, measure)
        table.reference = OURS_PLAIN
        where = profiles(servers, lambda server: _sample(server, setting.size))
    return Report(
        letter="W",
        title="One WebSocket",
        about="A file over one WebSocket by the protocol of 0.1: chunks of 512 KiB, four on their way. gunicorn "
        "with one gevent worker. The bare thread server speaks the same protocol and writes; nginx gets a "
        "PUT, as in A.",
        tables=[table, *where],
        goals=[
            at_least(table, "rate beside nginx with 1 MiB", (OURS_PLAIN, NGINX_1M), RATE, 0.9),
            Goal(
                f"{OURS_PLAIN}: CPU, at most {_MOST_CPU} s per GiB",
                table.values(OURS_PLAIN, CPU),
                _MOST_CPU,
                "s per GiB",
                at_least=False,
            ),
        ],
    )


def _sample(server: Server, length: int) -> Sample:
    if isinstance(server, Nginx):
        return transfer(server, [length])
    ticket = server.ticket() if isinstance(server, Ours) else "any"
    return measured(server, lambda: send_by_websocket(server.port, length, ticket))
