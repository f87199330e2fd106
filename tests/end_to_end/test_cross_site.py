"""A page of another site, in a real browser, that knows a ticket: it can do nothing with it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer

DATA = bytes(1000)

#: Every way that a page has to send something, and what it gets to see.
TRY = """
async ([url, ws]) => {
  const socket = () => new Promise((resolve) => {
    const opened = new WebSocket(ws)
    opened.onopen = () => resolve('open')
    opened.onclose = (event) => resolve('closed ' + event.code)
  })
  const ask = (method, mode, headers, body) => fetch(url, { method, mode, headers, body })
    .then((answer) => `${answer.type} ${answer.status}`, () => 'failed')
  const image = () => new Promise((resolve) => {
    const element = new Image()
    element.onerror = element.onload = () => resolve('asked')
    element.src = url
  })
  const range = { 'Content-Range': 'bytes 0-9/1000', 'Content-Type': 'application/octet-stream' }
  const tus = { 'Tus-Resumable': '1.0.0', 'Upload-Offset': '10', 'Content-Type': 'application/offset+octet-stream' }
  return {
    socket: await socket(),
    get: await ask('GET', 'cors', {}),
    head: await ask('HEAD', 'cors', {}),
    tusHead: await ask('HEAD', 'cors', { 'Tus-Resumable': '1.0.0' }),
    put: await ask('PUT', 'cors', range, 'x'.repeat(10)),
    patch: await ask('PATCH', 'cors', tus, 'x'),
    remove: await ask('DELETE', 'cors', {}),
    open: await ask('POST', 'cors', { 'Incoming-Length': '1000', 'Incoming-Name': 'x' }, ''),
    form: await ask('POST', 'no-cors', { 'Content-Type': 'text/plain' }, 'x'),
    blind: await ask('GET', 'no-cors', {}),
    blindHead: await ask('HEAD', 'no-cors', {}),
    image: await image(),
    beacon: String(navigator.sendBeacon(url, 'x')),
  }
}
"""

#: ``opaque`` is an answer that the page can't look into.
SEEN = {
    "socket": "closed 1006",
    **dict.fromkeys(("get", "head", "tusHead", "put", "patch", "remove", "open"), "failed"),
    **dict.fromkeys(("form", "blind", "blindHead"), "opaque 0"),
    "image": "asked",
    "beacon": "true",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    with AppServer("gevent", tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def foreign_page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """Of another site: another port of this machine, by another name."""
    (tmp_path / "index.html").write_text("<!doctype html><title>evil</title>")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            """Not into the report of the tests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web, browser.new_context() as context:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        page = context.new_page()
        page.goto(f"http://localhost:{web.server_port}/index.html")
        yield page
        web.shutdown()
        thread.join()


@pytest.mark.parametrize("dialect", ["own", "tus", "draft"])
def test_it_can_do_nothing(server: AppServer, foreign_page: Page, dialect: str) -> None:
    client = ChunkClient(server.url, server.ticket(), DATA)
    created = {
        "own": {"Incoming-Length": "1000", "Incoming-Name": "x", "Content-Type": "application/octet-stream"},
        "tus": {"Tus-Resumable": "1.0.0", "Upload-Length": "1000", "Content-Type": "application/offset+octet-stream"},
        "draft": {"Upload-Complete": "?0", "Upload-Length": "1000", "Content-Type": "text/plain"},
    }[dialect]
    assert client.http.post(client.resource, data=DATA[:10], headers=created, timeout=10).status_code in (200, 201)
    before = status(client)
    address = server.url.replace("http:", "ws:") + "/incoming/frontend/upload_ws"
    assert foreign_page.evaluate(TRY, [client.resource, address]) == SEEN
    assert status(client) == before
    client.http.close()


def status(client: ChunkClient) -> dict[str, object]:
    """How it is, by a request that disturbs nobody; the version counts what has been done to it."""
    found: dict[str, object] = client.answer(client.http.get(client.resource, params={"wait": "0"}, timeout=10))
    return found
