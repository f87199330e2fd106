"""tuspyserver as its documentation sets it up."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from tuspyserver import create_tus_router

FILES, UPLOADS = os.environ["FILES"], os.environ["UPLOADS"]


def keep(path: str, _metadata: dict[str, Any]) -> None:
    os.rename(path, os.path.join(FILES, os.path.basename(path)))


app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=UPLOADS, on_upload_complete=keep))
