"""The app of the end-to-end tests: gives tickets, takes files, and writes down each time it is told of one.

All of it is on disk, in the folder ``RECORD``, so that any number of workers, killed at any time, tell the same story;
the files are elsewhere where ``FILES`` says so.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from bottle import Bottle, request, response

from incoming_wsgi import FinishedUpload, Incoming, Upload

logging.basicConfig(level=logging.INFO)
logging.getLogger("incoming_wsgi").setLevel(os.environ.get("LEVEL", "INFO"))
logging.getLogger("incoming_wsgi.websocket").setLevel("INFO")

RECORD = Path(os.environ["RECORD"])
FILES = Path(os.environ.get("FILES", RECORD / "files"))
FILES.mkdir(parents=True, exist_ok=True)

#: Whether files are handed over in this process.
HANDLES = bool(os.environ.get("HANDLES", "yes"))

PAGE = """<!doctype html><meta charset="utf-8"><title>page</title>
<input type="file" id="file" multiple>
<script src="/incoming/frontend/incoming.js"></script>"""

web = Bottle()


def record(**event: Any) -> None:
    """One line, in one write, which no other process's line can get into."""
    with (RECORD / "events").open("ab", buffering=0) as file:
        file.write(json.dumps(event).encode() + b"\n")


def on_finish(upload: FinishedUpload) -> str:
    record(
        kind="finished",
        id=upload.id,
        event_id=upload.event_id,
        attempt=upload.attempt,
        sha256=upload.sha256,
        length=upload.length,
        name=upload.filename_from_browser,
        safe_name=upload.filename,
        client_metadata=dict(upload.client_metadata),
    )
    time.sleep(float(upload.metadata.get("leisure", "0")))
    answer = upload.metadata.get("answer", "done")
    if answer == "done":
        upload.move_to(str(FILES / upload.id), overwrite=True)
    return answer


def on_cancel(upload: Upload, reason: str) -> None:
    record(kind="cancelled", id=upload.id, event_id=upload.event_id, reason=reason)


@web.get("/page")
def page() -> str:
    return PAGE


@web.post("/ticket")
def ticket() -> str:
    incoming: Incoming = request.environ["incoming"]
    target = request.query.get("target", "")
    ticket_id: str = incoming.new_upload(
        signal_finish_url=target, backend_secret="s3cret", metadata=dict(request.forms)
    )
    return ticket_id


@web.post("/api/arrived")
def arrived() -> str:
    """The hand-over as a request into this app."""
    assert request.environ.get("incoming.handover") or request.forms["backendSecret"] == "s3cret"
    form = dict(request.forms.decode())
    record(kind="called", id=form["id"], event_id=form["eventId"], cancelled=form["cancelled"], url=request.url)
    if form["cancelled"] == "no" and Path(form["filename"]).exists():
        Path(form["filename"]).rename(FILES / form["id"])
    return " done\n"


@web.post("/finish/<ticket_id>")
def finish(ticket_id: str) -> str:
    request.environ["incoming"].finish_upload(ticket_id)
    return "ok"


@web.get("/state/<ticket_id>")
def state(ticket_id: str) -> dict[str, Any]:
    upload = request.environ["incoming"].upload(ticket_id)
    response.set_header("Cache-Control", "no-store")
    return {"state": upload.state.value if upload else None, "received": upload.received if upload else 0}


@web.post("/echo")
def echo() -> bytes:
    """Something of the app's own that must pass through untouched."""
    body: bytes = request.body.read()
    return body


app = Incoming(
    web,
    storage=os.environ.get("STORAGE", RECORD / "incoming"),
    on_finish=on_finish if HANDLES else None,
    on_cancel=on_cancel if HANDLES else None,
    backend_key=os.environ.get("BACKEND_KEY", "key"),
)
