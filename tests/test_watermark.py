from __future__ import annotations

import threading

import pytest

from incoming_wsgi import watermark
from incoming_wsgi.extents import Extents
from incoming_wsgi.upload import Upload
from incoming_wsgi.watermark import Watermarks
from tests.support.waiting import eventually


class Disk:
    """Syncs when it may.

    :ivar synced: how many bytes there were each time.
    """

    def __init__(self) -> None:
        self.synced: list[int] = []
        self.may_sync = threading.Semaphore(0)
        self.trouble: Exception | None = None

    def sync(self, upload: Upload) -> None:
        assert self.may_sync.acquire(timeout=10)
        self.synced.append(upload.received)
        if self.trouble is not None:
            raise self.trouble


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(watermark, "STEP", 100)
    return Disk()


def arrived(upload: Upload, received: int) -> Upload:
    return upload.but(extents=Extents().add(0, received))


def let_all_go(disk: Disk, marks: Watermarks) -> None:
    disk.may_sync.release(10)
    eventually(lambda: not marks._latest)
    while disk.may_sync.acquire(blocking=False):
        pass


def test_much_that_comes_while_it_is_synced_is_synced_after_it(disk: Disk) -> None:
    """Though no more comes."""
    marks, upload = Watermarks(disk.sync), Upload()
    for received in (99, 100, 150, 220):
        marks.advance(arrived(upload, received))
    let_all_go(disk, marks)
    assert disk.synced == [100, 220]


def test_little_waits_for_more(disk: Disk) -> None:
    marks, upload = Watermarks(disk.sync), Upload()
    for received in (100, 199):
        marks.advance(arrived(upload, received))
    let_all_go(disk, marks)
    assert disk.synced == [100]
    marks.advance(arrived(upload, 200))
    let_all_go(disk, marks)
    assert disk.synced == [100, 200]


@pytest.mark.parametrize("trouble", [FileNotFoundError(), RuntimeError()])
def test_trouble_with_one_sync_is_not_the_end(disk: Disk, trouble: Exception) -> None:
    marks, upload = Watermarks(disk.sync), Upload()
    disk.trouble = trouble
    marks.advance(arrived(upload, 100))
    let_all_go(disk, marks)
    disk.trouble = None
    marks.advance(arrived(upload, 300))
    let_all_go(disk, marks)
    assert disk.synced == [100, 300]
