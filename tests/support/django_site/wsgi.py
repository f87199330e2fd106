from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

from incoming_wsgi import FinishedUpload, Incoming

from .record import RECORD, record

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.django_site.settings")
(RECORD / "files").mkdir(parents=True, exist_ok=True)


def keep(upload: FinishedUpload) -> None:
    record(kind="finished", id=upload.id, event_id=upload.event_id, sha256=upload.sha256)
    upload.move_to(RECORD / "files" / upload.id, overwrite=True)


application = Incoming(get_wsgi_application(), storage=RECORD / "incoming", on_finish=keep)
