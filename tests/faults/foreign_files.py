"""Campaign: what is not ours lies in our folders, and survives everything that we do there."""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias
from unittest import mock

from incoming_wsgi import offload
from incoming_wsgi.upload import new_ticket
from tests.helpers import CLOCKED, Clock, Engine

from .laboratory import Campaign, Case
from .story import at_once

_STARTS = 100
_OF_EACH_KIND = 8

#: What is known of a foreign file: its kind and mode, owner, size, time of its last change, and its content.
Facts: TypeAlias = tuple[object, ...]


def case(case: Case) -> None:
    engine_folder, outside = case.folder / "engine", case.folder / "outside"
    with _one_process() as clock:
        Engine(engine_folder).close()
        ours = _look(engine_folder).keys() | {engine_folder}
        _make_outside(outside, case.random)
        _scatter(case, engine_folder, outside)
        before = {path: facts for path, facts in _look(case.folder).items() if path not in ours}
        for start in range(_STARTS):
            _live(engine_folder, clock, case.random)
            _compare(before, _look(case.folder), start)
    left = _look(engine_folder).keys() - before.keys() - ours
    assert not left, f"ours are left: {left}"
    case.measured("foreign files", len(before))


@contextmanager
def _one_process() -> Iterator[Clock]:
    clock = Clock()
    with mock.patch.object(offload, "background", at_once):
        patches = [mock.patch.object(module, "time", clock) for module in CLOCKED]
        for patch in patches:
            patch.start()
        try:
            yield clock
        finally:
            for patch in patches:
                patch.stop()


# -- what is not ours -------------------------------------------------------------------------------------------


def _make_outside(folder: Path, chance: random.Random) -> None:
    """What links lead to."""
    folder.mkdir()
    (folder / "precious").write_bytes(chance.randbytes(1000))
    (folder / "precious").chmod(0o600)
    (folder / "folder").mkdir()
    (folder / "folder" / new_ticket()).write_bytes(b"looks like one of ours")


def _scatter(case: Case, engine_folder: Path, outside: Path) -> None:
    chance = case.random
    folders = [engine_folder, *(path for path in engine_folder.iterdir() if path.is_dir())]
    for make in (_file, _folder, _link, _dead_link, _socket, _fifo):
        for _ in range(_OF_EACH_KIND):
            parent = chance.choice(folders)
            path = parent / _name(parent, engine_folder, chance)
            with suppress(FileExistsError):  # the same name twice
                make(path, outside, chance)
                case.injected(f"{make.__name__.strip('_').replace('_', ' ')} in {parent.name}")
    for parent in folders:
        for path in parent.iterdir():
            if chance.random() < 0.5:
                moment = chance.uniform(0, 2e9)  # long ago, or yet to come
                os.utime(path, (moment, moment), follow_symlinks=False)


def _name(parent: Path, engine_folder: Path, chance: random.Random) -> str:
    ticket = new_ticket()
    names = [
        ticket.upper(),
        f"{ticket}.bak",
        f"{ticket}~",
        f".{ticket}",
        f"{ticket}-1",
        ticket[:-1],
        ticket.replace("-", ""),
        f"{{{ticket}}}",
        "registry.sqlite3.bak",
        "registry.sqlite3-journal.old",
        "registry.sqlite3.lock.old",
        f".{chance.randrange(10**6)}",
        f"{chance.randrange(10**6)}",
        f"{chance.randrange(10**6)}-notes",
        "lost+found",
        "präsentation\n.pdf",
        "-rf",
        "x" * 200,
    ]
    if parent == engine_folder:
        names.append(ticket)  # our own pattern, but not where ours are
    return chance.choice(names)


def _file(path: Path, outside: Path, chance: random.Random) -> None:
    with path.open("xb") as file:
        file.write(chance.randbytes(chance.choice((0, 10, 5000))))
    path.chmod(chance.choice((0o400, 0o640, 0o777, 0)))


def _folder(path: Path, outside: Path, chance: random.Random) -> None:
    path.mkdir()
    for name in (new_ticket(), "registry.sqlite3", "notes"):
        (path / name).write_bytes(chance.randbytes(100))
    path.chmod(chance.choice((0o700, 0o755, 0o500)))


def _link(path: Path, outside: Path, chance: random.Random) -> None:
    path.symlink_to(outside / chance.choice(("precious", "folder")))


def _dead_link(path: Path, outside: Path, chance: random.Random) -> None:
    path.symlink_to(outside / "nowhere")


def _socket(path: Path, outside: Path, chance: random.Random) -> None:
    if os.path.lexists(path):
        raise FileExistsError
    short = outside / "socket"  # where it is made: its own path may be too long for that
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(short))
    short.rename(path)


def _fifo(path: Path, outside: Path, chance: random.Random) -> None:
    os.mkfifo(path, 0o600)


# -- what we do there -------------------------------------------------------------------------------------------


def _live(folder: Path, clock: Clock, chance: random.Random) -> None:
    """A start, some uploads in all ways that they can end, every clean-up, and a close."""
    engine = Engine(folder)
    engine.app.acts = lambda notice: os.unlink(notice.path) if notice.path and chance.random() < 0.3 else None
    engine.send(engine.ticket(), chance.randbytes(100))
    engine.send(engine.ticket(), b"")
    with engine.open(cancelled := engine.ticket(), 10) as session:
        session.write(0, b"12345")
        session.sync()
    engine.receiver.cancel(cancelled, "no more")
    engine.open(engine.ticket(), 10).close()  # it will expire
    for seconds in (0.0, 7200.0, 2 * 86400.0):
        clock.advance(seconds)
        engine.receiver.sweep()
        engine.receiver._outbox._deliver_due()
        engine.registry.maintain()
    assert engine.receiver.find() == []
    engine.close()


# -- before and after -------------------------------------------------------------------------------------------


def _compare(before: Mapping[Path, Facts], after: Mapping[Path, Facts], start: int) -> None:
    gone = [path for path in before if path not in after]
    assert not gone, f"gone after start {start}: {gone}"
    changed = [(path, facts, after[path]) for path, facts in before.items() if after[path] != facts]
    assert not changed, f"changed after start {start}: {changed}"


def _look(folder: Path) -> Mapping[Path, Facts]:
    """All that is in a folder; links are not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            found[path] = _facts(path)
    return found


def _facts(path: Path) -> Facts:
    status = path.lstat()
    known = (status.st_mode, status.st_uid, status.st_gid, status.st_ino, status.st_nlink, status.st_mtime_ns)
    if stat.S_ISLNK(status.st_mode):
        return (*known, os.readlink(path))
    if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
        return (*known, path.read_bytes())
    return known


CAMPAIGN = Campaign(
    name="foreign-files",
    about="100 starts and every clean-up among files, links, sockets and pipes that are not ours: none is touched",
    case=case,
    short=4,
    full=400,
    in_memory=True,
)
