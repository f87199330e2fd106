"""F: what durability costs on a disk, beside a loop that only writes and syncs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from incoming_wsgi.settings import Settings

from ..load import Lane, request, send
from ..peers.bare import Bare
from ..peers.ours import Ours
from ..peers.server import Sample, Server, measured, transfer
from ..report import Goal, Report, Table
from ..rounds import in_turn, running
from ..setting import Setting
from .streams import CPU, RATE, at_least

_FSYNC, _FSYNC_PLAIN = "Incoming!!, fsync", "Incoming!!, fsync, digests off"
_PROCESS, _BARE, _BARE_HASH = "Incoming!!, process", "bare write and fdatasync", "bare write, fdatasync and SHA-256"
_AT_LEAST = 0.8
_WORKERS = 2  # the bare loops have a thread for each connection
_MIB = 2**20
_SMALL, _SMALL_FILES, _LANES = 64 * 1024, 200, 8

Load = Callable[[Server], Sample]


def disk(setting: Setting) -> Report:
    large = setting.size // 4
    loads: dict[str, Load] = {
        f"A file of {large // _MIB} MiB": lambda server: transfer(server, [large]),
        f"Eight files of {large // 8 // _MIB} MiB at once": lambda server: transfer(server, [large // 8] * 8),
        f"{_SMALL_FILES} files of 64 KiB, {_LANES} at a time": _small_files,
    }
    tables = [Table(title, [RATE, CPU], plotted=RATE, reference=_FSYNC) for title in loads]
    with running(_contenders(setting)) as servers:
        for table, load in zip(tables, loads.values(), strict=True):
            _fill(table, load, servers, setting.rounds)
    return Report(
        letter="F",
        title="Synced to the disk",
        about="Both modes of durability on a disk, beside a loop that takes the same requests, writes each and "
        "calls fdatasync before it answers; with SHA-256, and without. Ours has two worker processes.",
        tables=tables,
        goals=[_goal(table, *pair) for table in tables[:2] for pair in ((_FSYNC, _BARE_HASH), (_FSYNC_PLAIN, _BARE))],
        remarks=[
            "Small files are for comparing the modes: the bare loop makes neither ticket nor record, and calls nobody.",
        ],
    )


def _contenders(setting: Setting) -> list[Server]:
    room = setting.room_on_disk("disk")
    return [
        Ours(_FSYNC, room / "fsync", _WORKERS, durability="fsync"),
        Ours(_FSYNC_PLAIN, room / "fsync-plain", _WORKERS, durability="fsync", digest="false"),
        Ours(_PROCESS, room / "process", _WORKERS),
        Bare(_BARE, room / "bare", "write-and-sync", piece=Settings.chunk_size),
        Bare(_BARE_HASH, room / "bare-hash", "write-sync-and-hash", piece=Settings.chunk_size),
    ]


def _fill(table: Table, load: Load, servers: Sequence[Server], rounds: int) -> None:
    def measure(server: Server, counts: bool) -> None:
        sample = load(server)
        if counts:
            table.add(server.name, sample.rate, sample.cpu)

    in_turn(servers, rounds, measure)


def _goal(table: Table, ours: str, bare: str) -> Goal:
    return at_least(table, f"{table.title}, rate beside the bare loop", (ours, bare), RATE, _AT_LEAST)


def _small_files(server: Server) -> Sample:
    count = _SMALL_FILES // _LANES
    lanes: list[Lane] = [
        server.lives(count, _SMALL)
        if isinstance(server, Ours)
        else [request("PUT", f"/{lane}-{number}", _SMALL) for number in range(count)]
        for lane in range(_LANES)
    ]
    return measured(server, lambda: send(server.port, lanes))
