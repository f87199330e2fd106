"""Starts an example and says where it is as soon as it answers: ``make demo``.

The Python examples run under gunicorn with two gevent workers, as they would in production: a request may
land on either of them, and an upload does not mind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = ("bottle_app", "flask_app", "node_app")
START_SECONDS = 30


def main(name: str, host: str, port: int) -> int:
    if name not in EXAMPLES:
        print(f"There is no example {name!r}; there are {', '.join(EXAMPLES)}.", file=sys.stderr)
        return 2
    if _taken(host, port):
        print(f"Port {port} is in use. Take another one:  make demo PORT={port + 1}", file=sys.stderr)
        return 2
    _install_packages(HERE / name)
    print(f"==> Starting examples/{name}", flush=True)
    # For the node example, which starts a server in Python.
    environment = {**os.environ, "PYTHON": sys.executable}
    # A session of its own, so that Ctrl-C reaches us alone and the example is asked once, politely.
    example = subprocess.Popen(_command(name, host, port), cwd=HERE / name, env=environment, start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(name, host, port, example)
    except KeyboardInterrupt:
        print("\n==> Stopping", flush=True)
        return 0
    finally:
        _stop(example)


def _install_packages(folder: Path) -> None:
    """Of npm's, where the example has some and npm is here; it does without them, too."""
    npm = shutil.which("npm")
    if npm is None or '"dependencies"' not in _text(folder / "package.json") or (folder / "node_modules").exists():
        return
    print("==> Installing packages for the browser", flush=True)
    subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"], cwd=folder, check=False
    )


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def _run(name: str, host: str, port: int, example: subprocess.Popen[bytes]) -> int:
    if not _answers(host, port, example):
        print(f"examples/{name} did not start; what it said is above.", file=sys.stderr)
        return 1
    print(f"\n    Open http://{host}:{port}/ in your browser. Ctrl-C ends it.\n", flush=True)
    return example.wait()


def _command(name: str, host: str, port: int) -> list[str]:
    if name == "node_app":
        return ["node", "start.mjs", "--host", host, "--port", str(port)]
    server = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "2"]
    quick = ["--log-level", "warning", "--graceful-timeout", "2"]
    return [*server, *quick, "--bind", f"{host}:{port}", "app:app"]


def _taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def _answers(host: str, port: int, example: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while example.poll() is None and time.monotonic() < deadline:
        try:
            with closing(HTTPConnection(host, port, timeout=5)) as page:
                page.request("GET", "/")
                return page.getresponse().status == 200
        except (OSError, HTTPException):
            time.sleep(0.1)
    return False


def _stop(example: subprocess.Popen[bytes]) -> None:
    example.terminate()
    try:
        example.wait(timeout=10)
    except subprocess.TimeoutExpired:
        example.kill()


if __name__ == "__main__":
    example_name = sys.argv[1] if len(sys.argv) > 1 else "bottle_app"
    sys.exit(main(example_name, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))))
