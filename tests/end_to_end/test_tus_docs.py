"""What docs/tus.rst says works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from webtest import TestApp

from incoming_wsgi import Incoming
from tests.needs import need
from tests.support.processes import ROOT, AppServer

from .conftest import StartServer, assert_arrived_once, data_of, sha256
from .test_tus_clients import package

PAGE = (ROOT / "docs" / "tus.rst").read_text("utf-8")
DATA = data_of(3_000_000)


def snippet(language: str, word: str) -> str:
    """The code block in which ``word`` stands."""
    blocks = re.findall(rf"\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", PAGE)
    (found,) = (block for block in blocks if word in block)
    return textwrap.dedent(found)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mkv"
    path.write_bytes(DATA)
    return path


def test_curl(start_server: StartServer, film: Path) -> None:
    server = start_server()
    ticket = server.ticket()
    need("curl")
    script = snippet("sh", "curl").replace("https://example.org", server.url)
    env = {**os.environ, "ticket": ticket}
    subprocess.run(["bash", "-euc", script], cwd=film.parent, env=env, check=True, timeout=60)
    assert_arrived_once(server, ticket, sha256(DATA))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tuspy(start_server: StartServer, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server()
    ticket = server.ticket()
    monkeypatch.chdir(film.parent)
    exec(snippet("python", "tusclient").replace("https://example.org", server.url), {"ticket": ticket})  # noqa: S102
    assert_arrived_once(server, ticket, sha256(DATA))


def test_authorize(tmp_path: Path) -> None:
    def wrapped(environ: Any, start_response: Any) -> list[bytes]:
        start_response("204 No Content", [])
        return []

    code = snippet("python", "authorize").replace('"incoming-files"', repr(str(tmp_path)))
    names: dict[str, Any] = {"app": wrapped, "keep": lambda upload: None}
    exec(code, names)  # noqa: S102
    app: Incoming = names["app"]
    given = {"Tus-Resumable": "1.0.0", "Upload-Length": "5"}
    web = TestApp(app)
    assert web.post("/incoming/frontend/uploads", headers=given, status=403).json["error"]["name"] == "forbidden"
    allowed = web.post("/incoming/frontend/uploads", headers=given, extra_environ={"REMOTE_USER": "ada"}, status=201)
    upload = app.upload(allowed.headers["Location"].rpartition("/")[2])
    assert upload is not None
    assert (upload.owner, upload.max_length, upload.length) == ("ada", 10 * 2**30, 5)
    app.close()


@pytest.fixture
def tab(browser: Browser, start_server: StartServer, film: Path) -> Iterator[tuple[Page, AppServer, str]]:
    """A page with the file picked, its server, and the ticket that it is given."""
    server = start_server()
    ticket = server.ticket()
    context = browser.new_context()
    page = context.new_page()
    page.route("**/tickets", lambda route: route.fulfill(json={"ticket": ticket}))
    page.goto(f"{server.url}/page")
    page.set_input_files("#file", film)
    yield page, server, ticket
    context.close()


def test_tus_js_client(tab: tuple[Page, AppServer, str]) -> None:
    page, server, ticket = tab
    page.add_script_tag(path=package("tus-js-client") / "dist" / "tus.min.js")
    code = snippet("javascript", "new tus.Upload")
    page.evaluate(f"(ticket) => {{ const file = document.getElementById('file').files[0]; {code} }}", ticket)
    assert_arrived_once(server, ticket, sha256(DATA))
    assert server.events(ticket)[0]["name"] == "film.mkv"


def test_uppy(tab: tuple[Page, AppServer, str]) -> None:
    page, server, ticket = tab
    page.add_script_tag(path=package("uppy") / "dist" / "uppy.min.js")
    page.evaluate("document.body.append(Object.assign(document.createElement('div'), {id: 'uppy'}))")
    adding = "uppy.addFile({name: file.name, data: file}); return uppy.upload().then((done) => done.failed.length);"
    code = snippet("javascript", "Uppy.Dashboard")
    failed = page.evaluate(f"() => {{ const file = document.getElementById('file').files[0]; {code} {adding} }}")
    assert failed == 0
    assert_arrived_once(server, ticket, sha256(DATA))
