"""The conversation without a socket, with a real engine behind it."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incoming_wsgi.errors import CODES, Unavailable
from incoming_wsgi.extents import Extents
from incoming_wsgi.protocols.websocket import (
    NORMAL,
    POLICY_VIOLATION,
    REPLACED,
    RESTART,
    TRY_AGAIN_LATER,
    Action,
    Close,
    Conversation,
    Send,
    Window,
)
from incoming_wsgi.upload import State, Upload
from tests.support.waiting import eventually

from ..helpers import NOBODYS, Engine

DATA = random.Random(1).randbytes(1000)
WINDOW = Window(chunk_size=2**20, send_ahead=9)


class FrontEnd:
    """The other side: says things and understands what comes back."""

    def __init__(self, engine: Engine, ticket: str = "", **more: Any) -> None:
        self.engine = engine
        self.ticket = ticket or engine.ticket(remove_file_when_finished=False)
        self.more = more
        self.conversation = Conversation(engine.receiver, WINDOW)

    def say(self, kind: str, **data: Any) -> list[Any]:
        return understood(self.conversation.text(json.dumps({"MsgType": kind, "MsgData": data})))

    def request(self, **data: Any) -> list[Any]:
        values = {"Id": self.ticket, "LengthBytes": len(DATA), "Name": "x.bin", **self.more, **data}
        return self.say("MsgUploadReq", **values)

    def begin(self, **data: Any) -> int:
        """Up to the first chunk; the position to go on from."""
        ((kind, conf),) = self.request(**data)
        assert kind == "MsgUploadConf"
        self.say("MsgAck", Ack=True)
        return int(conf["FilePos"])

    def chunk(self, data: bytes) -> list[Any]:
        actions = self.conversation.binary(data)
        if not any(isinstance(action, Close) for action in actions):
            actions += self.conversation.flush()
        return understood(actions)

    def changed(self) -> list[Any]:
        return understood(self.conversation.changed())

    def __enter__(self) -> FrontEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.conversation.close()


def understood(actions: list[Action]) -> list[Any]:
    """Messages as (type, data), a close as its code."""
    found: list[Any] = []
    for action in actions:
        if isinstance(action, Send):
            message = json.loads(action.text)
            assert set(message) == {"MsgType", "MsgData"}
            found.append((message["MsgType"], message["MsgData"]))
        else:
            found.append(action.code)
    assert not any(isinstance(one, int) for one in found[:-1]), "nothing follows a close"
    return found


def error(name: str) -> list[Any]:
    """What a front end hears of an error for good; the sentence is not compared."""
    return [("MsgError", CODES[name]), POLICY_VIOLATION]


def without_sentences(heard: list[Any]) -> list[Any]:
    return [(one[0], one[1]["ErrorCode"]) if is_error(one) else one for one in heard]


def owes_bytes(front_end: FrontEnd) -> bool:
    return front_end.conversation.owes_bytes


def is_error(one: Any) -> bool:
    return isinstance(one, tuple) and one[0] == "MsgError"


@pytest.fixture
def front_end(engine: Engine) -> Iterator[FrontEnd]:
    """A front end of 0.1."""
    with FrontEnd(engine) as front_end:
        yield front_end


@pytest.fixture
def newer(engine: Engine) -> Iterator[FrontEnd]:
    """One that knows the additions."""
    with FrontEnd(engine, Additions=1) as front_end:
        yield front_end


# -- the way it should go ---------------------------------------------------------------------------------------


def test_a_whole_upload_by_0_1(engine: Engine, front_end: FrontEnd) -> None:
    engine.start()
    assert front_end.request() == [("MsgUploadConf", {"ChunkSizeKB": 512, "FilePos": 0, "SendAhead": 4})]
    assert front_end.say("MsgAck", Ack=True) == []
    assert front_end.chunk(DATA[:600]) == [("MsgChunkAck", {"ChunkSize": 600})]
    assert owes_bytes(front_end)
    assert front_end.chunk(DATA[600:])[0] == ("MsgChunkAck", {"ChunkSize": 400})
    assert not owes_bytes(front_end)
    engine.until(front_end.ticket, State.FINISHED)
    assert front_end.conversation.is_over
    assert front_end.changed() == [("MsgAllDone", {"Success": True}), NORMAL]
    assert engine.complete(front_end.ticket).read_bytes() == DATA


def test_the_additions(engine: Engine, newer: FrontEnd) -> None:
    conf = {"ChunkSizeKB": 1024, "FilePos": 0, "SendAhead": 9, "Additions": 1}
    assert newer.request() == [("MsgUploadConf", conf)]
    newer.say("MsgAck", Ack=True)
    assert newer.chunk(DATA[:600]) == [("MsgChunkAck", {"ChunkSize": 600, "Offset": 600})]
    assert newer.chunk(DATA[600:]) == [
        ("MsgChunkAck", {"ChunkSize": 400, "Offset": 1000}),
        ("MsgPhase", {"Phase": "processing"}),
    ]


def test_an_acknowledged_chunk_is_recorded(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA[:600])
    assert engine.receiver.status(front_end.ticket).received == 600
    assert engine.arriving(front_end.ticket).read_bytes() == DATA[:600]


def in_one_go(front_end: FrontEnd, *said: bytes | str) -> list[Any]:
    """Whole chunks and texts that came together."""
    actions: list[Action] = []
    for one in said:
        actions += front_end.conversation.text(one) if isinstance(one, str) else front_end.conversation.binary(one)
        if any(isinstance(action, Close) for action in actions):
            return understood(actions)
    return understood([*actions, *front_end.conversation.flush()])


def test_chunks_that_came_together_are_one_record(
    engine: Engine, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    front_end.begin()
    records: list[tuple[int, int]] = []
    add_extents = engine.registry.add_extents

    def noted(upload_id: str, session: str, extents: Extents, **more: Any) -> Upload:
        records.extend(extents.ranges)
        return add_extents(upload_id, session, extents, **more)

    monkeypatch.setattr(engine.registry, "add_extents", noted)
    heard = in_one_go(front_end, DATA[:100], b"", DATA[100:600])
    assert heard == [("MsgChunkAck", {"ChunkSize": size}) for size in (100, 0, 500)]
    assert records == [(0, 600)]


def test_each_acknowledgement_tells_how_far_it_reaches(newer: FrontEnd) -> None:
    newer.begin()
    heard = in_one_go(newer, DATA[:100], DATA[100:600], DATA[600:])
    assert [data["Offset"] for kind, data in heard if kind == "MsgChunkAck"] == [100, 600, 1000]


def test_no_more_than_half_of_the_window_waits_for_an_answer(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    heard = [understood(front_end.conversation.binary(DATA[start : start + 100])) for start in range(0, 300, 100)]
    assert heard == [[], [], 3 * [("MsgChunkAck", {"ChunkSize": 100})]]
    assert engine.receiver.status(front_end.ticket).received == 300


def test_pieces_are_written_as_they_come_and_acknowledged_when_the_chunk_is_whole(
    engine: Engine, front_end: FrontEnd
) -> None:
    front_end.begin()
    for start in range(0, 600, 200):
        assert front_end.conversation.binary(DATA[start : start + 200], last=False) == []
        assert front_end.conversation.flush() == []
        assert engine.arriving(front_end.ticket).read_bytes() == DATA[: start + 200]
    assert engine.receiver.status(front_end.ticket).received == 0
    assert front_end.chunk(DATA[600:700]) == [("MsgChunkAck", {"ChunkSize": 700})]
    assert engine.receiver.status(front_end.ticket).received == 700


def test_the_last_chunk_ends_after_its_last_byte(engine: Engine, front_end: FrontEnd) -> None:
    """In an empty frame, say; what came before it is acknowledged meanwhile."""
    front_end.begin()
    assert front_end.conversation.binary(DATA[:300]) == []
    assert front_end.conversation.binary(DATA[300:], last=False) == []
    assert understood(front_end.conversation.flush()) == [("MsgChunkAck", {"ChunkSize": 300})]
    assert owes_bytes(front_end)
    assert front_end.chunk(b"") == [("MsgChunkAck", {"ChunkSize": 700})]
    engine.start()
    engine.until(front_end.ticket, State.FINISHED)


def test_what_came_before_a_mistake_counts(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    heard = in_one_go(front_end, DATA[:300], DATA[:900])
    assert heard[0] == ("MsgChunkAck", {"ChunkSize": 300})
    assert without_sentences(heard[1:]) == error("too_large")
    assert engine.receiver.status(front_end.ticket).received == 300


def test_what_came_before_a_text_counts_first(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    pause = json.dumps({"MsgType": "MsgPause", "MsgData": {"Pause": True}})
    assert in_one_go(front_end, DATA[:300], pause) == [("MsgChunkAck", {"ChunkSize": 300})]
    assert engine.receiver.status(front_end.ticket).received == 300
    assert engine.state(front_end.ticket) is State.PAUSED


@pytest.mark.parametrize("broken", ["pwritev", "record"])
def test_nothing_is_acknowledged_of_what_failed(
    engine: Engine, front_end: FrontEnd, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    front_end.begin()

    def fail(*_: object, **__: object) -> None:
        if broken == "record":
            raise Unavailable
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        if broken == "record":
            patch.setattr(engine.registry, "add_extents", fail)
        else:
            patch.setattr(os, "pwritev", fail)
        assert in_one_go(front_end, DATA[:300], DATA[300:600]) == [TRY_AGAIN_LATER]
    assert engine.receiver.status(front_end.ticket).received == 0


def test_it_goes_on_where_it_was_cut(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA[:600])
    front_end.conversation.close()
    with FrontEnd(engine, front_end.ticket) as again:
        assert again.begin() == 600
        again.chunk(DATA[600:])
    assert engine.receiver.status(front_end.ticket).is_complete


def test_an_empty_file(engine: Engine, front_end: FrontEnd) -> None:
    engine.start()
    assert front_end.request(LengthBytes=0)[0][1]["FilePos"] == 0
    at_once = front_end.say("MsgAck", Ack=True)
    engine.until(front_end.ticket, State.FINISHED)
    heard = at_once or front_end.changed()
    assert heard == [("MsgAllDone", {"Success": True}), NORMAL]


@pytest.mark.parametrize("state", ["all bytes here", "finished"])
def test_who_comes_back_at_the_end_hears_of_it(engine: Engine, front_end: FrontEnd, state: str) -> None:
    front_end.begin()
    if state == "finished":
        engine.start()
    front_end.chunk(DATA)
    front_end.conversation.close()
    if state == "finished":
        engine.until(front_end.ticket, State.FINISHED)
    with FrontEnd(engine, front_end.ticket) as again:
        assert again.request()[0][1]["FilePos"] == len(DATA)
        assert not again.conversation.is_over  # 0.1 wants to hear MsgUploadConf and say MsgAck first
        assert again.changed() == []
        heard = again.say("MsgAck", Ack=True)
        if state == "finished":
            assert heard == [("MsgAllDone", {"Success": True}), NORMAL]
        else:
            assert heard == []
            engine.start()
            engine.until(front_end.ticket, State.FINISHED)
            assert again.changed() == [("MsgAllDone", {"Success": True}), NORMAL]


def test_exactly_one_ack_for_each_chunk(engine: Engine, front_end: FrontEnd) -> None:
    """0.1 counts chunks by acks, an empty one, too."""
    front_end.begin()
    for data in (b"", DATA[:1], b"", DATA[1:3]):
        assert front_end.chunk(data) == [("MsgChunkAck", {"ChunkSize": len(data)})]


def test_empty_chunks_come_to_an_end(front_end: FrontEnd) -> None:
    front_end.begin()
    for _ in range(100):
        front_end.chunk(b"")
    assert without_sentences(front_end.chunk(b"")) == error("bad_request")


# -- pausing and ending -----------------------------------------------------------------------------------------


def test_pause(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA[:600])
    assert front_end.say("MsgPause", Pause=True) == []
    assert engine.state(front_end.ticket) is State.PAUSED
    assert front_end.chunk(DATA[600:700]) == [("MsgChunkAck", {"ChunkSize": 100})]  # it was on its way


@pytest.mark.parametrize("when", ["before the ack", "in the middle", "paused"])
def test_cancel(engine: Engine, front_end: FrontEnd, when: str) -> None:
    if when == "before the ack":
        front_end.request()
    else:
        front_end.begin()
        front_end.chunk(DATA[:600])
    if when == "paused":
        front_end.say("MsgPause", Pause=True)
    assert front_end.say("MsgCancel", Reason="no more") == [("MsgCancelAck", {"Ack": True}), NORMAL]
    upload = engine.receiver.status(front_end.ticket)
    assert (upload.state, upload.reason) == (State.CANCELLED, "no more")
    assert not engine.arriving(front_end.ticket).exists()


def test_too_late_to_cancel(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA)
    assert without_sentences(front_end.say("MsgCancel", Reason="x")) == error("too_late")


def test_the_front_end_fails(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    assert front_end.say("MsgError", ErrorCode=5, Msg="out of paper") == [NORMAL]
    assert engine.state(front_end.ticket) is State.CANCELLED
    assert "out of paper" in engine.receiver.status(front_end.ticket).reason


def test_the_front_end_fails_after_the_last_byte(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA)
    assert front_end.say("MsgError", ErrorCode=5, Msg="out of paper") == [NORMAL]
    engine.start()
    engine.until(front_end.ticket, State.FINISHED)


@pytest.mark.parametrize("kind", ["MsgCancel", "MsgError"])
@pytest.mark.parametrize("reason", ["\ud800", "\0", "x" * 5000, 5, None, {"a": ["b"]}, "ü"])
def test_any_reason_will_do(engine: Engine, front_end: FrontEnd, kind: str, reason: Any) -> None:
    front_end.begin()
    assert front_end.say(kind, **{"MsgCancel": {"Reason": reason}, "MsgError": {"Msg": reason}}[kind])[-1] == NORMAL
    upload = engine.receiver.status(front_end.ticket)
    assert upload.state is State.CANCELLED
    assert len(upload.reason) <= 1100


# -- what the app and other pages do ----------------------------------------------------------------------------


def test_cancelled_by_the_app(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    engine.receiver.cancel(front_end.ticket, "not today")
    assert front_end.conversation.is_over
    assert front_end.changed() == [("MsgCancel", {"Reason": "not today"}), NORMAL]
    assert front_end.chunk(DATA) == [("MsgCancel", {"Reason": "not today"}), NORMAL]


@pytest.mark.parametrize(("additions", "code"), [({}, RESTART), ({"Additions": 1}, REPLACED)])
def test_replaced(engine: Engine, additions: dict[str, Any], code: int) -> None:
    """For 0.1 this is no error: it would give the upload up, and perhaps it is its own newer connection."""
    with FrontEnd(engine, **additions) as old:
        old.begin()
        old.chunk(DATA[:600])
        with FrontEnd(engine, old.ticket) as new:
            assert new.begin() == 600
            assert old.conversation.is_over
            assert old.changed() == [code]
            assert old.chunk(b"X" * 100) == [code]
            new.chunk(DATA[600:])
    assert engine.stored(old.ticket) == DATA


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (State.EXPIRED, "expired"),
        (State.DAMAGED, "damaged"),
        (State.UNDELIVERABLE, "undeliverable"),
    ],
)
def test_what_is_over(engine: Engine, state: State, name: str) -> None:
    upload = engine.registry.create(Upload(app="app", state=state, length=len(DATA), reason="This is why."))
    with FrontEnd(engine, upload.id) as front_end:
        assert without_sentences(front_end.request()) == error(name)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (State.EXPIRED, "expired"),
        (State.DAMAGED, "damaged"),
    ],
)
def test_what_ends_in_the_middle(engine: Engine, front_end: FrontEnd, state: State, name: str) -> None:
    front_end.begin()
    upload = engine.receiver.status(front_end.ticket)
    engine.registry.save(upload, upload.to(state, reason="This is why."))
    assert front_end.conversation.is_over
    assert without_sentences(front_end.changed()) == error(name)


def test_a_ticket_that_is_cancelled_already(engine: Engine) -> None:
    ticket = engine.ticket()
    engine.receiver.cancel(ticket, "why")
    with FrontEnd(engine, ticket) as front_end:
        assert front_end.request() == [("MsgCancel", {"Reason": "why"}), NORMAL]


def test_nobody_takes_the_file(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA)
    upload = eventually(lambda: (one := engine.receiver.status(front_end.ticket)).state is State.HANDING_OVER and one)
    assert isinstance(upload, Upload)
    engine.registry.save(upload, upload.to(State.UNDELIVERABLE, reason="no such file: /srv/app"))
    heard = front_end.changed()
    assert without_sentences(heard) == error("undeliverable")
    assert "/srv" not in heard[0][1]["Msg"]


def test_the_upload_is_gone(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    engine.registry.forget(front_end.ticket)
    assert front_end.conversation.is_over
    assert without_sentences(front_end.changed()) == error("unknown_upload")


def test_a_full_disk_passes(engine: Engine, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never an error for 0.1: it is sent away, and comes back by itself."""
    front_end.begin()
    front_end.chunk(DATA[:600])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        assert front_end.chunk(DATA[600:]) == [TRY_AGAIN_LATER]
    with FrontEnd(engine, front_end.ticket) as again:
        assert again.begin() == 600
        again.chunk(DATA[600:])
    assert engine.stored(front_end.ticket) == DATA


