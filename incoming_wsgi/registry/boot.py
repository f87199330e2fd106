"""The boot of this machine: another one after a power cut."""

from __future__ import annotations

from pathlib import Path


def boot_id_of_machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"  # no Linux: a power cut can't be told from a restart
