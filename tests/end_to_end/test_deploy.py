"""The files in ``deploy/`` do what they are for: nginx takes them, systemd takes them, and uploads get through."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from incoming_wsgi.settings import gather
from tests.support.chunk_client import ChunkClient
from tests.support.nginx import Nginx
from tests.support.processes import ROOT, AppServer, Process, free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

from .conftest import Connect, data_of, sha256
from .test_many_machines import Machines, machines
from .test_standalone import BackEnd

DEPLOY = ROOT / "deploy"
CONFIGURATIONS = sorted(path.name for path in (DEPLOY / "nginx").glob("*.conf"))
UNITS = sorted(path.name for path in (DEPLOY / "systemd").glob("*.service"))
DATA = data_of(3_000_000)

MakeClient = Callable[..., ChunkClient]


def source_of(configuration: str) -> str:
    return f"deploy/nginx/{configuration}"


# -- nginx ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_nginx_takes_it(configuration: str, tmp_path: Path) -> None:
    nginx = Nginx(tmp_path, 1, 2, 3, recommended=True, source=source_of(configuration))
    tried = subprocess.run(nginx.command("-t"), capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr


def test_the_manual_shows_them() -> None:
    text = (ROOT / "docs" / "deployment.rst").read_text("utf-8")
    shown = set(re.findall(r"\.\. include:: \.\./deploy/(\S+)", text))
    assert {f"nginx/{name}" for name in CONFIGURATIONS} <= shown
    named = set(re.findall(r"<\.\./deploy/(\S+)>", text))
    there = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()}
    assert there == named | shown


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("machines")
    with (
        RedisServer(folder / "redis", "always") as redis,
        machines(folder, "gevent", redis.url, INCOMING_DURABILITY="fsync") as both,
    ):
        yield both


@pytest.fixture(scope="module")
def in_front(both: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    ports = (server.port for server in both.servers)
    with Nginx(tmp_path_factory.mktemp("nginx"), *ports, recommended=True) as nginx:
        yield nginx


def test_uploads_to_machines_behind_it(
    both: Machines, in_front: Nginx, chunk_client: MakeClient, connect: Connect
) -> None:
    over_http, over_websocket = both.servers[0].ticket(), both.servers[1].ticket()
    assert chunk_client(in_front.url, over_http, DATA).upload()["phase"] == "finished"
    connect(in_front.url, over_websocket, DATA).upload()
    both.assert_arrived_once(over_http, DATA)
    both.assert_arrived_once(over_websocket, DATA)


def test_its_log_has_no_ticket(both: Machines, in_front: Nginx, chunk_client: MakeClient) -> None:
    ticket = both.servers[0].ticket()
    chunk_client(in_front.url, ticket, b"small").upload()
    eventually(lambda: ticket[:8] in in_front.logs())
    assert ticket not in in_front.logs()


def test_a_machine_that_is_gone_is_passed_over(both: Machines, tmp_path: Path, chunk_client: MakeClient) -> None:
    """Nobody notices, whatever the request."""
    nobody = free_port()
    with Nginx(tmp_path / "nginx", nobody, both.servers[0].port, nobody, recommended=True) as nginx:
        for _ in range(5):
            ticket = both.servers[0].ticket()
            assert chunk_client(nginx.url, ticket, DATA).upload()["phase"] == "finished"
            both.assert_arrived_once(ticket, DATA)


# -- the central server -----------------------------------------------------------------------------------------


def test_the_central_server_behind_it(
    tmp_path: Path, chunk_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started as its unit starts it, drained and stopped as that stops it; back ends come by the other listener."""
    public, internal = free_port(), free_port()
    unit = Unit("incoming-server.service", tmp_path)
    (tmp_path / "apps.ini").write_text((DEPLOY / "apps.ini").read_text("utf-8"))
    replaced = {
        "/etc/incoming/apps.ini": str(tmp_path / "apps.ini"),
        "0.0.0.0:8080": f"127.0.0.1:{public}",
        "10.0.0.11:8081": f"127.0.0.1:{internal}",
    }
    back_end = BackEnd()
    with (
        unit.started(replaced, f"http://127.0.0.1:{public}"),
        Nginx(tmp_path / "nginx", public, recommended=True, source=source_of("central.conf")) as nginx,
    ):
        answer = requests.post(
            f"http://127.0.0.1:{internal}/incoming/backend/new_upload",
            params={"signalFinishURL": back_end.url},
            auth=("x", "a long random text"),
            timeout=10,
        )
        assert answer.ok, answer.text
        client = chunk_client(nginx.url, answer.text, DATA)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(nginx.certificate))  # it overrules a session's own
        assert client.upload()["phase"] == "finished"
        assert len(back_end.calls) == 1
        for path in ("/incoming/backend/new_upload", "/incoming/0.1/backend/x", "/", "/incoming/metrics"):
            assert client.http.get(nginx.url + path, timeout=10).status_code == 404, path
    back_end.close()


