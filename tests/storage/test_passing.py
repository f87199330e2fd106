"""A digest of what passes: in order, whatever the threads do, and no further than what counts in the end."""

from __future__ import annotations

import random
import threading
from hashlib import md5, sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi import offload
from incoming_wsgi.storage.claims import Stored
from incoming_wsgi.storage.gathering import Gathered
from incoming_wsgi.storage.parts import MIB, Part, Plan
from incoming_wsgi.storage.passing import PassingDigest
from tests.support.waiting import eventually

PART = 5 * MIB
PLAN = Plan(PART, 5 * PART + 100)
DATA = random.Random(12).randbytes(5 * PART + 100)
PARTS = tuple(PLAN.parts(len(DATA)))
ETAGS = {part.number: md5(DATA[part.start : part.end], usedforsecurity=False).hexdigest() for part in PARTS}
ALL = frozenset(ETAGS)


def run_of(part: Part) -> Gathered:
    run = Gathered(part, part.start)
    run.add(memoryview(DATA)[part.start : part.end])
    return run


def hashed(passing: PassingDigest, part: Part) -> None:
    run = run_of(part)
    passing.hash(run)
    passing.stored(Stored(part, ETAGS[part.number]))
    run.release()


def test_all_of_it_whichever_thread_is_first() -> None:
    passing = PassingDigest()
    assert all(passing.follows(part) for part in PARTS)
    threads = [threading.Thread(target=hashed, args=(passing, part)) for part in reversed(PARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    size, digest = passing.of(ETAGS, ALL)
    assert (size, digest.digest()) == (len(DATA), sha256(DATA).digest())


@given(
    st.permutations(PARTS),
    st.dictionaries(st.sampled_from(sorted(ALL)), st.sampled_from(["other bytes", "another owner", "twice"])),
)
def test_no_further_than_what_counts(order: list[Part], doubts: dict[int, str]) -> None:
    """In whatever order parts come: those that follow the last one are hashed."""
    passing, etags, sure = PassingDigest(), dict(ETAGS), set(ALL)
    reached = 0
    for part in order:
        if passing.follows(part):
            assert part.start == reached
            reached = part.end
            hashed(passing, part)
    for number, doubt in doubts.items():
        if doubt == "other bytes":
            etags[number] = "another"
        elif doubt == "another owner":
            sure.discard(number)
        else:
            passing.stored(Stored(PLAN.numbered(number), "another"))
            passing.stored(Stored(PLAN.numbered(number), ETAGS[number]))
    size, digest = passing.of(etags, sure)
    sure_end = PLAN.numbered(min(doubts)).start if doubts else len(DATA)
    assert size == min(reached, sure_end)
    assert digest.digest() == sha256(DATA[:size]).digest()


def test_trouble_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    passing, waiting = PassingDigest(), threading.Event()
    assert passing.follows(PARTS[0])
    assert passing.follows(PARTS[1])

    def second() -> None:
        waiting.set()
        passing.hash(run_of(PARTS[1]))

    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(10)

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(offload, "run", no_memory)
        with pytest.raises(MemoryError):
            passing.hash(run_of(PARTS[0]))
    eventually(lambda: not thread.is_alive())
    assert not passing.follows(PARTS[2])
    assert passing.of(ETAGS, ALL)[0] == 0
