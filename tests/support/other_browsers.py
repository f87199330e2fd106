"""Browsers that Playwright can't drive where they come from Debian: Firefox by WebDriver BiDi, WebKitGTK by WebDriver.

Of either protocol only the handful of commands that an upload takes.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests
from websocket import WebSocket, create_connection

from tests.needs import need
from tests.support.waiting import eventually

from .processes import Process, free_port

#: Seconds that a command may take; the browser's first start is the longest.
_PATIENCE = 60

#: What else Firefox would look for outside of this machine.
_FIREFOX_PREFERENCES = """
user_pref("app.update.auto", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.safebrowsing.update.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,nothing");
"""


class Tab(ABC):
    """The one tab of a browser."""

    @abstractmethod
    def goto(self, url: str) -> None:
        """Open a page and wait until it is loaded."""

    @abstractmethod
    def pick(self, selector: str, file: Path) -> None:
        """Pick a file, as a person would."""

    @abstractmethod
    def run(self, script: str) -> Any:
        """What a script ``return``\\ s, as JSON can say it."""

    def wait_for(self, condition: str, timeout: float = _PATIENCE) -> None:
        """Until a condition of the page's holds."""
        eventually(lambda: self.run(f"return Boolean({condition});"), timeout, condition)


class _FirefoxTab(Tab):
    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._sent = 0
        self._command("session.new", capabilities={})
        self._context = self._command("browsingContext.getTree")["contexts"][0]["context"]

    def goto(self, url: str) -> None:
        self._command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def pick(self, selector: str, file: Path) -> None:
        locator = {"type": "css", "value": selector}
        (node,) = self._command("browsingContext.locateNodes", context=self._context, locator=locator)["nodes"]
        element = {"sharedId": node["sharedId"]}
        self._command("input.setFiles", context=self._context, element=element, files=[str(file)])

    def run(self, script: str) -> Any:
        expression = f"JSON.stringify((() => {{ {script} }})() ?? null)"
        target = {"context": self._context}
        answer = self._command("script.evaluate", expression=expression, target=target, awaitPromise=False)
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def _command(self, method: str, **params: Any) -> Any:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._sent:  # the others are events
                assert message["type"] == "success", message
                return message["result"]


class _WebKitTab(Tab):
    def __init__(self, http: requests.Session, driver: str) -> None:
        self._http = http
        self._session = f"{driver}/session"
        session = self._command("", capabilities={"alwaysMatch": {}})["sessionId"]
        self._session += f"/{session}"

    def goto(self, url: str) -> None:
        self._command("/url", url=url)

    def pick(self, selector: str, file: Path) -> None:
        (element,) = self._command("/element", using="css selector", value=selector).values()
        self._command(f"/element/{element}/value", text=str(file))

    def run(self, script: str) -> Any:
        return self._command("/execute/sync", script=script, args=[])

    def _command(self, path: str, **params: Any) -> Any:
        response = self._http.post(self._session + path, json=params, timeout=_PATIENCE)
        assert response.ok, response.text
        return response.json()["value"]


@contextmanager
def firefox(folder: Path) -> Iterator[Tab]:
    """A headless Firefox with a profile of its own."""
    profile = folder / "firefox"
    profile.mkdir(parents=True)
    (profile / "user.js").write_text(_FIREFOX_PREFERENCES)
    options = ["--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with _running([need("firefox-esr"), *options, "about:blank"], folder / "firefox.log", folder) as log:
        address = _said(log, r"WebDriver BiDi listening on (ws://\S+)")
        with closing(create_connection(f"{address}/session", timeout=_PATIENCE, suppress_origin=True)) as socket:
            yield _FirefoxTab(socket)


@contextmanager
def webkit(folder: Path) -> Iterator[Tab]:
    """WebKitGTK's own little browser, on a screen that nobody sees."""
    port = free_port()
    driver = f"http://127.0.0.1:{port}"
    screen = [need("Xvfb"), "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "1024x768x24"]
    command = [need("WebKitWebDriver"), f"--port={port}"]
    with _running(screen, folder / "screen.log", folder) as screen_log:
        display = _said(screen_log, r"^(\d+)$")
        with _running(command, folder / "webkit.log", folder, DISPLAY=f":{display}"), requests.Session() as http:
            eventually(lambda: _answers(f"{driver}/status"), _PATIENCE, "WebKitWebDriver answering")
            yield _WebKitTab(http, driver)


BROWSERS: dict[str, Callable[[Path], Any]] = {"firefox": firefox, "webkit": webkit}


@contextmanager
def _running(command: list[str], log: Path, home: Path, **env: str) -> Iterator[Path]:
    """A program with its children, in a home of its own; gives its output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = Process(command, log, {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "NO_AT_BRIDGE": "1", **env})
    try:
        yield log
    finally:
        process.kill()


def _said(log: Path, pattern: str) -> str:
    """What a program writes when it is ready."""
    found = eventually(lambda: re.search(pattern, log.read_text(), re.MULTILINE), _PATIENCE, f"{log.name}: {pattern}")
    return found[1]


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False
