from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi.delivery import outbox as module
from incoming_wsgi.delivery.handover import Handler, Notice, Outcome
from incoming_wsgi.delivery.outbox import PATIENCE, PAUSES, Outbox, is_given_up, later
from incoming_wsgi.errors import Unavailable
from incoming_wsgi.registry import Delivery
from incoming_wsgi.registry.sqlite import SQLiteRegistry
from incoming_wsgi.upload import Upload
from tests.support.waiting import eventually

from ..helpers import Clock, PlayedApp


def row(**changes: Any) -> Delivery:
    upload = Upload()
    return replace(Delivery(upload.id, upload.id, "app", "finished", "callable"), **changes)


class World:
    """An outbox with a registry, and an app that is played; what it answers is noted."""

    def __init__(self, folder: Path) -> None:
        self.registry = SQLiteRegistry(folder / "registry.sqlite3")
        self.app = PlayedApp()
        self.answered: list[tuple[Delivery, Outcome]] = []
        self.answer: Callable[[Delivery, Outcome], None] = lambda delivery, outcome: None
        self.is_over: set[str] = set()
        self.outbox = self.another({"app": {"callable": self.app}})

    def another(self, handlers: dict[str, dict[str, Handler]]) -> Outbox:
        return Outbox(self.registry, handlers, self.notice, self.told)

    def notice(self, delivery: Delivery) -> Notice | None:
        if delivery.event_id in self.is_over:
            return None
        return Notice(Upload(id=delivery.upload_id), delivery, "/somewhere")

    def told(self, delivery: Delivery, outcome: Outcome) -> None:
        self.answered.append((delivery, outcome))
        self.answer(delivery, outcome)

    def put(self, **changes: Any) -> Delivery:
        delivery = row(**changes)
        self.registry.enqueue(delivery)
        self.outbox.wake()
        return delivery


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.app.may_answer.set()
    world.outbox.stop()
    world.registry.close()


def test_what_is_due_is_delivered(world: World) -> None:
    early = world.put()
    world.outbox.start()
    late = world.put()
    eventually(lambda: len(world.answered) == 2)
    assert {notice.delivery.event_id for notice in world.app.notices} == {early.event_id, late.event_id}
    assert {outcome for _, outcome in world.answered} == {Outcome("done")}


def test_what_another_process_puts_there_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    world.outbox.start()
    world.registry.enqueue(row())
    eventually(lambda: world.answered)


def test_an_answer_that_can_not_be_recorded_yet_is_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)

    def answer(delivery: Delivery, outcome: Outcome) -> None:
        if len(world.answered) < 3:
            raise Unavailable
        world.registry.postpone(replace(delivery, due_at=world.registry.now() + 1000, attempt=1))

    world.answer = answer
    world.outbox.start()
    delivery = world.put()
    eventually(lambda: len(world.answered) == 3)
    found = eventually(lambda: world.registry.due(delivery.upload_id))
    eventually(lambda: not world.registry.due(delivery.upload_id).holder)  # type: ignore[union-attr]
    assert len(world.app.notices) == 1
    assert found.error == ""


def test_a_row_that_is_delivered_at_once(world: World) -> None:
    """No look into the registry finds it; but there it is, for whoever goes on when this process dies."""
    world.outbox.start()
    delivery = row()
    with world.outbox.at_once(delivery) as leased:
        world.registry.enqueue(leased)
        assert (leased.holder, leased.attempt) == (world.registry.holder, 1)
        assert world.registry.lease("app", ["callable"], world.registry.now()) is None
    eventually(lambda: world.answered)
    assert world.answered == [(delivery, Outcome("done"))]


def test_no_hand_is_free_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it waits as any other does."""
    monkeypatch.setattr(world.outbox, "_free", threading.Semaphore(1))
    world.app.may_answer.clear()
    world.outbox.start()
    first = world.put()
    eventually(lambda: world.app.notices)
    delivery = row()
    with world.outbox.at_once(delivery) as waiting:
        world.registry.enqueue(waiting)
    assert waiting == delivery
    world.app.may_answer.set()
    eventually(lambda: len(world.answered) == 2)
    assert [one.event_id for one, _ in world.answered] == [first.event_id, delivery.event_id]


@pytest.mark.parametrize("handlers", [{"app": {"url": PlayedApp()}}, {"app": {"callable": PlayedApp()}}])
def test_nothing_is_delivered_at_once_by_who_does_not_deliver(
    world: World, handlers: dict[str, dict[str, Handler]]
) -> None:
    other = world.another(handlers)  # it has another handler, or has not been started
    if "url" in handlers["app"]:
        other.start()
    with other.at_once(row()) as waiting:
        assert not waiting.holder
    other.stop()


def test_trouble_with_a_row_that_was_to_be_delivered_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written, but could not be synced: its lease is given back, as soon as that can be done."""
    monkeypatch.setattr(module, "_LOOK", 0.01)
    world.outbox.start()
    tries: list[Delivery] = []
    postpone = world.registry.postpone

    def trouble(delivery: Delivery) -> None:
        tries.append(delivery)
        if len(tries) < 3:
            raise Unavailable
        postpone(delivery)

    monkeypatch.setattr(world.registry, "postpone", trouble)
    delivery = row()
    with pytest.raises(Unavailable):
        _put_there_and_fail(world, delivery)
    eventually(lambda: world.answered)
    assert [notice.delivery.event_id for notice in world.app.notices] == [delivery.event_id]


