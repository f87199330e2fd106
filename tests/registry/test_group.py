"""Many callers, few runs; and nobody returns before a run that began after he asked."""

from __future__ import annotations

import threading

import pytest

from incoming_wsgi.registry.group import Group
from tests.support.waiting import eventually


class Work:
    """Work that takes until it is let go, and may fail."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = threading.Semaphore(0)
        self.failures: list[Exception] = []

    def __call__(self) -> None:
        self.begun += 1
        assert self.may_end.acquire(timeout=20)
        if self.failures:
            raise self.failures.pop(0)


class Callers:
    """Threads that join a group."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.errors: list[Exception] = []
        self.returned = 0
        self.threads: list[threading.Thread] = []

    def add(self, number: int) -> None:
        asked = self._group._asked
        for _ in range(number):
            self.threads.append(threading.Thread(target=self._join))
            self.threads[-1].start()
        eventually(lambda: self._group._asked == asked + number)

    def _join(self) -> None:
        try:
            self._group.join()
        except Exception as error:  # noqa: BLE001 (it is looked at)
            self.errors.append(error)
        else:
            self.returned += 1

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


def test_those_who_come_meanwhile_share_the_next_run() -> None:
    work = Work()
    callers = Callers(Group(work))
    callers.add(1)
    eventually(lambda: work.begun == 1)
    callers.add(50)
    work.may_end.release()
    eventually(lambda: callers.returned == 1)
    eventually(lambda: work.begun == 2)
    assert callers.returned == 1, "what these asked for began after they asked"
    work.may_end.release()
    callers.wait()
    assert (work.begun, callers.returned) == (2, 51)


def test_a_failure_is_told_to_one_and_tried_again_for_the_others() -> None:
    work = Work()
    work.failures = [OSError("first"), OSError("second")]
    callers = Callers(Group(work))
    callers.add(1)
    eventually(lambda: work.begun == 1)
    callers.add(3)
    for _ in range(3):
        work.may_end.release()
    callers.wait()
    assert (work.begun, callers.returned, sorted(map(str, callers.errors))) == (3, 2, ["first", "second"])


def test_alone_each_call_is_a_run() -> None:
    runs: list[None] = []
    group = Group(lambda: runs.append(None))
    group.join()
    group.join()
    assert len(runs) == 2
    failing = Group(failing_work)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            failing.join()


def failing_work() -> None:
    raise OSError("no")
