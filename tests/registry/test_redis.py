from __future__ import annotations

import json
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incoming_wsgi import registry as contract
from incoming_wsgi.errors import Conflict, IncomingError, NoSpace, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.registry import Delivery, from_url
from incoming_wsgi.registry import redis as module
from incoming_wsgi.registry.redis import RedisRegistry
from incoming_wsgi.registry.redis_client import connected
from incoming_wsgi.upload import NOTHING, OPEN_STATES, State, Upload
from tests.needs import need
from tests.support.processes import free_port
from tests.support.redis_server import RedisServer, Watched
from tests.support.reply_dropper import ReplyDropper
from tests.support.waiting import eventually

from ..helpers import Child

Open = Callable[..., RedisRegistry]


@pytest.fixture
def opened(redis_server: RedisServer, prefix: str) -> Iterator[Open]:
    with opening(f"{redis_server.url}?prefix={prefix}") as open_one:
        yield open_one


@contextmanager
def opening(url: str) -> Iterator[Open]:
    made: list[RedisRegistry] = []

    def open_one(boot_id: str = "") -> RedisRegistry:
        made.append(RedisRegistry(url, boot_id))
        return made[-1]

    yield open_one
    for registry in made:
        registry.close()


@pytest.fixture
def registry(opened: Open) -> RedisRegistry:
    return opened()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that may come to harm."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


def receiving(length: int = 1000, **changes: object) -> Upload:
    upload = Upload(app="app", state=State.RECEIVING, epoch=1, session="token", length=length, event_id="msg")
    return replace(upload, **changes)  # type: ignore[arg-type]


def delivery_of(upload: Upload, **changes: object) -> Delivery:
    return replace(Delivery("msg", upload.id, "app", "finished", "callable"), **changes)  # type: ignore[arg-type]


def field(registry: RedisRegistry, upload: Upload, name: str) -> str:
    found: str = registry._client.hget(f"{registry._prefix}:upload:{upload.id}", name)
    return found


def fall_silent(registry: RedisRegistry) -> None:
    """As when its machine was switched off, or cut off."""
    registry._closed.set()
    with registry._beating:
        registry._closed.clear()


# -- extents ----------------------------------------------------------------------------------------------------

ends = st.one_of(st.integers(0, 40), st.integers(2**53 - 20, 2**53 + 20), st.integers(2**63 - 20, 2**63 + 20))
ranges = st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(added=st.lists(st.tuples(ranges, st.booleans()), max_size=12), known=st.lists(ranges, max_size=8))
def test_extents_are_merged_as_python_would(
    registry: RedisRegistry, added: list[tuple[tuple[int, int], bool]], known: list[tuple[int, int]]
) -> None:
    upload = registry.create(receiving(2**64))
    arrived, synced = Extents(), Extents()
    for (start, end), is_synced in added:
        found = registry.add_extents(upload.id, "token", NOTHING.add(start, end), synced=is_synced)
        arrived = arrived.add(start, end)
        synced = synced.add(start, end) if is_synced else synced
        assert (found.extents, found.synced) == (arrived, synced)
    more = Extents()
    for start, end in known:
        more = more.add(start, end)
    registry.add_synced(replace(upload, extents=more))
    current = registry.get(upload.id)
    assert current is not None
    assert current.synced == synced.merge(more)
    registry.forget(upload.id)


def test_the_scripts_know_the_open_states() -> None:
    text = (Path(module.__file__).parent / "lua" / "common.lua").read_text()
    said = text.partition("local OPEN = {")[2].partition("}")[0]
    assert {word.partition(" =")[0] for word in said.split(", ")} == {state.value for state in OPEN_STATES}


def test_every_script_is_used_and_tells_what_it_is_for() -> None:
    code = Path(module.__file__).read_text()
    for path in (Path(module.__file__).parent / "lua").glob("*.lua"):
        assert path.stem == "common" or f'"{path.stem}"' in code
        assert path.read_text().startswith("-- ")


