from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi.relocate import relocate, stays_within

CONTENT = "the whole file"


class Move:
    """A file that is to be moved, and what the registry remembers of it."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "storage" / "00000000-0000-0000-0000-000000000000"
        self.source.parent.mkdir()
        self.source.write_text(CONTENT)
        self.files = folder / "files"
        self.files.mkdir()
        self.recorded = ""

    def to(self, wanted: Path | str, *, overwrite: bool = False, name: str = "report.pdf") -> str:
        return relocate(
            str(self.source), str(wanted), name, overwrite=overwrite, recorded=self.recorded, record=self.record
        )

    def record(self, target: str) -> None:
        self.recorded = target

    def listing(self) -> dict[str, str]:
        """What lies in both folders."""
        folders = (self.source.parent, self.files)
        return {path.name: path.read_text() for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def move(tmp_path: Path) -> Move:
    return Move(tmp_path)


@pytest.fixture(params=["one file system", "two file systems", "no links"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the two folders lie to each other."""
    link, replace = os.link, os.replace
    number = {"two file systems": errno.EXDEV, "no links": errno.EPERM}.get(request.param)

    def is_across(source: Any, target: Any) -> bool:
        return Path(source).parent != Path(target).parent

    def guarded_link(source: Any, target: Any) -> None:
        if number is not None and (number == errno.EPERM or is_across(source, target)):
            raise OSError(number, os.strerror(number))
        link(source, target)

    def guarded_replace(source: Any, target: Any) -> None:
        if number == errno.EXDEV and is_across(source, target):
            raise OSError(number, os.strerror(number))
        replace(source, target)

    monkeypatch.setattr(os, "link", guarded_link)
    monkeypatch.setattr(os, "replace", guarded_replace)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_into_a_folder(move: Move) -> None:
    assert move.to(move.files) == str(move.files / "report.pdf")
    assert move.recorded == str(move.files / "report.pdf")
    assert move.listing() == {"report.pdf": CONTENT}


@pytest.mark.usefixtures("way")
def test_a_taken_name_is_left_alone(move: Move) -> None:
    (move.files / "report.pdf").write_text("older")
    (move.files / "report (2).pdf").mkdir()
    assert move.to(move.files) == str(move.files / "report (3).pdf")
    assert move.listing() == {"report.pdf": "older", "report (3).pdf": CONTENT}


@pytest.mark.usefixtures("way")
def test_to_a_path(move: Move) -> None:
    assert move.to(move.files / "x.bin") == str(move.files / "x.bin")
    assert move.listing() == {"x.bin": CONTENT}


@pytest.mark.usefixtures("way")
def test_to_a_path_that_is_taken(move: Move) -> None:
    (move.files / "x.bin").write_text("older")
    with pytest.raises(FileExistsError):
        move.to(move.files / "x.bin")
    assert move.listing() == {move.source.name: CONTENT, "x.bin": "older"}


@pytest.mark.usefixtures("way")
def test_over_what_is_there(move: Move) -> None:
    (move.files / "x.bin").write_text("older")
    assert move.to(move.files / "x.bin", overwrite=True) == str(move.files / "x.bin")
    assert move.listing() == {"x.bin": CONTENT}


def test_a_folder_that_is_not_there_yet(move: Move) -> None:
    assert move.to(f"{move.files}/new/deep/") == str(move.files / "new" / "deep" / "report.pdf")


def test_a_path_below_a_folder_that_is_not_there(move: Move) -> None:
    with pytest.raises(FileNotFoundError):
        move.to(move.files / "new" / "x.bin")
    assert move.listing() == {move.source.name: CONTENT}


