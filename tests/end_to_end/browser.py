"""A real Chromium, and a page in it that uploads with incoming.js."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.needs import need
from tests.support.waiting import eventually

#: Started as root in a container there is no sandbox; the rest keeps it from asking the internet for things.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_START = """([ticket, transport]) => {
    const file = document.getElementById("file").files[0];
    const uploader = new incoming.Uploader(ticket, file, {transport});
    window.calls = [];
    for (const name of ["onfinished", "oncancelled", "onerror"])
        uploader[name] = () => window.calls.push(name);
    uploader.onprogress = () => { window.most = Math.max(window.most || 0, uploader.bytes_acked); };
    window.uploader = uploader;
    uploader.start();
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=need("chromium"), headless=True, args=list(ARGUMENTS), chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            browser.close()


class UploadPage:
    """The page of the recording app, in a tab.

    :param url: where the browser finds the server: its own address, or a relay's.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.tab: Page = context.new_page()
        self.complaints: list[str] = []
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._url = url
        self.tab.goto(f"{url}/page")

    def pick(self, file: Path) -> None:
        """Pick a file, as a person would."""
        self.tab.set_input_files("#file", file)

    def start(self, ticket: str, transport: str = "auto") -> None:
        self.tab.evaluate(_START, [ticket, transport])

    def upload(self, file: Path, ticket: str, transport: str = "auto") -> None:
        self.pick(file)
        self.start(ticket, transport)

    def get(self, name: str) -> Any:
        """A property of the uploader."""
        return self.tab.evaluate(f"window.uploader.{name}")

    def call(self, function: str) -> None:
        """``pause()``, ``start()`` or ``cancel("why")``."""
        self.tab.evaluate(f"window.uploader.{function}; undefined")

    @property
    def calls(self) -> list[str]:
        """Which of the callbacks came, in order."""
        calls: list[str] = self.tab.evaluate("window.calls")
        return calls

    def wait_for(self, condition: str, timeout: float = 60) -> None:
        """Until a condition on ``uploader`` holds."""
        try:
            self.tab.wait_for_function(
                f"() => {{ const uploader = window.uploader; return {condition}; }}", timeout=timeout * 1000
            )
        except Exception as error:
            raise AssertionError(f"{condition} did not come true: {self.describe()}") from error

    def wait_for_bytes(self, count: int, timeout: float = 60) -> None:
        self.wait_for(f"uploader.bytes_acked >= {count}", timeout)

    def wait_until_finished(self, timeout: float = 120) -> None:
        self.wait_for("uploader.finished || uploader.cancelled || uploader.error_code", timeout)
        assert self.get("finished"), self.describe()
        assert self.calls == ["onfinished"], self.calls
        assert self.get("frac_complete") == 1
        assert self.get("bytes_acked") == self.get("bytes_total")
        assert not self.complaints

    def reload(self) -> None:
        """A reload, which waits for a server that is coming back."""
        eventually(self._loads, 30, "the page loading")

    def describe(self) -> str:
        names = [
            "phase",
            "state_msg",
            "error_code",
            "error_msg",
            "cancel_msg",
            "bytes_acked",
            "bytes_total",
            "connected",
            "transport",
            "paused",
        ]
        return str({name: self.get(name) for name in names}) + str(self.complaints)

    def _loads(self) -> bool:
        try:
            response = self.tab.goto(f"{self._url}/page")
        except Exception:  # noqa: BLE001 (whatever the browser calls a server that is not there)
            return False
        return response is not None and response.ok
