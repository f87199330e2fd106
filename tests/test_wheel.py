"""What is installed from the built wheel, in an empty environment far from the checkout, works as the checkout does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import requests

from docs.screenshots import serving

ROOT = Path(__file__).resolve().parent.parent
NOT_OURS = shutil.ignore_patterns(".*", "node_modules", "build", "*.egg-info", "data", "__pycache__", "static")
LIBRARY = ("incoming.js", "incoming.mjs", "incoming.d.ts")
CONTENT = b"through the wheel"
FORM = {"Incoming-Length": str(len(CONTENT)), "Incoming-Name": "small.txt", "Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build gets in and nothing of this one stays."""
    room = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, room / "copy", ignore=NOT_OURS)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(room)]
    subprocess.run([*command, str(room / "copy")], check=True, cwd=room)
    (built,) = room.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path) -> str:
    """The Python of an environment that has the wheel and what it asks for."""
    place = wheel.parent / "environment"
    venv.create(place, with_pip=True)
    found = str(place / "bin" / "python")
    wanted = [f"{wheel}[server]", "bottle", "flask"]
    subprocess.run([found, "-m", "pip", "install", "--quiet", *wanted], check=True, cwd=wheel.parent)
    return found


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"incoming_wsgi/static/{name}" for name in LIBRARY} <= names
    assert "incoming_wsgi/py.typed" in names
    assert not [name for name in names if not name.startswith(("incoming_wsgi/", "incoming_wsgi-"))]
    parts = (path for kind in ("*.py", "*.lua") for path in (ROOT / "incoming_wsgi").rglob(kind))
    source = {str(path.relative_to(ROOT)) for path in parts}
    assert source <= names


def test_what_only_several_machines_need_is_not_installed(python: str) -> None:
    code = "from importlib.util import find_spec as f; print(f('boto3'), f('botocore'), f('redis'))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["None"] * 3


@pytest.mark.parametrize("name", ["bottle_app", "flask_app"])
def test_examples(name: str, wheel: Path, python: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("data"))
    demo = [python, str(tmp_path / "examples" / "demo.py"), name]
    with serving(demo, {**os.environ, f"{name.upper()}_DATA": str(tmp_path / "data")}) as address:
        for file in LIBRARY:
            assert requests.get(f"{address}incoming/frontend/{file}", timeout=10).status_code == 200, file
        ticket = ticket_of(name, address)
        resource = f"{address}incoming/frontend/uploads/{ticket}"
        phase = requests.post(resource, CONTENT, headers=FORM, timeout=30).json()["phase"]
        while phase == "processing":
            phase = requests.get(resource, timeout=30, params={"wait": "1"}).json()["phase"]
    assert phase == "finished"
    assert (tmp_path / "data" / "files" / "small.txt").read_bytes() == CONTENT


def ticket_of(name: str, address: str) -> str:
    if name == "flask_app":
        return str(requests.post(f"{address}tickets", timeout=10).json()["ticket"])
    found = re.search('data-ticket="([^"]+)"', requests.get(address, timeout=10).text)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("command", ["incoming-server", "incoming"])
def test_commands(command: str, python: str) -> None:
    said = subprocess.run(
        [str(Path(python).with_name(command)), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith(f"usage: {command}")
