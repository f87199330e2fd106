from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator

import pytest

from incoming_wsgi.registry import watch as module
from incoming_wsgi.registry.watch import Watch
from tests.support.waiting import eventually


class Changes:
    """What a registry would say: the ids that changed after a mark."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.polls: list[int] = []
        self.failures = 0

    def poll(self, mark: int) -> tuple[int, Iterable[str]]:
        self.polls.append(mark)
        if self.failures:
            self.failures -= 1
            raise OSError("out of order")
        return len(self.ids), () if mark < 0 else self.ids[mark:]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(module, "_LINGER", 0.05)


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def watch(changes: Changes) -> Iterator[Watch]:
    watch = Watch(changes.poll)
    yield watch
    watch.close()


def test_a_change_elsewhere_is_heard(watch: Watch, changes: Changes) -> None:
    changes.ids.append("a")  # before anybody waits
    heard: list[str] = []
    watch.subscribe("a", lambda: heard.append("a"))
    watch.subscribe("b", lambda: heard.append("b"))
    changes.ids.append("b")
    eventually(lambda: heard)
    assert heard == ["b"]


def test_a_change_here_is_heard_at_once(watch: Watch) -> None:
    heard: list[int] = []
    for number in range(2):
        watch.subscribe("a", lambda number=number: heard.append(number))  # type: ignore[misc]
    watch.notify("a")
    watch.notify("b")
    assert heard[:2] == [0, 1]


def test_who_has_gone_hears_nothing(watch: Watch) -> None:
    heard: list[int] = []
    leave = watch.subscribe("a", lambda: heard.append(1))
    leave()
    leave()
    watch.notify("a")
    assert not heard


def test_nobody_asks_while_nobody_waits(watch: Watch, changes: Changes) -> None:
    assert changes.polls == []
    watch.subscribe("a", lambda: None)()
    eventually(lambda: not watch._polling)
    polls = len(changes.polls)
    watch.subscribe("b", lambda: None)
    eventually(lambda: len(changes.polls) > polls + 2)


def test_one_asks_for_all(watch: Watch) -> None:
    before = set(threading.enumerate())
    for key in "abcdef":
        watch.subscribe(key, lambda: None)
    new = [thread.name for thread in set(threading.enumerate()) - before]
    assert new == ["incoming-watch"]


def test_it_goes_on_after_trouble(watch: Watch, changes: Changes, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []
    watch.subscribe("a", lambda: heard.append(1))
    changes.failures = 3
    eventually(lambda: not changes.failures)
    changes.ids.append("a")
    eventually(lambda: heard)
    assert "out of order" in caplog.text


def test_trouble_with_the_first_question(watch: Watch, changes: Changes) -> None:
    changes.failures = 1
    with pytest.raises(OSError, match="out of order"):
        watch.subscribe("a", lambda: None)
    heard: list[int] = []
    watch.subscribe("a", lambda: heard.append(1))
    changes.ids.append("a")
    eventually(lambda: heard)


def test_nobody_waits_before_it_is_known_since_when(changes: Changes) -> None:
    """Else a change between the second one's look and the first one's mark would be told to nobody."""
    second_is_in = threading.Event()
    too_early: list[bool] = []

    def poll(mark: int) -> tuple[int, Iterable[str]]:
        if mark < 0:
            threading.Thread(target=subscribe_second, daemon=True).start()
            too_early.append(second_is_in.wait(0.2))
        return changes.poll(mark)

    def subscribe_second() -> None:
        watch.subscribe("b", lambda: None)
        second_is_in.set()

    watch = Watch(poll)
    watch.subscribe("a", lambda: None)
    assert too_early == [False]
    assert second_is_in.wait(5)
    watch.close()


def test_close_ends_it_quietly(changes: Changes, caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(changes.poll)
    watch.subscribe("a", lambda: None)
    eventually(lambda: len(changes.polls) > 1)
    changes.failures = 10**6  # as a registry does that is closed
    watch.close()
    with caplog.at_level(logging.DEBUG):
        caplog.clear()
        eventually(lambda: not any(one.name == "incoming-watch" for one in threading.enumerate()))
    assert not caplog.records
