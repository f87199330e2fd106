"""The app whose uploads are measured: as small as the one in the README, and it writes down when it was told.

Everything is in the folder ``RECORD``: the files in ``files``, and in ``events`` a line for each. What is in S3 stays
there, until the app has answered.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from bottle import Bottle, request

from incoming_wsgi import FinishedUpload, Incoming

RECORD = Path(os.environ["RECORD"])
FILES = RECORD / "files"
FILES.mkdir(parents=True, exist_ok=True)

PAGE = """<!doctype html><meta charset="utf-8"><title>page</title>
<input type="file" id="file">
<script src="/incoming/frontend/incoming.js"></script>"""

web = Bottle()


def on_finish(upload: FinishedUpload) -> str:
    told = time.monotonic()
    if "wait" in upload.metadata:
        return "wait"
    if not upload.path.startswith("s3://"):
        upload.move_to(str(FILES / upload.id))
    line = json.dumps({"id": upload.id, "told": told, "done": time.monotonic()})
    with (RECORD / "events").open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")
    return "done"


@web.get("/page")
def page() -> str:
    return PAGE


@web.post("/ticket")
def ticket() -> str:
    ticket_id: str = request.environ["incoming"].new_upload(metadata=dict(request.query))
    return ticket_id


storage = os.environ.get("INCOMING_STORAGE", str(RECORD / "incoming"))
app = Incoming(web, storage=storage, on_finish=on_finish)
