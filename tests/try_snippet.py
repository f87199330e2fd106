"""Uploads a small file to an app from the README: ``python try_snippet.py MODULE NAME``, in the app's folder.

A process of its own, because a Django project can be set up only once in each.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

from webtest import TestApp

CONTENT = b"all of it"
PATIENCE = 20


def main(module: str, name: str) -> None:
    sys.path.insert(0, ".")
    app = TestApp(getattr(import_module(module), name))
    ticket = app.post("/ticket").text
    resource = f"/incoming/0.1/frontend/uploads/{ticket}"
    headers = {"Incoming-Length": str(len(CONTENT)), "Incoming-Name": "notes.txt"}
    app.post(resource, CONTENT, headers, content_type="application/octet-stream")
    deadline = time.monotonic() + PATIENCE
    while app.get(resource).json["phase"] != "finished":
        if time.monotonic() > deadline:
            raise TimeoutError(app.get(resource).text)
        time.sleep(0.05)
    if Path("files/notes.txt").read_bytes() != CONTENT:
        raise ValueError("the app has got something else")


if __name__ == "__main__":
    main(*sys.argv[1:])
