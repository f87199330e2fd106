"""Uploads in a bucket of S3, or of something that speaks like it (Ceph RGW): multipart uploads, parts sent meanwhile.

Below the prefix lie

``arriving/{id}``
    a small JSON object, written once: the multipart upload, how it is cut, and what a registry would have to know.
``complete/{id}``
    the target of the multipart upload: it is there when all bytes are.
``records/{id}``
    what a registry would have to know of an upload that is being completed, until the app has the file.
``claims/{id}/{folder}/…``
    what is there of some parts: ``{owner}-whole-{part}.{etag}…`` says which were stored and what ETags they have; it
    is empty, but for the first part, whose first bytes it has, since S3 shows nothing of a part;
    ``{owner}-{start}-{end}-…`` is an object with these bytes, a piece of a part.
``claims/{id}/opened/{owner}-…``
    the extents that were recorded when the upload was opened by this one, who did not begin it.

There is no lock that several machines share. So each claim has a name of its own, and of a part it is remembered which
bytes it had: one that a replaced connection stores again, late, is noticed by its ETag when the upload is completed,
and the bytes are asked for again. See :mod:`.claims` for what counts where claims compete.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from io import BufferedReader, RawIOBase
from typing import BinaryIO, cast
from weakref import WeakValueDictionary

from ..errors import Damaged, IncomingError
from ..extents import Extents
from ..relocate import RemoteFile
from ..upload import State, Upload, is_ticket, shortened
from ..wire.checksums import Hash
from . import Storage, SyncFailed, Writer
from .bucket import NONCE, Address, Bucket
from .claims import Owner
from .gathering import Room, memory
from .multipart import Multipart
from .objects import S3Object
from .parts import Part, Plan
from .passing import PassingDigest
from .records import record_of, upload_of
from .s3_writer import S3Writer
from .sidecars import Sidecar, key_of

log = logging.getLogger("incoming_wsgi")

_REMEMBERED = 1000  # sidecars kept by a process
_PATIENCE = 300.0  # seconds without a byte after which an upload is not hashed any more


class S3Storage(Storage):
    """:param url: as :class:`~.bucket.Address` reads it. Nothing is opened before it is needed.
    :param digest: whether the SHA-256 of uploads is computed, where it can be, while their bytes pass.

    :raises ValueError: the URL can't be understood.
    """

    reads_arriving = False
    is_remote = True
    is_durable = True
    kind = "s3"

    def __init__(self, url: str, *, digest: bool = True) -> None:
        address = Address.of(url)
        self._bucket = Bucket(address)
        self._part_size = address.part_size
        self._sidecars: OrderedDict[str, Sidecar] = OrderedDict()
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._digest = digest
        self._passing: dict[str, PassingDigest] = {}  # of uploads that have begun in this process
        self._hashed: dict[str, tuple[int, Hash]] = {}  # of uploads that it has completed

    # -- arriving -------------------------------------------------------------------------------------------

    def create(self, upload: Upload) -> None:
        key = key_of("arriving", upload)
        try:
            self._bucket.head(key)
        except FileNotFoundError:
            self._create(upload, key)

    def _create(self, upload: Upload, key: str) -> None:
        """Of several that do this at once, the first one wins: the others let go of what they have begun."""
        target, nonce = key_of("complete", upload), secrets.token_hex(8)
        plan = Plan.of(upload.length, self._part_size)
        multipart = "" if upload.length == 0 else self._bucket.begin(target, Metadata={NONCE: nonce})
        try:
            sidecar = Sidecar(multipart, nonce, plan, Owner.of(upload))
            self._bucket.put(key, sidecar.to_json(upload), only_new=True)
        except FileExistsError:
            if multipart and self._sidecar(upload).multipart != multipart:
                self._bucket.abort(target, multipart)

    def opened(self, upload: Upload) -> None:
        owner = Owner.of(upload)
        try:
            opener = self._remembered(upload).opener
        except (FileNotFoundError, Damaged):
            return  # whoever wants to write hears of it
        if owner != opener:
            key = f"{key_of('claims', upload)}/opened/{owner}-{secrets.token_hex(4)}"
            self._bucket.put(key, upload.extents.to_json().encode())

    def open(self, upload: Upload) -> Writer:
        is_known = key_of("arriving", upload) in self._sidecars
        parts = self._parts(upload, self._remembered(upload))
        if not is_known and upload.extents.ranges:
            parts.refuse_holes(upload.extents)
        room = self._rooms.get(upload.id) or self._rooms.setdefault(upload.id, Room(parts.plan))
        return S3Writer(parts, room, self._passing_of(upload))

    def _passing_of(self, upload: Upload) -> PassingDigest | None:
        """Of a part nobody wants to know one, and what has come to others can't be hashed any more."""
        key = key_of("arriving", upload)
        passing = self._passing.get(key)
        if passing is None and self._digest and not upload.part_of and not upload.extents.ranges:
            passing = self._passing[key] = PassingDigest()
        return passing

    @contextmanager
    def keeping_whole(self, upload: Upload) -> Iterator[Callable[[bytes], None]]:
        """At once to its last place. It counts only if the record that follows says so: an opening that comes before
        that one begins anew, and what it completes takes the place of this.
        """
        yield lambda data: self._put_whole(upload, data)

    def _put_whole(self, upload: Upload, data: bytes) -> None:
        key = key_of("complete", upload)
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
        return cast("BinaryIO", self._bucket.open(key_of("complete", upload)))

    def first_bytes(self, upload: Upload, size: int) -> bytes:
        with suppress(FileNotFoundError), self.read(upload) as file:
            return BufferedReader(cast("RawIOBase", file)).read(size)  # what it reads at once may be less
        return self._parts(upload, self._remembered(upload)).first_bytes(size)

    def tidy(self) -> None:
        memory.tidy()
        for key, passing in list(self._passing.items()):
            if passing.is_idle(_PATIENCE):
                self._passing.pop(key, None)

    def hashed(self, upload: Upload) -> tuple[int, Hash]:
        return self._hashed.pop(upload.id) if upload.id in self._hashed else super().hashed(upload)

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
                whole.put(piece, sources.read(piece))

    def complete(self, upload: Upload) -> str:
        key = key_of("complete", upload)
        try:
            sidecar = self._sidecar(upload)
        except FileNotFoundError:
            self._refuse_other_object(upload, "")
        else:
            self._complete(upload, sidecar)
        return self._url(key)

    def _complete(self, upload: Upload, sidecar: Sidecar) -> None:
        key = key_of("complete", upload)
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
        key, parts = key_of("complete", upload), self._parts(upload, sidecar)
        claims = parts.claims()
        stored = self._bucket.parts(key, sidecar.multipart)  # after the claims, which are made after the parts
        parts.refuse_holes(Extents().add(0, length), claims)
        etags = {}
        for part in sidecar.plan.parts(length):
            etags[part.number] = parts.etag_of(part, claims[part.number], stored)
        self._bucket.finish(key, sidecar.multipart, etags)
        passing = self._passing.pop(key_of("arriving", upload), None)
        if passing is not None:
            self._hashed[upload.id] = passing.of(etags, (number for number in etags if len(claims[number]) == 1))

    def _refuse_other_object(self, upload: Upload, nonce: str) -> None:
        """:raises Damaged: the complete object is not there, or not what it should be."""
        try:
            about = self._bucket.head(key_of("complete", upload))
        except FileNotFoundError:
            raise Damaged("The stored bytes of this upload are gone.") from None
        size, known_by = int(about["ContentLength"]), about.get("Metadata", {}).get(NONCE, nonce)
        if size != upload.length or (nonce and known_by != nonce):
            raise Damaged(f"Of {upload.length} bytes that had arrived, {size} are stored.")

    def locate(self, upload: Upload) -> str | None:
        key = key_of("complete", upload)
        try:
            self._bucket.head(key)
        except FileNotFoundError:
            return None
        return self._url(key)

    def remote(self, upload: Upload) -> RemoteFile:
        return S3Object(self._bucket, key_of("complete", upload))

    def _url(self, key: str) -> str:
        return f"s3://{self._bucket.name}/{self._bucket.full(key)}"

    # -- end ------------------------------------------------------------------------------------------------

    def remove(self, upload: Upload) -> None:
        self._bucket.delete([_record_key(upload.id), key_of("complete", upload)])
        self._clear(upload)

    def clear(self, upload: Upload) -> None:
        with suppress(IncomingError, FileNotFoundError):  # else a later look finds it
            self._clear(upload)

    def _clear(self, upload: Upload) -> None:
        """Whatever there is besides the complete object; the sidecar last, so that who dies in between is noticed."""
        self._sidecars.pop(key_of("arriving", upload), None)
        self._passing.pop(key_of("arriving", upload), None)
        self._hashed.pop(upload.id, None)
        self._bucket.abort_all(key_of("complete", upload))
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
            self._bucket.head(key_of("arriving", upload))
            self._clear(upload)  # who has completed it has not, or died before that
        self._bucket.delete([_record_key(upload.id)])

    def remembered(self, is_known: Callable[[str], bool] = lambda _: False) -> Iterator[Upload]:
        completing = set(self._ids("records/"))
        for upload_id in completing:
            if not is_known(upload_id):
                yield from self._readable(upload_id, self._completing)
        for upload_id in self._ids("arriving/"):
            if upload_id not in completing and not is_known(upload_id):
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
            size = int(self._bucket.head(key_of("complete", upload))["ContentLength"])
        except FileNotFoundError:
            return upload if upload.state is State.JOINING else self._arriving(upload_id, upload)
        if size != upload.length:
            raise Damaged(f"of {upload.length} bytes, {size} are stored")
        return _whole(upload)

    def _arriving(self, upload_id: str, record: Upload | None = None) -> Upload:
        """With what has arrived; where there is no later record, as it was opened first.

        A record from before all bytes were taken back speaks of others.
        """
        keys = (stored.key for stored in self._bucket.list(f"arriving/{upload_id}"))
        text = self._bucket.get(max(keys, key=_times_taken_back, default=f"arriving/{upload_id}"))
        sidecar = Sidecar.from_json(text)
        upload = upload_of(upload_id, json.loads(text).get("upload"))
        if record is not None and record.taken_back >= upload.taken_back:
            upload = record
        with suppress(FileNotFoundError):
            about = self._bucket.head(key_of("complete", upload))
            if about.get("Metadata", {}).get(NONCE) == sidecar.nonce:
                return _whole(upload.but(length=int(about["ContentLength"])))
        return self._parts(upload, sidecar).found(upload)

    # -- what is there --------------------------------------------------------------------------------------

    def _sidecar(self, upload: Upload) -> Sidecar:
        return Sidecar.from_json(self._bucket.get(key_of("arriving", upload)))

    def _remembered(self, upload: Upload) -> Sidecar:
        """Sidecars never change: one that was read may be used until the upload ends."""
        key = key_of("arriving", upload)
        sidecar = self._sidecars.get(key)
        if sidecar is None:
            sidecar = self._sidecars[key] = self._sidecar(upload)
            while len(self._sidecars) > _REMEMBERED:
                self._sidecars.popitem(last=False)
        return sidecar

    def _parts(self, upload: Upload, sidecar: Sidecar) -> Multipart:
        return Multipart(self._bucket, upload, sidecar)


class _Sources:
    """The bytes of complete uploads, one after the other."""

    def __init__(self, bucket: Bucket, uploads: Iterable[Upload]) -> None:
        self._bucket = bucket
        self._spans: list[tuple[int, int, str]] = []
        end = 0
        for upload in uploads:
            start, end = end, end + (upload.length or 0)
            self._spans.append((start, end, key_of("complete", upload)))

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
