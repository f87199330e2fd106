from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from webtest import TestApp

from incoming_wsgi import Incoming, events
from incoming_wsgi.errors import OverQuota
from incoming_wsgi.upload import State, new_ticket
from tests.support.waiting import eventually

from .helpers import Engine


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


@pytest.mark.parametrize("said", ["x\n2026-01-01 CRITICAL all is lost", "x\r", "\x1b[2J", "\u2028x", "a\x85b"])
def test_nobody_writes_a_line_of_the_log(web: TestApp, caplog: pytest.LogCaptureFixture, said: str) -> None:
    """What a client says on cancelling is in the log, in one line and without what moves a cursor."""
    ticket = web.app.new_upload()
    reason = quote(said)
    web.delete(f"/incoming/frontend/uploads/{ticket}", headers={"Incoming-Reason": reason})
    assert web.get(f"/incoming/frontend/uploads/{ticket}").json["reason"] == said
    record = records(caplog, "moved")[-1]
    assert record.state == "cancelled"
    assert record.getMessage().isprintable()
    assert record.reason.isprintable()


def test_no_ticket_is_whole_in_what_an_exception_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "incoming_wsgi")
    ticket = new_ticket()
    try:
        open(f"/nowhere/{ticket}")  # noqa: SIM115 (it is not there)
    except FileNotFoundError as error:
        events.log.exception("it is gone: %s; %r", error, error)
        events.tell("refused", "refused: %s", error, reason=str(error))
    text = "".join(map(logging.Formatter("%(message)s %(reason)s", defaults={"reason": ""}).format, caplog.records))
    assert ticket not in text
    assert text.count(ticket[:8] + "…") >= 5
    assert "Traceback" in text


def test_a_vanished_file_is_logged_without_its_ticket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its path ends with it."""
    engine = Engine(tmp_path)
    ticket = engine.ticket()
    with engine.open(ticket, 10) as session:
        session.write(0, b"0123456789")
        upload = session.sync()
        engine.arriving(ticket).unlink()
        engine.receiver.complete(upload)
        engine.until(ticket, State.DAMAGED)
    engine.close()
    assert f"upload {ticket[:8]}… is damaged" in caplog.text
    assert ticket not in caplog.text
