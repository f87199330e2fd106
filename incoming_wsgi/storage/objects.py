"""A complete file in a bucket, as the app is given it: read, signed for others, moved without coming here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from ..errors import Unavailable
from ..filenames import numbered
from .bucket import NONCE, Bucket

#: The longest object that is copied by one call, and what is copied at once of a longer one; bytes.
_ONE_COPY = 5 * 2**30
_PIECE = 2**30

_LONGEST = 7 * 86400  # seconds that a signature is good for, at most


class S3Object:
    """:param key: below the bucket's prefix."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = key

    def exists(self) -> bool:
        return self._head(self._bucket.name, self._bucket.full(self._key)) is not None

    def open(self) -> BinaryIO:
        return cast("BinaryIO", self._bucket.open(self._key))

    def remove(self) -> None:
        self._bucket.delete([self._key])

    def presigned_url(self, seconds: int, filename: str) -> str:
        """Whatever the file is, no browser shows it as a page."""
        if not 0 < seconds <= _LONGEST:
            raise ValueError(f"a URL can be signed for {_LONGEST} seconds at most")
        about = {
            "Bucket": self._bucket.name,
            "Key": self._bucket.full(self._key),
            "ResponseContentType": "application/octet-stream",
            "ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        }
        return str(self._bucket.client.generate_presigned_url("get_object", Params=about, ExpiresIn=seconds))

    def move_to(self, wanted: str, name: str, *, overwrite: bool, recorded: str, record: Callable[[str], None]) -> str:
        """Copy, and then delete, on the server.

        :param wanted: a key of the same bucket, or ``s3://bucket/key``; what ends in a slash is a folder.
        :raises ValueError: it is neither.
        :raises FileExistsError: there is an object already, and ``overwrite`` is false.
        :raises FileNotFoundError: the file is gone, and not to where it was recorded to go.
        """
        about = self._head(self._bucket.name, self._bucket.full(self._key))
        if recorded and self._is_there(recorded, about):
            self.remove()
            return recorded
        if about is None:
            raise FileNotFoundError(self._key)
        for target in self._targets(wanted, name):
            if not overwrite and self._head(*_split(target)) is not None:
                if not wanted.endswith("/"):
                    raise FileExistsError(target)
                continue
            record(target)
            self._copy(*_split(target), about)
            self.remove()
            return target
        raise AssertionError("names never run out")

    def _targets(self, wanted: str, name: str) -> Iterator[str]:
        url = wanted if wanted.startswith("s3://") else f"s3://{self._bucket.name}/{wanted}"
        bucket, key = _split(url)
        if not bucket or not key:
            raise ValueError(f"{wanted!r} is neither a key nor s3://bucket/key")
        if not url.endswith("/"):
            yield url
            return
        yield url + name
        yield from (url + numbered(name, number) for number in count(2))

    def _is_there(self, url: str, source: dict[str, Any] | None) -> bool:
        """Whether an earlier attempt got as far as having all of it there."""
        target = self._head(*_split(url))
        if target is None or source is None:
            return target is not None
        if target["ContentLength"] != source["ContentLength"]:
            return False
        mark = source.get("Metadata", {}).get(NONCE)  # some servers keep none; then the bytes decide
        return bool(target.get("Metadata", {}).get(NONCE) == mark if mark else target["ETag"] == source["ETag"])

    def _head(self, bucket: str, key: str) -> dict[str, Any] | None:
        try:
            return self._bucket.call_bucket("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None

    def _copy(self, bucket: str, key: str, about: dict[str, Any]) -> None:
        source = {"Bucket": self._bucket.name, "Key": self._bucket.full(self._key)}
        target = {"Bucket": bucket, "Key": key}
        if about["ContentLength"] <= _ONE_COPY:
            self._bucket.call_bucket("copy_object", CopySource=source, **target)
        else:
            self._copy_in_pieces(source, target, about)
        copied = self._head(bucket, key)
        if copied is None or copied["ContentLength"] != about["ContentLength"]:
            raise Unavailable("The storage did not copy all of the file.", retry_after=5)

    def _copy_in_pieces(self, source: dict[str, str], target: dict[str, str], about: dict[str, Any]) -> None:
        call, length = self._bucket.call_bucket, about["ContentLength"]
        metadata = about.get("Metadata", {})
        multipart = str(call("create_multipart_upload", Metadata=metadata, **target)["UploadId"])
        parts = []
        try:
            for number, start in enumerate(range(0, length, _PIECE), 1):
                answer = call(
                    "upload_part_copy",
                    CopySource=source,
                    CopySourceRange=f"bytes={start}-{min(start + _PIECE, length) - 1}",
                    UploadId=multipart,
                    PartNumber=number,
                    **target,
                )
                parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
            call("complete_multipart_upload", UploadId=multipart, MultipartUpload={"Parts": parts}, **target)
        except BaseException:
            call("abort_multipart_upload", UploadId=multipart, **target)
            raise


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key