# -- systemd ----------------------------------------------------------------------------------------------------


class Unit:
    """A service file, with the test's own folders in place of the documented ones."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.text = (DEPLOY / "systemd" / name).read_text("utf-8")
        self._scripts = sysconfig.get_path("scripts")

    def lines(self, option: str) -> list[str]:
        return re.findall(rf"^{option}=-?(.*)$", self.text, re.MULTILINE)

    def command(self, option: str, replaced: dict[str, str]) -> list[str]:
        (line,) = self.lines(option)
        for old, new in replaced.items():
            assert old in line or option != "ExecStart", old
            line = line.replace(old, new)
        program, *arguments = shlex.split(line)
        return [sys.executable, str(Path(self._scripts) / Path(program).name), *arguments]

    def environment(self) -> dict[str, str]:
        """As systemd reads it; the folders are the test's."""
        lines = [*(DEPLOY / "incoming.env").read_text("utf-8").splitlines(), *self.lines("Environment")]
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        given = {name: value for name, _, value in pairs}
        run, state = str(self.folder / "run"), str(self.folder / "state")
        return {
            name: value.replace("/run/incoming", run).replace("/var/lib/incoming", state)
            for name, value in given.items()
        }

    def started(self, replaced: dict[str, str], url: str) -> StartedUnit:
        return StartedUnit(self, replaced, url)


class StartedUnit:
    """What systemd does with a unit: the folders, ExecStart, ExecStop, SIGTERM to the main process."""

    def __init__(self, unit: Unit, replaced: dict[str, str], url: str) -> None:
        self._unit, self._replaced, self._url = unit, replaced, url

    def __enter__(self) -> None:
        (self._unit.folder / "run").mkdir()
        (self._unit.folder / "state").mkdir()
        self._environment = {**self._unit.environment(), "RECORD": str(self._unit.folder)}
        log = self._unit.folder / "unit.log"
        self._process = Process(self._unit.command("ExecStart", self._replaced), log, self._environment)
        eventually(self._is_ready, what="the service answering")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                stop = Process(
                    self._unit.command("ExecStop", {}), self._unit.folder / "stop.log", {**self._environment}
                )
                eventually(lambda: not stop.is_running, 60, "the end of ExecStop")
                assert "can be stopped" in stop.log.read_text()
                assert not self._is_ready()
                self._process.stop()
        finally:
            self._process.kill()

    def _is_ready(self) -> bool:
        assert self._process.is_running, self._process.log.read_text()[-2000:]
        try:
            return requests.get(f"{self._url}/incoming/ready", timeout=5).ok
        except requests.ConnectionError:
            return False


def test_an_app_as_its_unit_runs_it(tmp_path: Path, chunk_client: MakeClient) -> None:
    port = free_port()
    replaced = {"myapp:app": "tests.support.recording_app:app", "0.0.0.0:8000": f"127.0.0.1:{port}"}
    server = AppServer("gevent", tmp_path)
    server.port, server.url = port, f"http://127.0.0.1:{port}"
    with Unit("incoming-app.service", tmp_path).started(replaced, server.url):
        ticket = server.ticket()
        assert chunk_client(server.url, ticket, DATA).upload()["phase"] == "finished"
        assert sha256(server.wait_for_file(ticket)) == sha256(DATA)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_takes_it(name: str, tmp_path: Path) -> None:
    """And finds it little exposed: below 3 is its own «OK»."""
    text = (DEPLOY / "systemd" / name).read_text("utf-8")
    text = re.sub(r"/opt/\w+/venv/bin/\S+", "/bin/true", text)
    text = re.sub(r"^(User|Group)=.*", r"\1=www-data", text, flags=re.MULTILINE)
    unit = tmp_path / name
    unit.write_text(text)
    for command in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=30"]):
        run = subprocess.run(["systemd-analyze", *command, str(unit)], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        assert name not in run.stderr, run.stderr  # it warns about lines that it does not know


@pytest.mark.parametrize("name", UNITS)
def test_it_grants_the_time_that_its_commands_take(name: str) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((DEPLOY / "systemd" / name).read_text("utf-8"))
    service = unit["Service"]
    waiting = re.search(r"--wait (\d+)", service["ExecStop"])
    assert waiting is not None
    assert float(service["TimeoutStopSec"]) >= float(waiting[1]) + 30


def test_the_environment_file_is_understood() -> None:
    text = (DEPLOY / "incoming.env").read_text("utf-8")
    one_machine = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert gather({}, one_machine).trusted_proxies == ("10.0.0.0/24", "127.0.0.1")
    many_machines = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert gather({}, many_machines).registry.startswith("redis+sentinel://")
