from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import incoming_wsgi

from .helpers import ROOT


def test_the_public_names() -> None:
    assert sorted(incoming_wsgi.__all__) == [
        "FinishedUpload",
        "FirstBytes",
        "Incoming",
        "IncomingError",
        "Permission",
        "State",
        "Upload",
        "__version__",
    ]
    assert all(hasattr(incoming_wsgi, name) for name in incoming_wsgi.__all__)


def test_the_package_says_nothing_but_names() -> None:
    tree = ast.parse((ROOT / "incoming_wsgi" / "__init__.py").read_text("utf-8"))
    kinds = {type(node) for node in tree.body[1:]}
    assert kinds == {ast.ImportFrom, ast.Assign}


def test_the_version_is_that_of_the_package() -> None:
    assert incoming_wsgi.__version__ == metadata.version("incoming-wsgi")


def test_importing_starts_and_opens_nothing() -> None:
    """Preloading servers, reloaders, shells and task workers import, too."""
    code = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
import incoming_wsgi, incoming_wsgi.central, incoming_wsgi.__main__
app = incoming_wsgi.Incoming(lambda environ, start_response: [], storage=sys.argv[1])
after = set(os.listdir("/proc/self/fd")) if before else set()
print(threading.active_count(), len(after) - len(before), "gevent" in sys.modules, "requests" in sys.modules)
print(os.path.exists(sys.argv[1]))
"""
    command = [sys.executable, "-c", code, str(ROOT / "is-never-made")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30, check=True)
    assert run.stdout.splitlines() == ["1 0 False False", "False"]


def test_what_is_not_configured_is_never_imported(tmp_path: Path) -> None:
    """Not in the whole life of an upload: neither package need be there."""
    code = """
import sys, time
from webtest import TestApp
import incoming_wsgi
done = []
app = incoming_wsgi.Incoming(lambda *_: [], storage=sys.argv[1], on_finish=lambda upload: done.append(upload.path))
ticket = app.new_upload()
headers = {"Incoming-Length": "5", "Incoming-Name": "x", "Content-Type": "application/octet-stream"}
TestApp(app).post(f"/incoming/frontend/uploads/{ticket}", b"12345", headers=headers)
while app.upload(ticket).phase != "finished":
    time.sleep(0.01)
app.close()
print(len(done), [name for name in ("redis", "boto3", "botocore") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert run.stdout.splitlines() == ["1 []"]


def test_the_commands_are_there() -> None:
    """Read from ``setup.py``: what is installed may be older."""
    commands = re.findall(r'"([\w-]+) = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text("utf-8"))
    assert [name for name, _, _ in commands] == ["incoming-server", "incoming"]
    for _, module, function in commands:
        assert callable(getattr(import_module(module), function))
