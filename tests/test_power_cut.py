"""What a power cut, or a disk that fails at a sync, takes back; and that what is handed over is whole all the same.

A power cut is another boot id, and zeros in the file where nobody had synced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi import watermark
from incoming_wsgi.delivery.handover import Outcome
from incoming_wsgi.errors import Damaged, Replaced, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import State
from tests.support.waiting import eventually

from .helpers import Engine, lane_of

DATA = random.Random(11).randbytes(100_000)
DIGEST = hashlib.sha256(DATA).hexdigest()

Boot = Callable[..., Engine]


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    """Starts the machine: gives an engine under that boot id, on the same folder."""
    engines: list[Engine] = []

    def make(boot_id: str, **options: Any) -> Engine:
        engines.append(Engine(tmp_path, boot_id=boot_id, **options))
        return engines[-1]

    yield make
    for engine in engines:
        if engine not in _off:
            engine.close()
    _off.clear()


#: Engines that are not to be closed again.
_off: list[Engine] = []


def power_off(engine: Engine) -> None:
    """From now on others can tell that this process is dead."""
    engine.close()
    _off.append(engine)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files and folders that are synced, and of what is renamed, in order."""
    done: list[str] = []

    def noted(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            is_upload = path.parent.name in ("arriving", "complete")
            done.append(path.parent.name if is_upload else path.name)
            call(descriptor)

        return sync

    rename = os.rename

    def noted_rename(source: str | Path, target: str | Path) -> None:
        if Path(source).parent.name == "arriving":
            done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted(os.fsync))
    monkeypatch.setattr(os, "fdatasync", noted(os.fdatasync))
    monkeypatch.setattr(os, "rename", noted_rename)
    return done


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The next sync of a file of ours fails, as it does when the kernel could not write; the one after it would not."""
    fdatasync = os.fdatasync

    def fail_once() -> None:
        def fail(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                monkeypatch.setattr(os, "fdatasync", fdatasync)
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fdatasync", fail)

    return fail_once


def zeros(engine: Engine, ticket: str, start: int, end: int) -> None:
    """What a file system may have, after a power cut, where bytes were written and not synced."""
    with engine.arriving(ticket).open("r+b") as file:
        file.seek(start)
        file.write(bytes(end - start))


# -- process mode -----------------------------------------------------------------------------------------------


def test_a_restart_takes_nothing_back(boot: Boot) -> None:
    before, after = boot("one"), boot("one")
    ticket = before.ticket()
    with before.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:60_000])
        session.sync()
    assert after.receiver.status(ticket).offset == 60_000


def test_after_a_power_cut_only_what_was_synced_counts(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark, "STEP", 10_000)
    before = boot("one")
    ticket = before.ticket()
    with before.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:60_000])
        session.sync()
        eventually(lambda: before.receiver.status(ticket).synced == Extents().add(0, 60_000))
        monkeypatch.setattr(watermark, "STEP", 10**9)
        session.write(60_000, DATA[60_000:90_000])
        session.sync()
        assert before.receiver.status(ticket).offset == 90_000
    zeros(before, ticket, 60_000, 90_000)
    after = boot("two")
    after.start()
    assert after.receiver.status(ticket).offset == 60_000
    with after.open(ticket, len(DATA)) as session:
        assert session.upload.offset == 60_000
        session.write(60_000, DATA[60_000:])
        after.receiver.complete(session.sync())
    assert after.until(ticket, State.FINISHED).sha256 == DIGEST


def test_how_far_it_is_synced_is_itself_synced(boot: Boot, syncs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut takes the record, or even the ticket, and with it all that was on the disk."""
    monkeypatch.setattr(watermark, "STEP", 10_000)
    engine = boot("one")
    ticket = engine.ticket()
    syncs.clear()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:60_000])
        session.sync()
        eventually(lambda: engine.receiver.status(ticket).synced)
        eventually(lambda: syncs == ["arriving", "arriving", "registry.sqlite3-wal"], timeout=5)


def test_bytes_that_come_after_the_power_cut_count(boot: Boot) -> None:
    before = boot("one")
    ticket = before.ticket()
    with before.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:60_000])
        session.sync()
    after = boot("two")
    with after.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:10])
        session.sync()
    assert after.receiver.status(ticket).extents == Extents().add(0, 10)
    assert boot("two").receiver.status(ticket).extents == Extents().add(0, 10)


def test_all_bytes_were_there_and_none_was_synced(boot: Boot) -> None:
    """The upload is open again, and the file that the app gets is the right one."""
    before = boot("one")
    ticket = before.ticket()
    with before.open(ticket, len(DATA)) as session:
        session.write(0, DATA)
        session.sync()
    zeros(before, ticket, 0, len(DATA))
    after = boot("two")
    after.start()
    after.receiver.sweep()
    assert after.state(ticket) is State.RECEIVING
    assert after.receiver.status(ticket).received == 0
    after.send(ticket, DATA)
    assert after.until(ticket, State.FINISHED).sha256 == DIGEST


