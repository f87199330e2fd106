from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.settings import Settings, gather, size


def test_argument_before_environment_before_default() -> None:
    environ = {"INCOMING_STORAGE": "/env", "INCOMING_LANES": "2", "INCOMING_NAME": "env", "OTHER": "x"}
    settings = gather({"storage": "/argument", "lanes": None}, environ)
    assert (settings.storage, settings.lanes, settings.name, settings.prefix) == ("/argument", 2, "env", "/incoming")


def test_the_real_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCOMING_STORAGE", "/env")
    assert gather({}).storage == "/env"


KEY = "whsec_" + "A" * 32

#: How each option may be written in the environment, and what it means.
WRITTEN = {
    "storage": ("/x y", "/x y"),
    "storages": (
        "archive=/a, s3=s3://files/c?part_size=5242880",
        {"archive": "/a", "s3": "s3://files/c?part_size=5242880"},
    ),
    "registry": ("sqlite:///x", "sqlite:///x"),
    "durability": ("fsync", "fsync"),
    "free_space_floor": ("2G", 2**31),
    "digest": ("no", False),
    "name": ("photos", "photos"),
    "prefix": ("/up/load", "/up/load"),
    "public_url": ("https://x.example", "https://x.example"),
    "allow_origins": ("https://a.example, https://b.example", ("https://a.example", "https://b.example")),
    "backend_key": ("key", "key"),
    "finish_hosts": ("a.example b.example:80", ("a.example", "b.example:80")),
    "signing_keys": (f"{KEY} {KEY}", (KEY, KEY)),
    "websocket": ("no", False),
    "interim_responses": ("yes", True),
    "chunk_size": ("1M", 2**20),
    "websocket_chunk_size": ("512K", 2**19),
    "send_ahead": ("3", 3),
    "lanes": ("2", 2),
    "trusted_proxies": ("10.0.0.0/8, ::1 unix", ("10.0.0.0/8", "::1", "unix")),
    "owner_uploads": ("5", 5),
    "owner_bytes": ("1G", 2**30),
    "owner_tickets": ("100/h", "100/h"),
    "address_uploads": ("6", 6),
    "address_bytes": ("2G", 2**31),
    "address_tickets": ("", ""),
    "address_connections": ("7", 7),
    "total_uploads": ("8", 8),
    "total_bytes": ("3G", 3 * 2**30),
    "total_connections": ("9", 9),
    "upload_connections": ("10", 10),
    "backend_tickets": ("5/s", "5/s"),
    "metrics": ("yes", True),
    "max_length": ("1.5G", 3 * 2**29),
    "idle_timeout": ("0.5", 0.5),
    "receive_timeout": ("30", 30.0),
    "wait_timeout": ("30", 30.0),
    "handover_timeout": ("30", 30.0),
    "drain_file": ("/run/x/drain", "/run/x/drain"),
    "file_mode": ("660", 0o660),
    "file_group": ("www-data", "www-data"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_each_option_can_come_from_the_environment(name: str) -> None:
    """Or be given as the same text."""
    text, value = WRITTEN[name]
    variable = f"INCOMING_{name.upper()}"
    assert getattr(gather({}, {"INCOMING_STORAGE": "/x", variable: text}), name) == value
    assert getattr(gather({"storage": "/x", name: text}, {}), name) == value


def test_arguments_of_their_own_kind(tmp_path: Path) -> None:
    settings = gather({"storage": tmp_path, "allow_origins": ["https://a.example"], "websocket": False}, {})
    assert settings.storage == str(tmp_path)
    assert settings.allow_origins == ("https://a.example",)
    assert settings.websocket is False


@pytest.mark.parametrize("options", [{"store": "/x"}, {"storage": "/x", "on_finish": None}, {"Storage": "/x"}])
def test_an_unknown_option_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="has no option"):
        gather(options, {})


def test_a_bucket_needs_a_registry() -> None:
    bucket = "s3://files/up"
    assert gather({"storage": bucket, "registry": "sqlite:///x"}, {}).storage == bucket
    with pytest.raises(ValueError, match="registry"):
        gather({"storage": bucket}, {})
    with pytest.raises(ValueError, match="s3://BUCKET"):
        gather({"storage": "s3://", "registry": "sqlite:///x"}, {})


def test_storages_by_name(tmp_path: Path) -> None:
    settings = gather({"storage": "s3://files", "registry": "sqlite:///x", "storages": {"file": tmp_path / "a, b"}}, {})
    assert settings.storages == {"file": str(tmp_path / "a, b")}


@pytest.mark.parametrize("storage", [None, ""])
def test_a_folder_is_needed(storage: str | None) -> None:
    with pytest.raises(TypeError, match="INCOMING_STORAGE"):
        gather({"storage": storage}, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durability", "none"),
        ("prefix", "incoming"),
        ("prefix", "/"),
        ("prefix", "/incoming/"),
        ("prefix", "/inc oming"),
        ("prefix", ""),
        ("chunk_size", 1000),
        ("chunk_size", 2**20 + 1),
        ("chunk_size", 2**31),
        ("chunk_size", "many"),
        ("websocket_chunk_size", 1),
        ("lanes", 0),
        ("lanes", -1),
        ("lanes", True),
        ("lanes", 2.5),
        ("lanes", []),
        ("send_ahead", 0),
        ("idle_timeout", 0),
        ("idle_timeout", "soon"),
        ("idle_timeout", float("nan")),
        ("receive_timeout", -1),
        ("websocket", "maybe"),
        ("websocket", 1),
        ("file_mode", "rw-r--r--"),
        ("file_mode", "888"),
        ("trusted_proxies", "proxy.example"),
        ("trusted_proxies", "10.0.0.1/8"),
        ("owner_tickets", "5"),
        ("address_tickets", "0/m"),
        ("backend_tickets", "5/week"),
        ("owner_uploads", -1),
        ("storages", "/srv/archive"),
        ("storages", "archive="),
        ("storages", "a=/x a=/y"),
        ("storages", "file=/x"),  # what the one in storage= is called
        ("storages", "s3=s3://"),
        ("storages", {"a b": "/x"}),
        ("storages", {"../a": "/x"}),
    ],
)
def test_a_value_that_means_nothing(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        gather({"storage": "/x", name: value}, {})
    if isinstance(value, str):
        with pytest.raises(ValueError, match=r"."):
            gather({"storage": "/x"}, {f"INCOMING_{name.upper()}": value})


def test_the_environment_is_named_in_its_errors() -> None:
    with pytest.raises(ValueError, match="INCOMING_LANES: 'x' is no size"):
        gather({"storage": "/x"}, {"INCOMING_LANES": "x"})


# -- sizes ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**70), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "B", "iB", "b"]))
def test_sizes(number: int, unit: str, end: str) -> None:
    bytes_ = number * 1024 ** ["", "K", "M", "G", "T"].index(unit)
    assert size(f"{number}{unit}{end}") == bytes_
    assert size(f" {number} {unit.lower()} ".rstrip() + " ") == bytes_


@pytest.mark.parametrize(
    ("text", "expected"), [("1.5G", 3 * 2**29), ("0.5K", 512), ("0", 0), ("1.1K", 1126), ("2.0", 2)]
)
def test_sizes_with_a_point(text: str, expected: int) -> None:
    assert size(text) == expected


@given(st.text() | st.from_regex(r"[0-9]+(\.[0-9]*)? ?\w?i?b?"))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    found = None
    with suppress(ValueError):
        found = size(text)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1e3", "1,5M", "1 2", "1P", "0x10", "\u0663", "9" * 5000, "nan", "inf"]
)
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        size(text)
