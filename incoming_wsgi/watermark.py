"""The synced watermark: in the background, what has arrived is put onto the disk and recorded as safe from a power cut.

For the mode in which bytes are acknowledged before that. It bounds what a power cut can take back, and leaves little to
be synced when the last byte has come.
"""

from __future__ import annotations

import logging
import threading
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
        self._guard = threading.Lock()
        self._latest: dict[str, Upload] = {}  # of the uploads that are being synced: as they were seen last

    def advance(self, upload: Upload) -> None:
        """Sync an upload, in the background, if much of it is not."""
        if upload.received - upload.synced.received < STEP:
            return
        with self._guard:
            is_busy = upload.id in self._latest
            self._latest[upload.id] = upload
        if not is_busy:
            offload.background(self._run, upload, name="watermark")

    def _run(self, upload: Upload) -> None:
        """Again, where as much has come meanwhile: nobody would look after it if that was all."""
        following: Upload | None = upload
        try:
            while following is not None:
                self._sync(following)
                following = self._following(following)
        except BaseException as error:
            with self._guard:
                self._latest.pop(upload.id, None)
            if not isinstance(error, FileNotFoundError):
                raise
            log.debug("upload %s is gone; nothing to sync", shortened(upload.id))

    def _following(self, synced: Upload) -> Upload | None:
        """The upload as it is to be synced next, if it is."""
        with self._guard:
            latest = self._latest[synced.id]
            if latest.received - synced.received >= STEP:
                return latest
            del self._latest[synced.id]
            return None
