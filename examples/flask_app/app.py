"""Tickets on demand, several files at once, and an app that needs a while before a file is really done.

The browser asks for a ticket for each file. When a file has arrived, Incoming!! posts to ``/api/arrived`` in
this app, which answers ``wait``, looks at every byte of the file in a thread (as a virus scanner would) and
says ``finish_upload`` when it has put the file away. All state is on disk: any number of workers may run it,
and one that dies in the middle of a file loses nothing, since Incoming!! then calls again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, abort, jsonify, render_template, request, send_from_directory

from incoming_wsgi import Incoming
from incoming_wsgi.downloads import download_headers

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("FLASK_APP_DATA", HERE / "data"))
FILES = DATA / "files"
FILES.mkdir(parents=True, exist_ok=True)
UPPY = HERE / "node_modules" / "uppy" / "dist"  # by npm install

#: Seconds that processing takes at least, for small files to show it, too. Your app needs no such thing.
LEISURE = float(os.environ.get("FLASK_APP_LEISURE", "2"))
#: Seconds after which a worker that has said nothing about its file counts as dead.
SILENCE = 15
#: Seconds between two notes about how far the processing is.
NOTE_EVERY = 0.3
BLOCK = 1 << 20

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    ticket TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'expected',  -- expected, processing, kept, cancelled
    name TEXT UNIQUE,
    size INTEGER,
    sha256 TEXT,
    done REAL NOT NULL DEFAULT 0,            -- how much of it has been processed, 0 to 1
    noted REAL NOT NULL DEFAULT 0            -- when the worker that processes it last said so
)
"""

# No script in the page, none from elsewhere, and nobody puts the page into a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

web = Flask(__name__, template_folder=".")
app = Incoming(web, storage=DATA / "incoming", wait_timeout=30)


@web.get("/")
def page() -> str:
    return render_template("page.html")


@web.get("/uppy")
def page_with_uppy() -> str:
    """The same by a library of other people's, which speaks tus."""
    if not UPPY.is_dir():
        abort(404, "Uppy is not installed: npm install")
    return render_template("uppy.html")


@web.get("/uppy/<name>")
def uppy(name: str) -> Response:
    return send_from_directory(UPPY, name)


@web.post("/tickets")
def new_ticket() -> Response:
    """A ticket for one file, for our own page only. The secret stays here; it never gets to the browser."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        abort(403)
    secret = secrets.token_urlsafe()
    incoming = request.environ["incoming"]  # the wrapper; it puts itself into every request
    ticket = incoming.new_upload(signal_finish_url="/api/arrived", backend_secret=secret)
    change("INSERT INTO files (ticket, secret) VALUES (?, ?)", ticket, secret)
    return jsonify(ticket=ticket)


@web.post("/api/arrived")
def arrived() -> str:
    """Incoming!! calls this when a file is here or will not come; again, if nobody has answered."""
    ticket = request.form["id"]
    file = find(ticket) or abort(404)
    if not hmac.compare_digest(file["secret"].encode(), request.form["backendSecret"].encode()):
        abort(404)
    if request.form["cancelled"] == "yes":
        change("UPDATE files SET state = 'cancelled' WHERE ticket = ?", ticket)
        return ""
    if file["state"] == "kept":
        return "done"
    if claim(ticket):
        path = Path(request.form["filename"])
        Thread(target=process, args=(ticket, path), daemon=True).start()
    return "wait"


@web.get("/processing/<ticket>")
def processing(ticket: str) -> Response:
    """How far the processing is, for the page."""
    file = find(ticket) or abort(404)
    return jsonify(state=file["state"], done=file["done"])


@web.get("/files")
def files() -> Response:
    with database() as rows:
        kept = rows.execute("SELECT name, size, sha256 FROM files WHERE state = 'kept' ORDER BY noted DESC")
        return jsonify([dict(file) for file in kept])


@web.get("/files/<name>")
def download(name: str) -> Response:
    """Always as a download: a page or a script that somebody sent must not run here."""
    response = send_from_directory(FILES, name)
    response.headers.update(download_headers(name))
    return response


@web.after_request
def add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)  # a download has stricter ones
    return response


def claim(ticket: str) -> bool:
    """True if this worker is to process the file: nobody does so yet, or who did has gone silent."""
    now = time.time()
    claimed = "UPDATE files SET state = 'processing', noted = ? WHERE ticket = ? AND noted < ?"
    return change(claimed, now, ticket, now - SILENCE) == 1


def process(ticket: str, arrived_at: Path) -> None:
    """What takes long: here each byte is looked at. Begun again after a crash, it does nothing twice."""
    target = FILES / choose_name(ticket)
    # The name has been noted before the file was moved, so if only the target is there, it is this very file.
    source = arrived_at if arrived_at.exists() else target
    digest = look_at(ticket, source)
    size = source.stat().st_size
    source.replace(target)
    change(
        "UPDATE files SET state = 'kept', done = 1, noted = ?, size = ?, sha256 = ? WHERE ticket = ?",
        time.time(), size, digest, ticket,
    )  # fmt: skip
    app.finish_upload(ticket)


def look_at(ticket: str, path: Path) -> str:
    """The SHA-256 of the file, with a note now and then about how far it is."""
    size, begun, noted = path.stat().st_size, time.monotonic(), 0.0
    digest, position = hashlib.sha256(), 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            digest.update(block)
            position += len(block)
            spent = time.monotonic() - begun
            share = min(position / size if size else 1.0, spent / LEISURE if LEISURE else 1.0)
            if share >= 1:
                return digest.hexdigest()
            if spent - noted > NOTE_EVERY:
                change("UPDATE files SET done = ?, noted = ? WHERE ticket = ?", share, time.time(), ticket)
                noted = spent
            # Under gevent this lets the other requests of the worker go on.
            time.sleep(0 if block else 0.05)


def choose_name(ticket: str) -> str:
    """The name under which the file is kept: the browser's, made safe, numbered if another file has it."""
    upload = app.upload(ticket)
    wanted = Path(upload.filename if upload else "file")
    for number in count(1):
        file = find(ticket)
        if file and file["name"]:
            return str(file["name"])
        name = wanted.name if number == 1 else f"{wanted.stem} ({number}){wanted.suffix}"
        if not (FILES / name).exists():
            change("UPDATE OR IGNORE files SET name = ? WHERE ticket = ?", name, ticket)
    raise AssertionError("numbers do not end")


def find(ticket: str) -> sqlite3.Row | None:
    with database() as rows:
        row: sqlite3.Row | None = rows.execute("SELECT * FROM files WHERE ticket = ?", (ticket,)).fetchone()
        return row


def change(statement: str, *values: Any) -> int:
    """How many rows ``statement`` has changed."""
    with database() as rows:
        return rows.execute(statement, values).rowcount


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """A connection for a moment: nothing is shared between threads or processes but the file."""
    connection = sqlite3.connect(DATA / "files.sqlite", timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            connection.execute(SCHEMA)
            yield connection
    finally:
        connection.close()


if __name__ == "__main__":
    from werkzeug.serving import run_simple

    run_simple(os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000")), app, threaded=True)
