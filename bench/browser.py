"""How fast a real Chromium uploads over each transport, beside a server that throws the bytes away.

``python -m bench.browser [--size 1G] [--rounds 5]``. The browser is driven by the plain DevTools protocol: a driver
that listens to network events gets a copy of every payload, and measures itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import connect

from incoming_wsgi.settings import size
from tests.end_to_end.browser import ARGUMENTS
from tests.support.processes import AppServer, free_port
from tests.support.waiting import eventually

_UPLOAD = """new Promise((resolve, reject) => {
    const uploader = new incoming.Uploader(%s, document.getElementById("file").files[0], {transport: %s});
    const began = performance.now();
    let arrived = 0;
    uploader.onprogress = () => { if (!arrived && uploader.frac_complete === 1) arrived = performance.now(); };
    uploader.onfinished = () => resolve([arrived - began, performance.now() - began]);
    uploader.onerror = () => reject(new Error(uploader.error_msg));
    uploader.start();
})"""


class Tab:
    """One tab of a headless Chromium of its own."""

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
            answer = json.loads(self._devtools.recv())
            if answer.get("id") == self._next:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        eventually(lambda: self.evaluate("typeof incoming === 'object' && document.readyState === 'complete'"))

    def pick(self, file: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def close(self) -> None:
        self._connection.__exit__(None, None, None)
        self._process.terminate()
        self._process.wait()


def _page_of(port: int) -> str:
    try:
        targets = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=5).json()
    except requests.ConnectionError:
        return ""
    return next((str(target["webSocketDebuggerUrl"]) for target in targets if target["type"] == "page"), "")


def measure(tab: Tab, server: AppServer, file: Path, transport: str) -> tuple[float, float]:
    """Seconds until the last byte was acknowledged, and until the app was done."""
    ticket = server.ticket()
    tab.open(f"{server.url}/page")
    tab.pick(file)
    arrived, finished = tab.evaluate(_UPLOAD % (json.dumps(ticket), json.dumps(transport)))
    server.file(ticket).unlink()
    return arrived / 1000, finished / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=size, default="1G")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--server", default="gevent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        file = folder / "file.bin"
        with file.open("wb") as out:
            for _ in range(options.size >> 20):
                out.write(os.urandom(1 << 20))
        tab = Tab(folder / "profile")
        try:
            with AppServer(options.server, folder) as server:
                report(tab, server, file, options.rounds)
        finally:
            tab.close()


def report(tab: Tab, server: AppServer, file: Path, rounds: int) -> None:
    megabytes = file.stat().st_size / 1e6
    speeds: dict[str, list[float]] = {"http": [], "websocket": []}
    ends: dict[str, list[float]] = {"http": [], "websocket": []}
    for transport in speeds:
        measure(tab, server, file, transport)  # warms caches, and is not counted
    for _ in range(rounds):
        for transport, values in speeds.items():
            arrived, finished = measure(tab, server, file, transport)
            values.append(megabytes / arrived)
            ends[transport].append(finished - arrived)
    for transport, values in speeds.items():
        print(
            f"{transport:10} {statistics.median(values):6.0f} MB/s (min {min(values):.0f}, max {max(values):.0f}); "
            f"from the last byte to the app's done {statistics.median(ends[transport]):.2f} s"
        )
    ratios = [http / websocket for http, websocket in zip(speeds["http"], speeds["websocket"], strict=True)]
    print(f"http / websocket, round by round: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"took {time.monotonic() - began:.0f} s")