# -- what a front end should not do -----------------------------------------------------------------------------


def test_another_file(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin(Fingerprint="f:1")
    front_end.chunk(DATA[:600])
    for changes in ({"LengthBytes": 999}, {"Fingerprint": "f:2"}):
        with FrontEnd(engine, front_end.ticket) as other:
            assert without_sentences(other.request(**changes)) == error("file_changed")
    assert front_end.chunk(DATA[600:])[0] == ("MsgChunkAck", {"ChunkSize": 400})


def test_beyond_the_end(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    front_end.chunk(DATA[:600])
    assert without_sentences(front_end.chunk(DATA)) == error("too_large")
    assert engine.receiver.status(front_end.ticket).received == 600


def test_an_unknown_type_is_passed_over(front_end: FrontEnd) -> None:
    assert front_end.say("MsgOfTomorrow", Anything=1) == []
    assert front_end.begin() == 0


OUT_OF_TURN: list[Callable[[FrontEnd], list[Any]]] = [
    lambda front_end: front_end.chunk(b"x"),
    lambda front_end: front_end.say("MsgAck", Ack=True),
    lambda front_end: front_end.say("MsgPause", Pause=True),
    lambda front_end: front_end.say("MsgCancel", Reason=""),
    lambda front_end: front_end.say("MsgError", ErrorCode=1, Msg=""),
    lambda front_end: [*front_end.request(), *front_end.request()][1:],
    lambda front_end: [*front_end.request(), *front_end.chunk(b"x")][1:],
    lambda front_end: [*front_end.request(), *front_end.say("MsgAck", Ack=1)][1:],
    lambda front_end: [*front_end.request(), *front_end.say("MsgAck")][1:],
    lambda front_end: [front_end.begin(), *front_end.say("MsgAck", Ack=True)][1:],
    lambda front_end: [front_end.begin(), front_end.chunk(DATA), *front_end.chunk(b"x")][2:],
]


@pytest.mark.parametrize("step", OUT_OF_TURN)
def test_out_of_turn(front_end: FrontEnd, step: Callable[[FrontEnd], list[Any]]) -> None:
    assert without_sentences(step(front_end)) == error("bad_request")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"MsgAck"',
        "{",
        "NaN",
        '{"MsgType": "MsgAck"}',
        '{"MsgData": {}}',
        '{"MsgType": 5, "MsgData": {}}',
        '{"MsgType": "MsgAck", "MsgData": []}',
        '{"MsgType": "MsgAck", "MsgType": "MsgCancel", "MsgData": {}}',
        '{"MsgType": "x", "MsgData": {"a": Infinity}}',
        "[" * 100_000,
        '{"MsgType": "x", "MsgData": ' + '{"a":' * 20 + "1" + "}" * 21,
        '{"MsgType": "x", "MsgData": {"a": ' + "9" * 5000 + "}}",
    ],
)
def test_no_message(front_end: FrontEnd, text: str) -> None:
    assert without_sentences(understood(front_end.conversation.text(text))) == error("bad_request")


