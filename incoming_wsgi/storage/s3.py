"""Uploads in a bucket of S3, or of something that speaks like it (Ceph RGW): multipart uploads, parts sent meanwhile.

Below the prefix lie

``arriving/{id}``
    a small JSON object, written once: the multipart upload, how it is cut, and what a registry would have to know.
``complete/{id}``
    the target of the multipart upload: it is there when all bytes are.
``records/{id}``
    what a registry would have to know of an upload that is being completed, until the app has the file.
``claims/{id}/{part}/…``
    what is there of a part: ``{epoch}-whole-{etag}`` says that the part was stored and has that ETag; it is empty, but
    for the first part, whose first bytes it has, since S3 shows nothing of a part;
    ``{epoch}-{start}-{end}-{nonce}`` is an object with these bytes of it, a piece.
``claims/{id}/opened/{epoch}-{nonce}``
    the extents that were recorded when the upload was opened again.

There is no lock that several machines share. So a piece has a name of its own, and of a part it is remembered which
bytes it had: one that a replaced connection stores again, late, is noticed by its ETag when the upload is completed,
and the bytes are asked for again. Where claims on the same bytes compete, those do not count that an earlier opening
has made and not recorded: what was recorded when the next one came is known.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from hashlib import md5
from io import BufferedReader, RawIOBase
from typing import BinaryIO, cast
from urllib.parse import quote, unquote
from weakref import WeakValueDictionary

from .. import offload
from ..errors import Damaged, IncomingError, Unavailable
from ..extents import Extents
from ..gates.first_look import LENGTH as FIRST_BYTES
from ..relocate import RemoteFile
from ..upload import State, Upload, is_ticket, shortened
from ..wire.bulk import bulk_of
from . import Data, Storage, SyncFailed, Writer
from .bucket import NONCE, Address, Bucket, doubt
from .gathering import Body, Gathered, Room, blocks_of, memory
from .objects import S3Object
from .parts import Part, Plan
from .records import record_of, upload_of

log = logging.getLogger("incoming_wsgi")

_REMEMBERED = 1000  # sidecars kept by a process


@dataclass(frozen=True)
class Sidecar:
    """How an upload is stored; never changed.

    :ivar multipart: the id of the multipart upload; empty for a file without a byte.
    :ivar nonce: what the complete object bears.
    """

    multipart: str
    nonce: str
    plan: Plan

    def to_json(self, upload: Upload) -> bytes:
        about = {
            "version": 1,
            "multipart": self.multipart,
            "nonce": self.nonce,
            "part_size": self.plan.part_size,
            "length": self.plan.length,
        }
        return json.dumps({**about, "upload": record_of(upload)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Sidecar:
        """:raises Damaged: it is none of ours."""
        try:
            about = json.loads(text)
            return cls(about["multipart"], about["nonce"], Plan(about["part_size"], about["length"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("What is stored about this upload can't be read.") from error


@dataclass(frozen=True)
class Claim:
    """That bytes of a part are there: all of them, as S3 knows them by ``etag``, or the piece ``[start, end)``.

    :ivar epoch: of the opening that they came by.
    """

    key: str
    epoch: int
    start: int
    end: int
    etag: str = ""

    @classmethod
    def of(cls, key: str, part: Part) -> Claim:
        epoch, first, rest = key.rpartition("/")[2].split("-", 2)
        if first == "whole":
            return cls(key, int(epoch), part.start, part.end, unquote(rest))
        return cls(key, int(epoch), int(first), min(part.end, int(rest.partition("-")[0])))

    @property
    def is_piece(self) -> bool:
        return not self.etag


class S3Storage(Storage):
    """:param url: as :class:`~.bucket.Address` reads it. Nothing is opened before it is needed.

    :raises ValueError: the URL can't be understood.
    """

    reads_arriving = False
    is_remote = True
    is_durable = True
    kind = "s3"

    def __init__(self, url: str) -> None:
        address = Address.of(url)
        self._bucket = Bucket(address)
        self._part_size = address.part_size
        self._sidecars: OrderedDict[str, Sidecar] = OrderedDict()
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()

    # -- arriving -------------------------------------------------------------------------------------------

    def create(self, upload: Upload) -> None:
        key = _key("arriving", upload)
        try:
            self._bucket.head(key)
        except FileNotFoundError:
            self._create(upload, key)

    def _create(self, upload: Upload, key: str) -> None:
        """Of several that do this at once, the first one wins: the others let go of what they have begun."""
        target, nonce = _key("complete", upload), secrets.token_hex(8)
        plan = Plan.of(upload.length, self._part_size)
        multipart = "" if upload.length == 0 else self._bucket.begin(target, Metadata={NONCE: nonce})
        try:
            self._bucket.put(key, Sidecar(multipart, nonce, plan).to_json(upload), only_new=True)
        except FileExistsError:
            if multipart and self._sidecar(upload).multipart != multipart:
                self._bucket.abort(target, multipart)

    def opened(self, upload: Upload) -> None:
        if upload.epoch > 1:
            key = f"{_key('claims', upload)}/opened/{upload.epoch:010d}-{secrets.token_hex(4)}"
            self._bucket.put(key, upload.extents.to_json().encode())

    def open(self, upload: Upload) -> Writer:
        is_known = _key("arriving", upload) in self._sidecars
        parts = self._parts(upload, self._remembered(upload))
        if not is_known and upload.extents.ranges:
            parts.refuse_holes(upload.extents)
        room = self._rooms.get(upload.id) or self._rooms.setdefault(upload.id, Room(parts.plan))
        return S3Writer(parts, room)

    @contextmanager
    def keeping_whole(self, upload: Upload) -> Iterator[Callable[[bytes], None]]:
        """At once to its last place. It counts only if the record that follows says so: an opening that comes before
        that one begins anew, and what it completes takes the place of this.
        """
        yield lambda data: self._put_whole(upload, data)

    def _put_whole(self, upload: Upload, data: bytes) -> None:
        key = _key("complete", upload)
        try:
            self._bucket.put(key, data, only_new=True, Metadata={NONCE: secrets.token_hex(8)})
        except FileExistsError:
            # Said before, by us if its answer was lost, or by somebody who died before it was recorded.
            if self._bucket.get(key) != data:
                raise

    def sync(self, upload: Upload) -> None:
        """What a writer has said is safe has been so from then on."""

    def read(self, upload: Upload) -> BinaryIO:
        """Of an upload that is complete; S3 shows nothing of an unfinished one."""
        return cast("BinaryIO", self._bucket.open(_key("complete", upload)))

    def first_bytes(self, upload: Upload, size: int) -> bytes:
        with suppress(FileNotFoundError), self.read(upload) as file:
            return BufferedReader(cast("RawIOBase", file)).read(size)  # what it reads at once may be less
        return self._parts(upload, self._remembered(upload)).first_bytes(size)

    def tidy(self) -> None:
        memory.tidy()

    # -- complete -------------------------------------------------------------------------------------------

    def join(self, upload: Upload, parts: Sequence[Upload]) -> None:
        for part in parts:
            try:
                self.remember(part)
                self.complete(part)
            except SyncFailed as error:  # nobody could send it again
                raise Damaged(str(error)) from error
        self.create(upload)
        whole = self._parts(upload, self._sidecar(upload))
        claims = whole.claims()
        sources = _Sources(self._bucket, parts)
        for piece in whole.plan.parts(upload.length or 0):
            if not claims[piece.number]:
                whole.put_part(piece, sources.read(piece))

    def complete(self, upload: Upload) -> str:
        key = _key("complete", upload)
        try:
            sidecar = self._sidecar(upload)
        except FileNotFoundError:
            self._refuse_other_object(upload, "")
        else:
            self._complete(upload, sidecar)
        return self._url(key)

    def _complete(self, upload: Upload, sidecar: Sidecar) -> None:
        key = _key("complete", upload)
        if upload.length is None:
            raise Damaged("The length of this upload is not known.")
        try:
            if upload.length:
                self._finish(upload, sidecar, upload.length)
            else:
                self._bucket.put(key, b"", Metadata={NONCE: sidecar.nonce})
        except FileNotFoundError:
            pass  # somebody was faster, or an answer was lost: what is there decides
        self._refuse_other_object(upload, sidecar.nonce)

    def _finish(self, upload: Upload, sidecar: Sidecar, length: int) -> None:
        """:raises FileNotFoundError: there is no multipart upload (any more)."""
        key, parts = _key("complete", upload), self._parts(upload, sidecar)
        claims = parts.claims()
        stored = self._bucket.parts(key, sidecar.multipart)  # after the claims, which are made after the parts
        parts.refuse_holes(Extents().add(0, length), claims)
        etags = {}
        for part in sidecar.plan.parts(length):
            etags[part.number] = parts.settled(claims[part.number])
            if not etags[part.number]:
                etags[part.number] = parts.compose(part)
            elif etags[part.number] != stored.get(part.number):
                raise doubt()
        self._bucket.finish(key, sidecar.multipart, etags)

    def _refuse_other_object(self, upload: Upload, nonce: str) -> None:
        """:raises Damaged: the complete object is not there, or not what it should be."""
        try:
            about = self._bucket.head(_key("complete", upload))
        except FileNotFoundError:
            raise Damaged("The stored bytes of this upload are gone.") from None
        size, known_by = int(about["ContentLength"]), about.get("Metadata", {}).get(NONCE, nonce)
        if size != upload.length or (nonce and known_by != nonce):
            raise Damaged(f"Of {upload.length} bytes that had arrived, {size} are stored.")

    def locate(self, upload: Upload) -> str | None:
        key = _key("complete", upload)
        try:
            self._bucket.head(key)
        except FileNotFoundError:
            return None
        return self._url(key)

    def remote(self, upload: Upload) -> RemoteFile:
        return S3Object(self._bucket, _key("complete", upload))

    def _url(self, key: str) -> str:
        return f"s3://{self._bucket.name}/{self._bucket.full(key)}"

    # -- end ------------------------------------------------------------------------------------------------

    def remove(self, upload: Upload) -> None:
        self._bucket.delete([_record_key(upload.id), _key("complete", upload)])
        self._clear(upload)

    def clear(self, upload: Upload) -> None:
        with suppress(IncomingError, FileNotFoundError):  # else a later look finds it
            self._clear(upload)

    def _clear(self, upload: Upload) -> None:
        """Whatever there is besides the complete object; the sidecar last, so that who dies in between is noticed."""
        self._sidecars.pop(_key("arriving", upload), None)
        self._bucket.abort_all(_key("complete", upload))
        for folder in ("claims", "arriving"):
            self._bucket.delete(stored.key for stored in self._bucket.list(f"{folder}/{upload.id}"))

    def arriving_since(self, age: float) -> Iterator[str]:
        for stored in self._bucket.list("arriving/"):
            upload_id = stored.key.removeprefix("arriving/").partition(".")[0]
            if is_ticket(upload_id) and _age(stored.modified) >= age:
                claims = self._bucket.list(f"claims/{upload_id}")
                if all(_age(claim.modified) >= age for claim in claims):
                    yield upload_id

    def quarantine(self, upload_id: str) -> None:
        """By its sidecar: bytes of a multipart upload can't be moved. Back in ``arriving`` it could go on."""
        for stored in list(self._bucket.list(f"arriving/{upload_id}")):
            self._bucket.put(stored.key.replace("arriving/", "quarantine/", 1), self._bucket.get(stored.key))
            self._bucket.delete([stored.key])
            self._sidecars.pop(stored.key, None)

    # -- for a registry that is lost ------------------------------------------------------------------------

    def remember(self, upload: Upload) -> None:
        self._bucket.put(_record_key(upload.id), json.dumps(record_of(upload)).encode())

    def release(self, upload: Upload) -> None:
        with suppress(FileNotFoundError):
            self._bucket.head(_key("arriving", upload))
            self._clear(upload)  # who has completed it has not, or died before that
        self._bucket.delete([_record_key(upload.id)])

    def remembered(self) -> Iterator[Upload]:
        completing = set(self._ids("records/"))
        for upload_id in completing:
            yield from self._readable(upload_id, self._completing)
        for upload_id in self._ids("arriving/"):
            if upload_id not in completing:
                yield from self._readable(upload_id, self._arriving)

    def _ids(self, folder: str) -> Iterator[str]:
        names = (stored.key.removeprefix(folder).partition(".")[0] for stored in self._bucket.list(folder))
        return filter(is_ticket, dict.fromkeys(names))

    def _readable(self, upload_id: str, read: Callable[[str], Upload]) -> Iterator[Upload]:
        try:
            yield read(upload_id)
        except FileNotFoundError:
            log.debug("the upload %s has ended while it was read", shortened(upload_id))
        except Damaged as error:
            log.warning("what is kept about the upload %s is of no use: %s", shortened(upload_id), error)

    def _completing(self, upload_id: str) -> Upload:
        """An upload with a record: its file is complete, or can be completed from what has arrived."""
        try:
            upload = upload_of(upload_id, json.loads(self._bucket.get(_record_key(upload_id))))
        except ValueError:
            raise Damaged("its record is malformed") from None
        try:
            size = int(self._bucket.head(_key("complete", upload))["ContentLength"])
        except FileNotFoundError:
            return upload if upload.state is State.JOINING else self._arriving(upload_id, upload)
        if size != upload.length:
            raise Damaged(f"of {upload.length} bytes, {size} are stored")
        return _whole(upload)

    def _arriving(self, upload_id: str, record: Upload | None = None) -> Upload:
        """With what has arrived; where there is no later record, as it was opened first."""
        keys = (stored.key for stored in self._bucket.list(f"arriving/{upload_id}"))
        text = self._bucket.get(max(keys, key=_times_taken_back, default=f"arriving/{upload_id}"))
        sidecar = Sidecar.from_json(text)
        upload = record or upload_of(upload_id, json.loads(text).get("upload"))
        with suppress(FileNotFoundError):
            about = self._bucket.head(_key("complete", upload))
            if about.get("Metadata", {}).get(NONCE) == sidecar.nonce:
                return _whole(upload.but(length=int(about["ContentLength"])))
        return self._parts(upload, sidecar).found(upload)

    # -- what is there --------------------------------------------------------------------------------------

    def _sidecar(self, upload: Upload) -> Sidecar:
        return Sidecar.from_json(self._bucket.get(_key("arriving", upload)))

    def _remembered(self, upload: Upload) -> Sidecar:
        """Sidecars never change: one that was read may be used until the upload ends."""
        key = _key("arriving", upload)
        sidecar = self._sidecars.get(key)
        if sidecar is None:
            sidecar = self._sidecars[key] = self._sidecar(upload)
            while len(self._sidecars) > _REMEMBERED:
                self._sidecars.popitem(last=False)
        return sidecar

    def _parts(self, upload: Upload, sidecar: Sidecar) -> _Parts:
        return _Parts(self._bucket, upload, sidecar)


