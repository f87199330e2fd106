"""The synced watermark: in the background, what has arrived is put onto the disk and recorded as safe from a power cut.

For the mode in which bytes are acknowledged before that. It bounds what a power cut can take back, and leaves little to
be synced when the last byte has come.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from . import offload
from .upload import Upload, shortened

log = logging.getLogger("incoming_wsgi")

#: Bytes of one upload that may be acknowledged and not synced.
STEP = 64 * 1024 * 1024


class Watermarks:
    """:param sync: puts onto the disk, and records, what is safe of an upload."""

    def __init__(self, sync: Callable[[Upload], None]) -> None:
        self._sync = sync
        self._busy: set[str] = set()

    def advance(self, upload: Upload) -> None:
        """Sync an upload, in the background, if much of it is not."""
        if upload.received - upload.synced.received >= STEP and upload.id not in self._busy:
            self._busy.add(upload.id)
            offload.background(self._run, upload, name="watermark")

    def _run(self, upload: Upload) -> None:
        try:
            self._sync(upload)
        except FileNotFoundError:
            log.debug("upload %s is gone; nothing to sync", shortened(upload.id))
        finally:
            self._busy.discard(upload.id)
