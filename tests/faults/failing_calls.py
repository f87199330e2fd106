"""Campaign: each call of an engine on a file of its own fails, once, with each error that fits it.

Which calls there are is not written down here: a whole life of an engine is run under strace, which tells. Then it is
lived again and again, each time with another call that strace lets fail. What strace can't do are short writes: a call
that it lets succeed is not made at all. They happen in Python's own ``pwritev`` and ``splice``, by which the bytes of
uploads are written, patched in the process; SQLite's writes fail, but are never short. Calls of ``close`` are left
alone, for the same reason: one that is not made leaves a descriptor open.

The short form fails each call that changes or syncs something, or opens a file, with one of the errors; of the same
calls on one file with no lock taken in between, as a transaction makes them, one. Of the locks and the looks it takes a
part. The seed chooses. The long form takes each call with each error.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from incoming_wsgi.upload import is_ticket

from . import system_calls
from .call_errors import Call, Failure, calls_of, fail
from .dying import live
from .laboratory import Campaign, Case
from .story import Story
from .whole_life import OVER, live_through, whole_life

_FULL_DISK = ("ENOSPC", "EDQUOT")

#: What each system call may fail with.
_CHANGES = {
    "openat": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "pwrite64": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "pwritev2": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "splice": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "write": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "sendfile": ("EIO", "ENOSPC", "EDQUOT"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("EIO", "ENOSPC", "EDQUOT"),
    "link": ("EIO", "ENOSPC", "EDQUOT"),
    "mkdir": ("EIO", "ENOSPC", "EDQUOT"),
    "unlink": ("EIO",),
    "ftruncate": ("EIO", "EINTR"),
    "fallocate": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "fchmod": ("EIO",),
    "chmod": ("EIO",),
    "fchown": ("EIO",),
    "utimensat": ("EIO",),
}
_LOOKS = {
    "flock": ("EIO", "ENOLCK", "EINTR"),
    "fcntl": ("EIO", "ENOLCK"),
    "newfstatat": ("EIO",),
    "pread64": ("EIO", "EINTR"),
    "read": ("EIO", "EINTR"),
    "getdents64": ("EIO",),
    "lseek": ("EIO",),
    "mmap": ("ENOMEM",),
}
#: Not made to fail: see above, and what asks for no file; ``readlink`` is ours.
_LEFT_ALONE = frozenset({"close", "ioctl", "statfs", "listxattr", "readlink"})

#: Those that nobody hears of: the call is made again, or goes on.
_SHORT_WRITE = "a short write"
_NOT_FELT = frozenset({"EINTR", _SHORT_WRITE})

#: Where the bytes of uploads are while they come in.
_ARRIVING = "engine/arriving/"

_MISSED = "none: another call was met"

_PARTS = 48  # of all there is to be done, for as many cases
_MOST_ERRORS = 5  # of one call; the long form has so many rounds
_SAMPLE = 0.05  # how likely the short form lets one of the locks and looks fail

#: What lies beside the engine's own files in the folder of a life.
_OURS = ("witness", "log")


def case(case: Case) -> None:
    broken: list[str] = []
    for fsync in (False, True):
        calls = _calls(case.folder, fsync=fsync)
        for failure in _long_part(case, calls) if case.full else _short_part(case, calls):
            began = time.monotonic()
            life = case.folder / f"life {len(broken) + 1}"  # it stays there if it fails
            try:
                _live_with(case, failure, calls, whole_life(life, fsync=fsync))
            except AssertionError as error:
                broken.append(f"{life.name}, {_in_words(failure, fsync=fsync)}:\n{error}")
            else:
                shutil.rmtree(life)
            case.measured("a life, in seconds", time.monotonic() - began)
    assert not broken, "\n".join(broken)
    assert case.injections[_MISSED] <= case.injections.total() / 10, "the calls of a life are others each time"


def _in_words(failure: Failure, *, fsync: bool) -> str:
    call, mode = failure.call, "fsync" if fsync else "process"
    return f"{failure}, number {call.nth} of its kind, on {call.path}, in {mode} mode"


# -- what is to fail --------------------------------------------------------------------------------------------

#: In each process of the laboratory: those of a whole life in each of the two modes.
_known: dict[bool, tuple[Call, ...]] = {}


def _calls(folder: Path, *, fsync: bool) -> tuple[Call, ...]:
    """The calls of a whole life that can be made to fail, in order."""
    if fsync not in _known:
        story = whole_life(folder / "first life", fsync=fsync)
        story.folder.mkdir()
        calls = calls_of(lambda: live_through(story), story.folder, story.folder / "log", rf"\"{OVER}\"")
        calls = [call for call in calls if not call.path.startswith(_OURS)]
        unknown = {call.name for call in calls} - _CHANGES.keys() - _LOOKS.keys() - _LEFT_ALONE
        assert not unknown, f"nobody has said how these may fail: {unknown}"
        _known[fsync] = tuple(call for call in calls if call.name not in _LEFT_ALONE)
        shutil.rmtree(story.folder)
    return _known[fsync]


def _short_part(case: Case, calls: Sequence[Call]) -> Iterator[Failure]:
    changes = [call for call in _without_repetitions(calls, case) if call.name in _CHANGES]
    looks = [call for call in calls if call.name in _LOOKS]
    for call in _part(changes, case) + [call for call in _part(looks, case) if case.random.random() < _SAMPLE]:
        yield Failure(call, case.random.choice(_errors(call)))
        if _is_write_of_bytes(call):
            yield Failure(call, _SHORT_WRITE)


def _long_part(case: Case, calls: Sequence[Call]) -> Iterator[Failure]:
    number = case.number // _PARTS % _MOST_ERRORS
    for call in _part(calls, case):
        errors = (*_errors(call), _SHORT_WRITE) if _is_write_of_bytes(call) else _errors(call)
        if number < len(errors):
            yield Failure(call, errors[number])


def _part(calls: Sequence[Call], case: Case) -> list[Call]:
    return list(calls[case.number % _PARTS :: _PARTS])


def _without_repetitions(calls: Sequence[Call], case: Case) -> Iterator[Call]:
    """Of the same calls on the same file, with no lock between them, any one."""
    for _, between in groupby(calls, key=lambda call: call.name == "flock"):
        alike: dict[tuple[str, str], list[Call]] = defaultdict(list)
        for call in between:
            alike[call.name, call.path].append(call)
        yield from map(case.random.choice, alike.values())


def _errors(call: Call) -> tuple[str, ...]:
    return (_CHANGES | _LOOKS)[call.name]


def _is_write_of_bytes(call: Call) -> bool:
    """Whether it is one of Python's, and writes bytes of an upload."""
    return call.name in ("pwritev2", "splice") and call.path.startswith(_ARRIVING)