# -- round trips and answers that are lost ------------------------------------------------------------------------


def test_an_arrival_is_one_round_trip(registry: RedisRegistry, redis_server: RedisServer) -> None:
    upload = registry.create(receiving())
    registry.add_extents(upload.id, "token", NOTHING.add(0, 1))
    with redis_server.client() as client, client.monitor() as monitor:
        registry.add_extents(upload.id, "token", NOTHING.add(1, 2))
        registry.forget(upload.id)
        ours: list[str] = []
        for said in monitor.listen():
            if registry._prefix in said["command"] and said["client_type"] != "lua":
                ours.append(said["command"])
            if " token " not in said["command"] and upload.id in said["command"] and said["client_type"] != "lua":
                break
    ours = [command for command in ours if upload.id in command]
    assert [command.split()[0] for command in ours] == ["EVALSHA", "EVALSHA"]


def life(registry: RedisRegistry) -> list[object]:
    """A whole life of an upload, as the engine lives it; what was seen of it."""
    upload = registry.create(Upload(app="app", event_id="msg", active_at=0.0))
    seen: list[object] = [upload.state]
    upload = registry.save(upload, upload.to(State.RECEIVING, epoch=1, session="token", length=10))
    for start in range(0, 10, 5):
        upload = registry.add_extents(upload.id, "token", NOTHING.add(start, start + 5))
    registry.keep_digest(upload, 10, b"state")
    registry.add_synced(upload)
    seen += [upload.extents, registry.digest(upload.id), [one.id == upload.id for one in registry.find_complete()]]
    upload = registry.save(upload, upload.to(State.COMPLETING, holder=registry.holder))
    row = delivery_of(upload)
    upload = registry.save(upload, upload.to(State.HANDING_OVER, holder=""), enqueue=row)
    leased = registry.lease("app", ("callable", "path"), 10.0)
    assert leased is not None
    seen += [leased.attempt, registry.lease("app", ("callable", "path"), 10.0)]
    registry.postpone(replace(leased, attempt=1, due_at=20.0))
    again = registry.lease("app", ("callable", "path"), 20.0)
    assert again is not None
    seen += [again.attempt]
    upload = registry.save(upload, upload.to(State.FINISHED), settle=again)
    seen += [upload.state, upload.version, registry.due(upload.id)]
    seen += [[one.id == upload.id for one in registry.find({State.FINISHED})]]
    registry.enqueue(row)
    registry.forget(upload.id)
    with registry.alone("sweep") as alone:
        seen += [registry.get(upload.id), registry.due(upload.id), registry.is_alive(registry.holder), alone]
    return seen


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_lost_answer_changes_nothing(redis_server: RedisServer, prefix: str, at_once: int) -> None:
    """Each answer in turn is lost, or each and the next one; the same comes out."""
    with opening(f"{redis_server.url}?prefix={prefix}") as open_one:
        expected = life(open_one())
    lost = 0
    with ReplyDropper(redis_server.port) as dropper:
        for number in range(1, 1000):
            url = f"redis://127.0.0.1:{dropper.port}/0?prefix={prefix}-{number}"
            with opening(url) as open_one:
                registry = open_one()
                fall_silent_for_good(registry)
                dropper.drop(number, at_once)
                assert life(registry) == expected
            lost = number
            if dropper.is_armed:
                break
            assert dropper.dropped == number * at_once
    assert lost > 20


def fall_silent_for_good(registry: RedisRegistry) -> None:
    """No signs of life in between, so that the same answer is lost in every run."""
    registry._duties.clear()
    registry._beat = lambda: None  # type: ignore[method-assign]


