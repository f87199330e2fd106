"""A real Chromium, driven by the plain DevTools protocol.

A driver that listens to network events would get a copy of every payload, and measure itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import connect

from tests.end_to_end.browser import ARGUMENTS
from tests.support.processes import free_port
from tests.support.waiting import eventually

_LONGEST_CALL = 120.0  # seconds


class Tab:
    """One tab of a headless Chromium of its own.

    :param profile: folder for what the browser keeps.
    """

    def __init__(self, profile: Path) -> None:
        port = free_port()
        program = shutil.which("chromium") or "chromium"
        options = ["--headless", f"--remote-debugging-port={port}", f"--user-data-dir={profile}", *ARGUMENTS]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = eventually(lambda: _page_of(port), what="Chromium answering")
        self._connection = connect(address, max_size=None)
        self._devtools = self._connection.__enter__()
        self._next = 0

    def call(self, method: str, **params: Any) -> Any:
        self._next += 1
        self._devtools.send(json.dumps({"id": self._next, "method": method, "params": params}))
        while True:
            answer = json.loads(self._devtools.recv(_LONGEST_CALL))
            if answer.get("id") == self._next:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of an expression; of a promise, when it has one."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        eventually(lambda: self.evaluate(f"location.href === {url!r} && document.readyState === 'complete'"))

    def pick(self, file: Path) -> None:
        """Pick a file, as a person would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def version(self) -> str:
        return str(self.call("Browser.getVersion")["product"])

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__(None, None, None)
        self._process.terminate()
        self._process.wait()


def _page_of(port: int) -> str:
    try:
        targets = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=5).json()
    except requests.ConnectionError:
        return ""
    return next((str(target["webSocketDebuggerUrl"]) for target in targets if target["type"] == "page"), "")


_UPLOAD = """new Promise((resolve, reject) => {
    const file = document.getElementById("file").files[0];
    const uploader = new incoming.Uploader(%s, file, {transport: %s});
    const began = performance.now();
    uploader.onfinished = () => resolve((performance.now() - began) / 1000);
    uploader.onerror = () => reject(new Error(uploader.error_msg));
    uploader.start();
})"""


def upload(tab: Tab, url: str, ticket: str, file: Path, transport: str) -> float:
    """Seconds that our library takes until it says that all is done.

    :param url: of the app, or of a relay in front of it.
    """
    tab.open(f"{url}/page")
    tab.pick(file)
    return float(tab.evaluate(_UPLOAD % (json.dumps(ticket), json.dumps(transport))))