# -- a life in which it fails -----------------------------------------------------------------------------------


def _live_with(case: Case, failure: Failure, calls: Sequence[Call], story: Story) -> None:
    story.folder.mkdir()
    failed = _live(story, failure, calls)
    if failed is None or _file(failed) != _file(failure.call):
        case.injected(_MISSED)
    else:
        case.injected(str(failure))
        _judge(story, replace(failure, call=failed))


def _live(story: Story, failure: Failure, calls: Sequence[Call]) -> Call | None:
    log = story.folder / "log"
    if failure.error != _SHORT_WRITE:
        return fail(failure, lambda: live_through(story), story.folder, log)
    number = [call for call in calls if _is_write_of_bytes(call)].index(failure.call) + 1
    live(lambda: live_through(story, short_write=number), log)
    return failure.call


def _file(call: Call) -> list[str]:
    """As far as it is the same in each life: traces of processes bear their numbers."""
    return call.path.split("/")[:2]


def _judge(story: Story, failure: Failure) -> None:
    """What must hold besides what the life itself has seen to."""
    witness = story.witness()
    refused = list(witness.told("refused"))
    taken_back = list(witness.told("taken back"))
    witness.close()
    assert failure.error not in _NOT_FELT or not refused, f"nobody should have felt it: {refused}"
    if not _is_of_a_sync(failure.call):
        assert not taken_back, "only a failed sync takes bytes back"
        if failure.error in _FULL_DISK and failure.call.path.startswith(_ARRIVING):
            assert all(fact["error"] == "NoSpace" for fact in refused), refused
    ticket = Path(failure.call.path).name
    if is_ticket(ticket):
        others = [fact for fact in (*refused, *taken_back) if fact["id"] not in ("", ticket)]
        assert not others, f"trouble for others than {ticket}: {others}"


def _is_of_a_sync(call: Call) -> bool:
    """The folder is opened to be synced, too."""
    return call.name in ("fsync", "fdatasync") or call.path == "engine/arriving"


CAMPAIGN = Campaign(
    name="failing-calls",
    about="each file call of an engine fails once, by a full, failing or interrupting disk: nothing is lost, all go on",
    case=case,
    short=_PARTS,
    full=_PARTS * _MOST_ERRORS * 2,
    missing=system_calls.missing,
    in_memory=True,
)
