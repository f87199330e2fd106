"""Takes the pictures of the examples for the README and the documentation: ``python docs/screenshots.py``.

Each example is started as ``make demo`` does it, and used as a person would. Needs the test requirements, a
Chromium (``CHROMIUM`` names it) and some GB of room for the files that are sent.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Locator, Page, expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DOCS = Path(__file__).resolve().parent
DEMO = DOCS.parent / "examples" / "demo.py"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
WIDTH, HEIGHT = 820, 440
MB = 10**6
WELL_ON_ITS_WAY = re.compile(r"[3-6]\d %.* left")
START_SECONDS = 30


def main() -> None:
    with sync_playwright() as tools, tempfile.TemporaryDirectory() as room:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, use in (("bottle_app", one_file), ("flask_app", many_files), ("node_app", one_file)):
            folder = Path(room, name)
            folder.mkdir()
            with example(name, folder, FLASK_APP_LEISURE="6") as address:
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=2)
                page.goto(address)
                use(page, folder)
                page.mouse.move(0, 0)
                page.screenshot(path=DOCS / "images" / f"{name}.png", full_page=True)
                page.close()
            shutil.rmtree(folder)
            print(f"docs/images/{name}.png")
        browser.close()


def one_file(page: Page, folder: Path) -> None:
    page.set_input_files("#picker", file(folder, "interview.wav", 48 * MB))
    expect(page.get_by_role("link", name="interview.wav")).to_be_visible()
    page.get_by_role("button", name="Send another").click()
    page.set_input_files("#picker", file(folder, "the whole concert.mkv", 4200 * MB))
    expect(page.locator("#state")).to_contain_text(WELL_ON_ITS_WAY, timeout=60_000)


def many_files(page: Page, folder: Path) -> None:
    page.set_input_files("#picker", file(folder, "interview.wav", 48 * MB))
    expect(page.get_by_role("link", name="interview.wav")).to_be_visible(timeout=20_000)
    page.get_by_role("button", name="Remove").click()
    large = [file(folder, "the whole concert.mkv", 4200 * MB), file(folder, "survey 2019.tar.gz", 1800 * MB)]
    page.set_input_files("#picker", large)
    expect(row(page, "survey")).to_contain_text(WELL_ON_ITS_WAY, timeout=60_000)
    page.get_by_role("button", name="Pause survey").click()
    row(page, "concert").get_by_text("All numbers").click()
    page.set_input_files("#picker", file(folder, "measurements.csv", 5 * MB))
    expect(row(page, "measurements")).to_contain_text("checked: 5", timeout=20_000)


def row(page: Page, name: str) -> Locator:
    return page.locator("#uploads li", has_text=name)


def file(folder: Path, name: str, size: int) -> str:
    path = folder / name
    with path.open("wb") as empty:
        empty.truncate(size)
    return str(path)


@contextmanager
def example(name: str, folder: Path, **settings: str) -> Iterator[str]:
    """The address of a running example that keeps everything in ``folder``."""
    environment = {**os.environ, f"{name.upper()}_DATA": str(folder / "data"), **settings}
    with serving([sys.executable, str(DEMO), name], environment) as address:
        yield address


@contextmanager
def serving(command: list[str], environment: Mapping[str, str]) -> Iterator[str]:
    """The address at which ``command`` answers; it is told its port in ``PORT``."""
    # From somewhere, so that two that look at the same time do not find the same one.
    port = next(filter(is_free, range(18000 + 7 * random.randrange(1000), 32000, 7)))
    demo = subprocess.Popen(command, env={**environment, "PORT": str(port)}, stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        demo.terminate()
        demo.wait()


def is_free(port: int) -> bool:
    """The port, and those beside it that the Incoming!! server of the node example takes."""
    try:
        for one in (port, port + 80, port + 81):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", one))
    except OSError:
        return False
    return True


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/")
                connection.getresponse().read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
