"""Who stands at the browsers' door, as far as an upload's rules have to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Visitor:
    """The sender of a request.

    :ivar client: the address, or network, that they count for; empty where that is not known.
    """

    client: str = ""


#: The app, an operator, and the engine itself: no rule for visitors is theirs.
INSIDER = Visitor()
