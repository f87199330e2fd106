"""A real nginx before servers: with its defaults, with a file of ``deploy/nginx``, or as a page of the manual says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import requests

from tests.needs import need
from tests.support.waiting import eventually

from .processes import ROOT, Process, free_port

#: The file for an app that is wrapped.
BESIDE_APP = "deploy/nginx/beside-app.conf"

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

_DEFAULTS = "server { listen 80; location / { proxy_pass http://127.0.0.1:8000; } }"


class Nginx:
    """:param upstreams: ports of the servers behind it, or ``host:port``.
    :param recommended: with our configuration; else with nginx's own defaults.
    :param source: of that configuration: a file, or a page of the documentation that has it.
    :param tls: with TLS and HTTP/2; browsers and others have to be told of :attr:`certificate`.
    :param host: the address that it listens at.
    """

    def __init__(
        self,
        folder: Path,
        *upstreams: int | str,
        recommended: bool,
        source: str = BESIDE_APP,
        tls: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._host = host
        self.port = free_port()
        text = (ROOT / source).read_text("utf-8") if recommended else _DEFAULTS
        with_tls = tls or "listen 443 ssl;" in text
        self.certificate = folder / "certificate.pem" if with_tls else None
        self.url = f"{'https' if with_tls else 'http'}://{host}:{self.port}"
        block = _block_of(text) if source.endswith(".rst") and recommended else text
        inside = _filled_in(block, self._listen(), [_address(upstream) for upstream in upstreams])
        inside = inside.replace("/var/log/nginx", str(folder))
        self.configuration = folder / "nginx.conf"
        self.configuration.write_text(_AROUND.format(folder=folder, inside=inside))

    def _listen(self) -> str:
        where = f"listen {self._host}:{self.port}"
        if self.certificate is None:
            return f"{where};"
        key = self._folder / "key.pem"
        command = f"{need('openssl')} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
        names = ("-addext", f"subjectAltName=IP:{self._host}", "-keyout", str(key), "-out", str(self.certificate))
        subprocess.run([*command, *names], check=True, capture_output=True)
        return f"{where} ssl http2; ssl_certificate {self.certificate}; ssl_certificate_key {key};"

    def logs(self) -> str:
        """All that it has written down."""
        return "".join(path.read_text() for path in self._folder.glob("*.log"))

    def command(self, *options: str) -> list[str]:
        return [need("nginx"), "-c", str(self.configuration), "-e", str(self._folder / "error.log"), *options]

    def __enter__(self) -> Nginx:
        self._process = Process(self.command(), self._folder / "out.log")
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


def _address(upstream: int | str) -> str:
    return f"127.0.0.1:{upstream}" if isinstance(upstream, int) else upstream


def _block_of(text: str) -> str:
    """The first nginx block of a page, as it stands there; it has ``…`` where the listener would be."""
    found = re.search(r"\.\. code-block:: nginx\n\n((?:    .*\n|\n)+)", text)
    assert found, "the page has no nginx block"
    return found[1].replace("    …\n", "    listen 80;\n")


def _filled_in(text: str, listen: str, upstreams: Sequence[str]) -> str:
    """With our own addresses in place of the documented ones, and nothing else changed."""
    text, listeners = re.subn(r"listen (?:80|443 ssl);(?:\s+ssl_\w+ \S+;)*", listen, text)
    assert listeners == 1, "there is no line with the documented listener"
    machines = re.findall(r"( *server )10\.0\.0\.1\d:\d+( .*\n)", text)
    if machines:
        before, after = machines[0]
        lines = "".join(f"{before}{upstream}{after}" for upstream in upstreams)
        return re.sub(r"(?: *server 10\.0\.0\.1\d:\d+ .*\n)+", lines, text)
    (upstream,) = upstreams
    assert "127.0.0.1:8000" in text
    return text.replace("127.0.0.1:8000", upstream)
