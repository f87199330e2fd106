"""Rounds: all servers take turns, so that whatever else the machine does hits each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from .peers.server import Server

T = TypeVar("T")
S = TypeVar("S", bound=Server)


@contextmanager
def running(servers: Sequence[S]) -> Iterator[Sequence[S]]:
    """All of them, at once: an idle server takes nothing from the others."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        yield servers


def in_turn(contenders: Sequence[T], rounds: int, measure: Callable[[T, bool], None], warm_up: bool = True) -> None:
    """``measure(contender, counts)`` for each; every second round backwards.

    :param warm_up: with one round before them that does not count.
    """
    for number in range(0 if warm_up else 1, rounds + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            measure(contender, number > 0)
