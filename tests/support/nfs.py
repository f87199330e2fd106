"""A real NFS server with two client machines, in a kernel of its own: a user-mode Linux, a process like others.

It needs no rights, sees the files of this machine, can write none of them, and is gone afterwards.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import need

from .processes import ROOT

_GUEST = Path(__file__).parent / "nfs_guest.sh"

#: What the guest calls: it has the programs of this machine.
_PROGRAMS = ("modprobe", "ip", "nsenter", "unshare", "mkfs.ext4", "exportfs", "rpc.nfsd", "rpc.mountd", "mount.nfs")


@dataclass(frozen=True)
class Outcome:
    """How a command ended in the guest, -1 where it was killed, and all that was said there."""

    status: int
    said: str


def run_beside_nfs(folder: Path, *arguments: str, env: Mapping[str, str], seconds: float) -> Outcome:
    """Run Python with some arguments in the guest, where ``SHARED_FOLDERS`` are what two machines have mounted.

    :param folder: for what the guest is to read.
    :param env: what the guest is to know besides.
    :param seconds: for all of it.
    """
    linux = need("linux.uml")
    for program in _PROGRAMS:
        need(program)
    script = folder / "command.sh"  # a command line of the kernel's knows no quotes
    command = ["env", *(f"{name}={value}" for name, value in env.items()), sys.executable, *arguments]
    script.write_text(f"cd {shlex.quote(str(ROOT))} && {shlex.join(command)}\n")
    kernel = [linux, "mem=1G", "quiet", "con=null", "con0=null,fd:1"]
    system = ["rootfstype=hostfs", "rootflags=/", "ro", f"init={_GUEST}", f"SCRIPT={script}"]
    guest = subprocess.Popen(
        [*kernel, *system],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    killer = threading.Timer(seconds, os.killpg, (guest.pid, signal.SIGKILL))
    killer.start()
    try:
        said = guest.communicate()[0].decode(errors="replace").replace("\r", "")
    finally:
        killer.cancel()
        if guest.poll() is None:
            os.killpg(guest.pid, signal.SIGKILL)
    if "machines are up" not in said:
        pytest.skip(f"no user-mode Linux with NFS can be run: {said[-1000:]}")
    ended = re.search(r"^ended with (\d+)$", said, re.MULTILINE)
    return Outcome(int(ended[1]) if ended else -1, said)
