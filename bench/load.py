"""Drives the load generator (load.c)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .programs import compiled


@dataclass(frozen=True)
class Request:
    """One request as it goes over the wire.

    :ivar head: with ``@@`` where that is to be put which was kept of an earlier answer.
    :ivar length: bytes of the body.
    :ivar keep: what to keep of the answer: ``-`` nothing, ``b`` its body, ``l`` the path of its Location.
    """

    head: bytes
    length: int = 0
    keep: str = "-"


#: What one connection sends, one request after the other.
Lane = Sequence[Request]


@dataclass(frozen=True)
class Sent:
    """Moments are those of ``time.monotonic()``.

    :ivar sent: bytes of bodies.
    :ivar latencies: seconds from the beginning of a request to its answer, on average, for each step of a life.
    """

    began: float
    ended: float
    last_byte: float
    sent: int
    latencies: list[float]

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def request(method: str, path: str, length: int = 0, keep: str = "-", **headers: str) -> Request:
    """:param headers: with ``_`` for ``-``."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Request("".join(f"{line}\r\n" for line in [*lines, ""]).encode(), length, keep)


def send(port: int, lanes: Sequence[Lane], rate: float = 0) -> Sent:
    """All lanes at once.

    :param rate: bytes per second and lane; 0: as fast as it goes.
    :raises RuntimeError: a server refused, or hung up.
    """
    script = bytearray()
    for lane in lanes:
        script += b"lane\n"
        for one in lane:
            script += f"request {one.keep} {len(one.head)} {one.length}\n".encode() + one.head
    return _run(["http", str(port), str(rate)], bytes(script))


def send_by_websocket(port: int, length: int, ticket: str) -> Sent:
    """One file, by the protocol of 0.1, until ``MsgAllDone``."""
    return _run(["websocket", str(port), str(length), ticket], b"")


def _run(arguments: Sequence[str], script: bytes) -> Sent:
    done = subprocess.run([compiled("load"), *arguments], input=script, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator: {done.stderr.decode(errors='replace')} (code {done.returncode})")
    return Sent(**json.loads(done.stdout))
