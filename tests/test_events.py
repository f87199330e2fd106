from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from incoming_wsgi import Incoming, events
from incoming_wsgi.errors import OverQuota
from tests.support.waiting import eventually


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    heard: list[tuple[str, dict[str, Any]]] = []

    def hear(event: str, fields: Mapping[str, Any]) -> None:
        heard.append((event, dict(fields)))

    events.listen(hear)
    events.listen(hear)  # twice is once
    yield heard
    events.forget(hear)


@pytest.fixture
def web(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[TestApp]:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b""]

    caplog.set_level(logging.INFO, "incoming_wsgi")
    incoming = Incoming(app, storage=tmp_path, on_finish=lambda _: "done", owner_uploads=2, backend_key="key")
    yield TestApp(incoming)
    incoming.close()


def records(caplog: pytest.LogCaptureFixture, event: str) -> list[Any]:
    return [record for record in caplog.records if getattr(record, "event", "") == event]


def send(web: TestApp, ticket: str, data: bytes, **headers: str) -> Any:
    given = {"Incoming-Length": str(len(data)), "Incoming-Name": "x", **headers}
    url = f"/incoming/frontend/uploads/{ticket}"
    return web.post(url, data, headers=given, content_type="application/octet-stream", expect_errors=True)


def test_the_life_of_an_upload(
    web: TestApp, caplog: pytest.LogCaptureFixture, told: list[tuple[str, dict[str, Any]]]
) -> None:
    ticket = web.app.new_upload(owner="me", backend_secret="s3cret")
    assert send(web, ticket, b"x" * 300_000, **{"X-Request-ID": "abc-1"}).json["phase"] == "finished"
    (created,) = records(caplog, "created")
    assert (created.upload, created.owner, created.state) == (ticket[:8] + "…", "me", "waiting")
    life = ["receiving", "completing", "handing_over", "finished"]
    eventually(lambda: [record.state for record in records(caplog, "moved")] == life)
    moves = records(caplog, "moved")
    assert moves[0].request_id == "abc-1"
    (answer,) = records(caplog, "handed_over")
    assert answer.answer == "done"
    assert ("arrived", {"count": 300_000}) in told
    assert [fields["count"] for event, fields in told if event == "connected"] == [1, -1]
    assert ticket not in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("claimed", ["", "a b", "x" * 65, "é", "a\nb", "<script>"])
def test_a_request_without_a_sane_id_gets_one(web: TestApp, caplog: pytest.LogCaptureFixture, claimed: str) -> None:
    with caplog.at_level(logging.INFO):
        events.begin_request(claimed)
        events.tell("refused", "refused")
    (record,) = records(caplog, "refused")
    assert re.fullmatch("[0-9a-f]{16}", record.request_id)


def test_refusals(web: TestApp, caplog: pytest.LogCaptureFixture, told: list[tuple[str, dict[str, Any]]]) -> None:
    ticket = web.app.new_upload(owner="me", accept=".jpg")
    send(web, ticket, b"x", Origin="https://evil.example")
    send(web, ticket, b"x")
    send(web, "not-a-ticket", b"x")
    web.post("/incoming/backend/new_upload", expect_errors=True)
    web.get("/incoming/nowhere", expect_errors=True)
    web.get("/incoming/frontend/nowhere", expect_errors=True)
    web.get("/incoming/frontend/upload_ws", expect_errors=True)
    found = [(record.reason, record.upload, record.owner) for record in records(caplog, "refused")]
    name = ticket[:8] + "…"
    assert found == [
        ("forbidden_origin", name, "me"),
        ("unsupported_media_type", name, "me"),
        ("unknown_upload", "not-a-ti…", ""),
        ("unauthorized", "", ""),
        ("not_found", "", ""),
        ("not_found", "", ""),
        ("upgrade_required", "", ""),
    ]
    assert len([event for event, _ in told if event == "refused"]) == len(found)
    assert ticket not in caplog.text


def test_an_app_over_quota_hears_it_as_an_exception(web: TestApp) -> None:
    web.app.new_upload(owner="me")
    web.app.new_upload(owner="me")
    with pytest.raises(OverQuota) as caught:
        web.app.new_upload(owner="me")
    assert caught.value.facts["limit"] == "owner_uploads"