def _put_there_and_fail(world: World, delivery: Delivery) -> None:
    with world.outbox.at_once(delivery) as leased:
        world.registry.enqueue(leased)
        raise Unavailable


def test_what_the_app_is_told_is_on_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever put the row there may be about to sync it; an app that was told must not be a surprise after a power cut.

    A sync that fails is no attempt.
    """
    monkeypatch.setattr(module, "_LOOK", 0.01)
    story: list[str] = []

    def sync() -> None:
        story.append("sync")
        if len(story) == 1:
            raise Unavailable

    monkeypatch.setattr(world.registry, "sync", sync)
    world.answer = lambda delivery, outcome: story.append(f"told {delivery.attempt}")
    world.put()
    world.outbox.start()
    eventually(lambda: world.answered)
    assert story == ["sync", "sync", "told 0"]


def test_what_is_not_due_is_not(world: World, clock: Clock) -> None:
    tomorrow = world.put(due_at=world.registry.now() + 86400)
    now = world.put(due_at=world.registry.now())
    world.outbox.start()
    eventually(lambda: world.answered)
    clock.advance(86401)
    world.outbox.wake()
    eventually(lambda: len(world.answered) == 2)
    assert [delivery.event_id for delivery, _ in world.answered] == [now.event_id, tomorrow.event_id]


def test_rows_of_others_are_left_to_them(world: World) -> None:
    other_app, other_way = world.put(app="other"), world.put(handler="url")
    world.outbox.start()
    mine = world.put()
    eventually(lambda: world.answered)
    assert [delivery.event_id for delivery, _ in world.answered] == [mine.event_id]
    for delivery in (other_app, other_way):
        assert world.registry.due(delivery.upload_id) == delivery


def test_an_exception_is_a_failed_attempt(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.app.answers.append(ConnectionRefusedError("nobody there"))
    world.outbox.start()
    world.put()
    eventually(lambda: world.answered)
    assert world.answered[0][1] == Outcome("failed", "ConnectionRefusedError: nobody there")
    assert "Traceback" in caplog.text


def test_nothing_left_to_tell(world: World) -> None:
    over = row()
    world.is_over.add(over.event_id)
    world.registry.enqueue(over)
    world.outbox.start()
    eventually(lambda: world.answered)
    assert world.answered[0][1] == Outcome("done")
    assert not world.app.notices


def test_an_error_of_our_own_gives_the_row_back(world: World) -> None:
    def break_down(delivery: Delivery, outcome: Outcome) -> None:
        raise RuntimeError("no disk")

    world.answer = break_down
    world.outbox.start()
    mine = world.put()

    def given_back() -> bool:
        found = world.registry.due(mine.upload_id)
        return found is not None and (found.attempt, found.holder, found.error) == (1, "", "an error in the outbox")

    eventually(given_back)


def test_many_at_once_but_not_any_number(world: World) -> None:
    world.app.may_answer.clear()
    for _ in range(30):
        world.registry.enqueue(row())
    world.outbox.start()
    eventually(lambda: len(world.app.notices) == 16)
    world.put()
    assert not threading.Event().wait(0.1)
    assert len(world.app.notices) == 16
    world.app.may_answer.set()
    eventually(lambda: len(world.answered) == 31)


def test_trouble_with_the_registry_passes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: more looks fail here than there may be attempts at the same time."""
    lease, failures = world.registry.lease, [*range(40)]
    monkeypatch.setattr(module, "_LOOK", 0.01)

    def sometimes(*arguments: Any) -> Delivery | None:
        if failures:
            failures.pop()
            raise OSError("disk trouble")
        return lease(*arguments)

    monkeypatch.setattr(world.registry, "lease", sometimes)
    world.outbox.start()
    world.put()
    eventually(lambda: world.answered)


def test_after_stop_nothing_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    world.outbox.start()
    world.put()
    eventually(lambda: world.answered)
    world.outbox.stop()
    eventually(lambda: not any(thread.name == "incoming-outbox" for thread in threading.enumerate()))
    world.put()
    assert not threading.Event().wait(0.05)
    assert len(world.answered) == 1


def test_pauses_grow() -> None:
    delivery, pauses = row(), []
    for _ in range(len(PAUSES) + 2):
        before = delivery
        delivery = later(delivery, Outcome("failed", "why"), 7.0)
        assert (delivery.attempt, delivery.error) == (before.attempt + 1, "why")
        pauses.append(delivery.due_at - 7.0)
    for pause, expected in zip(pauses, [*PAUSES, PAUSES[-1], PAUSES[-1]], strict=True):
        assert 0.8 * expected - 0.001 <= pause <= 1.2 * expected + 0.001
    assert PAUSES[0] <= 10  # a restart of the app is over after that
    assert sum(PAUSES) < PATIENCE


def test_pauses_are_spread() -> None:
    assert len({later(row(), Outcome("failed"), 0).due_at for _ in range(20)}) > 10


def test_a_wish_to_be_left_alone_is_heard() -> None:
    assert later(row(), Outcome("failed", retry_after=3600), 7.0).due_at == 3607
    assert later(row(attempt=5), Outcome("failed", retry_after=1), 7.0).due_at > 3607


def test_given_up_after_three_days() -> None:
    delivery = row(created_at=7.0)
    assert not is_given_up(delivery, 7.0 + 3 * 86400 - 1)
    assert is_given_up(delivery, 7.0 + 3 * 86400 + 1)
