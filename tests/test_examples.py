"""The examples, started as ``make demo`` starts them (two gevent workers), and used as a person would."""

from __future__ import annotations

import hashlib
import random
import re
from typing import TYPE_CHECKING

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, expect

from docs.screenshots import example
from incoming_wsgi.downloads import download_headers

from .needs import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MB = 2**20
SOON = 30_000  # milliseconds
NAMES = ("bottle_app", "flask_app", "node_app")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; what its content policy or its scripts complain about fails the test."""
    page = browser.new_page()
    page.set_default_timeout(SOON)
    expect.set_options(timeout=SOON)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    # A chunk that is refused because somebody pressed a button is no mistake of the page.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


def make_file(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    noise = random.Random(name)
    with path.open("wb") as file:
        for start in range(0, size, 64 * MB):
            file.write(noise.randbytes(min(64 * MB, size - start)))
    return path


def row(page: Page, name: str) -> Locator:
    return page.locator("#uploads li", has_text=name)


def percent(text: str) -> int:
    found = re.search(r"(\d+) %", text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("name", NAMES)
def test_send_and_fetch(name: str, page: Page, tmp_path: Path) -> None:
    if name == "node_app":
        need("node")
    source = make_file(tmp_path, "Grüße & 100%.html", 20 * MB)
    with example(name, tmp_path) as address:
        page.goto(address)
        page.set_input_files("#picker", source)
        link = page.get_by_role("link", name=source.name)
        expect(link).to_be_visible()
        with page.expect_download() as download:
            link.click()
        fetched = requests.get(download.value.url, timeout=30)
    assert fetched.content == source.read_bytes()
    assert fetched.headers["Content-Disposition"].startswith("attachment")
    assert fetched.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", NAMES)
def test_go_on_after_a_reload(name: str, page: Page, tmp_path: Path) -> None:
    if name == "node_app":
        need("node")
    source = make_file(tmp_path, "long.bin", 400 * MB)
    state = page.locator(".state").first
    with example(name, tmp_path) as address:
        page.goto(address)
        page.set_input_files("#picker", source)
        expect(state).to_have_text(re.compile(r"[1-9]\d %"))
        before = percent(state.inner_text())
        page.reload()
        page.set_input_files("#picker", source)
        expect(state).to_have_text(re.compile(r"[1-9]\d? %|checked|Done"))
        first = state.inner_text()
        assert percent(first) >= before - 1 or "%" not in first
        expect(page.get_by_role("link", name=source.name)).to_be_visible(timeout=2 * SOON)
        (kept,) = (path for path in tmp_path.glob("data/files/**/long*") if path.is_file())
        assert digest(kept) == digest(source)


def test_cancel(page: Page, tmp_path: Path) -> None:
    source = make_file(tmp_path, "long.bin", 400 * MB)
    with example("bottle_app", tmp_path) as address:
        page.goto(address)
        page.set_input_files("#picker", source)
        expect(page.locator("#state")).to_have_text(re.compile(r"[1-9] %"))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#state")).to_have_text("Cancelled")
        page.get_by_role("button", name="Send another").click()
        page.set_input_files("#picker", make_file(tmp_path, "short.txt", 5))
        expect(page.get_by_role("link", name="short.txt")).to_be_visible()
        assert page.get_by_role("link").count() == 1


def test_several_files(page: Page, tmp_path: Path) -> None:
    names = ("one.bin", "two.bin", "three.bin", "four.bin")
    files = [make_file(tmp_path, name, 200 * MB) for name in names]
    # So long that the first file is still being checked when we get to look at it.
    with example("flask_app", tmp_path, FLASK_APP_LEISURE="12") as address:
        page.goto(address)
        page.set_input_files("#picker", files)
        expect(row(page, "four.bin")).to_contain_text("waiting for its turn")
        page.get_by_role("button", name="Pause two.bin").click()
        expect(row(page, "two.bin")).to_contain_text("Paused at")
        row(page, "two.bin").get_by_text("All numbers").click()
        expect(row(page, "two.bin").locator("dt", has_text="bytes_acked")).to_be_visible()
        page.get_by_role("button", name="Cancel three.bin").click()
        expect(row(page, "three.bin")).to_contain_text("Cancelled")
        expect(row(page, "one.bin")).to_contain_text("being checked")
        page.get_by_role("button", name="Resume two.bin").click()
        for name in ("one.bin", "two.bin", "four.bin"):
            expect(row(page, name)).to_contain_text("Done", timeout=2 * SOON)
        listed = page.locator("#files")
        for file in (files[0], files[1], files[3]):
            expect(listed).to_contain_text(digest(file))
        expect(listed).not_to_contain_text("three")


def test_drop(page: Page, tmp_path: Path) -> None:
    with example("flask_app", tmp_path) as address:
        page.goto(address)
        page.evaluate("""() => {
            const dropped = new DataTransfer();
            dropped.items.add(new File(["hello"], "dropped.txt"));
            document.body.dispatchEvent(new DragEvent("drop", {bubbles: true, dataTransfer: dropped}));
        }""")
        expect(page.get_by_role("link", name="dropped.txt")).to_be_visible()


def test_keyboard(page: Page, tmp_path: Path) -> None:
    with example("flask_app", tmp_path) as address:
        page.goto(address)
        page.keyboard.press("Tab")
        expect(page.locator("#picker")).to_be_focused()
        file = make_file(tmp_path, "long.bin", 200 * MB)
        page.on("filechooser", lambda chooser: chooser.set_files(file))
        page.evaluate("0")  # the browser has heard of that before it hears of the key
        page.keyboard.press("Space")
        expect(page.get_by_role("progressbar", name="long.bin")).to_be_visible()
        expect(page.get_by_role("button", name="Pause long.bin")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(row(page, "long")).to_contain_text("Paused")
        page.keyboard.press("Enter")
        expect(row(page, "long")).to_contain_text("Done")


@pytest.mark.parametrize("name", ["bottle_app", "flask_app"])
def test_what_people_sent_comes_back_as_a_download(tmp_path: Path, name: str) -> None:
    """A page with a script, say."""
    with example(name, tmp_path) as address:
        page = tmp_path / "data" / "files" / "page.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(b"<script>alert(1)</script>")
        answer = requests.get(f"{address}files/page.html", headers={"Range": "bytes=1-6"}, timeout=10)
        assert (answer.status_code, answer.content) == (206, b"script")
        for header, value in download_headers("page.html").items():
            assert answer.headers[header] == value


def test_strangers(tmp_path: Path) -> None:
    """Nobody but Incoming!! can say that a file is here, and no name leads out of the folder."""
    with example("flask_app", tmp_path) as address:
        ticket = requests.post(f"{address}tickets", timeout=10).json()["ticket"]
        form = {"id": ticket, "filename": "/etc/passwd", "backendSecret": "guess", "cancelled": "no"}
        assert requests.post(f"{address}api/arrived", form, timeout=10).status_code == 404
        foreign = {"Sec-Fetch-Site": "cross-site"}
        assert requests.post(f"{address}tickets", headers=foreign, timeout=10).status_code == 403
        assert requests.get(f"{address}files/..%2ffiles.sqlite", timeout=10).status_code == 404


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_uppy(page: Page, tmp_path: Path) -> None:
    need("npm")
    sources = [make_file(tmp_path, name, size) for name, size in (("Grüße.bin", 20 * MB), ("small.txt", 5))]
    with example("flask_app", tmp_path, FLASK_APP_LEISURE="0") as address:
        page.goto(f"{address}uppy")
        page.locator("input.uppy-Dashboard-input[multiple]").first.set_input_files(sources)
        page.get_by_role("button", name=re.compile("Upload .* file")).click()
        expect(page.locator(".uppy-StatusBar.is-complete")).to_be_visible()
        page.goto(address)
        for source in sources:
            link = page.get_by_role("link", name=source.name)
            expect(link).to_be_visible()
            fetched = requests.get(f"{address}{link.get_attribute('href')}", timeout=30)
            assert hashlib.sha256(fetched.content).digest() == hashlib.sha256(source.read_bytes()).digest()
