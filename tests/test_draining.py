from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websocket import WebSocketBadStatusException

from incoming_wsgi import draining as module
from incoming_wsgi.draining import Drain, Mark
from incoming_wsgi.middleware import route
from incoming_wsgi.upload import State
from incoming_wsgi.wire import servers
from tests.support.chunk_client import ChunkClient
from tests.support.front_end_0_1 import Closed, FrontEnd
from tests.support.processes import AppServer, standing_still
from tests.support.waiting import eventually

from .helpers import Child, Engine
from .test_frontend import DATA, Door

SEND = {"content_type": "application/octet-stream", "expect_errors": True}

HOLDER = """
import sys, time
from incoming_wsgi.draining import Mark
mark = Mark(sys.argv[1])
mark.hold()
print("holds", flush=True)
sys.stdin.readline()
mark.release()
print("released", flush=True)
sys.stdin.readline()
"""


# -- the mark ---------------------------------------------------------------------------------------------------


def test_it_says_what_was_put_last(tmp_path: Path) -> None:
    mark = Mark(tmp_path / "drain")
    assert not mark.is_set()
    mark.put(draining=True)
    assert Mark(tmp_path / "drain").is_set()
    mark.put(draining=False)
    assert not mark.is_set()


def test_everybody_is_empty_when_all_have_let_go_or_are_dead(tmp_path: Path) -> None:
    path = tmp_path / "drain"
    operator = Mark(path)
    with Child(HOLDER, [path]) as one, Child(HOLDER, [path]) as two:
        assert (one.line(), two.line()) == ("holds", "holds")
        assert not operator.is_everybody_empty()
        one.say("release")
        assert one.line() == "released"
        assert not operator.is_everybody_empty()
        two.kill()
        assert operator.is_everybody_empty()


def test_a_file_that_was_made_anew_is_held_again(tmp_path: Path) -> None:
    path = tmp_path / "drain"
    mark = Mark(path)
    mark.hold()
    path.unlink()
    assert not mark.is_set()
    Mark(path).put(draining=False)
    mark.hold()
    assert not Mark(path).is_everybody_empty()
    mark.release()
    mark.release()
    assert Mark(path).is_everybody_empty()


# -- a process --------------------------------------------------------------------------------------------------


class Process:
    """One that is emptied: a door over an engine, and its mark."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.door = Door(engine)
        self.mark = Mark(engine.folder / "drain")
        self.drain = Drain(self.door.frontend, engine.receiver, self.mark)
        self.drain.look()

    def say(self, *, draining: bool) -> None:
        Mark(self.engine.folder / "drain").put(draining=draining)
        self.drain.look()

    @property
    def is_empty(self) -> bool:
        self.drain.look()
        return Mark(self.engine.folder / "drain").is_everybody_empty()

    def open(self) -> Any:
        headers = {"Incoming-Length": "10", "Incoming-Name": "x.bin"}
        return self.door.web.post(self.door.path, b"", headers=headers, **SEND)


@pytest.fixture
def process(engine: Engine) -> Iterator[Process]:
    process = Process(engine)
    yield process
    process.door.frontend.close()
    process.drain.watch()


def test_openings_go_elsewhere_and_bytes_are_taken(process: Process) -> None:
    session = process.open().json["session"]
    process.say(draining=True)
    refused = process.open()
    assert (refused.status_int, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json["error"]["retryable"] is True
    headers = {"Content-Range": "bytes 0-9/10", "Incoming-Session": session}
    taken = process.door.web.put(process.door.path, DATA, headers=headers, **SEND)
    assert taken.status_int == 200
    assert taken.headers["Connection"] == "close"
    process.say(draining=False)
    assert process.open().status_int == 200


@pytest.mark.parametrize("headers", [{"Tus-Resumable": "1.0.0", "Upload-Length": "5"}, {"Upload-Complete": "?0"}])
def test_so_do_creations_in_other_dialects(process: Process, headers: dict[str, str]) -> None:
    process.say(draining=True)
    assert process.door.web.post("/p/frontend/uploads", b"", headers=headers, **SEND).status_int == 503


def test_pausing_is_no_opening(process: Process) -> None:
    session = process.open().json["session"]
    process.say(draining=True)
    headers = {"Incoming-Session": session}
    assert process.door.web.post(process.door.path + "/pause", b"", headers=headers, **SEND).json["state"] == "paused"


def test_a_load_balancer_is_told(process: Process) -> None:
    def ready() -> Any:
        answers: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            answers.append((status[:3], dict(headers).get("Retry-After")))

        environ = {"PATH_INFO": "/p/ready", "REQUEST_METHOD": "GET"}
        is_draining = process.door.frontend.is_draining
        answers.append(b"".join(route(environ, start, "/p", None, None, is_draining=is_draining)))
        return answers

    assert ready() == [("200", None), b"ready\n"]
    process.say(draining=True)
    assert ready() == [("503", "1"), b"draining\n"]


def test_hand_overs_are_left_to_others(process: Process, tmp_path: Path) -> None:
    """What is under way comes to its end before the process is empty."""
    engine = process.engine
    engine.start()
    engine.app.may_answer.clear()
    ticket = engine.ticket()
    engine.send(ticket, DATA)
    eventually(lambda: engine.app.notices)
    process.say(draining=True)
    assert not process.is_empty
    late = engine.ticket()
    engine.send(late, DATA)
    engine.until(late, State.HANDING_OVER)
    engine.app.may_answer.set()
    engine.until(ticket, State.FINISHED)
    eventually(lambda: process.is_empty)
    assert engine.state(late) is State.HANDING_OVER
    another = Engine(tmp_path)
    another.start()
    try:
        another.until(late, State.FINISHED)
    finally:
        another.close()
    assert [notice.upload.id for notice in engine.app.notices] == [ticket]


def test_hand_overs_go_on_when_it_is_over(process: Process) -> None:
    process.engine.start()
    process.say(draining=True)
    ticket = process.engine.ticket()
    process.engine.send(ticket, DATA)
    process.engine.until(ticket, State.HANDING_OVER)
    process.say(draining=False)
    process.engine.until(ticket, State.FINISHED)


def test_a_drained_process_sweeps_nothing(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = threading.Event()
    monkeypatch.setattr(process.engine.receiver, "sweep", lambda **_: swept.set())
    monkeypatch.setattr("incoming_wsgi.receiver._SWEEP_INTERVAL", 0.01)
    process.say(draining=True)
    process.engine.start()
    assert not swept.wait(0.3)
    process.say(draining=False)
    assert swept.wait(5)


def test_a_mark_that_can_not_be_made_is_told_once(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(engine)
    drain = Drain(door.frontend, engine.receiver, Mark(tmp_path / "nowhere" / "drain"))
    drain.look()
    drain.look()
    assert [record.message for record in caplog.records if "drain file" in record.message] != []
    assert len(caplog.records) == 1
    door.frontend.close()
    drain.watch()


def test_the_server_stops(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies have a moment, then they are cut."""
    monkeypatch.setattr(servers, "is_stopping", lambda: True)
    monkeypatch.setattr(module, "_LAST_BYTES", 0.1)
    frontend = process.door.frontend
    frontend._bodies[object()] = process.door.ticket  # type: ignore[index]
    ended: list[bool] = []
    monkeypatch.setattr(frontend, "close", lambda: ended.append(frontend.is_draining))
    process.drain.watch()
    assert ended == [True]
    frontend._bodies.clear()


