from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from incoming_wsgi import __main__ as module
from incoming_wsgi import __version__
from incoming_wsgi.__main__ import run_operator, serve
from incoming_wsgi.central import Central
from incoming_wsgi.draining import Mark
from incoming_wsgi.settings import Settings
from incoming_wsgi.storage import mounts
from incoming_wsgi.storage.mounts import Mount
from incoming_wsgi.upload import State

from .helpers import Engine


class Started:
    """What would have been run."""

    app: Central
    options: argparse.Namespace

    def run(self, app: Central, options: argparse.Namespace) -> None:
        self.app, self.options = app, options

    @property
    def settings(self) -> Settings:
        return self.app._settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "BIND", "BACKEND_BIND", "WORKERS", *(field.name.upper() for field in fields(Settings))):
        monkeypatch.delenv(f"INCOMING_{name}", raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    started = Started()
    monkeypatch.setattr(module, "_run_gunicorn", started.run)
    return started


def test_defaults(started: Started, tmp_path: Path) -> None:
    assert serve(["--storage", str(tmp_path)]) == 0
    settings = module._gunicorn_settings(started.options)
    assert settings["bind"] == ["127.0.0.1:8080", "127.0.0.1:8081"]
    assert (settings["workers"], settings["worker_class"]) == (2, "gevent")
    assert started.app._internal == ("127.0.0.1:8081",)
    assert (started.settings.prefix, started.settings.idle_timeout) == ("/incoming", 43200.0)


def test_every_option(started: Started, tmp_path: Path) -> None:
    arguments = (
        f"--storage {tmp_path} --registry sqlite://{tmp_path}/r.sqlite3 --prefix /up --public-url https://x.example "
        "--backend-key key --chunk-size 1M --max-length 5G --idle-timeout 60 --handover-timeout 5 --wait-timeout 7 "
        "--file-mode 660 --bind 0.0.0.0:80 --backend-bind 10.0.0.1:81 --workers 3 --log-level debug "
        "--allow-origin https://a.example --allow-origin https://b.example --finish-host a --finish-host b:80"
    )
    serve(arguments.split())
    settings = started.settings
    assert (settings.prefix, settings.public_url, settings.backend_key) == ("/up", "https://x.example", "key")
    assert (settings.chunk_size, settings.max_length, settings.file_mode) == (2**20, 5 * 2**30, 0o660)
    assert (settings.idle_timeout, settings.handover_timeout, settings.wait_timeout) == (60.0, 5.0, 7.0)
    assert settings.allow_origins == ("https://a.example", "https://b.example")
    assert settings.finish_hosts == ("a", "b:80")
    assert module._gunicorn_settings(started.options)["bind"] == ["0.0.0.0:80", "10.0.0.1:81"]


def test_from_the_environment(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STORAGE": str(tmp_path),
        "BIND": "127.0.0.1:1",
        "BACKEND_BIND": "127.0.0.1:2",
        "WORKERS": "5",
        "ALLOW_ORIGINS": "https://a.example https://b.example",
        "BACKEND_KEY": "key",
        "FILE_MODE": "600",
    }.items():
        monkeypatch.setenv(f"INCOMING_{name}", value)
    serve(["--workers", "4"])
    settings = module._gunicorn_settings(started.options)
    assert (settings["bind"], settings["workers"]) == (["127.0.0.1:1", "127.0.0.1:2"], 4)
    assert started.settings.allow_origins == ("https://a.example", "https://b.example")
    assert (started.settings.backend_key, started.settings.file_mode) == ("key", 0o600)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs storage"),
        (["--storage", "{}", "--backend-bind", "0.0.0.0:81"], "needs --backend-key"),
        (["--storage", "{}", "--prefix", "x"], "prefix"),
        (["--storage", "{}", "--chunk-size", "many"], "no size"),
        (["--storage", "{}", "--file-mode", "rw"], "invalid literal"),
        (["--storage", "{}", "--config", "/nowhere/apps.ini"], "No such file"),
        (["--storage", "{}", "--file-group", "nobody-is-in-this-group"], "group"),
        (["--storage", "{}", "--nonsense"], "unrecognized"),
    ],
)
def test_what_can_not_be_is_said_at_the_start(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        serve([argument.format(tmp_path / "files") for argument in arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not hasattr(started, "app")


def test_a_shared_folder_is_looked_at_by_operators_only(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the durability of a folder of one's own; also where it is only an app's of several."""
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(mounts, "mount_of", lambda path: Mount("nfs4" if Path(path).is_relative_to(shared) else "ext4"))
    (tmp_path / "apps.ini").write_text(f"[app:a]\nkey = 1\nstorage = {shared}\n")
    registry = ["--registry", f"sqlite://{tmp_path}/registry.sqlite3"]
    for place in (["--storage", str(shared)], ["--storage", str(tmp_path), "--config", str(tmp_path / "apps.ini")]):
        with pytest.raises(SystemExit):
            serve([*place, *registry])
        assert "durability" in capsys.readouterr().err
        assert run_operator(["list", *place, *registry]) == 0
        assert serve([*place, *registry, "--durability", "fsync"]) == 0


@pytest.mark.parametrize("command", [serve, run_operator])
def test_help_and_version(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for option, expected in (("--help", "--version"), ("--version", __version__)):
        with pytest.raises(SystemExit) as caught:
            command([option])
        assert caught.value.code == 0
        assert expected in capsys.readouterr().out


# -- the operator's commands ------------------------------------------------------------------------------------


def test_the_operator(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = engine.ticket()
    storage = ["--storage", str(engine.folder)]

    def run(*arguments: str) -> tuple[int, str, str]:
        result = run_operator([*arguments, *storage])
        out, err = capsys.readouterr()
        return result, out, err

    assert ticket in run("list")[1]
    assert "waiting" in run("show", ticket)[1]
    result, out, err = run("retry", ticket)
    assert (result, out) == (1, "")
    assert err.startswith("incoming: ")
    assert run("cancel", ticket)[0] == 0
    assert engine.state(ticket) is State.CANCELLED
    assert "0 closed uploads" in run("cleanup")[1]
    assert "0 uploads are known again" in run("recover")[1]
    assert run("show", "x")[0] == 1


def test_the_operator_of_another_app(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = engine.ticket()
    assert run_operator(["show", ticket, "--storage", str(engine.folder), "--name", "other"]) == 1
    assert "no upload" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["show"], ["shout"], ["list", "x"], ["list", "--workers", "2"]])
def test_commands_that_are_none(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_operator([*arguments, "--storage", str(tmp_path)])
    assert caught.value.code == 2


def test_draining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drain"
    assert run_operator(["drain", str(path)]) == 0
    assert "can be stopped" in capsys.readouterr().out
    assert Mark(path).is_set()
    monkeypatch.setenv("INCOMING_DRAIN_FILE", str(path))
    assert run_operator(["undrain"]) == 0
    assert not Mark(path).is_set()
    with FileHeld(path):
        assert run_operator(["drain", "--wait", "0"]) == 1
    assert "under way" in capsys.readouterr().err
    assert run_operator(["undrain", str(tmp_path / "nowhere" / "drain")]) == 1
    monkeypatch.delenv("INCOMING_DRAIN_FILE")
    with pytest.raises(SystemExit):
        run_operator(["drain"])
    assert "no drain file" in capsys.readouterr().err


class FileHeld:
    """A server that is not empty."""

    def __init__(self, path: Path) -> None:
        self._mark = Mark(path)

    def __enter__(self) -> None:
        self._mark.hold()

    def __exit__(self, *_: object) -> None:
        self._mark.release()
