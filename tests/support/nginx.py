"""A real nginx in front of a server, with its defaults or with the configuration that the documentation recommends."""

from __future__ import annotations

import re
from pathlib import Path

import requests

from tests.needs import need
from tests.support.waiting import eventually

from .processes import ROOT, Process, free_port

_AROUND = """
daemon off; user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {inside}
}}
"""

_DEFAULTS = "server { listen 127.0.0.1:8000; location / { proxy_pass http://127.0.0.1:UPSTREAM; } }"


class Nginx:
    """:param upstream: port of the server behind it.
    :param recommended: with the configuration from docs/deployment.rst; else with nginx's own defaults.
    """

    def __init__(self, folder: Path, upstream: int, *, recommended: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        inside = _recommended(self.port, upstream) if recommended else _defaults(self.port, upstream)
        (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, inside=inside))

    def __enter__(self) -> Nginx:
        command = [need("nginx"), "-c", str(self._folder / "nginx.conf"), "-e", str(self._folder / "error.log")]
        self._process = Process(command, self._folder / "out.log")
        eventually(self._answers, what="nginx answering")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def _answers(self) -> bool:
        assert self._process.is_running, (self._folder / "error.log").read_text()
        try:
            return requests.get(self.url + "/incoming/ready", timeout=5).ok
        except requests.ConnectionError:
            return False


def _defaults(port: int, upstream: int) -> str:
    return _DEFAULTS.replace("8000", str(port)).replace("UPSTREAM", str(upstream))


def _recommended(port: int, upstream: int) -> str:
    """The first nginx block of the documentation, as it stands there."""
    text = (ROOT / "docs" / "deployment.rst").read_text()
    found = re.search(r"\.\. code-block:: nginx\n\n((?:    .*\n|\n)+)", text)
    assert found, "docs/deployment.rst has no nginx block"
    block = found[1].replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    return block.replace("…", f"listen 127.0.0.1:{port};")
