"""What happens, told in one way: to the log, with fields that a machine can read, and to whoever counts."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

log = logging.getLogger("incoming_wsgi")

_SANE = re.compile(r"[A-Za-z0-9._:@=+/-]{1,64}")
_TICKET = re.compile(r"([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FORMATTER = logging.Formatter()

_request_id: ContextVar[str] = ContextVar("incoming_request_id", default="")

#: Told of each event: its name, and its fields.
Listener = Callable[[str, Mapping[str, Any]], None]

_listeners: list[Listener] = []


class Discretion(logging.Filter):
    """What holds of all that we log: no ticket is whole, and nothing that a stranger has said begins a line.

    Also in the texts of exceptions, ours and the app's: the path of a file that is not there has a ticket in it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg = _shortened(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_discreet, record.args))
        for name in ("owner", "reason"):
            if hasattr(record, name):
                setattr(record, name, _discreet(getattr(record, name)))
        if record.exc_info and not record.exc_text:
            record.exc_text = _shortened(_FORMATTER.formatException(record.exc_info))
        return True


def _discreet(value: Any) -> Any:
    if not isinstance(value, (str, BaseException)):
        return value
    return "".join(map(_visible, _shortened(str(value))))


def _shortened(text: str) -> str:
    return _TICKET.sub(r"\1…", text)


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


log.addFilter(Discretion())


def listen(listener: Listener) -> None:
    """Have each event told to ``listener``, in the thread where it happens; it must be quick and not raise."""
    if listener not in _listeners:
        _listeners.append(listener)


def forget(listener: Listener) -> None:
    _listeners.remove(listener)


def begin_request(claimed: str) -> None:
    """What happens in this thread from now on is told with an id.

    :param claimed: the header ``X-Request-ID``; used if it is sane.
    """
    _request_id.set(claimed if _SANE.fullmatch(claimed) else f"{random.getrandbits(64):016x}")


def request_id() -> str:
    """Of the request that this thread is at; empty where it is at none."""
    return _request_id.get()


def tell(event: str, message: str, *arguments: Any, level: int = logging.INFO, **fields: Any) -> None:
    """:param message: with ``arguments``, as :func:`logging.log` takes them.
    :param fields: ``upload`` (never a whole ticket), ``owner``, ``reason``, …: attributes of the log record.
    """
    if log.isEnabledFor(level):
        about = {"upload": "", "owner": "", "reason": "", **fields}
        log.log(level, message, *arguments, extra={"event": event, "request_id": request_id(), **about})
    for listener in _listeners:
        listener(event, fields)


def is_wanted(level: int = logging.INFO) -> bool:
    """Whether :func:`tell` would tell anybody."""
    return bool(_listeners) or log.isEnabledFor(level)


def is_anybody_listening() -> bool:
    return bool(_listeners)


def count(event: str, number: int) -> None:
    """So many of something: for those who count; there is no line in the log."""
    for listener in _listeners:
        listener(event, {"count": number})
