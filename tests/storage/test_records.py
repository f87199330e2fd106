from __future__ import annotations

import json
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.errors import Damaged
from incoming_wsgi.extents import Extents
from incoming_wsgi.storage.records import Records, record_of, upload_of
from incoming_wsgi.upload import State, Upload
from tests.helpers import NOBODYS

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)

#: An upload in which each field says something of its own.
FULL = Upload(
    state=State.JOINING,
    app="app",
    owner="ada",
    client="192.0.2.7",
    created_with="tus",
    protocol="ietf",
    created_at=1.5,
    epoch=3,
    accept=".jpg",
    expires_at=7.25,
    max_connections=3,
    bound_cookie="a=b",
    bound_network="192.0.2.0/24",
    was_seen=True,
    length=10,
    max_length=20,
    extents=Extents().add(0, 4).add(6, 9),
    synced=Extents().add(0, 4),
    boot_id="boot",
    taken_back=2,
    fingerprint="f",
    filename_from_browser="Übersicht.pdf",
    metadata={"a": "b"},
    client_metadata={"c": "d"},
    notes={"e": "f"},
    part_of=NOBODYS,
    parts=(NOBODYS,),
    target="/x",
    base_url="https://x.example",
    secret="geheim",
    remove_file_when_finished=False,
    dest_type="archive",
    event_id="msg_1",
    sha256="00",
)

#: What a registry makes anew.
ANEW = {"version", "session", "active_at", "holder", "location", "moved_to", "reason"}


def through_json(upload: Upload) -> Upload:
    return upload_of(upload.id, json.loads(json.dumps(record_of(upload))))


def test_every_field_that_is_not_made_anew_is_kept() -> None:
    found, default = through_json(FULL), Upload()
    for field in fields(Upload):
        if field.name not in ANEW:
            assert getattr(FULL, field.name) != getattr(default, field.name), f"{field.name} proves nothing"
            assert getattr(found, field.name) == getattr(FULL, field.name)


def test_nobody_has_it_open_any_more() -> None:
    found = through_json(replace(FULL, session="token", holder="somebody", location="/x", reason="why"))
    assert (found.session, found.holder, found.location, found.reason) == ("", "", "", "")


@pytest.mark.parametrize("state", State)
def test_what_is_neither_joined_nor_completed_is_receiving(state: State) -> None:
    kept = state in (State.JOINING, State.COMPLETING)
    assert through_json(replace(FULL, state=state)).state is (state if kept else State.RECEIVING)


@given(st.builds(Upload, filename_from_browser=TEXT, metadata=TEXTS, client_metadata=TEXTS, notes=TEXTS, secret=TEXT))
def test_any_text(upload: Upload) -> None:
    found = through_json(upload)
    assert (found.filename_from_browser, found.secret) == (upload.filename_from_browser, upload.secret)
    assert (found.metadata, found.client_metadata, found.notes) == (
        upload.metadata,
        upload.client_metadata,
        upload.notes,
    )


def test_of_an_older_and_of_a_newer_version() -> None:
    record = record_of(FULL)
    del record["max_connections"]
    assert upload_of(FULL.id, {**record, "colour": "red"}).max_connections == Upload().max_connections


@pytest.mark.parametrize(
    "junk",
    [
        None,
        [],
        "x",
        {"length": "5"},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"parts": [1]},
        {"state": "flying"},
        {"extents": "[[5,1]]"},
        {"extents": "x"},
        {"secret": None},
    ],
)
def test_junk(junk: object) -> None:
    with pytest.raises(Damaged):
        upload_of(NOBODYS, junk)


# -- in a folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "records")


def test_it_is_nobody_elses(records: Records, tmp_path: Path) -> None:
    """There are secrets in it."""
    records.write(FULL)
    for path, mode in ((tmp_path / "records", 0o700), (tmp_path / "records" / FULL.id, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_written_again_and_dropped(records: Records) -> None:
    records.write(FULL)
    records.write(replace(FULL, length=11))
    (found,) = Records(records._folder)
    assert found.length == 11
    records.drop(FULL)
    records.drop(FULL)
    assert list(records) == []


def test_refreshed_now_and_then(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    records.refresh(FULL)  # what nobody has opened is not begun by it
    assert list(records) == []
    records.write(FULL)
    records.refresh(replace(FULL, length=11))
    assert [found.length for found in records] == [10]
    monkeypatch.setattr("incoming_wsgi.storage.records._FRESH", 0)
    records.refresh(replace(FULL, length=11))
    assert [found.length for found in records] == [11]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
def test_what_can_not_be_read_is_left_out(records: Records, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    records.write(FULL)
    (records._folder / NOBODYS).write_bytes(text)
    (records._folder / "README").write_bytes(b"x")
    assert [found.id for found in records] == [FULL.id]
    assert NOBODYS[:8] in caplog.text
    assert NOBODYS not in caplog.text


def test_a_write_that_fails_leaves_what_was_there(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    records.write(FULL)

    def fail(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError):  # noqa: PT011
        records.write(replace(FULL, length=11))
    assert [found.length for found in records] == [10]
    assert [path.name for path in records._folder.iterdir()] == [FULL.id]


def test_only_tickets_become_paths(records: Records) -> None:
    with pytest.raises(ValueError, match="id"):
        records.write(replace(FULL, id="../x"))
