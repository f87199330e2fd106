"""nginx, which takes a file as the body of one ``PUT`` (its dav module, in Debian's nginx-light as well)."""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..load import Lane, request
from .server import Server

# Debian keeps servers where the path of an ordinary user does not look.
PROGRAM = shutil.which("nginx") or "/usr/sbin/nginx"

_CONFIGURATION = """
daemon off; {user} worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/body; {buffer}
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ root {files}; dav_methods PUT; }}
  }}
}}
"""


class Nginx(Server):
    """:param buffer: ``client_body_buffer_size``; empty for nginx's default."""

    def __init__(self, name: str, folder: Path, workers: int = 1, buffer: str = "") -> None:
        super().__init__(name, folder, workers)
        text = _CONFIGURATION.format(
            user="user root;" if getpass.getuser() == "root" else "",
            workers=workers,
            folder=folder,
            files=self.files,
            port=self.port,
            buffer=buffer and f"client_body_buffer_size {buffer};",
        )
        (folder / "nginx.conf").write_text(text)

    def command(self) -> list[str]:
        return [PROGRAM, "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "error.log")]

    def lanes(self, lengths: Sequence[int]) -> list[Lane]:
        return [[request("PUT", f"/{number}", length)] for number, length in enumerate(lengths)]
