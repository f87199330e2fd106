"""A long link (link.c) between the measured and their servers."""

from __future__ import annotations

import subprocess

from .programs import compiled


class Link:
    """:param target: port of the server at the far end.
    :param rate: bytes per second in each direction.
    :param round_trip: seconds.
    """

    def __init__(self, target: int, rate: float, round_trip: float) -> None:
        self._command = [compiled("link"), str(target), str(rate), str(round_trip)]

    def __enter__(self) -> Link:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