class _Parts:
    """The parts of one upload, as they are stored.

    :param upload: with the epoch that bytes are stored under.
    """

    def __init__(self, bucket: Bucket, upload: Upload, sidecar: Sidecar) -> None:
        self.plan = sidecar.plan
        self._bucket = bucket
        self._sidecar = sidecar
        self._epoch = upload.epoch
        self._length = upload.length
        self._target = f"complete/{upload.id}"
        self._folder = f"{_key('claims', upload)}/"

    # -- storing --------------------------------------------------------------------------------------------

    def put(self, part: Part, start: int, data: Body) -> str:
        """Store bytes of a part, so that another machine could go on with them; the key of the claim."""
        if len(data) == len(part):
            return self._whole(part, self.put_part(part, data))
        name = f"{self._epoch:010d}-{start:020d}-{start + len(data):020d}-{secrets.token_hex(4)}"
        key = f"{self._folder}{part.number:05d}/{name}"
        self._bucket.put(key, data)
        return key

    def drop(self, claims: Iterable[str]) -> None:
        self._bucket.delete(claims)

    def _whole(self, part: Part, etag: str) -> str:
        return f"{self._folder}{part.number:05d}/{self._epoch:010d}-whole-{quote(etag, safe='')}"

    def put_part(self, part: Part, data: Body) -> str:
        """Store a whole part; its ETag."""
        try:
            etag = self._bucket.put_part(self._target, self._sidecar.multipart, part.number, data)
        except NotImplementedError:  # some servers take no part twice; the same bytes are as good
            etag = self._bucket.parts(self._target, self._sidecar.multipart).get(part.number, "")
            if etag != _md5(data):
                raise Unavailable("The server's storage can't take these bytes again.", retry_after=5) from None
        self._bucket.put(self._whole(part, etag), b"" if part.start else _beginning(data))
        return etag

    def compose(self, part: Part) -> str:
        """Make a part of its pieces, which then go; its ETag. Where that has been done already, nothing else happens.

        :raises SyncFailed: nobody knows which bytes count.
        """
        while True:
            claims = self._claims_of(part)
            with suppress(_PieceGone):  # somebody else was faster; now the part is there as a whole
                etag = self.settled(claims) or self.put_part(part, self._composed(part, claims))
                self._bucket.delete(claim.key for claim in claims if claim.is_piece)
                return etag

    def _composed(self, part: Part, claims: list[Claim]) -> bytearray:
        if any(not claim.is_piece for claim in claims):
            claims = self._counting(claims)
        data = self._put_together(part, claims) or self._put_together(part, self._counting(claims))
        if data is None:
            raise doubt()
        return data

    def _put_together(self, part: Part, claims: Iterable[Claim]) -> bytearray | None:
        """The bytes of a part from its pieces; ``None`` where they do not agree.

        :raises Damaged: they leave a hole.
        """
        data, covered = bytearray(len(part)), Extents()
        for claim in sorted((claim for claim in claims if claim.is_piece), key=lambda claim: claim.start):
            piece = self._piece(claim)
            for gap, stop in covered.missing(claim.start, claim.end):
                data[gap - part.start : stop - part.start] = piece[gap - claim.start : stop - claim.start]
            if data[claim.start - part.start : claim.end - part.start] != piece:
                return None
            covered = covered.add(claim.start, claim.end)
        if not covered.contains(part.start, part.end):
            raise Damaged("Some bytes of this file that had arrived are not stored.")
        return data

    def first_bytes(self, size: int) -> bytes:
        """Of the first part, which may be there as a whole or in pieces.

        :raises FileNotFoundError, Damaged: less is there.
        :raises SyncFailed: nobody knows which bytes count.
        """
        first = self._part(1)
        head = replace(first, end=min(first.end, size))
        while True:
            claims = self._claims_of(first)
            with suppress(_PieceGone):  # a moment later the part is there as a whole
                etag = self.settled(claims)
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
        epochs = [claim.epoch for found in claims.values() for claim in found]
        stored = self._bucket.parts(self._target, self._sidecar.multipart) if self._sidecar.multipart else {}
        extents = Extents()
        for number, all_claims in claims.items():
            counting = self._counting(all_claims, openings)
            etags = {claim.etag for claim in counting if not claim.is_piece}
            is_sure = not etags or etags == {stored.get(number)}
            for claim in counting if is_sure else ():
                extents = extents.add(claim.start, max(claim.start, claim.end))
        epoch = max([upload.epoch, 1, *epochs, *openings])
        return upload.but(epoch=epoch, extents=extents, synced=extents)

    def claims(self) -> defaultdict[int, list[Claim]]:
        """By the numbers of the parts."""
        found: defaultdict[int, list[Claim]] = defaultdict(list)
        parts: dict[int, Part] = {}
        for stored in self._bucket.list(self._folder):
            number = stored.key.removeprefix(self._folder).partition("/")[0]
            if number.isdecimal():
                part = parts.get(int(number)) or parts.setdefault(int(number), self._part(int(number)))
                found[int(number)].append(Claim.of(stored.key, part))
        return found

    def _claims_of(self, part: Part) -> list[Claim]:
        return [Claim.of(stored.key, part) for stored in self._bucket.list(f"{self._folder}{part.number:05d}/")]

    def _part(self, number: int) -> Part:
        part = self.plan.numbered(number)
        return part if self._length is None else replace(part, end=max(part.start, min(part.end, self._length)))

    def settled(self, claims: list[Claim]) -> str:
        """The ETag of a part that is there as a whole; else empty.

        :raises SyncFailed: nobody knows which bytes count.
        """
        if len(claims) > 1 and any(not claim.is_piece for claim in claims):
            claims = self._counting(claims)
        etags = {claim.etag for claim in claims if not claim.is_piece}
        if len(etags) > 1:
            raise doubt()
        return etags.pop() if etags else ""

    def _openings(self) -> dict[int, Extents]:
        """What was recorded at each, by its epoch."""
        openings: dict[int, Extents] = {}
        for stored in self._bucket.list(f"{self._folder}opened/"):
            epoch = int(stored.key.rpartition("/")[2].partition("-")[0])
            openings[epoch] = Extents.from_json(self._bucket.get(stored.key).decode())
        return openings

    def _counting(self, claims: Iterable[Claim], openings: Mapping[int, Extents] | None = None) -> list[Claim]:
        """Without those that were not recorded when the upload was opened again."""
        if openings is None:
            openings = self._openings()

        def counts(claim: Claim) -> bool:
            later = [epoch for epoch in openings if epoch > claim.epoch]
            return not later or openings[min(later)].contains(claim.start, claim.end)

        return [claim for claim in claims if counts(claim)]

    def refuse_holes(self, extents: Extents, claims: Mapping[int, list[Claim]] | None = None) -> None:
        """:raises Damaged: less is stored."""
        stored = Extents()
        for found in (self.claims() if claims is None else claims).values():
            for claim in found:
                stored = stored.add(claim.start, max(claim.start, claim.end))
        missing = extents.minus(stored)
        if missing.ranges:
            there = extents.received - missing.received
            raise Damaged(f"Of {extents.received} bytes that had arrived, {there} are stored.")


