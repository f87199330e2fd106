from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from incoming_wsgi import operate
from incoming_wsgi.delivery.handover import Outcome
from incoming_wsgi.draining import Mark
from incoming_wsgi.errors import NotReady, TooLate, Unavailable, UnknownUpload
from incoming_wsgi.registry import Delivery
from incoming_wsgi.upload import State, Upload
from tests.support.waiting import eventually

from .helpers import Clock, Engine


def test_list(engine: Engine) -> None:
    waiting = engine.ticket()
    sent = engine.ticket()
    with engine.open(sent, 10, name="../Übersicht\x1b[2J.pdf") as session:
        session.write(0, b"12345")
        session.sync()
    heading, *lines = operate.list_uploads(engine.receiver)
    assert heading.split("  ")[0] == "ID"
    assert {line.split()[0] for line in lines} == {waiting, sent}
    (line,) = (line for line in lines if line.startswith(sent))
    assert line.split()[1:4] == ["receiving", "5", "10"]
    assert line.endswith("  Übersicht[2J.pdf")
    assert "\x1b" not in line
    assert len({line.index("app") for line in lines}) == 1  # columns


def test_an_empty_list(engine: Engine) -> None:
    assert len(list(operate.list_uploads(engine.receiver))) == 1


def test_show(engine: Engine, clock: Clock) -> None:
    ticket = engine.ticket(secret="geheim")
    with engine.open(ticket, 100, name="x.bin") as session:
        session.write(10, b"12345")
        session.sync()
    text = "\n".join(operate.show(engine.receiver, ticket))
    for fact in (ticket, "receiving", "'x.bin'", "100 bytes", "5 bytes", "0-9, 15-99", "on_finish"):
        assert fact in text
    assert "geheim" not in text
    assert session.token not in text


def test_show_what_could_not_be_handed_over(engine: Engine) -> None:
    engine.app.answers = [Outcome("failed", "answered with status 500")]
    engine.start()
    ticket = engine.ticket()
    engine.send(ticket, b"12345")
    eventually(lambda: (engine.registry.due(ticket) or Delivery("", "", "", "", "")).error)
    text = "\n".join(operate.show(engine.receiver, ticket))
    assert "answered with status 500" in text
    assert "attempts:       1" in text
    assert str(engine.complete(ticket)) in text


def test_a_strangers_words_do_not_move_the_cursor(engine: Engine) -> None:
    ticket = engine.ticket()
    engine.receiver.cancel(ticket, "\x1b[2J\nstate: finished\x07\u202e")
    lines = list(operate.show(engine.receiver, ticket))
    assert all(line.isprintable() for line in lines)
    assert sum("finished" in line for line in lines) == 1
    assert not any(line.startswith("state: finished") for line in lines)


def test_retry(engine: Engine) -> None:
    upload = engine.registry.create(Upload(app="app", state=State.UNDELIVERABLE, length=5, event_id="msg"))
    (line,) = operate.retry(engine.receiver, upload.id)
    assert upload.id in line
    assert engine.state(upload.id) is State.HANDING_OVER
    assert engine.registry.due(upload.id) is not None
    with pytest.raises(NotReady):
        list(operate.retry(engine.receiver, engine.ticket()))


def test_cancel(engine: Engine) -> None:
    ticket = engine.ticket()
    assert list(operate.cancel(engine.receiver, ticket)) == [f"{ticket} is cancelled."]
    assert engine.receiver.status(ticket).reason == "cancelled by the operator"
    late = engine.registry.create(Upload(app="app", state=State.HANDING_OVER)).id
    with pytest.raises(TooLate):
        list(operate.cancel(engine.receiver, late))


def test_cleanup(engine: Engine, clock: Clock) -> None:
    engine.start()
    tickets = [engine.ticket() for _ in range(3)]
    engine.receiver.cancel(tickets[0], "why")
    eventually(lambda: engine.registry.due(tickets[0]) is None)
    clock.advance(86400 + 60)
    assert list(operate.cleanup(engine.receiver)) == ["1 closed uploads were forgotten."]
    assert [engine.state(ticket) for ticket in tickets[1:]] == [State.EXPIRED, State.EXPIRED]


@pytest.mark.parametrize("command", [operate.show, operate.retry, operate.cancel])
def test_unknown(engine: Engine, command: object) -> None:
    with pytest.raises(UnknownUpload):
        list(command(engine.receiver, "x"))  # type: ignore[operator]


def test_times_are_told_by_the_wall_clock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's own clock is behind when the machine was off for some days."""
    monkeypatch.setattr(engine.registry, "_clock_base", engine.registry._clock_base - 5 * 86400)
    ticket = engine.ticket()
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d %H")
    assert f"last active:    {today}" in "\n".join(operate.show(engine.receiver, ticket))
    assert f"  {today}" in "\n".join(operate.list_uploads(engine.receiver))


def test_a_trail(engine: Engine) -> None:
    ticket = engine.ticket()
    engine.open(ticket, 10).close()
    engine.receiver.cancel(ticket, "\x1b[2J no more")
    lines = list(operate.trail(engine.receiver, ticket))
    assert [line.split()[2] for line in lines] == ["waiting", "receiving", "cancelled"]
    assert "protocol=incoming" in lines[1]
    assert "reason=�[2J no more" in lines[2]
    assert lines[0].startswith(datetime.now(timezone.utc).strftime("%Y-%m-"))
    with pytest.raises(UnknownUpload):
        list(operate.trail(engine.receiver, "unknown"))


def test_draining_waits_until_the_machine_is_empty(tmp_path: Path) -> None:
    server, path = Mark(tmp_path / "drain"), tmp_path / "drain"
    server.hold()
    lines = operate.drain(Mark(path), 20)
    assert "no more uploads" in next(lines)
    assert server.is_set()
    releasing = threading.Timer(0.2, server.release)
    releasing.start()
    assert "can be stopped" in next(lines)
    assert not releasing.is_alive()
    assert "again" in "".join(operate.undrain(Mark(path)))
    assert not server.is_set()


def test_draining_says_when_it_takes_too_long(tmp_path: Path) -> None:
    server = Mark(tmp_path / "drain")
    server.hold()
    with pytest.raises(Unavailable, match="still under way"):
        list(operate.drain(Mark(tmp_path / "drain"), 0))
    assert server.is_set()
    server.release()
