"""The way into an upload in S3: bytes are gathered into parts, which are stored in the background and then claimed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress

from .. import offload
from ..errors import IncomingError, Unavailable
from ..extents import Extents
from ..upload import Upload
from ..wire.bulk import bulk_of
from . import Data, Writer
from .claims import Stored
from .gathering import Gathered, Room
from .multipart import Multipart
from .parts import Part
from .passing import PassingDigest

#: Whole parts that may wait for their claim, and seconds since the last one after which none does: a claim costs as
#: much as a small object. A WebSocket's window holds no more than two parts, and it waits for them.
_CLAIMED_TOGETHER = 2
_UNCLAIMED = 2.0


class S3Writer(Writer):
    """Gathers bytes that follow one another, and stores them in the background when a part is full.

    What was stored is kept from when it is claimed.

    :param passing: the digest of the upload, if it is wanted and can be made of what comes here.
    """

    is_durable = True
    keeps_others_out = False

    def __init__(self, parts: Multipart, room: Room, passing: PassingDigest | None = None) -> None:
        self.grain = parts.plan.part_size
        self._parts = parts
        self._room = room
        self._passing = passing
        self._run: Gathered | None = None
        self._change = threading.Condition()
        self._flying = 0
        self._unclaimed: list[Stored] = []
        self._claimed_at = time.monotonic()
        self._kept = Extents()
        self._broken: set[Part] = set()  # parts of which we have stored pieces
        self._unrecorded: dict[str, Extents] = {}  # claims, by their keys: what they are on
        self._trouble: IncomingError | None = None

    def exclusive(self) -> AbstractContextManager[None]:
        """Nobody is kept out: see :mod:`.s3`."""
        return nullcontext()

    # -- gathering ------------------------------------------------------------------------------------------

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

    def _let_go(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._room.give_back(run, len(run))
            run.release()

    # -- storing --------------------------------------------------------------------------------------------

    def _send(self) -> None:
        run, self._run = self._run, None
        if run is None or not len(run):
            return
        follows = run.is_whole_part and self._passing is not None and self._passing.follows(run.part)
        self._room.send(run, len(run))
        self._fly(self._store, run, follows)

    def _fly(self, work: Callable[..., None], *args: object) -> None:
        """Have something done in the background that :meth:`flush` waits for."""
        with self._change:
            self._flying += 1
        try:
            offload.background(self._landing, work, *args, name="part")
        except RuntimeError:  # there can't be one more thread: whoever brings the bytes waits
            self._landing(work, *args)

    def _store(self, run: Gathered, follows: bool) -> None:
        """:param follows: whether its bytes are hashed as those that follow the last ones."""
        try:
            if follows and self._passing is not None:
                self._passing.hash(run)
            if run.is_whole_part:
                self._store_part(run)
            else:
                self._store_piece(run)
        finally:
            self._room.give_back(run, len(run), has_flown=True)
            run.release()
        if self._is_claim_due:
            self._claim()

    def _store_part(self, run: Gathered) -> None:
        stored = self._parts.store(run.part, run)
        if self._passing is not None:
            self._passing.stored(stored)
        with self._change:
            self._unclaimed.append(stored)

    def _store_piece(self, run: Gathered) -> None:
        claim = self._parts.put_piece(run.part, run.start, run)
        with self._change:
            self._broken.add(run.part)
            self._keep({claim: Extents().add(run.start, run.end)})

    @property
    def _is_claim_due(self) -> bool:
        count, since = len(self._unclaimed), time.monotonic() - self._claimed_at
        return count >= _CLAIMED_TOGETHER or (count > 0 and since >= _UNCLAIMED)

    def _claim(self) -> None:
        with self._change:
            stored, self._unclaimed = self._unclaimed, []
            self._claimed_at = time.monotonic()
        claims = self._parts.claim(stored)
        with self._change:
            self._keep(claims)

    def _keep(self, claims: Mapping[str, Extents]) -> None:
        self._unrecorded.update(claims)
        for about in claims.values():
            self._kept = self._kept.merge(about)

    def _landing(self, work: Callable[..., None], *args: object) -> None:
        """Do something; its trouble is what the next call hears of."""
        trouble: IncomingError | None = None
        try:
            work(*args)
        except FileNotFoundError:
            trouble = Unavailable("The place for these bytes is gone.", retry_after=1)
        except IncomingError as error:
            trouble = error
        except BaseException:
            trouble = Unavailable("The server's storage has trouble; what has arrived is kept.", retry_after=5)
            raise
        finally:
            with self._change:
                self._flying -= 1
                self._trouble = self._trouble or trouble
                self._change.notify_all()

    # -- what is kept ---------------------------------------------------------------------------------------

    def kept(self, written: Extents) -> Extents:
        if self._is_claim_due:
            self._fly(self._claim)
        with self._change:
            return written.minus(written.minus(self._kept))

    def flush(self, *, only_grains: bool = False) -> None:
        if not only_grains:
            self._send()
        with self._change:
            self._change.wait_for(lambda: not self._flying)
            self._flying += 1
        self._landing(self._claim)  # also where something else went wrong: what is stored need not be sent again
        self._refuse_if_in_trouble()

    def sync(self) -> None:
        self.flush()

    def discard(self) -> None:
        self._let_go()
        with self._change:
            self._change.wait_for(lambda: not self._flying)
            claims, self._unrecorded = self._unrecorded, {}
            self._kept, self._broken, self._unclaimed = Extents(), set(), []
        self._parts.drop(claims)

    def recorded(self, upload: Upload) -> None:
        """Whoever brought the last bytes of a part that came in pieces has it composed."""
        with self._change:
            claims = self._unrecorded.items()
            self._unrecorded = {key: about for key, about in claims if about.minus(upload.extents).ranges}
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
