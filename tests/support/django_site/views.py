"""What the project does: gives tickets, takes files, and has a page with a form that only its own page may send."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

from django.http import HttpResponse, HttpResponseForbidden
from django.template import engines
from django.urls import reverse

from .record import RECORD, record

SECRET = "s3cret"

_PAGE = """<!doctype html><form method="post" action="{{ action }}">{% csrf_token %}<input name="text"></form>"""


def page(request: Any) -> Any:
    if request.method == "POST":
        return HttpResponse(f"taken: {request.POST['text']}")
    template = engines["django"].from_string(_PAGE)
    return HttpResponse(template.render({"action": reverse("page")}, request))


def ticket(request: Any) -> Any:
    """``?by=path`` has the file handed over to :func:`arrived`, else to ``on_finish``."""
    target = "/api/arrived/" if request.GET.get("by") == "path" else ""
    return HttpResponse(request.environ["incoming"].new_upload(signal_finish_url=target, backend_secret=SECRET))


def measure(request: Any) -> Any:
    """Takes a body of any size, raw or as a file of a form, as an app may that has never heard of the wrapper."""
    source = request.FILES.get("file", request)
    digest = hashlib.sha256()
    while piece := source.read(1 << 20):
        digest.update(piece)
    return HttpResponse(digest.hexdigest())


def arrived(request: Any) -> Any:
    """Takes a file, from the wrapper and from nobody else."""
    if not request.environ.get("incoming.handover") or not _knows_the_secret(request):
        return HttpResponseForbidden("only for the wrapper")
    form = request.POST
    record(
        kind="called",
        id=form["id"],
        event_id=form["eventId"],
        sha256=form["sha256"],
        url=request.build_absolute_uri(),
        page=reverse("page"),
    )
    Path(form["filename"]).rename(RECORD / "files" / form["id"])
    return HttpResponse("done")


def _knows_the_secret(request: Any) -> bool:
    return hmac.compare_digest(request.POST.get("backendSecret", ""), SECRET)
