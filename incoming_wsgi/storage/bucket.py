"""Calls to a bucket of S3 or something that speaks like it: made by boto3, repeated, and their trouble translated."""

from __future__ import annotations

import functools
import io
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import IncomingError, NoSpace, Unavailable
from . import SyncFailed
from .gathering import Body
from .parts import LEAST, MOST

log = logging.getLogger("incoming_wsgi")

#: The metadata by which an object that we have made is known again.
NONCE = "incoming"

_ATTEMPTS = 4  # of each call, with growing pauses between them
_CONNECT = 5.0  # seconds that a connection may take
_CONNECTIONS = 64  # kept by a process
_AT_ONCE = 1000  # objects deleted by one call; S3 takes no more
_READ = 256 * 1024  # bytes of an object that are asked of the connection at once

_NOT_THERE = frozenset({"404", "NoSuchKey", "NoSuchUpload"})
_THERE = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_FULL = frozenset({"507", "QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_OTHER_PARTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall"})

_OPTIONS = frozenset({"endpoint", "region", "part_size", "timeout"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PREFIX = re.compile(r"[A-Za-z0-9!_.'()/-]*")


@dataclass(frozen=True)
class Address:
    """Where a bucket is, as a URL says it: ``s3://bucket/prefix?endpoint=https://rgw.example.org&part_size=16777216``.

    :ivar prefix: of our keys; empty, or ends with a slash.
    :ivar endpoint: URL of the server; empty for AWS, or for what boto3 is configured to.
    :ivar region: empty for what boto3 is configured to.
    :ivar part_size: bytes.
    :ivar timeout: seconds for which the server may be silent.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    part_size: int = 16 * 2**20
    timeout: float = 30.0

    @classmethod
    def of(cls, url: str) -> Address:
        """:raises ValueError: the URL can't be understood."""
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        unknown = ", ".join(sorted(options.keys() - _OPTIONS))
        if unknown:
            raise ValueError(f"a storage at s3:// has no option {unknown}; it has {', '.join(sorted(_OPTIONS))}")
        if parts.scheme != "s3" or not _NAME.fullmatch(parts.netloc):
            raise ValueError("a storage in S3 is written s3://BUCKET/PREFIX, without keys: boto3 finds those")
        prefix = parts.path.strip("/")
        if not _PREFIX.fullmatch(prefix) or "//" in prefix:
            raise ValueError(f"{prefix!r} can't begin the keys of a bucket")
        return cls(
            bucket=parts.netloc,
            prefix=f"{prefix}/" if prefix else "",
            endpoint=_checked_endpoint(options.get("endpoint", "")),
            region=options.get("region", ""),
            part_size=_checked_number(options, "part_size", 16 * 2**20, LEAST, MOST),
            timeout=_checked_number(options, "timeout", 30, 1, 3600),
        )


def _checked_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if endpoint and (parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc):
        raise ValueError("the endpoint of a storage in S3 is an http(s) URL without a password")
    return endpoint


def _checked_number(options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or not least <= int(text[:20]) <= most:
        raise ValueError(f"{name} of a storage in S3 must be a whole number from {least} to {most}")
    return int(text)


def is_bucket(storage: str) -> bool:
    """Whether that is the URL of a bucket, and not a folder."""
    return storage.startswith("s3://")


def check(url: str) -> None:
    """Say at once what would fail later; nothing is opened or imported.

    :raises ValueError: the URL can't be understood, or boto3 is missing.
    """
    Address.of(url)
    if find_spec("boto3") is None:
        raise ValueError("a storage at s3:// needs the package boto3: pip install 'incoming-wsgi[s3]'")


@dataclass(frozen=True)
class Stored:
    """An object as a list shows it."""

    key: str
    size: int
    modified: datetime


class Bucket:
    """One bucket. All keys given and taken are below its prefix.

    What a call raises: :class:`FileNotFoundError` (no such object or multipart upload), :class:`FileExistsError` (there
    is one already), :class:`NotImplementedError`, :class:`SyncFailed` (parts are not the ones that were named),
    :class:`NoSpace`, :class:`Unavailable`. All but the last were said by the server; the last also means that nobody
    knows whether the call was heard.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    @property
    def name(self) -> str:
        return self._address.bucket

    def full(self, key: str) -> str:
        """A key as others know it."""
        return self._address.prefix + key

    def call(self, operation: str, key: str, **parameters: Any) -> dict[str, Any]:
        """What boto3's client answers to ``operation`` for an object."""
        return self.call_bucket(operation, Key=self.full(key), **parameters)

    def call_bucket(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """The same for whatever ``parameters`` name; they may name another bucket, too."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self.client, operation)(**{"Bucket": self.name, **parameters})
        except ClientError as error:
            raise _translated(operation, error.response) from error
        except (BotoCoreError, OSError) as error:
            raise _unavailable(operation, type(error).__name__) from error
        return answer

    @property
    def client(self) -> Any:
        address = self._address
        return _client(os.getpid(), address.endpoint, address.region, address.timeout)

    # -- objects --------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes | Body, *, only_new: bool = False, **more: Any) -> None:
        """:raises FileExistsError: there is one, and ``only_new`` was said (where the server understands that)."""
        condition = {"IfNoneMatch": "*"} if only_new else {}
        answer = self.call("put_object", key, Body=data, ContentLength=len(data), **condition, **more)
        if not answer.get("ETag"):
            raise _unavailable("put_object", "no ETag")

    def get(self, key: str) -> bytes:
        """A small object; one that breaks off is asked for again."""
        from botocore.exceptions import BotoCoreError

        trouble = ""
        for _ in range(_ATTEMPTS):
            answer = self.call("get_object", key)
            try:
                data: bytes = answer["Body"].read()
            except (BotoCoreError, OSError) as error:
                trouble = type(error).__name__
            else:
                if answer.get("ETag"):
                    return data
                trouble = "no ETag"  # it is something else: an error, say
            finally:
                answer["Body"].close()
        raise _unavailable("get_object", trouble)

    def open(self, key: str) -> ObjectFile:
        """:raises FileNotFoundError: there is none."""
        return ObjectFile(self, key, int(self.head(key)["ContentLength"]))

    def head(self, key: str) -> dict[str, Any]:
        return self.call("head_object", key)

    def delete(self, keys: Iterable[str]) -> None:
        """What is not there is fine."""
        batch: list[str] = []
        for key in keys:
            batch.append(key)
            if len(batch) == _AT_ONCE:
                self._delete(batch)
                batch = []
        self._delete(batch)

    def _delete(self, keys: list[str]) -> None:
        if not keys:
            return
        objects = [{"Key": self.full(key)} for key in keys]
        answer = self.call_bucket("delete_objects", Delete={"Objects": objects, "Quiet": True})
        left = [error for error in answer.get("Errors", ()) if error.get("Code") not in _NOT_THERE]
        if left:
            raise _unavailable("delete_objects", str(left[0].get("Code")))

    def list(self, prefix: str) -> Iterator[Stored]:
        pages = self._pages("list_objects_v2", "Contents", "NextContinuationToken", "ContinuationToken", prefix)
        for entry in pages:
            yield Stored(entry["Key"].removeprefix(self._address.prefix), entry["Size"], entry["LastModified"])

    def _pages(self, operation: str, what: str, mark: str, parameter: str, prefix: str) -> Iterator[dict[str, Any]]:
        where: dict[str, Any] = {}
        while True:
            answer = self.call_bucket(operation, Prefix=self.full(prefix), **where)
            yield from answer.get(what, ())
            if not answer.get("IsTruncated"):
                return
            where = {parameter: answer[mark]}

    # -- multipart uploads ----------------------------------------------------------------------------------

    def begin(self, key: str, **more: Any) -> str:
        """The id of a new multipart upload."""
        return str(self.call("create_multipart_upload", key, **more)["UploadId"])

    def put_part(self, key: str, multipart: str, number: int, data: Body) -> str:
        """The ETag of a part that was stored."""
        answer = self.call(
            "upload_part", key, UploadId=multipart, PartNumber=number, Body=data, ContentLength=len(data)
        )
        if not answer.get("ETag"):
            raise _unavailable("upload_part", "no ETag")
        return _bare(answer["ETag"])

    def parts(self, key: str, multipart: str) -> dict[int, str]:
        """The ETags of the parts that are there, by number."""
        found: dict[int, str] = {}
        marker = 0
        while True:
            answer = self.call("list_parts", key, UploadId=multipart, PartNumberMarker=marker)
            found |= {part["PartNumber"]: _bare(part["ETag"]) for part in answer.get("Parts", ())}
            if not answer.get("IsTruncated"):
                return found
            marker = answer["NextPartNumberMarker"]

    def finish(self, key: str, multipart: str, etags: Mapping[int, str]) -> None:
        parts = [{"PartNumber": number, "ETag": f'"{etag}"'} for number, etag in sorted(etags.items())]
        self.call("complete_multipart_upload", key, UploadId=multipart, MultipartUpload={"Parts": parts})

    def abort(self, key: str, multipart: str) -> None:
        """One that is not there is fine."""
        try:
            self.call("abort_multipart_upload", key, UploadId=multipart)
        except FileNotFoundError:
            log.debug("a multipart upload was gone already")

    def abort_all(self, key: str) -> None:
        """All multipart uploads of an object."""
        try:
            answer = self.call_bucket("list_multipart_uploads", Prefix=self.full(key))
        except FileNotFoundError:  # so say some where there is none
            return
        for multipart in answer.get("Uploads", ()):
            if multipart["Key"] == self.full(key):
                self.abort(key, multipart["UploadId"])


class ObjectFile(io.RawIOBase):
    """An object, read from any position on; what breaks off is asked for again from there."""

    def __init__(self, bucket: Bucket, key: str, length: int) -> None:
        self._bucket = bucket
        self._key = key
        self._length = length
        self._position = 0
        self._body: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if base + offset != self._position:
            self._let_go()
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """:raises Unavailable: it breaks off again and again."""
        wanted = min(len(buffer), self._length - self._position, _READ)
        if wanted <= 0:
            return 0
        for attempt in range(_ATTEMPTS):
            data = self._read(wanted, last=attempt + 1 == _ATTEMPTS)
            if data:
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
        raise _unavailable("get_object", "a short answer")

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_READ) or b"", b""))

    def close(self) -> None:
        self._let_go()
        super().close()

    def _read(self, count: int, *, last: bool) -> bytes:
        """The next bytes; none if the answer has broken off."""
        from botocore.exceptions import BotoCoreError

        try:
            if self._body is None:
                span = f"bytes={self._position}-{self._length - 1}"
                answer = self._bucket.call("get_object", self._key, Range=span)
                if answer["ContentLength"] != self._length - self._position:
                    raise OSError("an answer of another length")
                self._body = answer["Body"]
            data: bytes = self._body.read(count)
        except FileNotFoundError:
            raise
        except (BotoCoreError, OSError) as error:
            self._let_go()
            if last:
                raise _unavailable("get_object", type(error).__name__) from error
            return b""
        if not data:
            self._let_go()
        return data

    def _let_go(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


@functools.cache
def _client(process: int, endpoint: str, region: str, timeout: float) -> Any:  # noqa: ARG001
    """boto3's client; one for each process, since connections do not survive a fork."""
    import boto3
    from botocore.config import Config

    from .signing import sign_bodies_as_needed

    config = Config(
        connect_timeout=min(_CONNECT, timeout),
        read_timeout=timeout,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": "path" if endpoint else "auto"},
        # Ceph answers 411 to the checksums that boto3 would send in a trailer. The signature covers the bytes, or TLS
        # does (signing.py).
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # A session of our own: the default one is not for several threads.
    client = boto3.session.Session().client(
        "s3", endpoint_url=endpoint or None, region_name=region or None, config=config
    )
    sign_bodies_as_needed(client)
    return client


def _bare(etag: str) -> str:
    return etag.strip('"')


def _translated(operation: str, answer: Mapping[str, Any]) -> Exception:
    about = answer.get("Error", {})
    code = str(about.get("Code", ""))
    if code in _NOT_THERE:
        return FileNotFoundError(operation)
    if code in _THERE:
        return FileExistsError(operation)
    if code == "NotImplemented":
        return NotImplementedError(operation)
    if code in _OTHER_PARTS:
        log.warning("the storage has other parts than were stored: %s was answered with %s", operation, code)
        return doubt()
    if code in _FULL:
        log.warning("the storage has no room: %s was answered with %s", operation, code)
        return NoSpace(retry_after=10)
    return _unavailable(operation, code)


def doubt() -> SyncFailed:
    """Nobody knows whether what is stored is what arrived."""
    return SyncFailed("The storage has other bytes of this file than came.", retry_after=5, start_anew=True)


def _unavailable(operation: str, why: str) -> IncomingError:
    """Neither a key nor a URL gets into the log: there are tickets in them."""
    log.warning("the storage has trouble: %s ended with %s", operation, why)
    return Unavailable("The server's storage has trouble; what has arrived is kept.", retry_after=5)