class _PieceGone(Exception):
    """A piece that had been there a moment before."""


class _Sources:
    """The bytes of complete uploads, one after the other."""

    def __init__(self, bucket: Bucket, uploads: Iterable[Upload]) -> None:
        self._bucket = bucket
        self._spans: list[tuple[int, int, str]] = []
        end = 0
        for upload in uploads:
            start, end = end, end + (upload.length or 0)
            self._spans.append((start, end, _key("complete", upload)))

    def read(self, part: Part) -> bytearray:
        data = bytearray()
        for start, end, key in self._spans:
            first, last = max(start, part.start), min(end, part.end)
            if first < last:
                with self._bucket.open(key) as file:
                    file.seek(first - start)
                    while first < last and (block := file.read(last - first)):
                        data += block
                        first += len(block)
        if len(data) != len(part):
            raise Damaged("The parts of this upload are shorter than they were.")
        return data


# -- writing ----------------------------------------------------------------------------------------------------


class S3Writer(Writer):
    """Gathers bytes that follow one another, and stores them in the background when a part is full."""

    is_durable = True
    keeps_others_out = False

    def __init__(self, parts: _Parts, room: Room) -> None:
        self._parts = parts
        self._room = room
        self._run: Gathered | None = None
        self._change = threading.Condition()
        self._flying = 0
        self._kept = Extents()
        self._broken: set[Part] = set()  # parts of which we have stored pieces
        self._claims: list[str] = []  # that nobody has recorded yet
        self._trouble: IncomingError | None = None

    def exclusive(self) -> AbstractContextManager[None]:
        """Nobody is kept out: see the top of this file."""
        return nullcontext()

    def write(self, position: int, data: Data) -> None:
        """May wait until there is room in memory."""
        self._refuse_if_in_trouble()
        longest = self._parts.plan.length
        for block in bulk_of(data).blocks():
            rest = memoryview(block)
            if longest is not None:
                rest = rest[: max(0, longest - position)]
            while len(rest):
                taken = self._gather(position, rest)
                position, rest = position + taken, rest[taken:]

    def _gather(self, position: int, block: memoryview) -> int:
        if self._run is None or self._run.end != position:
            self._send()
            self._run = Gathered(self._parts.plan.at(position), position)
        fitting = self._run.fitting(block)
        self._room.take(self._run, len(fitting))
        self._run.add(fitting)
        if self._run.end == self._run.part.end:
            self._send()
        return len(fitting)

    def _send(self) -> None:
        run, self._run = self._run, None
        if run is None or not len(run):
            return
        self._room.send(run, len(run))
        with self._change:
            self._flying += 1
        offload.background(self._store, run, name="part")

    def _store(self, run: Gathered) -> None:
        trouble: IncomingError | None = None
        claim = ""
        try:
            claim = self._parts.put(run.part, run.start, run)
        except FileNotFoundError:
            trouble = Unavailable("The place for these bytes is gone.", retry_after=1)
        except IncomingError as error:
            trouble = error
        except Exception:
            trouble = Unavailable("The server's storage has trouble; what has arrived is kept.", retry_after=5)
            raise
        finally:
            self._room.give_back(run, len(run), has_flown=True)
            with self._change:
                self._flying -= 1
                self._trouble = self._trouble or trouble
                if claim:
                    self._claims.append(claim)
                    self._kept = self._kept.add(run.start, run.end)
                    if len(run) < len(run.part):
                        self._broken.add(run.part)
                self._change.notify_all()
            run.release()

    def kept(self, written: Extents) -> Extents:
        with self._change:
            return written.minus(written.minus(self._kept))

    def flush(self) -> None:
        self._send()
        with self._change:
            self._change.wait_for(lambda: not self._flying)
        self._refuse_if_in_trouble()

    def sync(self) -> None:
        self.flush()

    def discard(self) -> None:
        self._let_go()
        with self._change:
            self._change.wait_for(lambda: not self._flying)
            claims, self._claims = self._claims, []
            self._kept, self._broken = Extents(), set()
        self._parts.drop(claims)

    def recorded(self, upload: Upload) -> None:
        """Whoever brought the last bytes of a part that came in pieces has it composed."""
        with self._change:
            self._claims = []
            full = [part for part in self._broken if upload.extents.contains(part.start, part.end)]
            self._broken.difference_update(full)
        for part in full:
            offload.background(self._compose, part, name="composition")

    def _compose(self, part: Part) -> None:
        with suppress(IncomingError, FileNotFoundError):  # else whoever completes the upload does it, or meets it
            self._room.take(part, len(part))
            self._room.send(part, len(part))
            try:
                self._parts.compose(part)
            finally:
                self._room.give_back(part, len(part), has_flown=True)

    def _refuse_if_in_trouble(self) -> None:
        if self._trouble is not None:
            raise self._trouble

    def close(self) -> None:
        """What was not flushed is dropped; what is on its way goes there, and does not count."""
        self._let_go()

    def _let_go(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._room.give_back(run, len(run))
            run.release()


def _md5(data: Body) -> str:
    """In hexadecimal."""
    digest = md5(usedforsecurity=False)
    for block in blocks_of(data):
        digest.update(block)
    return digest.hexdigest()


def _beginning(data: Body) -> bytes:
    """What is shown of the first part: it lies in one block."""
    return bytes(next(blocks_of(data))[:FIRST_BYTES])


def _key(folder: str, upload: Upload) -> str:
    """What came before all bytes were taken back lies elsewhere, so that it can't get among those that come now.

    :raises ValueError: the upload's id is no ticket.
    """
    if not is_ticket(upload.id):
        raise ValueError("not the id of an upload")
    is_anew = upload.taken_back and folder != "complete"
    return f"{folder}/{upload.id}.{upload.taken_back}" if is_anew else f"{folder}/{upload.id}"


def _record_key(upload_id: str) -> str:
    return f"records/{upload_id}"


def _times_taken_back(key: str) -> int:
    number = key.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def _whole(upload: Upload) -> Upload:
    """A part of another one is never handed over by itself."""
    extents = Extents().add(0, upload.length or 0)
    state = State.RECEIVING if upload.part_of else State.COMPLETING
    return upload.but(state=state, epoch=max(upload.epoch, 1), extents=extents, synced=extents)


def _age(moment: datetime) -> float:
    """Seconds since then."""
    return (datetime.now(timezone.utc) - moment).total_seconds()