def test_the_end_of_the_process_gives_leases_back(process: Process, tmp_path: Path) -> None:
    """Others see at once that the process holds nothing more."""
    holder = process.engine.registry.holder
    process.drain._leave()
    another = Engine(tmp_path)
    try:
        assert not another.registry.is_alive(holder)
    finally:
        another.close()


# -- real servers -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["gevent", "gthread"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AppServer]:
    with AppServer(request.param, tmp_path, {"INCOMING_DRAIN_FILE": str(tmp_path / "drain")}) as server:
        yield server


def test_all_workers_of_a_server_are_drained(server: AppServer, tmp_path: Path) -> None:
    mark = Mark(tmp_path / "drain")
    front_end = FrontEnd(server.url, server.ticket(), bytes(3_000_000))
    front_end.open()
    front_end.send_chunks(front_end.chunk_size)
    _have_all_workers_answer(server)
    eventually(lambda: not mark.is_everybody_empty(), what="the lock of a worker")
    mark.put(draining=True)
    with pytest.raises(Closed, match="1012"):
        front_end.receive()
    front_end.vanish()
    eventually(mark.is_everybody_empty, what="empty workers")
    client = ChunkClient(server.url, front_end._ticket, bytes(3_000_000))
    for worker in _with_others_standing_still(server):
        assert client.http.get(f"{server.url}/incoming/ready", timeout=10).status_code == 503, worker
        assert client.http.post(client.resource, data=b"", timeout=10).status_code == 503, worker
        with pytest.raises(WebSocketBadStatusException):
            FrontEnd(server.url, client.resource, b"")
    client.http.close()
    mark.put(draining=False)
    eventually(lambda: not mark.is_everybody_empty(), what="workers that work again")
    eventually(server._answers, what="a server that is ready")


def _have_all_workers_answer(server: AppServer) -> None:
    for _ in _with_others_standing_still(server):
        eventually(server._answers, what="each worker answering")


def _with_others_standing_still(server: AppServer) -> Iterator[int]:
    workers = server.workers()
    for worker in workers:
        with standing_still(set(workers) - {worker}):
            yield worker


def test_a_chunk_that_is_under_way_is_acknowledged_before_the_end(server: AppServer) -> None:
    """In spite of SIGTERM, if it takes no longer than a moment."""
    data = bytes(1_000_000)
    client = ChunkClient(server.url, server.ticket(), data)
    client.open()
    answer: list[Any] = []
    sending = threading.Thread(target=lambda: answer.append(client.http.put(**_slow_chunk(client))))
    sending.start()
    eventually(server.busy_workers, what="a chunk under way")
    began = time.monotonic()
    server.stop()
    sending.join()
    assert answer[0].status_code == 200, answer[0].text
    assert answer[0].json()["offset"] == len(data)
    assert time.monotonic() - began < 10
    client.http.close()


def _slow_chunk(client: ChunkClient) -> dict[str, Any]:
    def body() -> Iterator[bytes]:
        for start in range(0, len(client.data), 100_000):
            yield client.data[start : start + 100_000]
            time.sleep(0.05)

    headers = {
        "Content-Range": f"bytes 0-{len(client.data) - 1}/{len(client.data)}",
        "Content-Length": str(len(client.data)),
        "Content-Type": "application/octet-stream",
        "Incoming-Session": client.session,
    }
    return {"url": client.resource, "data": _Sized(body(), len(client.data)), "headers": headers, "timeout": 30}


class _Sized:
    """An iterable whose length requests believes, so that it is not sent in chunked coding."""

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces = pieces
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __len__(self) -> int:
        return self._length


def test_a_hand_over_that_is_under_way_ends_before_the_process(server: AppServer) -> None:
    """The app is told once."""
    ticket = server.ticket(leisure="1.5")
    client = ChunkClient(server.url, ticket, b"a small file")
    client.send(client.open())
    eventually(lambda: server.events(ticket))
    server.stop()
    assert server.file(ticket).exists()
    server.start()
    assert client.status()["phase"] == "finished"
    client.http.close()
    assert len(server.events(ticket)) == 1
