"""A page that takes one file of any size: the smallest useful app with Incoming!!.

The ticket is rendered into the page, the browser library sends the file with it, and ``keep`` is called when
the whole file is here. All state is on disk, so that any number of workers may run this.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from bottle import Bottle, HTTPResponse, request, response, static_file, template

from incoming_wsgi import Incoming
from incoming_wsgi.downloads import download_headers

if TYPE_CHECKING:
    from incoming_wsgi import FinishedUpload

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("BOTTLE_APP_DATA", HERE / "data"))
FILES = DATA / "files"
FILES.mkdir(parents=True, exist_ok=True)

# No script in the page, none from elsewhere, and nobody puts the page into a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class File(NamedTuple):
    """What the page shows of a file."""

    name: str
    address: str
    kind: str
    size: str


def keep(upload: FinishedUpload) -> None:
    """The whole file is here: into the folder with it, under a safe name that no other file has."""
    upload.move_to(f"{FILES}/")


web = Bottle()
app = Incoming(web, storage=DATA / "incoming", on_finish=keep)


@web.get("/")
def page() -> str:
    response.set_header("Cache-Control", "no-store")  # a ticket is good for one file
    ticket = request.environ["incoming"].new_upload()
    return str(template("page.tpl", template_lookup=[str(HERE)], ticket=ticket, files=files()))


@web.get("/files/<name>")
def download(name: str) -> HTTPResponse:
    """Always as a download: a page or a script that somebody sent must not run here."""
    answer = static_file(name, root=str(FILES))
    answer.headers.update(download_headers(name))
    return answer


@web.get("/static/<name>")
def static(name: str) -> HTTPResponse:
    return static_file(name, root=str(HERE / "static"))


@web.hook("after_request")
def add_headers() -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)  # a download has stricter ones


def files() -> list[File]:
    """The newest first."""
    newest = sorted(FILES.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    return [File(path.name, quote(path.name), _kind(path), _size(path.stat().st_size)) for path in newest]


def _kind(path: Path) -> str:
    return path.suffix[1:5].upper() or "FILE"


def _size(count: float) -> str:
    if count == 1:
        return "1 byte"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


if __name__ == "__main__":
    os.chdir(HERE)
    address = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
    print(f"http://{address}/", flush=True)
    gunicorn = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "2"]
    os.execv(gunicorn[0], [*gunicorn, "--bind", address, "app:app"])  # noqa: S606  no shell is wanted
