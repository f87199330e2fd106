"""Networks of their own, for clients and machines: each a namespace with one cable to us, that can be cut silently.

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
    """:param number: of this network among the eight of this process.

    :ivar name: of the namespace.
    :ivar address: of us, as seen from inside.
    :ivar inner_address: of whoever is inside.
    """

    def __init__(self, number: int) -> None:
        self.name = f"inc{os.getpid()}n{number}"
        self.address, self.inner_address = addresses(number)

    def __enter__(self) -> Network:
        ip("netns", "add", self.name)
        try:
            ip("link", "add", self.name, "type", "veth", "peer", "name", _PLUG, "netns", self.name)
            ip("address", "add", f"{self.address}/30", "dev", self.name)
            ip("link", "set", self.name, "up")
            self._inside("link", "set", "lo", "up")
            self._inside("address", "add", f"{self.inner_address}/30", "dev", _PLUG)
            self._inside("link", "set", _PLUG, "up")
            self._inside("route", "add", "default", "via", self.address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "delete", self.name)
        ip("netns", "delete", self.name)

    def enter(self) -> None:
        """From now on the sockets that this thread makes are on this network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/run/netns/{self.name}").open("rb") as namespace:
            if libc.setns(namespace.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), "this thread can't enter the network")

    def cut(self, how: str) -> None:
        """Let nothing through any more; ``how`` is one of :data:`CUTS`."""
        CUTS[how](self)

    def mend(self) -> None:
        for forget in (self._inside, ip):
            address, end = (self.address, _PLUG) if forget == self._inside else (self.inner_address, self.name)
            with contextlib.suppress(subprocess.CalledProcessError):
                forget("neighbour", "delete", address, "dev", end)
        self._inside("link", "set", _PLUG, "up")
        self._inside("route", "replace", "default", "via", self.address)  # it goes with the link

    def _pull_the_plug(self) -> None:
        self._inside("link", "set", _PLUG, "down")

    def _lose_to_us(self) -> None:
        self._inside("neighbour", "replace", self.address, "lladdr", _NOBODY, "dev", _PLUG, "nud", "permanent")

    def _lose_both(self) -> None:
        self._lose_to_us()
        ip("neighbour", "replace", self.inner_address, "lladdr", _NOBODY, "dev", self.name, "nud", "permanent")

    def _inside(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    @contextlib.contextmanager
    def cut_off_from(self, address: str) -> Iterator[None]:
        """Meanwhile nothing that one of our addresses sends gets here."""
        rule = ("from", address, "to", self.inner_address, "blackhole")
        ip("rule", "add", *rule)
        try:
            yield
        finally:
            ip("rule", "delete", *rule)


@contextlib.contextmanager
def own_address(number: int) -> Iterator[str]:
    """One more address of ours, which all networks reach.

    :param number: as of a network.
    """
    address, _ = addresses(number)
    ip("address", "add", f"{address}/32", "dev", "lo")
    try:
        yield address
    finally:
        ip("address", "delete", f"{address}/32", "dev", "lo")


CUTS: Mapping[str, Callable[[Network], None]] = {
    "the link of the client is down": Network._pull_the_plug,
    "packets are lost both ways": Network._lose_both,
    "packets to the server are lost": Network._lose_to_us,
}


def ip(*arguments: str) -> None:
    """:raises subprocess.CalledProcessError: it could not be done."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def addresses(number: int) -> tuple[str, str]:
    """The outer and the inner one; of 198.18.0.0/15, which is for tests (RFC 2544)."""
    first = (198 << 24) + (18 << 16) + (os.getpid() % 2**12 * 8 + number) * 4
    return _dotted(first + 1), _dotted(first + 2)


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
