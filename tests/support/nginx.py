"""A real nginx in front of a server, with its defaults or with the configuration that the documentation recommends."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import requests

from tests.needs import need
from tests.support.waiting import eventually

from .processes import ROOT, Process, free_port

_AROUND = """
daemon off; user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log error;
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
    :param recommended: with the configuration from the documentation; else with nginx's own defaults.
    :param page: of the documentation, which has it.
    :param tls: with TLS and HTTP/2; browsers and others have to be told of :attr:`certificate`.
    """

    def __init__(
        self, folder: Path, upstream: int, *, recommended: bool, page: str = "deployment.rst", tls: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = free_port()
        self.certificate = folder / "certificate.pem" if tls else None
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        inside = _recommended(page, self._listen(), upstream) if recommended else _defaults(self.port, upstream)
        inside = inside.replace("/var/log/nginx", str(folder))
        (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, inside=inside))

    def _listen(self) -> str:
        where = f"listen 127.0.0.1:{self.port}"
        if self.certificate is None:
            return f"{where};"
        key = self._folder / "key.pem"
        command = f"{need('openssl')} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
        names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(self.certificate))
        subprocess.run([*command, *names], check=True, capture_output=True)
        return f"{where} ssl http2; ssl_certificate {self.certificate}; ssl_certificate_key {key};"

    def logs(self) -> str:
        """All that it has written down."""
        return "".join(path.read_text() for path in self._folder.glob("*.log"))

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
            return requests.get(self.url + "/incoming/ready", timeout=5, verify=str(self.certificate or "") or True).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


def _defaults(port: int, upstream: int) -> str:
    return _DEFAULTS.replace("8000", str(port)).replace("UPSTREAM", str(upstream))


def _recommended(page: str, listen: str, upstream: int) -> str:
    """The first nginx block of a page of the documentation, as it stands there."""
    text = (ROOT / "docs" / page).read_text()
    found = re.search(r"\.\. code-block:: nginx\n\n((?:    .*\n|\n)+)", text)
    assert found, f"docs/{page} has no nginx block"
    block = found[1].replace("127.0.0.1:8000", f"127.0.0.1:{upstream}")
    return block.replace("    …\n", f"    {listen}\n")