def test_a_lease_that_nobody_heard_of_is_found_again(redis_server: RedisServer, prefix: str) -> None:
    with ReplyDropper(redis_server.port) as dropper, opening(f"{dropper.url}?prefix={prefix}") as open_one:
        registry = open_one()
        fall_silent_for_good(registry)
        registry.enqueue(delivery_of(receiving()))
        dropper.drop(1, 3)
        with pytest.raises(Unavailable):
            registry.lease("app", ("callable",), 5.0)
        found = registry.lease("app", ("callable",), 6.0)
        assert found is not None
        assert found.attempt == 0
        assert registry.lease("app", ("callable",), 7.0) is None


# -- trouble ----------------------------------------------------------------------------------------------------


@contextmanager
def saying(answer: str) -> Iterator[int]:
    """A server that answers everything like this; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(link: socket.socket) -> None:
            with link, suppress(OSError):
                while data := link.recv(65536):
                    commands = data.count(b"\r\n$7\r\nEVALSHA\r\n") or 1
                    link.sendall(commands * f"-{answer}\r\n".encode())

        def accept() -> None:
            with suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    threading.Thread(target=serve, args=(link,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("LOADING Redis is loading the dataset in memory", Unavailable),
        ("READONLY You can't write against a read only replica.", Unavailable),
        ("MOVED 1234 127.0.0.1:7001", Unavailable),
        ("CLUSTERDOWN The cluster is down", Unavailable),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", Unavailable),
        ("NOREPLICAS Not enough good replicas to write.", Unavailable),
        ("BUSY Redis is busy running a script.", Unavailable),
        ("NOAUTH Authentication required.", Unavailable),
        ("WRONGPASS invalid username-password pair or user is disabled.", Unavailable),
        ("NOPERM this user has no permissions to run the 'evalsha' command", Unavailable),
        ("ERR something that nobody has thought of", Unavailable),
        ("OOM command not allowed when used memory > 'maxmemory'.", NoSpace),
        ("MISCONF Errors writing to the AOF file: No space left on device", NoSpace),
        ("MISCONF Errors writing to the AOF file: Input/output error", Unavailable),
    ],
)
def test_what_a_server_in_trouble_says(answer: str, error: type[IncomingError]) -> None:
    with saying(answer) as port, pytest.raises(error) as caught:
        RedisRegistry(f"redis://127.0.0.1:{port}/0")
    assert caught.value.retry_after
    assert caught.value.status in (503, 507)


def test_nobody_there(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    url = own_server.url.replace("redis://", "redis://me:hunter2@")
    own_server.stop()
    with pytest.raises(Unavailable):
        RedisRegistry(url)
    assert "can't be used" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_server_that_hangs(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incoming_wsgi.registry.redis_client.ANSWER_TIMEOUT", 0.2)
    with opening(own_server.url) as open_one:
        registry = open_one()
        upload = registry.create(receiving())
        before = registry.now()
        with own_server.frozen():
            with pytest.raises(Unavailable):
                registry.add_extents(upload.id, "token", NOTHING.add(0, 5))
            with pytest.raises(Unavailable):
                registry.sync()
            assert registry.now() >= before
        assert registry.add_extents(upload.id, "token", NOTHING.add(0, 10)).extents.ranges == ((0, 10),)


def test_one_line_when_trouble_begins_and_one_when_it_is_over(
    own_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    with opening(own_server.url) as open_one:
        registry = open_one()
        fall_silent_for_good(registry)
        own_server.stop()
        for _ in range(3):
            with pytest.raises(Unavailable):
                registry.get(Upload().id)
        own_server.start()
        registry.get(Upload().id)
        monkeypatch.setattr(module, "_CALM", 0.0)
        registry.get(Upload().id)
        registry.get(Upload().id)
    lines = [record.getMessage() for record in caplog.records if "Redis server" in record.getMessage()]
    assert len(lines) == len(set(lines))
    assert all("can't be used" in line for line in lines[:-1])
    assert "can be used again" in lines[-1]


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_server_that_was_killed_comes_back(tmp_path: Path, fsync: str) -> None:
    with RedisServer(tmp_path / "redis", fsync) as server, opening(server.url) as open_one:
        registry = open_one()
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        server.kill()
        with pytest.raises(Unavailable):
            registry.add_extents(upload.id, "token", NOTHING.add(10, 20))
        server.start()  # without the scripts: they are sent again
        assert registry.add_extents(upload.id, "token", NOTHING.add(10, 20)).extents.ranges == ((0, 20),)
        assert registry.now() > 1e9
        eventually(lambda: registry.is_alive(registry.holder))


def test_a_replica_is_not_written_to(own_server: RedisServer) -> None:
    with opening(own_server.url) as open_one, own_server.client() as client:
        registry = open_one()
        upload = registry.create(receiving())
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(Unavailable):
            registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        client.replicaof("NO", "ONE")
        assert registry.add_extents(upload.id, "token", NOTHING.add(0, 10)).offset == 10


def test_a_full_memory_passes_and_nothing_is_half_done(own_server: RedisServer) -> None:
    with opening(own_server.url) as open_one, own_server.client() as client:
        registry = open_one()
        upload = registry.create(receiving())
        client.config_set("maxmemory", "1")
        with pytest.raises(NoSpace):
            registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        with pytest.raises(NoSpace):
            registry.save(upload, upload.to(State.PAUSED), enqueue=delivery_of(upload))
        client.config_set("maxmemory", "0")
        assert registry.get(upload.id) == upload
        assert registry.due(upload.id) is None
        assert registry.add_extents(upload.id, "token", NOTHING.add(0, 10)).offset == 10


def test_who_comes_after_the_end_changes_nothing(opened: Open) -> None:
    registry = opened()
    upload = registry.create(receiving())
    registry.close()
    with pytest.raises(Unavailable):
        registry.save(upload, upload.to(State.PAUSED))


def test_a_newer_schema_is_refused_and_left_alone(registry: RedisRegistry, opened: Open) -> None:
    key = f"{registry._prefix}:schema"
    registry._client.set(key, module.SCHEMA_VERSION + 1)
    with pytest.raises(RuntimeError, match=f"newer.*schema {module.SCHEMA_VERSION + 1}"):
        opened()
    assert registry._client.get(key) == str(module.SCHEMA_VERSION + 1)


# -- the clock --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-10 * 365 * 86400, -3600, 3600, 10 * 365 * 86400])
def test_the_clock_does_not_follow_the_wall_clock(registry: RedisRegistry, opened: Open, jump: int) -> None:
    """The server's wall clock is set, or another server takes over that has another one."""
    other = opened()
    fall_silent_for_good(registry)
    fall_silent_for_good(other)
    before = registry.now()
    clock = f"{registry._prefix}:clock"
    wall = float(registry._client.hget(clock, "wall"))
    registry._client.hset(clock, "wall", wall - jump)
    assert before <= other.now() <= before + 5.5
    assert before < registry.now() <= before + 6