@pytest.mark.parametrize(
    "wrong",
    [
        {"Id": 5},
        {"Id": None},
        {"Id": "x" * 65},
        {"Name": None},
        {"Name": "x" * 4097},
        {"Name": "\ud800"},
        {"LengthBytes": -1},
        {"LengthBytes": True},
        {"LengthBytes": "5"},
        {"LengthBytes": 1.5},
        {"LengthBytes": 2**63},
        {"LengthBytes": None},
        {"Fingerprint": 5},
        {"Fingerprint": "x" * 129},
    ],
)
def test_a_malformed_request(engine: Engine, front_end: FrontEnd, wrong: dict[str, Any]) -> None:
    assert without_sentences(front_end.request(**wrong)) == error("bad_request")
    assert engine.state(front_end.ticket) is State.WAITING


@pytest.mark.parametrize("ticket", ["x", "../../etc/passwd", NOBODYS])
def test_an_unknown_ticket(engine: Engine, ticket: str) -> None:
    with FrontEnd(engine, ticket) as front_end:
        assert without_sentences(front_end.request()) == error("unknown_upload")


#: Values as JSON can have them, the odd ones among them.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", 1000, "x.bin", 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
kinds = st.sampled_from(["MsgUploadReq", "MsgAck", "MsgPause", "MsgCancel", "MsgError", "MsgChunkAck", ""]) | st.text()
keys = st.sampled_from(["Id", "LengthBytes", "Name", "Fingerprint", "Additions", "Ack", "Pause", "Reason", "Msg"])
messages = st.one_of(
    st.text(),
    values.map(json.dumps),
    st.builds(
        lambda kind, data: json.dumps({"MsgType": kind, "MsgData": data}),
        kinds,
        st.dictionaries(keys | st.text(max_size=3), values, max_size=5),
    ),
)
#: What a front end says when all is well, so that the odd ones come in every turn.
proper = st.sampled_from(["request", "ack", "chunk", "pause"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(proper | messages | st.binary(max_size=20), max_size=8))
def test_nothing_that_is_said_breaks_it(engine: Engine, said: list[str | bytes]) -> None:
    with FrontEnd(engine, Additions=1) as front_end:
        known: dict[str | bytes, Callable[[], list[Any]]] = {
            "request": front_end.request,
            "ack": lambda: front_end.say("MsgAck", Ack=True),
            "chunk": lambda: front_end.chunk(DATA[:100]),
            "pause": lambda: front_end.say("MsgPause", Pause=True),
        }
        for one in said:
            if one in known:
                heard = known[one]()
            elif isinstance(one, bytes):
                heard = front_end.chunk(one)
            else:
                heard = understood(front_end.conversation.text(one))
            if heard and isinstance(heard[-1], int):
                return
        assert engine.receiver.status(front_end.ticket).received <= len(DATA)


def test_close_twice_and_before_anything(engine: Engine) -> None:
    conversation = Conversation(engine.receiver, WINDOW)
    assert conversation.upload_id is None
    assert not conversation.is_over
    assert conversation.changed() == []
    conversation.close()
    conversation.close()


def test_a_reason_to_close_is_short(engine: Engine, front_end: FrontEnd) -> None:
    front_end.begin()
    with FrontEnd(engine, front_end.ticket) as new:
        new.begin()
        (close,) = front_end.conversation.changed()
        assert isinstance(close, Close)
        assert 0 < len(close.reason.encode()) <= 123


@pytest.mark.parametrize("more", [{}, {"Additions": 1}])
def test_bytes_that_a_disk_has_lost_are_asked_for_again(engine: Engine, more: dict[str, Any]) -> None:
    """Whichever client it is, it comes back by itself, and is told of a smaller position."""
    engine.start()
    with FrontEnd(engine, **more) as front_end:
        front_end.begin()
        front_end.chunk(DATA[:600])
        engine.take_back(front_end.ticket)
        assert front_end.conversation.is_over
        assert front_end.changed() == [TRY_AGAIN_LATER]
        with FrontEnd(engine, front_end.ticket, **more) as again:
            assert again.begin() == 0
            again.chunk(DATA)
            eventually(lambda: engine.state(again.ticket) is State.FINISHED)
    assert engine.complete(front_end.ticket).read_bytes() == DATA
