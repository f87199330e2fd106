"""Who stands at the browsers' door, as far as an upload's rules have to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Forbidden
from ..upload import Upload
from .terms import refuse_unbound


@dataclass(frozen=True)
class Visitor:
    """The sender of a request.

    :ivar client: the address, or network, that they count for; empty where that is not known.
    :ivar address: the address itself.
    :ivar cookies: the header ``Cookie``.
    :ivar may_open: the app's decision whether they may open an upload.
    """

    client: str = ""
    address: str = ""
    cookies: str = ""
    may_open: Callable[[Upload], bool] | None = None

    def refuse_unbound(self, upload: Upload) -> None:
        """:raises Forbidden: the ticket is somebody else's."""
        refuse_unbound(upload, self.cookies, self.address)

    def refuse_opening(self, upload: Upload) -> None:
        """:raises Forbidden: the app does not want them to open it."""
        if self.may_open is not None and not self.may_open(upload):
            raise Forbidden("The app does not allow this upload.")


class _Insider(Visitor):
    def refuse_unbound(self, upload: Upload) -> None:
        pass


#: The app, an operator, and the engine itself: no rule for visitors is theirs.
INSIDER: Visitor = _Insider()
