"""Uploads a file by incoming.js, in a page in Chromium: ``python -m tests.support.page_sender URL TICKET FILE RATE``.

Prints the bytes that were acknowledged, a line each time, and at last: ``finished``, ``forgotten``, or what went wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from playwright.sync_api import BrowserContext
from playwright.sync_api import Error as BrowserError

from tests.end_to_end.browser import UploadPage, chromium
from tests.support.waiting import eventually

_LOOK = 0.1  # seconds
_LOADED = 60.0  # seconds in which the page comes, whatever happens to the servers meanwhile

#: ``error_code`` of an upload that is not known, and of one whose file is gone.
_FORGOTTEN = (6, 15)


def main(url: str, ticket: str, file: str, rate: str) -> None:
    with chromium() as browser:
        page = eventually(lambda: _loaded(browser.new_context(), url), _LOADED, "the page")
        _slow_down(page, int(rate))
        page.upload(Path(file), ticket)
        seen = 0
        while not any(page.get(name) for name in ("finished", "cancelled", "error_code")):
            acknowledged = page.get("bytes_acked")
            if acknowledged != seen:
                print(acknowledged, flush=True)
                seen = acknowledged
            time.sleep(_LOOK)
        print(_word(page), flush=True)


def _loaded(context: BrowserContext, url: str) -> UploadPage | None:
    """The page with its script, which a server that is being killed may not have given."""
    try:
        page = UploadPage(context, url)
        is_whole = page.tab.evaluate("typeof incoming === 'object' && document.getElementById('file') !== null")
    except BrowserError:
        is_whole = False
    if is_whole:
        return page
    context.close()
    return None


def _slow_down(page: UploadPage, rate: int) -> None:
    """:param rate: bytes per second that go out."""
    conditions = {"offline": False, "latency": 5, "downloadThroughput": -1, "uploadThroughput": rate}
    devtools = page.tab.context.new_cdp_session(page.tab)
    devtools.send("Network.enable")
    devtools.send("Network.emulateNetworkConditions", conditions)


def _word(page: UploadPage) -> str:
    if page.get("finished"):
        return "finished"
    return "forgotten" if page.get("error_code") in _FORGOTTEN else f"gave up: {page.describe()}"


if __name__ == "__main__":
    main(*sys.argv[1:])