def test_the_clock_does_not_go_back_when_the_server_has_forgotten_it(registry: RedisRegistry) -> None:
    ahead = registry.now() + 1000
    registry._latest = str(ahead)
    registry._client.delete(f"{registry._prefix}:clock")
    assert ahead <= registry.now() < ahead + 60


# -- the era of all machines ------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_INTERVAL", 0.1)
    monkeypatch.setattr(module, "_PATIENCE", 1.0)


@pytest.mark.usefixtures("impatient")
def test_a_further_machine_takes_nothing_away(opened: Open) -> None:
    first = opened("one")
    upload = first.create(receiving())
    first.add_extents(upload.id, "token", NOTHING.add(0, 10))
    second = opened("two")
    assert second.boot_id == first.boot_id
    both = second.add_extents(upload.id, "token", NOTHING.add(10, 20))
    assert both.extents.ranges == ((0, 20),)
    assert first.get(upload.id) == both


@pytest.mark.usefixtures("impatient")
def test_after_a_machine_went_down_only_what_was_synced_counts(opened: Open) -> None:
    up, down = opened("up"), opened("down")
    upload = up.create(receiving())
    down.add_extents(upload.id, "token", NOTHING.add(0, 10), synced=True)
    before = down.add_extents(upload.id, "token", NOTHING.add(10, 20))
    down.keep_digest(before, 20, b"of what may be gone")
    fall_silent_for_good(down)
    era = up.boot_id
    back = opened("down, under its next boot")
    assert back.boot_id != era
    found = back.get(upload.id)
    assert found is not None
    assert found.extents.ranges == ((0, 10),)
    assert up.get(upload.id) == found
    assert up.boot_id == back.boot_id
    assert up.digest(upload.id) is None
    assert up.add_extents(upload.id, "token", NOTHING.add(30, 40)).extents.ranges == ((0, 10), (30, 40))


