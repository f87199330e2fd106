"""Takes room and files away from the processes of a running server, and gives them back."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.processes import AppServer

#: A file that does not fit where files may have this many bytes.
BIG = random.Random(8).randbytes(1_200_000)
ROOM = 1_000_000


@contextmanager
def limited_file_size(server: AppServer, size: int) -> Iterator[None]:
    """No worker can make a file longer than ``size`` bytes, as on a full disk; existing bytes stay."""
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in server.workers()}
    try:
        for pid, (_, hard) in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        for pid, limit in limits.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
