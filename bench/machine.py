"""What the figures were taken on: machine, kernel, versions."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from .peers.nginx import PROGRAM as NGINX
from .peers.tus import NODE_PACKAGES, PYTHON

_OURS = ("incoming-wsgi", "gunicorn", "gevent", "websockets")
_THEIRS = ("tuspyserver", "fastapi", "uvicorn", "tuswsgi", "gunicorn", "gevent")
_FROM_NPM = ("@tus/server", "@tus/file-store")


def description() -> dict[str, str]:
    """Headings, and what there is to say."""
    return {
        "Processor": f"{_processor()}, {os.cpu_count()} cores, shared by servers and load generator",
        "Memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Load average before": f"{os.getloadavg()[0]:.1f}",
        "Ours": f"Python {platform.python_version()}, " + _listed({name: version(name) for name in _OURS}),
        "nginx": _output(NGINX, "-v").rpartition("/")[2],
        "Theirs, Python": _listed(_python_versions()),
        "Theirs, node": f"node {_output('node', '--version').lstrip('v')}, " + _listed(_node_versions()),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _python_versions() -> dict[str, str]:
    script = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {_THEIRS!r}}}))"
    found: dict[str, str] = json.loads(_output(str(PYTHON), "-c", script))
    return found


def _node_versions() -> dict[str, str]:
    folder = NODE_PACKAGES / "node_modules"
    return {name: json.loads((folder / name / "package.json").read_text())["version"] for name in _FROM_NPM}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _output(*command: str) -> str:
    """What a program says of itself, wherever it says so."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()
