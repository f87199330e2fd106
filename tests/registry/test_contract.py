"""What every registry keeps to. A registry of one's own passes these tests in a subclass of the contract::

class TestMine(RegistryContract):
    @pytest.fixture
    def opened(self, tmp_path): ...
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi.errors import Conflict, OverQuota
from incoming_wsgi.events import begin_request
from incoming_wsgi.extents import Extents
from incoming_wsgi.gates.quotas import Quota, Rate, Scope, Use
from incoming_wsgi.registry import LONGEST_TRAIL, Delivery, Registry
from incoming_wsgi.registry.redis import RedisRegistry
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.upload import NOTHING, OPEN_STATES, State, Upload, new_ticket
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

NOW = 1_700_000_000.0

#: A value other than the default for each field.
FULL = Upload(
    state=State.RECEIVING,
    version=7,
    app="photos",
    owner="somebody",
    client="2001:db8::/64",
    accept=".jpg, image/*",
    expires_at=NOW + 60,
    max_connections=3,
    bound_cookie="session=" + "cd" * 32,
    bound_network="192.0.2.0/24",
    was_seen=True,
    created_with="tus",
    protocol="tus",
    created_at=NOW + 0.25,
    active_at=NOW + 0.5,
    epoch=3,
    session="token",
    length=2**50,
    max_length=2**51,
    extents=Extents().add(0, 5).add(2**40, 2**41),
    synced=Extents().add(1, 4),
    boot_id="a boot",
    taken_back=2,
    fingerprint="f:1",
    filename_from_browser="Übersicht\0\n'; DROP TABLE uploads; --.pdf",
    metadata={"owner": "me", "Straße": "ß"},
    client_metadata={"filetype": "text/plain", "\\xff": "☃"},
    notes={"Upload-Metadata": "filename Zm9v,is_confidential"},
    part_of=new_ticket(),
    parts=(new_ticket(), new_ticket()),
    target="https://example.org/finish",
    base_url="https://example.org/app",
    secret="s3cret",
    remove_file_when_finished=False,
    dest_type="file",
    holder="4711",
    event_id="msg_1",
    sha256="ab" * 32,
    location="/srv/complete/x",
    moved_to="/srv/files/y",
    reason="because",
)


def receiving(**changes: object) -> Upload:
    upload = Upload(app="app", state=State.RECEIVING, epoch=1, session="token", length=1000, event_id="msg")
    return replace(upload, **changes)  # type: ignore[arg-type]


def row(upload: Upload, **changes: object) -> Delivery:
    delivery = Delivery("msg", upload.id, "app", "finished", "callable", due_at=NOW, created_at=NOW)
    return replace(delivery, **changes)  # type: ignore[arg-type]


class RegistryContract(ABC):
    """Give ``opened``: opens a registry, each time on the same data, as another process would."""

    @pytest.fixture
    @abstractmethod
    def opened(self, tmp_path: Path) -> Iterator[Callable[[], Registry]]: ...

    @pytest.fixture
    def registry(self, opened: Callable[[], Registry]) -> Registry:
        return opened()

    @pytest.fixture
    def other(self, registry: Registry, opened: Callable[[], Registry]) -> Registry:
        """The same data, as another process has it."""
        return opened()

    # -- uploads ------------------------------------------------------------------------------------------------

    def test_every_field_comes_back(self, registry: Registry, other: Registry) -> None:
        plain = Upload()
        assert all(
            getattr(FULL, field.name) != getattr(plain, field.name)
            for field in fields(Upload)
            if field.name != "dest_type"
        )
        for upload in (FULL, plain):
            created = registry.create(upload)
            assert created == replace(upload, boot_id=registry.boot_id)
            assert registry.get(upload.id) == created
            assert other.get(upload.id) == created

    def test_unknown(self, registry: Registry) -> None:
        assert registry.get(Upload().id) is None

    def test_a_glance_follows_what_others_do(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        assert registry.glance(upload.id) == registry.glance(upload.id) == upload
        paused = other.save(upload, upload.to(State.PAUSED))
        eventually(lambda: registry.glance(upload.id) == paused)
        assert registry.save(paused, paused.to(State.RECEIVING, epoch=9)) == registry.glance(upload.id)
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        seen = registry.glance(upload.id)
        assert seen is not None
        assert seen.extents == Extents().add(0, 10)
        assert registry.glance(Upload().id) is None

    def test_save_stores_what_differs(self, registry: Registry, other: Registry) -> None:
        before = registry.create(receiving())
        after = before.to(State.PAUSED, reason="lunch", metadata={"a": "b"})
        saved = registry.save(before, after)
        assert saved == replace(after, version=1)
        assert other.get(before.id) == saved

    def test_the_version_rises_with_every_change(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        versions = [upload.version]
        for state, one in ((State.PAUSED, registry), (State.RECEIVING, other), (State.PAUSED, registry)):
            upload = one.save(upload, upload.to(state))
            versions.append(upload.version)
        assert versions == sorted(set(versions))
        assert registry.save(upload, upload).version == upload.version

    def test_all_bytes_come_with_a_move(self, registry: Registry, other: Registry) -> None:
        before = registry.create(Upload(app="app"))
        after = before.to(State.COMPLETING, epoch=1, session="token", length=1000, sha256="ab")
        saved = registry.save(before, after, all_came=True)
        all_bytes = Extents().add(0, 1000)
        assert saved == replace(after, version=1, extents=all_bytes, synced=all_bytes)
        assert other.get(before.id) == saved
        with pytest.raises(Conflict):
            other.save(before, after, all_came=True)

    def test_an_end_that_holds_only_if_nothing_came(self, registry: Registry, other: Registry) -> None:
        before = registry.create(receiving())
        other.add_extents(before.id, "token", NOTHING.add(0, 10))
        with pytest.raises(Conflict):
            registry.save(before, before.to(State.EXPIRED), if_nothing_came=True)
        current = registry.get(before.id)
        assert current is not None
        assert current.state is State.RECEIVING
        assert registry.save(current, current.to(State.EXPIRED), if_nothing_came=True).state is State.EXPIRED

    @pytest.mark.parametrize(
        "moved",
        [
            {"state": State.PAUSED},
            {"epoch": 2, "session": "another"},
            {"epoch": 2},
            {"session": "another"},  # the same number again, after a fail-over
            {"holder": "another"},  # who goes on with its completion
        ],
    )
    def test_who_comes_second_changes_nothing(
        self, registry: Registry, other: Registry, moved: dict[str, object]
    ) -> None:
        before = registry.create(receiving())
        registry.enqueue(row(before, event_id="old"))
        won = other.save(before, replace(before, **moved))  # type: ignore[arg-type]
        with pytest.raises(Conflict):
            registry.save(
                before,
                before.to(State.CANCELLED, reason="too late"),
                enqueue=row(before, event_id="new"),
                settle=row(before, event_id="old"),
            )
        assert registry.get(before.id) == won
        queued = registry.due(before.id)
        assert queued is not None
        assert queued.event_id == "old"

    def test_saving_what_is_gone(self, registry: Registry) -> None:
        upload = receiving()
        with pytest.raises(Conflict):
            registry.save(upload, upload.to(State.PAUSED))

    def test_save_never_takes_bytes_back(self, registry: Registry, other: Registry) -> None:
        before = registry.create(receiving())
        other.add_extents(before.id, "token", NOTHING.add(0, 100))
        saved = registry.save(before, before.to(State.PAUSED))
        assert saved.extents == Extents().add(0, 100)
        assert saved.active_at > before.active_at

    def test_save_and_outbox_are_one_step(self, registry: Registry) -> None:
        before = registry.create(receiving())
        first = row(before, event_id="first")
        saved = registry.save(before, before.to(State.PAUSED), enqueue=first)
        assert registry.due(before.id) == first
        second = row(before, event_id="second")
        registry.save(saved, saved.to(State.RECEIVING), enqueue=second, settle=first)
        assert registry.due(before.id) == second

    def test_whose_time_is_over(self, registry: Registry, other: Registry) -> None:
        def expiring() -> list[str]:
            return [upload.id for upload in other.find_expired(NOW)]

        registry.create(Upload())
        registry.create(Upload(expires_at=NOW + 1))
        early, late = (registry.create(receiving(expires_at=at)) for at in (NOW - 5, NOW))
        assert expiring() == [early.id, late.id]
        assert [upload.id for upload in other.find_expired(NOW, limit=1)] == [early.id]
        registry.add_extents(early.id, "token", NOTHING.add(0, 10))
        assert expiring() == [early.id, late.id]
        registry.save(early, replace(early, expires_at=NOW + 10))
        registry.save(late, late.to(State.EXPIRED))
        assert expiring() == []
        registry.forget(early.id)
        assert [upload.id for upload in other.find_expired(NOW + 100)] != [early.id]

    # -- trail --------------------------------------------------------------------------------------------------

    def test_the_trail_of_an_upload(self, registry: Registry, other: Registry) -> None:
        begin_request("request-1")
        upload = registry.create(Upload(app="app"))
        began = registry.now()
        opened = other.save(upload, upload.to(State.RECEIVING, epoch=1, session="token", protocol="tus", length=10))
        registry.add_extents(opened.id, "token", NOTHING.add(0, 4))
        renamed = registry.save(opened, replace(opened, sha256="ab"))  # of no interest
        registry.save(renamed, renamed.to(State.CANCELLED, reason="Straße, «no» — \n"))
        entries = other.trail(upload.id)
        request = {"request": "request-1"}
        assert [(entry.state, dict(entry.about)) for entry in entries] == [
            (State.WAITING, {"received": "0", **request}),
            (State.RECEIVING, {"received": "0", "protocol": "tus", **request}),
            (State.CANCELLED, {"received": "4", "reason": "Straße, «no» — \n", **request}),
        ]
        assert all(began - 60 < entry.at < began + 60 for entry in entries)
        assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
        assert registry.trail(new_ticket()) == []
        registry.forget(upload.id)
        assert other.trail(upload.id) == []

    def test_a_trail_is_not_endless(self, registry: Registry) -> None:
        upload = registry.create(Upload(app="app"))
        for epoch in range(1, LONGEST_TRAIL + 20):
            upload = registry.save(upload, upload.to(State.RECEIVING if epoch == 1 else upload.state, epoch=epoch))
        entries = registry.trail(upload.id)
        assert len(entries) == LONGEST_TRAIL
        assert State.WAITING not in {entry.state for entry in entries}

    def test_who_wants_to_know_is_told_of_changes(self, registry: Registry, other: Registry) -> None:
        told: list[tuple[State | None, State]] = []
        registry.moved = lambda before, after: told.append((before.state if before else None, after.state))
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        paused = registry.save(upload, upload.to(State.PAUSED))
        other.save(paused, paused.to(State.RECEIVING))
        with pytest.raises(Conflict):
            registry.save(paused, paused.to(State.CANCELLED))
        assert told == [(None, State.RECEIVING), (State.RECEIVING, State.PAUSED)]

    # -- quotas -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("scope", "whose", "field"),
        [(Scope.APP, "", ""), (Scope.OWNER, "Åse | {}", "owner"), (Scope.CLIENT, "192.0.2.7", "client")],
    )
    def test_what_is_open_counts(
        self, registry: Registry, other: Registry, scope: Scope, whose: str, field: str
    ) -> None:
        quota = Quota(scope, "app", whose, 3, 5000)
        theirs: dict[str, Any] = {field: whose} if field else {}
        strange: dict[str, Any] = {field: "x"} if field else {"app": "yet another"}
        strangers = (Upload(app="another", **theirs), replace(Upload(app="app"), **strange))
        for stranger in strangers:
            registry.create(stranger, quotas=[quota])
        assert registry.usage(quota) == Use(0, 0)
        first = registry.create(receiving(**theirs), quotas=[quota])
        second = registry.create(receiving(length=None, **theirs), quotas=[quota])
        other.add_extents(second.id, "token", NOTHING.add(0, 10))
        other.add_extents(second.id, "token", NOTHING.add(20, 30))
        part = registry.create(receiving(part_of=first.id, length=100, **theirs), quotas=[quota])
        assert registry.usage(quota) == other.usage(quota) == Use(2, 1120)
        paused = registry.save(first, first.to(State.PAUSED), quotas=[quota])
        assert registry.usage(quota) == Use(2, 1120)
        registry.save(paused, paused.to(State.CANCELLED), quotas=[quota])
        assert other.usage(quota) == Use(1, 120)
        for upload in (first, second, part):
            other.forget(upload.id)
        assert registry.usage(quota) == Use(0, 0)

    def test_what_would_be_too_many_is_refused(self, registry: Registry, other: Registry) -> None:
        quota = Quota(Scope.APP, "app", "", 2, 0)
        uploads = [registry.create(Upload(app="app"), quotas=[quota]) for _ in range(2)]
        refused = Upload(app="app")
        with pytest.raises(OverQuota) as caught:
            other.create(refused, quotas=[quota])
        assert caught.value.retry_after
        assert registry.get(refused.id) is None
        assert registry.usage(quota) == Use(2, 0)
        registry.save(uploads[0], uploads[0].to(State.CANCELLED))
        other.create(refused, quotas=[quota])

    def test_what_would_be_too_much_is_refused(self, registry: Registry, other: Registry) -> None:
        quota = Quota(Scope.OWNER, "app", "me", 0, 1000)
        opened = registry.create(receiving(owner="me", length=600), quotas=[quota])
        before = registry.create(Upload(app="app", owner="me"), quotas=[quota])
        after = before.to(State.RECEIVING, epoch=1, session="token", length=401)
        with pytest.raises(OverQuota):
            other.save(before, after, quotas=[quota])
        assert registry.get(before.id) == before
        saved = other.save(before, replace(after, length=400), quotas=[quota])
        assert saved.length == 400
        assert registry.usage(quota) == Use(2, 1000)
        other.save(opened, replace(opened, epoch=2, session="again"), quotas=[quota])

    def test_who_is_open_already_is_not_refused_by_a_smaller_quota(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving(owner="me"))
        quota = Quota(Scope.OWNER, "app", "me", 1, 10)
        assert other.save(upload, replace(upload, epoch=2, session="again"), quotas=[quota]).epoch == 2

    def test_tokens_run_out_and_come_back(self, registry: Registry, other: Registry) -> None:
        rate = Rate("owner app me", burst=3, interval=0.3)
        began = time.monotonic()
        created: list[Upload] = []

        def create() -> None:
            created.extend(one.create(Upload(), rates=[rate]) for one in (registry, other) * 10)

        with pytest.raises(OverQuota) as caught:
            create()
        assert 3 <= len(created) <= 3 + (time.monotonic() - began) / 0.3
        wait = caught.value.retry_after
        assert wait is not None
        assert 0 < wait <= 0.3
        registry.create(Upload(), rates=[Rate("another", 1, 60)])
        time.sleep(wait + 0.01)  # the rule is about time itself
        other.create(Upload(), rates=[rate])

    def test_who_is_refused_takes_no_token(self, registry: Registry) -> None:
        rate, quota = Rate("r", burst=2, interval=600), Quota(Scope.APP, "app", "", 1, 0)
        registry.create(Upload(app="app"), quotas=[quota], rates=[rate])
        for _ in range(5):
            with pytest.raises(OverQuota):
                registry.create(Upload(app="app"), quotas=[quota], rates=[rate])
        registry.create(Upload(app="another"), quotas=[quota], rates=[rate])

    def test_many_at_once_never_get_more_than_there_is(self, registry: Registry, other: Registry) -> None:
        quota, got, refused = Quota(Scope.APP, "app", "", 5, 0), [], []

        def ask(one: Registry) -> None:
            for _ in range(5):
                try:
                    got.append(one.create(Upload(app="app"), quotas=[quota]))
                except OverQuota as error:
                    refused.append(error)

        threads = [threading.Thread(target=ask, args=(one,)) for one in (registry, other) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len(refused)) == (5, 25)

    def test_only_one_of_many_wins(self, registry: Registry, other: Registry) -> None:
        before = registry.create(receiving(state=State.HANDING_OVER))
        won: list[int] = []

        def finish(number: int) -> None:
            try:
                (registry, other)[number % 2].save(before, before.to(State.FINISHED, reason=str(number)))
            except Conflict:
                return
            won.append(number)

        run_at_once(finish, 10)
        found = registry.get(before.id)
        assert found is not None
        assert [found.reason] == [str(number) for number in won]

    # -- bytes --------------------------------------------------------------------------------------------------

    def test_extents_are_merged(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(100, 200))
        other.add_extents(upload.id, "token", NOTHING.add(0, 50))
        found = registry.add_extents(upload.id, "token", NOTHING.add(40, 100))
        assert found.extents.ranges == ((0, 200),)
        assert other.get(upload.id) == found

    def test_lanes_do_not_lose_each_others_bytes(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())

        def add(number: int) -> None:
            for start in range(number * 10, 1000, 40):
                (registry, other)[number % 2].add_extents(upload.id, "token", NOTHING.add(start, start + 10))

        run_at_once(add, 4)
        found = registry.get(upload.id)
        assert found is not None
        assert found.is_complete

    def test_several_ranges_at_once(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        other.add_extents(upload.id, "token", NOTHING.add(10, 20))
        found = registry.add_extents(upload.id, "token", NOTHING.add(0, 10).add(30, 40).add(50, 60), synced=True)
        assert found.extents.ranges == ((0, 20), (30, 40), (50, 60))
        assert found.synced.ranges == ((0, 10), (30, 40), (50, 60))
        assert other.get(upload.id) == found

    def test_an_arrival_is_a_sign_of_life(self, registry: Registry) -> None:
        upload = registry.create(receiving(active_at=NOW))
        assert abs(registry.add_extents(upload.id, "token", NOTHING.add(0, 1)).active_at - time.time()) < 60

    def test_who_was_replaced_adds_nothing(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        other.save(upload, upload.to(State.RECEIVING, epoch=2, session="another"))
        with pytest.raises(Conflict):
            registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        found = registry.get(upload.id)
        assert found is not None
        assert found.extents == Extents()

    @pytest.mark.parametrize("state", sorted(set(State) - OPEN_STATES))
    def test_what_takes_no_more_bytes(self, registry: Registry, state: State) -> None:
        upload = registry.create(receiving(state=state))
        with pytest.raises(Conflict):
            registry.add_extents(upload.id, "token", NOTHING.add(0, 10))

    def test_bytes_of_what_is_gone(self, registry: Registry) -> None:
        with pytest.raises(Conflict):
            registry.add_extents(Upload().id, "token", NOTHING.add(0, 10))

    # -- looking for uploads ------------------------------------------------------------------------------------

    def test_find(self, registry: Registry) -> None:
        old = registry.create(receiving(id=Upload().id, active_at=NOW))
        new = registry.create(receiving(id=Upload().id, active_at=NOW + 10))
        foreign = registry.create(receiving(id=Upload().id, active_at=NOW - 10, app="other"))
        registry.create(receiving(id=Upload().id, state=State.FINISHED, active_at=NOW))
        assert registry.find({State.RECEIVING}) == [foreign, old, new]
        assert registry.find({State.RECEIVING}, app="app") == [old, new]
        assert registry.find({State.RECEIVING}, idle_since=NOW) == [foreign, old]
        assert registry.find({State.RECEIVING}, limit=1) == [foreign]
        assert len(registry.find(set(State))) == 4
        assert registry.find({State.PAUSED}) == []

    def test_find_complete(self, registry: Registry) -> None:
        def known(length: int | None, *pieces: tuple[int, int], **changes: object) -> str:
            upload = receiving(id=Upload().id, length=length, **changes)
            for start, end in pieces:
                upload = replace(upload, extents=upload.extents.add(start, end))
            return registry.create(upload).id

        complete = {
            known(10, (0, 10)),
            known(0),
            known(10, (0, 10), state=State.PAUSED),
            known(2**53 + 1, (0, 2**53 + 1)),
            known(10, (0, 10), protocol="tus"),
        }
        known(10, (0, 9))
        known(10, (1, 10))
        known(None)
        known(None, (0, 10))
        known(10, (0, 10), state=State.COMPLETING)
        known(10, (0, 10), protocol="ietf")  # there the client says when it is complete
        known(10, (0, 10), protocol="tus", part_of=new_ticket())
        assert {upload.id for upload in registry.find_complete()} == complete

    def test_parts(self, registry: Registry, other: Registry) -> None:
        whole, stranger = registry.create(receiving(id=new_ticket())), registry.create(receiving(id=new_ticket()))
        parts = [
            one.create(receiving(id=new_ticket(), part_of=whole.id, created_at=NOW - age))
            for age, one in ((1, registry), (3, other), (2, registry))
        ]
        assert registry.parts_of(whole.id) == other.parts_of(whole.id) == [parts[1], parts[2], parts[0]]
        assert registry.parts_of(stranger.id) == []
        other.forget(parts[2].id)
        assert registry.parts_of(whole.id) == [parts[1], parts[0]]

    def test_all_bytes_came_from_parts(self, registry: Registry, other: Registry) -> None:
        before = registry.create(receiving(state=State.JOINING, length=1000, parts=(new_ticket(),)))
        saved = registry.save(before, before.to(State.COMPLETING), all_came=True)
        assert saved.is_complete
        assert saved.synced == saved.extents
        assert other.get(before.id) == saved
        with pytest.raises(Conflict):
            other.save(before, before.to(State.COMPLETING), all_came=True)

    def test_forget(self, registry: Registry) -> None:
        upload, other = (registry.create(receiving(id=Upload().id)) for _ in range(2))
        for one in (upload, other):
            registry.enqueue(row(one, event_id=one.id))
            registry.keep_digest(one, 5, b"state")
        registry.forget(upload.id)
        registry.forget(upload.id)
        assert registry.get(upload.id) is None
        assert registry.due(upload.id) is None
        assert registry.digest(upload.id) is None
        assert registry.get(other.id) == other
        assert registry.due(other.id) is not None
        assert registry.digest(other.id) == (5, b"state")

    # -- outbox -------------------------------------------------------------------------------------------------

    def test_lease(self, registry: Registry) -> None:
        upload = registry.create(receiving())
        registry.enqueue(row(upload, event_id="later", due_at=NOW + 5))
        registry.enqueue(row(upload, event_id="first", due_at=NOW))
        assert registry.lease("app", ("callable",), NOW - 1) is None
        leased = [registry.lease("app", ("callable", "url"), NOW + 5) for _ in range(3)]
        assert [one and one.event_id for one in leased] == ["first", "later", None]
        held = registry.due(upload.id)
        assert held is not None
        assert held.holder == registry.holder

    def test_an_attempt_in_which_the_holder_dies_was_one(self, registry: Registry, other: Registry) -> None:
        registry.enqueue(row(receiving()))
        first = registry.lease("app", ("callable",), NOW)
        registry.close()  # its lease is free, as after its death
        second = other.lease("app", ("callable",), NOW)
        assert first is not None
        assert second is not None
        assert (first.attempt, second.attempt) == (0, 1)
        other.postpone(replace(second, attempt=second.attempt + 1))
        third = other.lease("app", ("callable",), NOW)
        assert third is not None
        assert third.attempt == 2

    def test_only_who_has_the_handler_leases(self, registry: Registry) -> None:
        registry.enqueue(row(receiving(), handler="path"))
        assert registry.lease("app", ("callable", "url"), NOW) is None
        assert registry.lease("other", ("path",), NOW) is None
        assert registry.lease("app", (), NOW) is None
        assert registry.lease("app", ("path",), NOW) is not None

    def test_a_row_has_one_holder(self, registry: Registry, other: Registry) -> None:
        for number in range(20):
            registry.enqueue(row(receiving(), event_id=str(number)))
        leased: list[str] = []

        def lease(number: int) -> None:
            while delivery := (registry, other)[number % 2].lease("app", ("callable",), NOW):
                leased.append(delivery.event_id)

        run_at_once(lease, 4)
        assert sorted(leased, key=int) == [str(number) for number in range(20)]

    def test_the_rows_of_a_process_that_ended_go_back(self, registry: Registry, opened: Callable[[], Registry]) -> None:
        other = opened()
        registry.enqueue(row(receiving()))
        assert other.lease("app", ("callable",), NOW) is not None
        assert registry.lease("app", ("callable",), NOW) is None
        other.close()
        assert registry.lease("app", ("callable",), NOW) is not None

    def test_postpone(self, registry: Registry, other: Registry) -> None:
        upload = receiving()
        registry.enqueue(row(upload))
        leased = registry.lease("app", ("callable",), NOW)
        assert leased is not None
        registry.postpone(replace(leased, attempt=1, due_at=NOW + 60, error="not at home"))
        assert registry.due(upload.id) == row(upload, attempt=1, due_at=NOW + 60, error="not at home")
        assert other.lease("app", ("callable",), NOW + 59) is None
        assert other.lease("app", ("callable",), NOW + 60) is not None

    def test_postponing_what_is_settled_brings_nothing_back(self, registry: Registry) -> None:
        upload = registry.create(receiving())
        registry.enqueue(row(upload))
        leased = registry.lease("app", ("callable",), NOW)
        assert leased is not None
        registry.save(upload, upload, settle=leased)
        registry.postpone(replace(leased, due_at=NOW))
        assert registry.due(upload.id) is None

    def test_enqueue_replaces(self, registry: Registry) -> None:
        upload = receiving()
        registry.enqueue(row(upload, attempt=9, due_at=NOW + 1000))
        registry.enqueue(row(upload))
        assert registry.due(upload.id) == row(upload)

    # -- what a power cut can't take ------------------------------------------------------------------------------

    def test_what_is_synced_is_told_apart(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10), synced=True)
        saved = other.add_extents(upload.id, "token", NOTHING.add(10, 30))
        assert saved.extents == Extents().add(0, 30)
        assert saved.synced == Extents().add(0, 10)
        registry.add_synced(replace(saved, extents=Extents().add(5, 20)))
        assert other.get(upload.id) == replace(saved, synced=Extents().add(0, 20))

    def test_bytes_are_taken_back_to_what_is_synced(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10), synced=True)
        before = other.add_extents(upload.id, "token", NOTHING.add(10, 30))
        registry.keep_digest(before, 30, b"of what is gone")
        after = before.to(State.RECEIVING, epoch=2, session="")
        saved = registry.save(before, after, back_to_synced=True)
        assert saved == replace(after, extents=Extents().add(0, 10), taken_back=1, version=before.version + 1)
        assert registry.digest(upload.id) is None
        other.keep_digest(before, 30, b"by somebody who has not heard of it")
        other.add_synced(before)
        assert registry.digest(upload.id) is None
        assert registry.get(upload.id) == saved

    def test_sync_and_clock(self, registry: Registry, other: Registry) -> None:
        registry.create(receiving())
        registry.sync()
        assert registry.boot_id == other.boot_id != ""
        first, second, third = registry.now(), other.now(), registry.now()
        assert first <= second <= third < first + 60

    # -- digests ------------------------------------------------------------------------------------------------

    def test_digest(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        assert registry.digest(upload.id) is None
        registry.keep_digest(upload, 64, bytes(range(112)))
        registry.keep_digest(upload, 128, bytes(range(1, 113)))
        assert other.digest(upload.id) == (128, bytes(range(1, 113)))

    # -- waiting ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("by", ["same", "other"])
    def test_a_change_is_heard(self, registry: Registry, other: Registry, by: str) -> None:
        upload = registry.create(receiving())
        strange = registry.create(receiving(id=Upload().id))
        heard, wrong = threading.Event(), threading.Event()
        unsubscribe = registry.subscribe(upload.id, heard.set)
        registry.subscribe(strange.id, wrong.set)
        saved = (registry if by == "same" else other).save(upload, upload.to(State.PAUSED))
        assert heard.wait(10)
        unsubscribe()
        unsubscribe()
        heard.clear()
        other.save(saved, saved.to(State.RECEIVING))
        assert not heard.wait(0.3)
        assert not wrong.is_set()

    def test_wait_gives_what_is_there_already(self, registry: Registry) -> None:
        upload = registry.create(receiving())
        assert registry.wait(upload.id, lambda found: found is not None, 10) == upload
        assert registry.wait(Upload().id, lambda found: found is None, 10) is None

    def test_wait_ends(self, registry: Registry) -> None:
        upload = registry.create(receiving())
        began = time.monotonic()
        assert registry.wait(upload.id, lambda found: False, 0.05) == upload
        assert time.monotonic() - began < 5
        assert registry.wait(upload.id, lambda found: False, 0) == upload

    def test_wait_for_another_process(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        found: list[Upload | None] = []

        def wait() -> None:
            found.append(registry.wait(upload.id, lambda one: one is not None and one.state is State.PAUSED, 20))

        thread = threading.Thread(target=wait)
        thread.start()
        saved = other.save(upload, upload.to(State.PAUSED))
        thread.join(10)
        assert found == [saved]

    # -- holders ------------------------------------------------------------------------------------------------

    def test_holders(self, registry: Registry, opened: Callable[[], Registry]) -> None:
        other = opened()
        name = other.holder
        assert name != registry.holder
        assert registry.is_alive(registry.holder)
        assert registry.is_alive(name)
        other.close()
        assert not registry.is_alive(name)
        assert not registry.is_alive("4711-nobody")

    def test_a_duty_for_one(self, registry: Registry, other: Registry) -> None:
        with registry.alone("sweep") as first:
            with other.alone("sweep") as second, other.alone("dust") as another:
                assert (first, second, another) == (True, False, True)
            with registry.alone("sweep") as again:
                assert not again
        with other.alone("sweep") as now:
            assert now

    def test_maintenance_loses_nothing(self, registry: Registry, other: Registry) -> None:
        upload = registry.create(receiving())
        registry.add_extents(upload.id, "token", NOTHING.add(0, 10))
        registry.maintain()
        other.maintain()
        found = other.get(upload.id)
        assert found is not None
        assert found.received == 10


def run_at_once(work: Callable[[int], None], count: int) -> None:
    """``work(0)`` … in as many threads, beginning together."""
    gate = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 (the test fails with it)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


class TestSQLite(RegistryContract):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Callable[[], Registry]]:
        with closing_all(lambda: SQLiteRegistry(tmp_path / "registry.sqlite3")) as open_one:
            yield open_one


class TestRedis(RegistryContract):
    @pytest.fixture(params=["tcp", "unix", "newer"])
    def opened(
        self,
        request: pytest.FixtureRequest,
        redis_server: RedisServer,
        newer_redis_server: RedisServer,
        prefix: str,
    ) -> Iterator[Callable[[], Registry]]:
        urls = {"tcp": redis_server.url, "unix": redis_server.socket_url, "newer": newer_redis_server.url}
        url = urls[request.param]
        with closing_all(lambda: RedisRegistry(f"{url}?prefix={prefix}")) as open_one:
            yield open_one


@contextmanager
def closing_all(make: Callable[[], Registry]) -> Iterator[Callable[[], Registry]]:
    """Makes registries, and closes in the end those that are open."""
    made: list[Registry] = []

    def open_one() -> Registry:
        registry = make()
        close, closed = registry.close, threading.Event()

        def close_once() -> None:
            if not closed.is_set():
                closed.set()
                close()

        registry.close = close_once  # type: ignore[method-assign]
        made.append(registry)
        return registry

    yield open_one
    for registry in made:
        registry.close()