@pytest.mark.usefixtures("impatient")
def test_all_machines_were_down(opened: Open) -> None:
    before = [opened("one"), opened("two")]
    upload = before[0].create(receiving())
    before[1].add_extents(upload.id, "token", NOTHING.add(0, 10))
    for registry in before:
        registry.close()
    after: list[RedisRegistry] = []
    threads = [threading.Thread(target=lambda boot=boot: after.append(opened(boot))) for boot in ("1 again", "2 again")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [registry.get(upload.id) for registry in after]
    assert [one and one.received for one in found] == [0, 0]
    assert after[0].boot_id == after[1].boot_id


@pytest.mark.usefixtures("impatient")
def test_who_has_no_bytes_to_lose_ends_no_era(opened: Open) -> None:
    """An operator who has looked at the uploads from another machine; any machine in fsync mode."""
    first, second = opened("one"), opened("two")
    upload = first.create(receiving())
    second.add_extents(upload.id, "token", NOTHING.add(0, 10), synced=True)
    second.close()
    began = time.monotonic()
    third = opened("three")
    assert time.monotonic() - began < module._PATIENCE
    assert third.boot_id == first.boot_id


def test_a_restart_of_all_processes_takes_nothing_away(opened: Open) -> None:
    first = opened()
    upload = first.create(receiving())
    first.add_extents(upload.id, "token", NOTHING.add(0, 10))
    first.close()
    found = opened().get(upload.id)
    assert found is not None
    assert found.received == 10


# -- holders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEASE", 1.0)
    monkeypatch.setattr(module, "_BEAT_INTERVAL", 0.2)


HOLD = """
import sys
from incoming_wsgi.registry import redis as module
module._LEASE, module._BEAT_INTERVAL = 1.0, 0.2
registry = module.RedisRegistry(sys.argv[1])
print(registry.holder, flush=True)
print(registry.lease("app", ("callable",), 5.0).event_id, flush=True)
with registry.alone("sweep") as alone:
    print(alone, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.usefixtures("short_leases")
def test_what_a_killed_process_held_is_free_when_its_lease_ends(opened: Open, redis_server: RedisServer) -> None:
    registry = opened()
    registry.enqueue(delivery_of(receiving()))
    url = f"{redis_server.url}?prefix={registry._prefix.strip('{}')}"
    with Child(HOLD, [url]) as child:
        holder = child.line()
        assert child.line() == "msg"
        assert child.line() == "True"
        lasts = time.monotonic() + 2
        while time.monotonic() < lasts:  # longer than a lease: it is renewed
            assert registry.is_alive(holder)
            assert registry.lease("app", ("callable",), 6.0) is None
            with registry.alone("sweep") as alone:
                assert not alone
            time.sleep(0.1)
        child.kill()
        eventually(lambda: not registry.is_alive(holder), timeout=10)
        found = registry.lease("app", ("callable",), 6.0)
        assert found is not None
        assert found.attempt == 1

    def may_sweep() -> bool:
        with registry.alone("sweep") as alone:
            return alone

    eventually(may_sweep, timeout=10)


@pytest.mark.usefixtures("short_leases")
def test_who_was_cut_off_does_not_go_on(opened: Open) -> None:
    """Its lease is over, somebody else has gone on; then it is back and does not know."""
    stale, fresh = opened(), opened()
    row = delivery_of(receiving())
    upload = stale.create(receiving(state=State.COMPLETING))
    stale.enqueue(row)
    completing = stale.save(upload, replace(upload, holder=stale.holder))
    leased = stale.lease("app", ("callable",), 5.0)
    assert leased is not None
    beat, stale._beat = stale._beat, lambda: None  # type: ignore[method-assign]
    eventually(lambda: not fresh.is_alive(stale.holder), timeout=10)
    current = fresh.get(upload.id)
    assert current is not None
    taken = fresh.save(current, replace(current, holder=fresh.holder))
    assert fresh.lease("app", ("callable",), 6.0) is not None
    stale._beat = beat  # type: ignore[method-assign]
    beat()
    assert fresh.is_alive(stale.holder)
    with pytest.raises(Conflict):
        stale.save(completing, completing.to(State.HANDING_OVER, holder=""), enqueue=delivery_of(upload, event_id="2"))
    stale.postpone(replace(leased, attempt=9, due_at=0.0))
    assert fresh.get(upload.id) == taken
    held = fresh.due(row.upload_id)
    assert held is not None
    assert (held.holder, held.attempt) == (fresh.holder, 2)


# -- push -------------------------------------------------------------------------------------------------------


def test_a_change_is_heard_although_the_connection_was_lost(own_server: RedisServer) -> None:
    with opening(own_server.url) as open_one, own_server.client() as client:
        registry, other = open_one(), open_one()
        upload = registry.create(receiving())
        heard = threading.Event()
        registry.subscribe(upload.id, heard.set)
        for state in (State.PAUSED, State.RECEIVING, State.PAUSED):
            eventually(lambda: client.client_kill_filter(_type="pubsub") == 1)
            upload = other.save(upload, upload.to(state))  # while nobody listens, or soon after
            assert heard.wait(10)
            heard.clear()


def test_a_connection_that_is_dead_is_noticed(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reset tells of it: everybody is woken to look again."""
    monkeypatch.setattr("incoming_wsgi.registry.push._QUIET", 0.2)
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.5)
    with opening(own_server.url) as open_one:
        registry = open_one()
        upload = registry.create(receiving())
        heard = threading.Event()
        registry.subscribe(upload.id, heard.set)
        with own_server.frozen():
            assert heard.wait(15)
        heard.clear()
        eventually(lambda: registry.get(upload.id))
        registry.save(upload, upload.to(State.PAUSED))
        assert heard.wait(10)


