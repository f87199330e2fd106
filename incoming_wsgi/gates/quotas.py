"""How much may be open at a time, and how often tickets may be had: of an app, by owner, by address, in all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from ..errors import OverQuota
from ..upload import OPEN_STATES, Upload

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RETRY_AFTER = 60.0  # seconds; nobody knows when somebody's upload will be over

#: Of a rate.
UNLIMITED = ""


class Scope(Enum):
    """Whose uploads are counted together; the values are the fields of an upload that have to agree."""

    APP = "app"
    OWNER = "owner"
    CLIENT = "client"


@dataclass(frozen=True)
class Use:
    """What open uploads take up: their number, and their bytes: by their length, or as many as have arrived."""

    uploads: int
    bytes: int


@dataclass(frozen=True)
class Quota:
    """What the open uploads of a scope may take up together.

    :ivar whose: the owner, or the client's network; empty where the scope is the whole app.
    :ivar uploads: how many, at most; 0 for any number.
    :ivar bytes: how much, at most; 0 for any size.
    """

    scope: Scope
    app: str
    whose: str
    uploads: int
    bytes: int

    def use_of(self, upload: Upload | None) -> Use:
        """What of this one upload takes up. A part is no upload of its own, but has bytes."""
        if upload is None or upload.state not in OPEN_STATES or upload.app != self.app:
            return Use(0, 0)
        if self.scope is not Scope.APP and getattr(upload, self.scope.value) != self.whose:
            return Use(0, 0)
        return Use(0 if upload.part_of else 1, upload.received if upload.length is None else upload.length)

    def refuse_growth(self, used: Use, before: Use, after: Use) -> None:
        """:param used: by all; ``before`` and ``after``: by the one that changes. Who takes no more is never refused.

        :raises OverQuota: there would be too many, or too much.
        """
        if self.uploads and after.uploads > before.uploads and used.uploads + after.uploads > self.uploads:
            raise self.exceeded("uploads")
        if self.bytes and after.bytes > before.bytes and used.bytes - before.bytes + after.bytes > self.bytes:
            raise self.exceeded("bytes")

    def exceeded(self, what: str) -> OverQuota:
        """:param what: ``uploads`` or ``bytes``."""
        whose = {Scope.APP: "here", Scope.OWNER: "of this person", Scope.CLIENT: "from this address"}[self.scope]
        sentence = {
            "uploads": f"Too many uploads {whose} are open at the same time; end one, or wait.",
            "bytes": f"The uploads {whose} that are open are too large together; end one, or wait.",
        }[what]
        return OverQuota(sentence, retry_after=_RETRY_AFTER, limit=f"{self.scope.value}_{what}")


@dataclass(frozen=True)
class Rate:
    """How often something may happen: ``burst`` times at once, and once more every ``interval`` seconds.

    A token bucket that is kept as one number, when it will be full again (ITU-T I.371, annex A: GCRA).

    :ivar name: of the bucket, the same in all processes.
    """

    name: str
    burst: int
    interval: float

    def full_at(self, full_at: float, now: float) -> float:
        """When the bucket will be full again, after one more token is taken.

        :param full_at: when it would have been.
        :raises OverQuota: it is empty.
        """
        wait = max(now, full_at) - now - (self.burst - 1) * self.interval
        if wait > 0:
            raise self.exceeded(wait)
        return max(now, full_at) + self.interval

    def exceeded(self, seconds: float) -> OverQuota:
        return OverQuota("Too many uploads were begun lately; wait a moment.", retry_after=seconds, limit="tickets")


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What an app's uploads may take up, and how often tickets are given; zero and empty are no limit."""

    owner_uploads: int = 0
    owner_bytes: int = 0
    owner_tickets: str = UNLIMITED
    address_uploads: int = 0
    address_bytes: int = 0
    address_tickets: str = UNLIMITED
    total_uploads: int = 0
    total_bytes: int = 0
    backend_tickets: str = UNLIMITED

    def quotas(self, upload: Upload) -> tuple[Quota, ...]:
        """Those that hold for an upload."""
        return tuple(quota for quota in self._quotas(upload) if quota.uploads or quota.bytes)

    def _quotas(self, upload: Upload) -> Iterator[Quota]:
        if upload.owner:
            yield Quota(Scope.OWNER, upload.app, upload.owner, self.owner_uploads, self.owner_bytes)
        if upload.client:
            yield Quota(Scope.CLIENT, upload.app, upload.client, self.address_uploads, self.address_bytes)
        yield Quota(Scope.APP, upload.app, "", self.total_uploads, self.total_bytes)

    def rates(self, upload: Upload, *, by_backend: bool) -> tuple[Rate, ...]:
        """Those that hold for a new upload.

        :param by_backend: whether it was asked for over the HTTP API.
        """
        texts = {
            f"owner {upload.app} {upload.owner}": self.owner_tickets if upload.owner else UNLIMITED,
            f"address {upload.app} {upload.client}": self.address_tickets if upload.client else UNLIMITED,
            f"backend {upload.app}": self.backend_tickets if by_backend else UNLIMITED,
        }
        return tuple(rate_of(name, text) for name, text in texts.items() if text)


def rate_of(name: str, text: str) -> Rate:
    """A rate from ``600/m``: so many per second, minute, hour or day, and as many at once.

    :raises ValueError: it is none.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,8})/([smhd])", text)
    if found is None:
        raise ValueError(f"{text!r} is no rate; write 10/s, 600/m, 1000/h or 5000/d")
    return Rate(name, int(found[1]), _UNITS[found[2]] / int(found[1]))
