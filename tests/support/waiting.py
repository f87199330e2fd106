"""Waiting for a condition, instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T | None], timeout: float = 20, what: str = "the condition") -> T:
    """What ``condition()`` gives, as soon as that is true.

    :raises AssertionError: it did not come true within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(0.01)
