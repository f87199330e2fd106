"""What keeps an engine from growing by what the fuzzer, and nobody else, does to it."""

from __future__ import annotations

from contextlib import suppress

from incoming_wsgi.delivery.handover import Handler, Notice, Outcome
from incoming_wsgi.errors import IncomingError
from tests.helpers import Engine


class Forgetful(Handler):
    """An app that takes each file, and remembers none."""

    def deliver(self, notice: Notice) -> Outcome:
        return Outcome("done")


def give_up(engine: Engine, ticket: str) -> None:
    """An upload that nobody will go on with, before it expires by itself."""
    with suppress(IncomingError):
        engine.receiver.cancel(ticket, "enough")
