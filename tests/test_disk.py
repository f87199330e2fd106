from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from incoming_wsgi.disk import sync_data


@pytest.mark.parametrize("system", ["Linux", "macOS", "another"])
def test_the_strongest_sync_that_a_system_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: done.append("Linux"), raising=False)
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, what: done.append("macOS" if what == 51 else "?"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append("another"))
    if system != "Linux":
        monkeypatch.delattr(os, "fdatasync")
    if system == "another":
        monkeypatch.delattr(fcntl, "F_FULLFSYNC")
    with (tmp_path / "file").open("w") as file:
        sync_data(file.fileno())
    assert done == [system]
