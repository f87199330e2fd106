"""The recording app, in a server that cleans up twice a second instead of every five, and whose wall clock can be set.

The file ``CLOCK`` says by how many seconds it is wrong. Only Python's own view of the wall clock is changed: it is the
one that all parts of the server look at.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from incoming_wsgi import receiver

_clock = Path(os.environ["CLOCK"])
_right_time = time.time
time.time = lambda: _right_time() + float(_clock.read_text())

receiver._SWEEP_INTERVAL = 0.5

from tests.support.recording_app import app  # noqa: E402 (with the clock as it is now)

__all__ = ["app"]