def test_one_connection_hears_for_a_whole_process(own_server: RedisServer) -> None:
    with opening(own_server.url) as open_one, own_server.client() as client:
        registry = open_one()
        uploads = [registry.create(receiving(id=Upload().id)) for _ in range(20)]
        for upload in uploads:
            registry.subscribe(upload.id, lambda: None)
        assert len(client.client_list(_type="pubsub")) == 1


def test_nobody_can_wait_while_the_server_is_away(own_server: RedisServer) -> None:
    with opening(own_server.url) as open_one:
        registry = open_one()
        own_server.kill()
        with pytest.raises(Unavailable):
            registry.subscribe(Upload().id, lambda: None)
        own_server.start()
        registry.subscribe(Upload().id, lambda: None)()


WAIT_UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, sys, time
from incoming_wsgi.registry.redis import RedisRegistry
from incoming_wsgi.upload import State
registry = RedisRegistry(sys.argv[1])
longest = 0.0
def watch_the_loop():
    global longest
    while True:
        began = time.monotonic()
        gevent.sleep(0.01)
        longest = max(longest, time.monotonic() - began)
gevent.spawn(watch_the_loop)
print("waiting", flush=True)
found = registry.wait(sys.argv[2], lambda upload: upload.state is State.PAUSED, 20)
print(found.state.value, flush=True)
with registry.alone("duty") as alone:
    registry.sync()
