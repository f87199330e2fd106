"""Glances: uploads as this process has seen them last, where asking takes a journey.

A glance is enough to go on by, never to refuse by, and nothing is safe because of one: what is recorded in the end is
compared with the upload as it is then.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ..upload import Upload
from . import Unsubscribe

_MOST = 5000  # uploads that are remembered
_LONGEST = 30.0  # seconds for which one is believed that nobody is heard to have changed


class _Glance:
    def __init__(self) -> None:
        self.upload: Upload | None = None
        self.at = 0.0
        self.unsubscribe: Unsubscribe = lambda: None


class Glances:
    """:param subscribe: has a function called whenever an upload was changed; not when bytes have arrived."""

    def __init__(self, subscribe: Callable[[str, Callable[[], None]], Unsubscribe]) -> None:
        self._subscribe = subscribe
        self._guard = threading.Lock()
        self._seen: OrderedDict[str, _Glance] = OrderedDict()

    def of(self, upload_id: str, look: Callable[[], Upload | None]) -> Upload | None:
        """The upload as it was seen last, or else as ``look()`` sees it."""
        glance = self._seen.get(upload_id)
        if glance is not None and glance.upload is not None and time.monotonic() - glance.at < _LONGEST:
            return glance.upload
        self.forget(upload_id)
        glance = self._begin(upload_id)  # before the look: what is changed after it is heard of
        upload = look()
        if upload is None:
            self.forget(upload_id)
        else:
            glance.upload, glance.at = upload, time.monotonic()
        return upload

    def refresh(self, upload: Upload) -> None:
        """More of an upload has arrived; what nobody has glanced at, or has been changed since, stays forgotten."""
        glance = self._seen.get(upload.id)
        if glance is not None and glance.upload is not None:
            glance.upload, glance.at = upload, time.monotonic()

    def forget(self, upload_id: str) -> None:
        with self._guard:
            glance = self._seen.pop(upload_id, None)
        if glance is not None:
            glance.unsubscribe()

    def _begin(self, upload_id: str) -> _Glance:
        glance = _Glance()
        glance.unsubscribe = self._subscribe(upload_id, lambda: self.forget(upload_id))
        with self._guard:
            before = self._seen.pop(upload_id, None)
            self._seen[upload_id] = glance
            oldest = self._seen.popitem(last=False)[1] if len(self._seen) > _MOST else None
        for gone in filter(None, (before, oldest)):
            gone.unsubscribe()
        return glance
