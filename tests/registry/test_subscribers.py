from __future__ import annotations

from collections.abc import Callable

import pytest

from incoming_wsgi.registry.subscribers import Subscribers


@pytest.fixture
def subscribers() -> Subscribers:
    return Subscribers()


def hear(heard: list[str], name: str) -> Callable[[], None]:
    return lambda: heard.append(name)


def test_each_hears_of_what_it_waits_for(subscribers: Subscribers) -> None:
    heard: list[str] = []
    for key, name in (("a", "first"), ("a", "second"), ("b", "third")):
        subscribers.add(key, hear(heard, name))
    subscribers.notify("a")
    assert heard == ["first", "second"]
    subscribers.notify("c")
    assert heard == ["first", "second"]
    subscribers.notify_all()
    assert sorted(heard[2:]) == ["first", "second", "third"]


def test_who_has_gone_hears_nothing_and_others_still_do(subscribers: Subscribers) -> None:
    heard: list[str] = []
    leave = subscribers.add("a", hear(heard, "first"))
    subscribers.add("a", hear(heard, "second"))
    leave()
    leave()
    subscribers.notify("a")
    assert heard == ["second"]


def test_whether_somebody_waits(subscribers: Subscribers) -> None:
    assert not subscribers
    leave = [subscribers.add(key, lambda: None) for key in "aab"]
    leave[0]()
    leave[2]()
    assert subscribers
    leave[1]()
    assert not subscribers


@pytest.mark.parametrize("tell", [lambda found: found.notify("a"), Subscribers.notify_all])
def test_who_is_told_may_come_and_go(subscribers: Subscribers, tell: Callable[[Subscribers], None]) -> None:
    """As those do who wait for one change only. The others must hear of it all the same."""
    heard: list[str] = []

    def once(name: str) -> None:
        def changed() -> None:
            heard.append(name)
            leave()
            subscribers.add(name, lambda: None)

        leave = subscribers.add("a", changed)

    for name in ("first", "second", "third"):
        once(name)
    tell(subscribers)
    tell(subscribers)
    assert heard == ["first", "second", "third"]