print(longest < 0.5, flush=True)
registry.close()
"""


def test_waiting_under_gevent(registry: RedisRegistry, redis_server: RedisServer) -> None:
    upload = registry.create(receiving())
    url = f"{redis_server.url}?prefix={registry._prefix.strip('{}')}"
    with Child(WAIT_UNDER_GEVENT, [url, upload.id]) as child:
        assert child.line() == "waiting"
        registry.save(upload, upload.to(State.PAUSED))
        assert child.line() == "paused"
        assert child.line() == "True", "the event loop was held up"
        assert child.wait() == 0


# -- what a power cut can't take ----------------------------------------------------------------------------------


def test_a_sync_waits_for_the_log(newer_redis_server: RedisServer, prefix: str) -> None:
    with opening(f"{newer_redis_server.url}?prefix={prefix}") as open_one, newer_redis_server.client() as client:
        registry = open_one()
        fall_silent_for_good(registry)
        registry.create(receiving())
        registry.sync()
        assert client.info("commandstats")["cmdstat_waitaof"]["calls"] >= 1


def test_a_log_that_is_not_synced_in_time_is_not_believed(
    tmp_path: Path, newer_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SYNC_TIMEOUT", 0.05)
    program = newer_redis_server._program
    with RedisServer(tmp_path / "redis", "no", program=program) as server, opening(server.url) as open_one:
        registry = open_one()
        registry.create(receiving())
        with pytest.raises(Unavailable):
            registry.sync()


def test_a_server_that_makes_everybody_wait(
    tmp_path: Path, newer_redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    program = newer_redis_server._program
    with RedisServer(tmp_path / "redis", "everysec", program=program) as server, opening(server.url) as open_one:
        registry = open_one()
        for _ in range(3):
            registry.sync()
    assert caplog.text.count("once a second: set appendfsync always") == 1


@pytest.mark.parametrize(("fsync", "warned"), [("always", False), ("everysec", True), ("", True)])
def test_a_server_that_can_not_be_waited_for_is_as_good_as_it_is_set_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fsync: str, warned: bool
) -> None:
    with RedisServer(tmp_path / "redis", fsync) as server, opening(server.url) as open_one:
        registry = open_one()
        for _ in range(3):
            registry.sync()
    assert caplog.text.count("a power cut may take") == int(warned)


# -- which server -----------------------------------------------------------------------------------------------


def test_registries_on_one_server_are_told_apart(opened: Open, redis_server: RedisServer) -> None:
    registry = opened()
    upload = registry.create(receiving())
    with opening(f"{redis_server.url}?prefix=another") as open_one:
        assert open_one().get(upload.id) is None


def test_all_keys_are_in_one_slot(own_server: RedisServer) -> None:
    with opening(f"{own_server.url}?prefix=mine") as open_one, own_server.client() as client:
        life(open_one())
        keys = client.keys()
        assert keys
        assert all(key.startswith("{mine}:") for key in keys)


def test_a_password_and_a_database(own_server: RedisServer) -> None:
    with own_server.client() as client:
        client.acl_setuser("me", enabled=True, passwords=["+s:cr/t"], commands=["+@all"], keys=["*"], channels=["*"])
        registry = from_url(f"redis://me:s%3Acr%2Ft@127.0.0.1:{own_server.port}/3?prefix=mine")
        upload = registry.create(receiving())
        registry.close()
        client.select(3)
        assert client.exists(f"{{mine}}:upload:{upload.id}")
        with pytest.raises(Unavailable):
            from_url(f"redis://me:wrong@127.0.0.1:{own_server.port}/3")


def test_over_tls(tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    command = [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-auth-clients", "no", "--tls-ca-cert-file", str(certificate)]
    with RedisServer(tmp_path / "redis", "", *options):
        registry = from_url(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
        upload = registry.create(receiving())
        assert registry.get(upload.id) == upload
        registry.close()
        with pytest.raises(Unavailable):  # nobody vouches for it
            from_url(f"rediss://127.0.0.1:{port}/0")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost/0?prefix=%7Bx%7D",
        "redis+sentinel://localhost:26379",
        "redis+sentinel:///service",
        "redis+sentinel://:26379/service",
        "redis+sentinel://localhost:26379/service/x",
    ],
)
def test_a_url_that_means_nothing(url: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|write redis\+sentinel|invalid literal"):
        connected(url)


def test_sentinels_of_a_url() -> None:
    client, prefix = connected("redis+sentinel://me:pa%40ss@a:1,b/service/2?sentinel_password=x&prefix=p")
    pool = client.connection_pool
    assert prefix == "{p}"
    assert pool.service_name == "service"
    options = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"], one["password"]) for one in options] == [("a", 1, "x"), ("b", 26379, "x")]
    about = pool.connection_kwargs
    assert (about["username"], about["password"], about["db"]) == ("me", "pa@ss", 2)


def test_a_fail_over(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched, opening(watched.url) as open_one:
        registry = open_one()
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        heard = threading.Event()
        registry.subscribe(upload.id, heard.set)
        with watched.master.client() as client:
            assert client.wait(1, 5000) == 1
        before = registry.now()
        watched.master.kill()

        def goes_on() -> bool:
            with suppress(Unavailable):
                return registry.add_extents(upload.id, "token", NOTHING.add(10, 20)).received == 20
            return False

        eventually(goes_on, timeout=10, what="the replica taking over")
        assert registry.now() >= before
        heard.clear()
        current = registry.get(upload.id)
        assert current is not None
        eventually(lambda: heard_of_change(registry, current, heard), timeout=10)


def heard_of_change(registry: RedisRegistry, upload: Upload, heard: threading.Event) -> bool:
    with suppress(Conflict, Unavailable):
        registry.save(upload, upload.to(State.PAUSED))
    return heard.wait(1)


# -- the package ------------------------------------------------------------------------------------------------


def test_where_the_package_is_missing_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "find_spec", lambda name: None)
    for scheme in ("redis", "rediss", "unix", "redis+sentinel"):
        with pytest.raises(ValueError, match=r"pip install 'incoming-wsgi\[redis\]'"):
            contract.check(f"{scheme}://localhost/0")
    contract.check("sqlite:///x")


def test_what_an_older_version_has_written_may_lack_a_field(registry: RedisRegistry) -> None:
    upload = registry.create(receiving(dest_type="other"))
    registry._client.hdel(f"{registry._prefix}:upload:{upload.id}", "dest_type")
    found = registry.get(upload.id)
    assert found is not None
    assert found.dest_type == Upload().dest_type


def test_an_answer_is_read_under_its_own_era(registry: RedisRegistry) -> None:
    """Another thread may have heard of a new one meanwhile."""
    upload = registry.create(receiving())
    registry.add_extents(upload.id, "token", NOTHING.add(0, 5))
    answer = registry._uploads(registry._run("get", upload.id))
    registry._era = "another"
    assert next(iter(answer)).received == 5


def test_what_has_not_changed_is_not_decoded_again(registry: RedisRegistry) -> None:
    upload = registry.create(receiving())
    assert registry.get(upload.id) is registry.get(upload.id)
    added = registry.add_extents(upload.id, "token", NOTHING.add(0, 5))
    assert registry.get(upload.id) == added


def test_what_is_stored_is_text_for_an_operator_to_read(registry: RedisRegistry) -> None:
    upload = registry.create(receiving(metadata={"a": "ß"}))
    assert field(registry, upload, "state") == "receiving"
    assert json.loads(field(registry, upload, "metadata")) == {"a": "ß"}
