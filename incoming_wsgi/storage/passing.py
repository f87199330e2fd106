"""The SHA-256 of an upload, made while its parts pass through this process: S3 shows them only in the end.

Parts are hashed before they are stored, as long as each begins where the last one ended. That the bytes which count in
the end are those that were hashed is known by their ETags.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from .. import offload
from .claims import Stored
from .gathering import Gathered
from .parts import Part

if TYPE_CHECKING:
    from hashlib import _Hash

#: Bytes, from the first one on, and the hash that they have gone into.
Hashed = tuple[int, "_Hash"]


class PassingDigest:
    """Of one upload; shared by all that write to it in this process."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._next = 0  # where the next part has to begin
        self._hashed: list[Hashed] = [(0, sha256())]  # after so many parts: one may turn out not to count
        self._etags: dict[int, str] = {}
        self._has_stopped = False
        self._touched = time.monotonic()

    def follows(self, part: Part) -> bool:
        """Whether a part goes on where the last one ended; then :meth:`hash` has to be called for it."""
        with self._change:
            self._touched = time.monotonic()
            if self._has_stopped or part.start != self._next:
                return False
            self._next = part.end
            return True

    def hash(self, run: Gathered) -> None:
        """Hash a part when it is its turn."""
        with self._change:
            self._change.wait_for(lambda: self._has_stopped or self._hashed[-1][0] == run.start)
            if self._has_stopped:
                return
            digest = self._hashed[-1][1].copy()
        try:
            offload.run(_update, digest, run.blocks())
        except BaseException:
            self.stop()
            raise
        with self._change:
            self._hashed.append((run.end, digest))
            self._change.notify_all()

    def stop(self) -> None:
        """Nothing more will be hashed."""
        with self._change:
            self._has_stopped = True
            self._change.notify_all()

    def stored(self, stored: Stored) -> None:
        """S3 has a part. One that was stored twice is known by its last ETag, or by none."""
        number = stored.part.number
        with self._change:
            is_other = self._etags.setdefault(number, stored.etag) != stored.etag
            if is_other:
                self._etags[number] = ""

    def of(self, etags: Mapping[int, str], sure: Iterable[int]) -> Hashed:
        """The hash of as many first parts as are those that count.

        :param etags: of the parts of the complete file, by their numbers.
        :param sure: the numbers of those that nobody else has stored.
        """
        numbers = frozenset(sure)
        count = 0
        with self._change:
            while count + 1 < len(self._hashed) and count + 1 in numbers:
                if etags.get(count + 1) != self._etags.get(count + 1):
                    break
                count += 1
            return self._hashed[count]

    def is_idle(self, seconds: float) -> bool:
        """Whether nothing has come for so long."""
        return time.monotonic() - self._touched >= seconds


def _update(digest: _Hash, blocks: Iterator[memoryview]) -> None:
    for block in blocks:
        digest.update(block)
