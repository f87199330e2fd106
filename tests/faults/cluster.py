"""Campaign: a cluster from which everything is taken in turn, machines, links, Redis, S3, while files arrive."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from incoming_wsgi.registry.redis import RedisRegistry
from incoming_wsgi.storage.parts import MIB
from incoming_wsgi.upload import State
from tests.support.s3_faults import Fault
from tests.support.s3_server import Ceph
from tests.support.waiting import eventually

from . import networks, outside
from .laboratory import Campaign, Case
from .machines import APP, PART, Cluster, running
from .outside import OUTSIDE_SENDERS, OutsideSender
from .senders import ALL_SENDERS, ChunkSender, LanesSender, Sender, TusSender, WebSocketSender, finish_all

_UPLOADS, _AT_ONCE = {False: 30, True: 500}, {False: 8, True: 16}
_LARGE_ONE_IN = {False: 9, True: 10}  # uploads; of the others none has two parts
_MEBIBYTES = {False: (12, 14), True: (12, 30)}  # of such a one
_OUTSIDE_ONE_IN = {False: 15, True: 25}  # uploads
_LARGE_SENDERS = (LanesSender, ChunkSender, TusSender, WebSocketSender)
_WORKERS = {False: 1, True: 2}  # processes of a machine
_SECONDS = 120.0  # that the last senders may take to get to their ends
_AGAIN = 2.0  # seconds within which the clients of a dead machine send again, all of them, once they have noticed
_SEEN_FOR = 3.0  # seconds for which a dead machine stays dead
_TAKEN_OVER = 5.0  # seconds within which another Redis has taken over, as seen by who asks for tickets
_PROBE = 0.05  # seconds between two tickets that are asked for meanwhile
_OUTAGES = {False: 0.0, True: 0.3}  # of the rounds: how many have one
_OUTAGE = (21.0, 26.0)  # seconds that it lasts
_LATE = (2.5, 9.0)  # seconds after which a call to S3 is done that nobody waits for any more
_REGAINED = 60.0  # seconds in which the machines know again what a flush has taken, at most


def case(case: Case) -> None:
    """One cluster, and so many uploads.

    Two deadlines are part of what must hold: *all* clients that run into trouble while a machine is dead send again
    within :data:`_AGAIN` seconds of noticing it, and while another Redis takes over there are tickets again within
    :data:`_TAKEN_OVER`.
    """
    with Ceph(case.folder / "ceph") as s3, running(case.folder, s3, _WORKERS[case.full]) as cluster:
        traffic = Traffic(cluster, case)
        traffic.start()
        try:
            while traffic.is_needed:
                _one_round(case, cluster, traffic)
            traffic.stop()
            assert traffic.failure is None, traffic.failure
            finish_all(traffic.senders, _SECONDS)
        finally:
            traffic.give_up()
        for sender in traffic.senders:
            _judge(case, cluster, sender)
        _assert_nothing_is_left(cluster, traffic)


def _one_round(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    """All kinds of faults, one after the other, each time in another order."""
    for what in case.random.sample(list(_FAULTS), len(_FAULTS)):
        case.injected(what)
        _FAULTS[what](case, cluster, traffic)


class Traffic(threading.Thread):
    """So many uploads in all, or more, and so many at a time; in every dialect, on the networks of clients and on ours.

    :ivar senders: those that have begun.
    """

    def __init__(self, cluster: Cluster, case: Case) -> None:
        super().__init__(daemon=True)
        self.senders: list[Sender] = []
        self.failure: Exception | None = None
        self._cluster, self._case = cluster, case
        self._count, self._at_once = _UPLOADS[case.full], _AT_ONCE[case.full]
        self._chance = case.random.__class__(case.random.random())
        self._is_over = False

    def run(self) -> None:
        try:
            while not self._is_over:
                if sum(sender.is_alive() for sender in self.senders) < self._at_once:
                    self._begin()
                else:
                    time.sleep(_PROBE)
        except Exception as error:  # noqa: BLE001 (whatever it is, the case has failed)
            self.failure = error

    @property
    def is_needed(self) -> bool:
        """Whether there have been fewer."""
        return self.is_alive() and len(self.senders) < self._count

    def stop(self) -> None:
        """Begin no more."""
        self._is_over = True
        self.join()

    def give_up(self) -> None:
        self.stop()
        for sender in self.senders:
            sender.give_up()

    def _begin(self) -> None:
        sender = self._next(len(self.senders))
        sender.page = self._cluster
        self.senders.append(sender)
        # Now: whoever forgives finds it in the list, or has done so before.
        sender.is_forgiving = self._cluster.redis.has_failed_over
        sender.start()

    def _next(self, number: int) -> Sender:
        outside, is_inside = divmod(number, _OUTSIDE_ONE_IN[self._case.full])
        if not is_inside:
            return self._large(OUTSIDE_SENDERS[outside % len(OUTSIDE_SENDERS)])
        large, is_small = divmod(number - 1, _LARGE_ONE_IN[self._case.full])
        return self._small(number) if is_small else self._large(_LARGE_SENDERS[large % len(_LARGE_SENDERS)])

    def _small(self, number: int) -> Sender:
        """Its file has one part, and comes in pieces of it."""
        size = int(2 ** self._chance.uniform(15, 21))
        kind = ALL_SENDERS[number % len(ALL_SENDERS)]
        return self._made(kind, size, self._chance.randrange(50_000, 400_000), self._chance.uniform(0.0, 1.5))

    def _large(self, kind: type[Sender]) -> Sender:
        """Its file has several parts; in some dialects a chunk can be one, or more."""
        self._case.injected(f"of the uploads, by a {kind.__name__} in several parts")
        least, most = _MEBIBYTES[self._case.full]
        longest = 400_000 if kind is WebSocketSender else self._chance.choice([1_000_000, PART, 3 * PART // 2])
        chunk = self._chance.choice([longest, self._chance.randrange(300_000, longest)])
        return self._made(kind, self._chance.randrange(least * MIB, most * MIB), chunk, 8 * chunk / (most * MIB))

    def _made(self, kind: type[Sender], size: int, chunk: int, pause: float) -> Sender:
        network = self._chance.choice([None, *self._cluster.clients])
        data = self._chance.randbytes(size)
        options: dict[str, Any] = {}
        if issubclass(kind, OutsideSender):
            options["folder"] = self._case.folder / f"sender-{len(self.senders)}"
        return kind(self._cluster.url, self._cluster.ticket(), data, chunk, pause, network=network, **options)

    def forgive(self) -> None:
        """Those who are under way may be asked again for what was acknowledged; and all who come later."""
        self._cluster.redis.has_failed_over = True
        for sender in self.senders:
            sender.is_forgiving = True

    @contextmanager
    def watched(self, case: Case, whose: str) -> Iterator[None]:
        """All who get into trouble meanwhile send again within the time that is promised.

        It counts from the moment in which they notice. Whoever was in trouble before, of another fault, is left out.
        """
        before = {sender: (len(sender.returns), len(sender.gaps)) for sender in self.senders if not sender.away_since}
        away = set(self.senders) - before.keys()
        yield
        over = time.monotonic()
        watched = [sender for sender in self.senders if sender not in away]
        for sender in watched:
            returned, answered = before.get(sender, (0, 0))
            still_away = [over - sender.away_since] if sender.away_since else []
            for seconds in (*sender.returns[returned:], *still_away):
                case.measured(f"seconds until {whose} sent again", seconds)
                assert seconds <= _AGAIN, f"a {type(sender).__name__} did not send for {seconds} s: {sender.troubles}"
            for seconds in sender.gaps[answered:]:
                case.measured(f"seconds until {whose} were answered again", seconds)


# -- faults -----------------------------------------------------------------------------------------------------


def _kill_a_machine(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    machine = case.random.choice(cluster.machines)
    with traffic.watched(case, "clients of a dead machine"):
        machine.kill()
        time.sleep(_SEEN_FOR)
    machine.start()


def _drain_a_machine(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    machine = case.random.choice(cluster.machines)
    began = time.monotonic()
    if machine.drain():
        case.measured("seconds until a drained machine was empty", time.monotonic() - began)
    else:
        case.injected("of these, stopped before it was empty")
    machine.stop()
    machine.start()


def _cut_off_from_redis(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    with case.random.choice(cluster.machines).network.cut_off_from(cluster.redis_address):
        _wait(case, 12)


def _cut_off_from_s3(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    with case.random.choice(cluster.machines).network.cut_off_from(cluster.s3_address):
        _wait(case, 8)


def _lose_a_machine(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    """It goes on by itself, and comes back."""
    network = case.random.choice(cluster.machines).network
    network.cut("packets are lost both ways")
    _wait(case, 12)
    network.mend()


def _lose_clients(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    network = case.random.choice(cluster.clients)
    network.cut(case.random.choice(list(networks.CUTS)))
    _wait(case, 4)
    network.mend()


def _restart_redis(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    traffic.forgive()
    cluster.redis.restart_master()


def _flush_redis(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    """Nobody does anything about it. What was acknowledged is in S3, and is not asked for again."""
    registry = RedisRegistry(cluster.redis.url)
    try:
        eventually(lambda: registry.lost(APP) is None, _REGAINED, "a registry with nothing missing")
        before = len(registry.find(set(State)))
        cluster.flush_redis()
        began = time.monotonic()
        eventually(lambda: registry.lost(APP) is None, _REGAINED, "the registry being whole again")
        case.measured("seconds until a flushed Redis was whole again", time.monotonic() - began)
        case.measured("uploads that a flush has taken", before)
    finally:
        registry.close()


def _take_redis_away(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    """From all machines, for longer than whatever waits for an answer."""
    if case.random.random() < _OUTAGES[case.full]:
        case.injected("of these, for more than 20 s")
        with ExitStack() as stack:
            for machine in cluster.machines:
                stack.enter_context(machine.network.cut_off_from(cluster.redis_address))
            time.sleep(case.random.uniform(*_OUTAGE))
        cluster.ticket()


def _fail_over(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    traffic.forgive()
    with _probed(case, cluster):
        cluster.redis.fail_over()
    cluster.redis.settle()


@contextmanager
def _probed(case: Case, cluster: Cluster) -> Iterator[None]:
    """Measure for how long nobody gets a ticket, and hold it against what is promised."""
    given = [time.monotonic()]
    over = threading.Event()

    def probe() -> None:
        while not over.is_set():
            if cluster.try_ticket():
                given.append(time.monotonic())
            time.sleep(_PROBE)

    probing = threading.Thread(target=probe, daemon=True)
    probing.start()
    try:
        yield
        cluster.ticket()
        given.append(time.monotonic())
    finally:
        over.set()
        probing.join()
    longest = max(after - before for before, after in itertools.pairwise(sorted(given)))
    case.measured("seconds without tickets at a fail-over", longest)
    assert longest <= _TAKEN_OVER, f"there were no tickets for {longest} s"


def _strike_s3(case: Case, cluster: Cluster, traffic: Traffic) -> None:
    for fault in case.random.sample(list(Fault), len(Fault) if case.full else 2):
        first, count, late = case.random.randrange(1, 5), case.random.randrange(1, 10), case.random.uniform(*_LATE)
        with cluster.s3.strike(fault, first, count, late):
            _wait(case, 3)
        for _ in range(cluster.s3.struck):
            case.injected(f"of these: {fault.value}")


def _wait(case: Case, longest: float) -> None:
    """For so many seconds, at most, in the long form; the short one has less time."""
    time.sleep(case.random.uniform(0.3, longest if case.full else 1.0))


_FAULTS: Mapping[str, Callable[[Case, Cluster, Traffic], None]] = {
    "a machine is killed": _kill_a_machine,
    "a machine is drained": _drain_a_machine,
    "a machine can't reach Redis": _cut_off_from_redis,
    "no machine can reach Redis, in some rounds": _take_redis_away,
    "a machine can't reach S3": _cut_off_from_s3,
    "a machine is cut off from everything": _lose_a_machine,
    "clients are cut off": _lose_clients,
    "Redis is killed and started again": _restart_redis,
    "the other Redis takes over": _fail_over,
    "Redis is flushed": _flush_redis,
    "S3 does some calls wrong": _strike_s3,
}


# -- what came of it --------------------------------------------------------------------------------------------


def _judge(case: Case, cluster: Cluster, sender: Sender) -> None:
    """The app has acted on the right bytes, once, under one event id; and never under a ticket that was forgotten."""
    story = eventually(lambda: cluster.story(sender.ticket), 60, f"the app hearing of {sender.ticket}")
    effects = [line for line in story if line["what"] == "effect"]
    assert [line["sha256"] for line in effects] == [hashlib.sha256(sender.data).hexdigest()], story
    assert len({line["event_id"] for line in story}) == 1
    for ticket in sender.forgotten:
        assert not cluster.story(ticket), "an upload that was said to be unknown was handed over"
        case.injected("of these, forgotten tickets")
    case.measured("times that the app was told of a file", sum(line["what"] == "settled" for line in story))
    for _, seconds in sender.delays:
        case.measured("seconds from a chunk to its acknowledgement", seconds)


def _assert_nothing_is_left(cluster: Cluster, traffic: Traffic) -> None:
    """Every upload is finished, and nobody has to be told of it any more."""
    registry = RedisRegistry(cluster.redis.url)
    try:
        for sender in traffic.senders:
            eventually(lambda: _is_over(cluster, registry, sender.ticket), 60, f"the end of {sender.ticket}")  # noqa: B023
    finally:
        registry.close()


def _is_over(cluster: Cluster, registry: RedisRegistry, ticket: str) -> bool:
    """What had ended when Redis was flushed is known no more; an end of that moment may look damaged."""
    upload = registry.get(ticket)
    if registry.due(ticket) is not None:
        return False
    if cluster.has_been_flushed and (upload is None or upload.state is State.DAMAGED):
        return cluster.has_file(ticket)
    return upload is not None and upload.state is State.FINISHED


CAMPAIGN = Campaign(
    name="cluster",
    about="machines, links, Redis and S3 taken away in turn: every file arrives whole, and is acted on once",
    case=case,
    short=1,
    full=10,
    jobs=1,
    timeout=3600,
    missing=lambda: networks.missing() or Ceph.missing() or outside.missing(),
)