def test_a_link_that_points_away_is_not_followed(move: Move, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (move.files / "report.pdf").symlink_to(tmp_path / "precious")
    (move.files / "x.bin").symlink_to(tmp_path / "precious")
    assert move.to(move.files) == str(move.files / "report (2).pdf")
    move.source.write_text(CONTENT)
    move.recorded = ""
    move.to(move.files / "x.bin", overwrite=True)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_very_long_name_that_is_taken(move: Move) -> None:
    name = "x" * 251 + ".bin"
    (move.files / name).write_text("older")
    assert move.to(move.files, name=name) == str(move.files / ("x" * 247 + " (2).bin"))


class Crash(BaseException):
    """The process dies here: no handler of the code under test may see to it."""


STEPS = ("record", "link", "copy2", "rename", "replace", "unlink", "fsync")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_move_that_was_cut_short_is_asked_for_again(
    move: Move, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, overwrite: bool
) -> None:
    """Whatever happened, once it has been repeated the file lies in one place, whole, and nothing else has changed."""
    wanted: Path | str = move.files / "x.bin" if overwrite else move.files
    if overwrite:
        (move.files / "x.bin").write_text("older")
    else:
        (move.files / "report.pdf").write_text("older")
    with monkeypatch.context() as patch:
        Death(step, after).prepare(patch, move)
        with suppress(Crash):
            move.to(wanted, overwrite=overwrite)  # not every way has every step
    place = move.to(wanted, overwrite=overwrite)
    expected = {"x.bin": CONTENT} if overwrite else {"report.pdf": "older", "report (2).pdf": CONTENT}
    assert move.listing() == expected
    assert Path(place).read_text() == CONTENT
    assert move.recorded == place
    assert move.to(wanted, overwrite=overwrite) == place


class Death:
    """The process dies at the first call of ``step``: before it or right after, and does nothing any more."""

    def __init__(self, step: str, after: bool) -> None:
        self._step = step
        self._after = after
        self._is_dead = False

    def prepare(self, patch: pytest.MonkeyPatch, move: Move) -> None:
        for step in STEPS:
            owner: Any = {"record": move, "copy2": shutil}.get(step, os)
            patch.setattr(owner, step, self._mortal(step, getattr(owner, step)))

    def _mortal(self, step: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*arguments: Any, **named: Any) -> Any:
            if self._is_dead or (step == self._step and not self._after):
                self._is_dead = True
                raise Crash
            result = call(*arguments, **named)
            if step == self._step:
                self._is_dead = True
                raise Crash
            return result

        return mortal


def test_half_a_copy_counts_for_nothing(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power fails within a copy across file systems: at the target there is nothing, or all."""
    half = move.files / f".{move.source.name}.incoming"
    half.write_text("the wh")
    move.recorded = str(move.files / "report.pdf")
    monkeypatch.setattr(os, "link", across(os.link))
    assert move.to(move.files) == str(move.files / "report.pdf")
    assert move.listing() == {"report.pdf": CONTENT}


def across(link: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def link_nearby(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        link(source, target)

    return link_nearby


def test_a_full_disk_at_the_target(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    copy2 = shutil.copy2

    def fill(source: Any, target: Any) -> None:
        copy2(source, target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", across(os.link))
        patch.setattr(shutil, "copy2", fill)
        with pytest.raises(OSError, match="space"):
            move.to(move.files)
    assert move.listing() == {move.source.name: CONTENT}
    assert move.to(move.files) == str(move.files / "report.pdf")


def test_a_file_that_is_gone(move: Move) -> None:
    move.source.unlink()
    move.recorded = str(move.files / "report.pdf")
    with pytest.raises(FileNotFoundError):
        move.to(move.files)
    assert move.listing() == {}


def test_somebody_elses_file_at_the_recorded_place(move: Move) -> None:
    """It was recorded, and then the process died before it could find the name taken."""
    move.recorded = str(move.files / "report.pdf")
    (move.files / "report.pdf").write_text("another file!!")  # of the same length
    assert move.to(move.files) == str(move.files / "report (2).pdf")
    assert (move.files / "report.pdf").read_text() == "another file!!"


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("files/x", True),
        ("files/deep/down/", True),
        ("files/../files/x", True),
        ("files", True),  # it is a folder: the file goes into it
        ("files/", True),
        ("new/", False),
        ("files/..", False),
        ("files/../other", False),
        ("files-of-another/x", False),
        ("/etc/passwd", False),
        ("files/link-out/x", False),
        ("files/link-in/x", True),
    ],
)
def test_stays_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, inside: bool) -> None:
    monkeypatch.chdir(tmp_path)
    Path("files/deep").mkdir(parents=True)
    Path("files/link-out").symlink_to("/tmp")
    Path("files/link-in").symlink_to("deep")
    assert stays_within("files", path) is inside


def test_a_folder_that_is_not_there_is_no_place_within_itself(tmp_path: Path) -> None:
    folder = str(tmp_path / "new")
    assert not stays_within(folder, folder)  # a file would take its place
    assert stays_within(folder, folder + "/")
    assert stays_within(folder, folder + "/x")