def test_the_power_went_while_it_was_completed(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    """``completing`` was recorded, but the bytes did not get onto the disk: they are owed again."""
    before = boot("one")
    monkeypatch.setattr(before.receiver, "_roll_forward_in_background", lambda upload: None)
    ticket = before.ticket()
    session = before.open(ticket, len(DATA))
    session.write(0, DATA)
    before.receiver.complete(session.sync())
    power_off(before)
    zeros(before, ticket, 0, len(DATA))
    after = boot("two")
    after.start()
    after.receiver.sweep()
    after.until(ticket, State.RECEIVING)
    assert after.receiver.status(ticket).received == 0
    with pytest.raises(Unavailable, match="open it anew"):
        lane_of(after.receiver, ticket, session.token)
    after.send(ticket, DATA)
    assert after.until(ticket, State.FINISHED).sha256 == DIGEST
    assert [notice.upload.sha256 for notice in after.app.notices] == [DIGEST]


@pytest.mark.parametrize("step", ["complete", "deliver"])
def test_a_complete_file_is_hashed_again_after_a_power_cut(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A disk may say that it has synced, and have lied."""
    before, ticket = _cut_off(boot, monkeypatch, step)
    after = boot("two")
    stored = before.complete(ticket) if step == "deliver" else before.arriving(ticket)
    assert stored.read_bytes() == DATA
    stored.write_bytes(bytes(len(DATA)))
    after.start()
    after.receiver.sweep()
    assert "SHA-256" in after.until(ticket, State.DAMAGED).reason
    assert not after.app.notices
    assert stored.exists()
    assert after.registry.due(ticket) is None
    with pytest.raises(Damaged):
        after.open(ticket, len(DATA))


@pytest.mark.parametrize("step", ["complete", "deliver"])
def test_a_complete_file_that_came_through_is_handed_over(
    boot: Boot, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _, ticket = _cut_off(boot, monkeypatch, step)
    after = boot("two")
    after.start()
    after.receiver.sweep()
    assert after.until(ticket, State.FINISHED).sha256 == DIGEST


def _cut_off(boot: Boot, monkeypatch: pytest.MonkeyPatch, step: str) -> tuple[Engine, str]:
    """An engine whose power goes when an upload is synced and recorded, before its rename or its delivery."""
    before = boot("one")
    if step == "complete":
        monkeypatch.setattr(before.storage, "complete", _no_power)
    ticket = before.ticket()
    before.send(ticket, DATA)  # the outbox of this engine is not started
    synced = Extents().add(0, len(DATA))
    ready = State.COMPLETING if step == "complete" else State.HANDING_OVER
    eventually(lambda: before.receiver.status(ticket).synced == synced and before.state(ticket) is ready)
    eventually(lambda: ticket not in before.receiver._completing)
    power_off(before)
    return before, ticket


def _no_power(*_: object) -> str:
    raise Unavailable("there is no power")


def test_what_the_app_took_before_the_power_cut(boot: Boot) -> None:
    """It said `wait`, and has taken the file away: nothing is left to be hashed, and it hears of it again."""
    before = boot("one", wait=0.01)
    before.app.answers = [Outcome("wait")]
    before.app.acts = lambda notice: os.unlink(notice.path)
    before.start()
    ticket = before.ticket()
    before.send(ticket, DATA)
    before.until(ticket, State.WAITING_FOR_APP)
    power_off(before)
    after = boot("two")
    after.start()
    after.until(ticket, State.FINISHED)


def test_the_order_in_which_things_reach_the_disk(boot: Boot, syncs: list[str]) -> None:
    """The ticket; data, the record that they are complete, the name, the record that the app is to be told."""
    engine = boot("one")
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    engine.until(ticket, State.FINISHED)
    log = "registry.sqlite3-wal"
    assert syncs[:-1] == [log, "arriving", "arriving", log, "rename", "arriving", "complete", log]
    assert syncs[-1] == log, "that the app is done is on the disk before the file is removed"
    eventually(lambda: not engine.complete(ticket).exists())


def test_the_order_for_a_small_file_in_one_piece(boot: Boot, syncs: list[str]) -> None:
    """Its record waits for the next one: until then it is a ticket, and can be sent once more."""
    engine = boot("one")
    engine.start()
    ticket = engine.ticket()
    assert engine.receiver.take_whole(ticket, DATA, name="small.bin") is not None
    engine.until(ticket, State.FINISHED)
    log = "registry.sqlite3-wal"
    assert syncs == [log, "arriving", "arriving", "rename", "arriving", "complete", log, log]
    eventually(lambda: not engine.complete(ticket).exists())


def test_the_power_went_before_the_record_of_a_small_file_was_on_the_disk(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in its place, and nobody knows: it is sent once more, be it another file."""
    before = boot("one")
    before.start()
    ticket = before.ticket(remove_file_when_finished=False)
    other = DATA[::-1]
    before.complete(ticket).write_bytes(other)
    power_off(before)
    after = boot("two")
    after.start()
    assert after.receiver.take_whole(ticket, DATA, name="small.bin") is not None
    upload = after.until(ticket, State.FINISHED)
    assert upload.sha256 == hashlib.sha256(DATA).hexdigest()
    assert after.complete(ticket).read_bytes() == DATA


def test_the_power_went_while_a_small_file_was_put_into_its_place(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    before = boot("one")
    before.start()
    ticket = before.ticket(remove_file_when_finished=False)
    with monkeypatch.context() as patch:
        patch.setattr(before.receiver, "_give_away", lambda upload: None)
        claimed = before.receiver.take_whole(ticket, DATA, name="small.bin")
    assert claimed is not None
    assert claimed.state is State.COMPLETING
    power_off(before)
    after = boot("two")
    after.start()
    assert after.until(ticket, State.FINISHED).sha256 == claimed.sha256
    assert after.complete(ticket).read_bytes() == DATA


# -- a disk that fails ------------------------------------------------------------------------------------------


def test_a_failed_sync_at_the_end_takes_the_bytes_back(boot: Boot, failing_disk: Callable[[], None]) -> None:
    """Trying it again would succeed, and prove nothing: the kernel has forgotten what it could not write."""
    engine = boot("one")
    engine.start()
    ticket = engine.ticket()
    failing_disk()
    engine.send(ticket, DATA)
    eventually(lambda: engine.receiver.status(ticket).taken_back)
    assert engine.state(ticket) is State.RECEIVING
    assert engine.receiver.status(ticket).received == 0
    zeros(engine, ticket, 0, len(DATA))
    engine.send(ticket, DATA)
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST


def test_a_failed_sync_in_the_middle_takes_the_bytes_back(
    boot: Boot, failing_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watermark, "STEP", 10_000)
    monkeypatch.setattr("incoming_wsgi.digests._BEHIND", 1000)
    engine = boot("one")
    engine.start()
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:20_000])
        session.sync()
        eventually(lambda: engine.receiver.status(ticket).synced == Extents().add(0, 20_000))
        eventually(lambda: engine.registry.digest(ticket))
        failing_disk()
        session.write(20_000, DATA[20_000:50_000])
        session.sync()
        eventually(lambda: engine.receiver.status(ticket).taken_back)
        with pytest.raises(Unavailable, match="open it anew"):
            session.write(50_000, DATA[50_000:])
    assert engine.receiver.status(ticket).extents == Extents().add(0, 20_000)
    assert engine.registry.digest(ticket) is None
    zeros(engine, ticket, 20_000, 50_000)
    with engine.open(ticket, len(DATA)) as session:
        session.write(20_000, DATA[20_000:])
        engine.receiver.complete(session.sync())
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST


# -- fsync mode -------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_has_been_synced(boot: Boot, syncs: list[str]) -> None:
    engine = boot("one", fsync=True)
    ticket = engine.ticket()
    log = "registry.sqlite3-wal"
    assert syncs == [log], "the ticket"
    with engine.open(ticket, len(DATA)) as session:
        assert syncs[1:] == ["arriving", "arriving", log], "file, folder and record"
        syncs.clear()
        session.write(0, DATA[:60_000])
        session.sync()
        assert syncs == ["arriving", log]
    after = boot("two", fsync=True)
    assert after.receiver.status(ticket).offset == 60_000


def test_bytes_that_could_not_be_synced_are_not_acknowledged(boot: Boot, failing_disk: Callable[[], None]) -> None:
    engine = boot("one", fsync=True)
    engine.start()
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:20_000])
        session.sync()
        session.write(20_000, DATA[20_000:50_000])
        failing_disk()
        with pytest.raises(Unavailable):
            session.sync()
        assert engine.receiver.status(ticket).offset == 20_000
        with pytest.raises(Unavailable):
            session.write(20_000, DATA[20_000:])
    with engine.open(ticket, len(DATA)) as session:
        session.write(20_000, DATA[20_000:])
        engine.receiver.complete(session.sync())
    assert engine.until(ticket, State.FINISHED).sha256 == DIGEST


def test_a_takeover_ends_a_lane_in_fsync_mode_too(boot: Boot) -> None:
    engine = boot("one", fsync=True)
    ticket = engine.ticket()
    with engine.open(ticket, len(DATA)) as old:
        old.write(0, DATA[:10])
        with engine.open(ticket, len(DATA)), pytest.raises(Replaced):
            old.sync()


def test_the_mode_can_be_changed(boot: Boot) -> None:
    """What arrived in process mode is not taken for synced in fsync mode."""
    before = boot("one")
    ticket = before.ticket()
    with before.open(ticket, len(DATA)) as session:
        session.write(0, DATA[:20_000])
        session.sync()
    with boot("one", fsync=True).open(ticket, len(DATA)) as session:
        assert session.upload.offset == 20_000
        session.write(20_000, DATA[20_000:50_000])
        session.sync()
    assert boot("two").receiver.status(ticket).extents == Extents().add(20_000, 50_000)
