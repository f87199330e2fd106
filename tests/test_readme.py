"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docutils.core import publish_doctree
from playwright.sync_api import Browser, expect
from werkzeug.serving import make_server

from incoming_wsgi import Incoming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from incoming_wsgi import FinishedUpload

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.rst").read_text("utf-8")
PAGES = [*ROOT.glob("*.rst"), *ROOT.glob("docs/*.rst"), *ROOT.glob("examples/*/*.rst")]

URLS = "from django.urls import path\nfrom views import ticket\nurlpatterns = [path('ticket', ticket)]\n"
SETTINGS = "SECRET_KEY = 'x'\nALLOWED_HOSTS = ['localhost']\nROOT_URLCONF = 'mysite.urls'\n"


def snippet(language: str, mark: str) -> str:
    """The one code block in ``language`` that has ``mark`` in it."""
    blocks = re.findall(rf"^\.\. code-block:: {language}\n\n((?: {{4}}.*\n|\n)+)", README, re.MULTILINE)
    (found,) = [textwrap.dedent(block) for block in blocks if mark in block]
    return found


def upload_to(folder: Path, module: str, name: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "try_snippet.py"), module, name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mark", ["import Bottle", "import Flask"])
def test_app(tmp_path: Path, mark: str) -> None:
    (tmp_path / "myapp.py").write_text(snippet("python", mark))
    upload_to(tmp_path, "myapp", "app")


def test_any_wsgi_app(tmp_path: Path) -> None:
    (tmp_path / "myapp.py").write_text(snippet("python", "start_response"))
    upload_to(tmp_path, "myapp", "app")


def test_django(tmp_path: Path) -> None:
    site = tmp_path / "mysite"
    site.mkdir()
    (site / "settings.py").write_text(SETTINGS)
    (site / "urls.py").write_text(URLS)
    (tmp_path / "views.py").write_text(
        # The page that sends the token Django wants is not a part of the snippet.
        "from django.views.decorators.csrf import csrf_exempt\n"
        + snippet("python", "require_POST")
        + "ticket = csrf_exempt(ticket)\n"
    )
    (tmp_path / "wsgi.py").write_text(snippet("python", "get_wsgi_application"))
    upload_to(tmp_path, "wsgi", "application")


def test_page(tmp_path: Path, browser: Browser) -> None:
    with served(tmp_path) as address, browser.new_page() as page:
        page.goto(address)
        page.set_input_files("#picker", {"name": "a.bin", "mimeType": "", "buffer": bytes(3_000_000)})
        expect(page.get_by_text("Done.")).to_be_visible(timeout=20_000)
    assert (tmp_path / "a.bin").read_bytes() == bytes(3_000_000)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The README's page, at an address of this machine, until the end."""
    html = snippet("html", "incoming.Uploader").encode()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [environ["incoming"].new_upload().encode() if environ["PATH_INFO"] == "/ticket" else html]

    def keep(upload: FinishedUpload) -> None:
        upload.move_to(str(folder))

    wrapped = Incoming(app, storage=folder / "incoming", on_finish=keep)
    server = make_server("127.0.0.1", 0, wrapped, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        wrapped.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_is_valid(page: Path) -> None:
    # Level 2 is a warning: what readers would see as a broken page.
    publish_doctree(page.read_text("utf-8"), str(page), settings_overrides={"halt_level": 2})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"<((?!https?:)[^<>\s]+\.(?:rst|py))>`_|image:: (\S+)", page.read_text("utf-8"))
    for target in (path or image for path, image in links):
        assert (page.parent / target).exists(), target
