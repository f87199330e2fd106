"""The parts of one upload in S3: how they are stored and claimed, put together from pieces, and which of them count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import md5

from .. import offload
from ..errors import Damaged, Unavailable
from ..extents import Extents
from ..gates.first_look import LENGTH as FIRST_BYTES
from ..upload import Upload
from .bucket import Bucket, doubt
from .claims import (
    Claim,
    Opening,
    Owner,
    Stored,
    claims_in,
    counting,
    folder_of,
    name_of_piece,
    names_of,
    part_of,
)
from .gathering import Body, blocks_of
from .parts import Part
from .sidecars import Sidecar, key_of


class Multipart:
    """The parts of one upload, as they are stored.

    :param upload: as it was opened by whoever stores bytes.
    :ivar plan: how it is cut.
    """

    def __init__(self, bucket: Bucket, upload: Upload, sidecar: Sidecar) -> None:
        self.plan = sidecar.plan
        self._bucket = bucket
        self._sidecar = sidecar
        self._owner = Owner.of(upload)
        self._length = upload.length
        self._target = f"complete/{upload.id}"
        self._place = key_of("arriving", upload)
        self._folder = f"{key_of('claims', upload)}/"

    # -- storing --------------------------------------------------------------------------------------------

    def put_piece(self, part: Part, start: int, data: Body) -> str:
        """Store bytes of a part, so that another machine could go on with them; the key of the claim."""
        key = self._folder + name_of_piece(self._owner, part, start, start + len(data))
        self._bucket.put(key, data)
        return key

    def store(self, part: Part, data: Body) -> Stored:
        """Store a whole part. It counts when it is claimed."""
        try:
            etag = self._bucket.put_part(self._target, self._sidecar.multipart, part.number, data)
        except NotImplementedError:  # some servers take no part twice; the same bytes are as good
            etag = self._bucket.parts(self._target, self._sidecar.multipart).get(part.number, "")
            if etag != _md5(data):
                raise Unavailable("The server's storage can't take these bytes again.", retry_after=5) from None
        return Stored(part, etag, b"" if part.start else _beginning(data))

    def claim(self, stored: Iterable[Stored]) -> dict[str, Extents]:
        """Say of whole parts that they are there; the keys of the claims, with what they are on."""
        claims = {}
        for name, about in names_of(self._owner, stored):
            self._bucket.put(self._folder + name, about[0].beginning)
            extents = Extents()
            for one in about:
                extents = extents.add(one.part.start, one.part.end)
            claims[self._folder + name] = extents
        return claims

    def drop(self, claims: Iterable[str]) -> None:
        self._bucket.delete(claims)

    def put(self, part: Part, data: Body) -> str:
        """Store a whole part and claim it; its ETag."""
        stored = self.store(part, data)
        self.claim([stored])
        return stored.etag

    def compose(self, part: Part) -> str:
        """Make a part of its pieces, which then go; its ETag. Where that has been done already, nothing else happens.

        :raises SyncFailed: nobody knows which bytes count.
        """
        while True:
            claims = self._claims_of(part)
            with suppress(_PieceGone):  # somebody else was faster; now the part is there as a whole
                etag = self.settled(part, claims) or self.put(part, self._composed(part, claims))
                self._bucket.delete(claim.key for claim in claims if claim.is_piece)
                return etag

    def etag_of(self, part: Part, claims: list[Claim], stored: Mapping[int, str]) -> str:
        """Of a part that is complete by these claims, made of its pieces if it has to be.

        :param stored: the ETags by which S3 knows the parts, as it said after it had shown the claims.
        :raises SyncFailed: nobody knows which bytes count.
        """
        with suppress(_PieceGone):
            etag = self.settled(part, claims)
            if etag and etag != stored.get(part.number):
                raise doubt()
            if etag:
                return etag
        return self.compose(part)

    def _composed(self, part: Part, claims: list[Claim]) -> bytearray:
        """:raises SyncFailed: nobody knows which bytes count."""
        if any(not claim.is_piece for claim in claims):
            claims = self._counting(claims)
        data = self._put_together(part, claims) or self._put_together(part, self._counting(claims))
        if data is None:
            raise doubt()
        return data

    def _put_together(self, part: Part, claims: Iterable[Claim]) -> bytearray | None:
        """The bytes of a part from its pieces; ``None`` where these do not agree, or leave a hole."""
        data, covered = bytearray(len(part)), Extents()
        for claim in sorted((claim for claim in claims if claim.is_piece), key=lambda claim: claim.start):
            piece = self._piece(claim)
            for gap, stop in covered.missing(claim.start, claim.end):
                data[gap - part.start : stop - part.start] = piece[gap - claim.start : stop - claim.start]
            if data[claim.start - part.start : claim.end - part.start] != piece:
                return None
            covered = covered.add(claim.start, claim.end)
        return data if covered.contains(part.start, part.end) else None

    def first_bytes(self, size: int) -> bytes:
        """Of the first part, which may be there as a whole or in pieces.

        :raises FileNotFoundError, Damaged: less is there.
        :raises SyncFailed: nobody knows which bytes count.
        """
        first = part_of(self.plan, 1, self._length)
        head = replace(first, end=min(first.end, size))
        while True:
            claims = self._claims_of(first)
            with suppress(_PieceGone):  # a moment later the part is there as a whole
                etag = self.settled(first, claims)
                if etag:
                    return self._bucket.get(next(claim.key for claim in claims if claim.etag == etag))[:size]
                beginnings = [
                    replace(claim, end=min(claim.end, head.end)) for claim in claims if claim.start < head.end
                ]
                return bytes(self._composed(head, beginnings))

    def _piece(self, claim: Claim) -> bytes:
        try:
            return self._bucket.get(claim.key)[: claim.end - claim.start]
        except FileNotFoundError:
            raise _PieceGone from None

    # -- what is there --------------------------------------------------------------------------------------

    def found(self, upload: Upload) -> Upload:
        """The upload with the extents that are stored beyond doubt."""
        openings = self._openings()
        claims = self.claims()
        epochs = [claim.owner.epoch for found in claims.values() for claim in found]
        stored = self._bucket.parts(self._target, self._sidecar.multipart) if self._sidecar.multipart else {}
        extents = Extents()
        for number, all_claims in claims.items():
            found = counting(all_claims, openings)
            etags = {claim.etag for claim in found if not claim.is_piece}
            is_sure = not etags or etags == {stored.get(number)}
            extents = extents.merge(_extents_of(found)) if is_sure else extents
        epoch = max([upload.epoch, 1, *epochs, *(opening.owner.epoch for opening in openings)])
        return upload.but(epoch=epoch, extents=extents, synced=extents)

    def claims(self) -> defaultdict[int, list[Claim]]:
        """By the numbers of the parts."""
        found: defaultdict[int, list[Claim]] = defaultdict(list)
        for stored in self._bucket.list(self._folder):
            for claim in claims_in(stored.key, self.plan, self._length):
                found[claim.part.number].append(claim)
        return found

    def _claims_of(self, part: Part) -> list[Claim]:
        keys = (stored.key for stored in self._bucket.list(self._folder + folder_of(part)))
        claims = (claim for key in keys for claim in claims_in(key, self.plan, self._length))
        return [claim for claim in claims if claim.part.number == part.number]

    def settled(self, part: Part, claims: list[Claim]) -> str:
        """The ETag of a part that is there as a whole; else empty.

        :raises SyncFailed: nobody knows which bytes count.
        """
        if len(claims) > 1 and any(not claim.is_piece for claim in claims):
            claims = self._counting(claims)
        etags = {claim.etag for claim in claims if not claim.is_piece}
        if len(etags) > 1:
            raise doubt()
        etag = etags.pop() if etags else ""
        if etag and _covers(part, claims):  # one or the other may have been stored and not recorded
            data = self._put_together(part, claims)
            if data is None or offload.run(_md5, data) != etag:
                raise doubt()
        return etag

    def _openings(self) -> list[Opening]:
        began = self._bucket.head(self._place)["LastModified"]
        openings = [Opening(self._sidecar.opener, Extents(), began)]
        for stored in self._bucket.list(f"{self._folder}opened/"):
            owner = Owner.from_text(stored.key.rpartition("/")[2].partition("-")[0])
            extents = Extents.from_json(self._bucket.get(stored.key).decode())
            openings.append(Opening(owner, extents, stored.modified))
        return openings

    def _counting(self, claims: Iterable[Claim]) -> list[Claim]:
        """Without those that were not recorded when the upload was opened again."""
        return counting(claims, self._openings())

    def refuse_holes(self, extents: Extents, claims: Mapping[int, list[Claim]] | None = None) -> None:
        """:raises Damaged: less is stored."""
        found = (self.claims() if claims is None else claims).values()
        stored = _extents_of(claim for of_part in found for claim in of_part)
        missing = extents.minus(stored)
        if missing.ranges:
            there = extents.received - missing.received
            raise Damaged(f"Of {extents.received} bytes that had arrived, {there} are stored.")


def _covers(part: Part, claims: Iterable[Claim]) -> bool:
    """Whether all of a part is there in pieces."""
    return _extents_of(claim for claim in claims if claim.is_piece).contains(part.start, part.end)


def _extents_of(claims: Iterable[Claim]) -> Extents:
    extents = Extents()
    for claim in claims:
        extents = extents.add(claim.start, max(claim.start, claim.end))
    return extents


class _PieceGone(Exception):
    """A piece that had been there a moment before."""


def _md5(data: Body) -> str:
    """In hexadecimal."""
    digest = md5(usedforsecurity=False)
    for block in blocks_of(data):
        digest.update(block)
    return digest.hexdigest()


def _beginning(data: Body) -> bytes:
    """What is shown of the first part: it lies in one block."""
    return bytes(next(blocks_of(data))[:FIRST_BYTES])
