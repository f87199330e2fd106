from __future__ import annotations

import threading

import pytest

from incoming_wsgi.errors import OverQuota
from incoming_wsgi.gates.turnstile import Turnstile


def test_so_many_of_a_kind() -> None:
    turnstile = Turnstile(2)
    with turnstile.let_in("a"), turnstile.let_in("b"), turnstile.let_in("a"):
        with pytest.raises(OverQuota), turnstile.let_in("a"):
            pass
        turnstile.enter("b")
    turnstile.enter("a")


def test_so_many_in_all() -> None:
    turnstile = Turnstile(0, 2)
    turnstile.enter("a")
    turnstile.enter("")
    with pytest.raises(OverQuota, match="server"):
        turnstile.enter("b")
    turnstile.leave("")
    turnstile.enter("b")


def test_who_is_nobody_in_particular_counts_in_all_only() -> None:
    turnstile = Turnstile(1)
    turnstile.enter("")
    turnstile.enter("")


def test_a_limit_of_its_own() -> None:
    turnstile = Turnstile(5)
    turnstile.enter("a", 1)
    with pytest.raises(OverQuota):
        turnstile.enter("a", 1)


def test_who_leaves_by_an_error_has_left() -> None:
    turnstile = Turnstile(1)
    with pytest.raises(RuntimeError), turnstile.let_in("a"):
        raise RuntimeError
    with turnstile.let_in("a"):
        pass


def test_nothing_is_kept_of_who_has_left() -> None:
    turnstile = Turnstile(1, 1)
    for number in range(1000):
        with turnstile.let_in(number):
            pass
    assert not turnstile._inside
    assert not turnstile._all


def test_many_threads() -> None:
    turnstile, inside, most = Turnstile(3), [], []

    def go() -> None:
        for _ in range(200):
            try:
                with turnstile.let_in("a"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except OverQuota:
                pass

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert not turnstile._all
