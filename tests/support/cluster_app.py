"""The app of a machine in a cluster: acts on each file exactly once, wherever it is told of it, and writes that down.

What the machines share besides Redis and S3, the folder ``RECORD``, stands for the app's own database.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from bottle import Bottle, request

from incoming_wsgi import FinishedUpload, Incoming
from incoming_wsgi.once import Once

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

RECORD = Path(os.environ["RECORD"])
PAGE = """<!doctype html><meta charset="utf-8"><title>page</title>
<input type="file" id="file">
<script src="/incoming/frontend/incoming.js"></script>"""

once = Once(RECORD / "events.sqlite3")
web = Bottle()


def record(what: str, upload: FinishedUpload, **more: str) -> None:
    """One line, in one write, which no other process's line can get into."""
    line = {"what": what, "id": upload.id, "event_id": upload.event_id, **more}
    with (RECORD / "story").open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def on_finish(upload: FinishedUpload) -> str:
    with upload.open() as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    with once.first_time(upload.event_id) as first:  # without any waiting in it: a process has one event loop
        if first:
            record("effect", upload, sha256=digest)
    record("settled", upload)
    return "done"


@web.get("/page")
def page() -> str:
    return PAGE


@web.post("/ticket")
def ticket() -> str:
    incoming: Incoming = request.environ["incoming"]
    ticket_id: str = incoming.new_upload()
    return ticket_id


app = Incoming(web, on_finish=on_finish)
