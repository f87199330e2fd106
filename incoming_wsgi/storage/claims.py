"""Claims: what is said to be there of the parts of an upload in S3, and which of it counts.

A claim is an object whose name says it all: S3 shows nothing of a part that was stored, and there is no lock that
several machines share. Where claims on the same bytes compete, those do not count that somebody has made whose opening
was followed by another one, unless they were recorded by then: each opening leaves behind what was.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import groupby
from urllib.parse import quote, unquote

from ..extents import Extents
from ..upload import Upload
from .parts import Part, Plan

#: Parts whose claims lie in one folder; what is said of several of them may be one object.
_TOGETHER = 8

_BETWEEN = "!"  # the parts of a claim; it is never in a quoted ETag

#: Within this time S3 does not tell which of two objects came first: its lists know whole seconds.
_AT_ONCE = timedelta(seconds=1.5)


@dataclass(frozen=True)
class Owner:
    """Who stores bytes: an opening of the upload.

    :ivar epoch: its number. A registry that has lost what it wrote last gives a number again.
    :ivar nonce: made of its session, so it tells those apart.
    """

    epoch: int
    nonce: str

    @classmethod
    def of(cls, upload: Upload) -> Owner:
        return cls(upload.epoch, sha256(upload.session.encode()).hexdigest()[:8])

    @classmethod
    def from_text(cls, text: str) -> Owner:
        """:raises ValueError: it is none."""
        epoch, _, nonce = text.partition(".")
        return cls(int(epoch), nonce)

    def __str__(self) -> str:
        return f"{self.epoch:010d}.{self.nonce}"


@dataclass(frozen=True)
class Opening:
    """An opening, as it is remembered.

    :ivar extents: that were recorded by then.
    :ivar at: when S3 heard of it.
    """

    owner: Owner
    extents: Extents
    at: datetime

    def follows(self, other: Opening) -> bool:
        """By the time; by the number only where that does not tell, since a number may come again."""
        if abs(self.at - other.at) <= _AT_ONCE:
            return (self.owner.epoch, self.at) > (other.owner.epoch, other.at)
        return self.at > other.at


@dataclass(frozen=True)
class Stored:
    """A whole part that S3 has, under this ETag.

    :ivar beginning: its first bytes, of the first part; of others none.
    """

    part: Part
    etag: str
    beginning: bytes = b""


@dataclass(frozen=True)
class Claim:
    """That bytes of a part are there: all of them, as S3 knows them by ``etag``, or the piece ``[start, end)``.

    :ivar key: of the object; that of several parts may be one.
    """

    key: str
    owner: Owner
    part: Part
    start: int
    end: int
    etag: str = ""

    @property
    def is_piece(self) -> bool:
        return not self.etag


def folder_of(part: Part) -> str:
    """Where its claims are, below those of the upload; some of other parts are there, too."""
    return f"{part.number // _TOGETHER:04d}/"


def name_of_piece(owner: Owner, part: Part, start: int, end: int) -> str:
    return f"{folder_of(part)}{owner}-{start:020d}-{end:020d}-{secrets.token_hex(4)}"


def names_of(owner: Owner, stored: Iterable[Stored]) -> Iterator[tuple[str, list[Stored]]]:
    """The names of claims on whole parts, each with what it is about."""
    ordered = sorted(stored, key=lambda one: one.part.number)
    for folder, group in groupby(ordered, key=lambda one: folder_of(one.part)):
        about = list(group)
        parts = _BETWEEN.join(f"{one.part.number}.{quote(one.etag, safe='')}" for one in about)
        yield f"{folder}{owner}-whole-{parts}-{secrets.token_hex(4)}", about


def claims_in(key: str, plan: Plan, length: int | None) -> Iterator[Claim]:
    """What the object with this key says; nothing, where it is no claim.

    :param length: of the upload, if that is known by now.
    """
    folder, _, name = key.rpartition("/")
    if not folder.rpartition("/")[2].isdecimal():
        return
    owner_text, what, rest = name.split("-", 2)
    owner = Owner.from_text(owner_text)
    if what != "whole":
        part = part_of(plan, plan.at(int(what)).number, length)
        yield Claim(key, owner, part, int(what), min(part.end, int(rest.partition("-")[0])))
        return
    for one in rest.rpartition("-")[0].split(_BETWEEN):
        number, _, etag = one.partition(".")
        part = part_of(plan, int(number), length)
        yield Claim(key, owner, part, part.start, part.end, unquote(etag))


def part_of(plan: Plan, number: int, length: int | None) -> Part:
    """The part of that number, as far as the upload reaches."""
    part = plan.numbered(number)
    if length is None:
        return part
    return Part(number, part.start, max(part.start, min(part.end, length)))


def counting(claims: Iterable[Claim], openings: Sequence[Opening]) -> list[Claim]:
    """Those that were recorded whenever somebody else opened the upload later."""
    own = {opening.owner: opening for opening in openings}

    def follows(opening: Opening, owner: Owner) -> bool:
        if owner in own:
            return opening.follows(own[owner])
        return opening.owner.epoch >= owner.epoch  # it has left nothing, as whoever only puts pieces together

    def counts(claim: Claim) -> bool:
        later = (one for one in openings if one.owner != claim.owner and follows(one, claim.owner))
        return all(one.extents.contains(claim.start, claim.end) for one in later)

    return [claim for claim in claims if counts(claim)]
