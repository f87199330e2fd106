"""Clients on a network of their own: a namespace with one cable to us, that can be cut without a word to the other end.

Linux only, for root.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of setns(2)
_NOBODY = "02:00:00:00:00:01"  # a hardware address that nobody has: what is sent there is lost
_PLUG = "plug"  # the name of the inner end of each cable


class Network:
    """:param number: of this network among those of this process.

    :ivar address: of us, as seen from inside.
    """

    def __init__(self, number: int) -> None:
        self._name = f"inc{os.getpid()}n{number}"
        first = (198 << 24) + (18 << 16) + (os.getpid() % 2**13 * 4 + number) * 4  # of 198.18.0.0/15, for tests
        self.address, self._inner_address = _dotted(first + 1), _dotted(first + 2)

    def __enter__(self) -> Network:
        ip("netns", "add", self._name)
        try:
            ip("link", "add", self._name, "type", "veth", "peer", "name", _PLUG, "netns", self._name)
            ip("address", "add", f"{self.address}/30", "dev", self._name)
            ip("link", "set", self._name, "up")
            self._inside("address", "add", f"{self._inner_address}/30", "dev", _PLUG)
            self._inside("link", "set", _PLUG, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "delete", self._name)
        ip("netns", "delete", self._name)

    def enter(self) -> None:
        """From now on the sockets that this thread makes are on this network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self._name}").open("rb") as namespace:
            if libc.setns(namespace.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "this thread can't enter the network")

    def cut(self, how: str) -> None:
        """Let nothing through any more; ``how`` is one of :data:`CUTS`."""
        CUTS[how](self)

    def mend(self) -> None:
        for forget in (self._inside, ip):
            address, end = (self.address, _PLUG) if forget == self._inside else (self._inner_address, self._name)
            with contextlib.suppress(subprocess.CalledProcessError):
                forget("neighbour", "delete", address, "dev", end)
        self._inside("link", "set", _PLUG, "up")

    def _pull_the_plug(self) -> None:
        self._inside("link", "set", _PLUG, "down")

    def _lose_to_us(self) -> None:
        self._inside("neighbour", "replace", self.address, "lladdr", _NOBODY, "dev", _PLUG, "nud", "permanent")

    def _lose_both(self) -> None:
        self._lose_to_us()
        ip("neighbour", "replace", self._inner_address, "lladdr", _NOBODY, "dev", self._name, "nud", "permanent")

    def _inside(self, *arguments: str) -> None:
        ip("-n", self._name, *arguments)


CUTS: Mapping[str, Callable[[Network], None]] = {
    "the link of the client is down": Network._pull_the_plug,
    "packets are lost both ways": Network._lose_both,
    "packets to the server are lost": Network._lose_to_us,
}


def ip(*arguments: str) -> None:
    """:raises subprocess.CalledProcessError: it could not be done."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _dotted(address: int) -> str:
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


@functools.cache
def missing() -> str:
    """What this machine lacks for networks; empty when there is nothing."""
    if shutil.which("ip") is None:
        return "the command ip is not installed"
    try:
        with _tried():
            return ""
    except (OSError, subprocess.CalledProcessError):
        return "no network namespaces can be made here (they need root)"


@contextlib.contextmanager
def _tried() -> Iterator[None]:
    with Network(3):
        yield
