"""tuswsgi as its documentation sets it up: the app is called when a file is complete."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tuswsgi import TusMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FILES, UPLOADS = os.environ["FILES"], os.environ["UPLOADS"]


def keep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    upload = environ["PATH_INFO"].rpartition("/")[2]
    os.rename(os.path.join(UPLOADS, upload), os.path.join(FILES, upload))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return []


app = TusMiddleware(keep, upload_path="/files", tmp_dir=UPLOADS, max_size=2**40)
