from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest

from incoming_wsgi.registry import Unsubscribe, glances
from incoming_wsgi.registry.glances import Glances
from incoming_wsgi.upload import Upload
from tests.helpers import NOBODYS

UPLOAD = Upload(id=NOBODYS)


class Far:
    """Uploads that can be looked at from afar, and who wants to hear of changes.

    :ivar looks: that were made.
    """

    def __init__(self) -> None:
        self.upload: Upload | None = UPLOAD
        self.looks = 0
        self.subscribers: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)
        self.glances = Glances(self.subscribe)

    def subscribe(self, upload_id: str, changed: Callable[[], None]) -> Unsubscribe:
        self.subscribers[upload_id].append(changed)
        return lambda: self.subscribers[upload_id].remove(changed)

    def look(self) -> Upload | None:
        self.looks += 1
        return self.upload

    def glance(self) -> Upload | None:
        return self.glances.of(NOBODYS, self.look)

    def change(self, **changes: object) -> None:
        self.upload = replace(UPLOAD, **changes)  # type: ignore[arg-type]
        for changed in tuple(self.subscribers[NOBODYS]):
            changed()


@pytest.fixture
def far() -> Far:
    return Far()


def test_it_is_looked_at_once(far: Far) -> None:
    assert [far.glance() for _ in range(3)] == [UPLOAD] * 3
    assert far.looks == 1


def test_until_it_is_changed(far: Far) -> None:
    far.glance()
    far.change(owner="ada")
    assert far.glance() == far.upload
    assert far.looks == 2
    assert len(far.subscribers[NOBODYS]) == 1


def test_a_change_in_the_middle_of_a_look(far: Far) -> None:
    """What is seen then may be older: nobody goes by it a second time."""

    def look() -> Upload | None:
        seen = far.look()
        far.change(owner="ada")
        return seen

    assert far.glances.of(NOBODYS, look) == UPLOAD
    assert far.glance() == far.upload


def test_what_is_not_there_is_looked_for_again(far: Far) -> None:
    far.upload = None
    assert [far.glance(), far.glance()] == [None, None]
    assert far.looks == 2
    assert not far.subscribers[NOBODYS]


def test_more_has_arrived(far: Far) -> None:
    more = replace(UPLOAD, length=5)
    far.glances.refresh(more)  # nobody had glanced at it, so nobody would hear of changes
    assert far.glance() == UPLOAD
    far.glances.refresh(more)
    assert far.glance() == more
    far.change()
    far.glances.refresh(more)
    assert far.glance() == UPLOAD


def test_it_is_not_believed_for_ever(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the news."""
    far.glance()
    monkeypatch.setattr(glances, "_LONGEST", 0)
    far.glance()
    assert far.looks == 2


def test_the_oldest_make_room(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glances, "_MOST", 2)
    for number in range(5):
        far.glances.of(str(number), lambda: UPLOAD)
    assert [key for key, waiting in far.subscribers.items() if waiting] == ["3", "4"]


def test_a_look_that_fails(far: Far) -> None:
    def fail() -> Upload | None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        far.glances.of(NOBODYS, fail)
    assert far.glance() == UPLOAD
    assert len(far.subscribers[NOBODYS]) == 1


def test_many_at_once(far: Far) -> None:
    """In the end nobody is subscribed twice."""

    def work() -> None:
        for turn in range(300):
            far.glance()
            if turn % 3 == 0:
                far.change()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    far.change(owner="last")
    assert far.glance() == far.upload
    assert len(far.subscribers[NOBODYS]) == 1
