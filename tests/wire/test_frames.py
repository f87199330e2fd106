"""Frames cut at any points, beside a plain reader that leaves everything to ``websockets``."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from incoming_wsgi.wire import frames as module
from incoming_wsgi.wire.bulk import Chain
from incoming_wsgi.wire.frames import Event, Frames, Masked, Piece

LONGEST_TEXT, LONGEST_BINARY = 300, 70_000

TEXT, BINARY, MORE = 1, 2, 0


class Reader:
    """What is tested; messages are put together from their pieces."""

    def __init__(self) -> None:
        self.protocol = ServerProtocol(state=OPEN)
        self.frames = Frames(self.protocol, longest_text=LONGEST_TEXT, longest_binary=LONGEST_BINARY)
        self.messages: list[str | bytes] = []
        self._pieces: list[bytes] = []

    def take(self, data: bytes) -> list[Event]:
        events = list(self.frames.receive(memoryview(data)))
        for event in events:
            self._note(event)
        return events

    def _note(self, event: Event) -> None:
        if isinstance(event, str):
            self.messages.append(event)
            return
        self._pieces.append(b"".join(event.data.blocks()))
        if event.last:
            self.messages.append(b"".join(self._pieces))
            self._pieces = []

    @property
    def code(self) -> int | None:
        return self.protocol.close_sent.code if self.protocol.close_sent else None


class CloseAmidFragments(ServerProtocol):
    """Takes a close where more of a message was due for what it is, as RFC 6455, section 5.4, has it."""

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def by_websockets_alone(data: bytes) -> tuple[list[str | bytes], int | None, bytes]:
    """The messages in these bytes, the code of our close, and all that is to be sent."""
    protocol = CloseAmidFragments(state=OPEN, max_size=LONGEST_BINARY)
    protocol.receive_data(data)
    messages: list[str | bytes] = []
    pieces: list[bytes] = []
    kind = Opcode.BINARY
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY):
            kind = event.opcode
        elif event.opcode is not Opcode.CONT:
            continue
        pieces.append(bytes(event.data))
        if event.fin:
            whole, pieces = b"".join(pieces), []
            messages.append(whole.decode() if kind is Opcode.TEXT else whole)
    return messages, protocol.close_sent.code if protocol.close_sent else None, b"".join(protocol.data_to_send())


def frame(
    first: int, payload: bytes, mask: bytes = b"\1\2\3\4", length_bytes: int = 0, *, masked: bool = True
) -> bytes:
    """:param length_bytes: 2 or 8 to write the length longer than it needs to be."""
    size = len(payload)
    flag = 0x80 if masked else 0
    if size < 126 and not length_bytes:
        head = bytes((first, flag | size))
    elif size < 65536 and length_bytes != 8:
        head = bytes((first, flag | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, flag | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


masks = st.binary(min_size=4, max_size=4)
payloads = st.binary(max_size=200) | st.sampled_from([b"", b"x", bytes(125), bytes(126), bytes(65535), bytes(65536)])
sizes = st.sampled_from([0, 0, 0, 2, 8])
finals = st.sampled_from([0x80, 0x80, 0])
#: Of every kind, in any order: most sequences break a rule sooner or later.
anything = st.builds(
    frame,
    st.integers(0, 255) | st.builds(int.__or__, finals, st.sampled_from([TEXT, BINARY, MORE, 8, 9, 10])),
    st.binary(max_size=130).map(lambda data: data.hex().encode()[:200]),
    masks,
    sizes,
    masked=st.sampled_from([True, True, True, True, False]),
)
pings = st.lists(st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125), masks), max_size=2)


@st.composite
def message(draw: st.DrawFn) -> bytes:
    """A good one, in as many fragments as you like, with pings between them."""
    kind = draw(st.sampled_from([TEXT, BINARY, BINARY]))
    payload = draw(st.text(max_size=50).map(str.encode) if kind == TEXT else payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    sent = b""
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(payload)], strict=True)):
        first = (kind if number == 0 else MORE) | (0x80 if number == len(cuts) else 0)
        sent += b"".join(draw(pings)) + frame(first, payload[start:stop], draw(masks), draw(sizes))
    return sent


goodbyes = st.sampled_from([b"", frame(0x88, b"\x03\xe8bye"), frame(0x88, b"") + frame(0x81, b"too late")])


def cut(data: bytes, places: list[float]) -> list[bytes]:
    marks = [0, *sorted(int(place * len(data)) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(marks)]


@given(
    st.lists(message(), max_size=5),
    st.lists(anything, max_size=3),
    goodbyes,
    st.lists(st.floats(0, 1), max_size=12),
)
@settings(deadline=None)
def test_the_same_messages_as_by_websockets_alone(
    messages: list[bytes], others: list[bytes], goodbye: bytes, places: list[float]
) -> None:
    data = b"".join(messages) + b"".join(others) + goodbye
    reader = Reader()
    for piece in cut(data, places):
        reader.take(piece)
    found = (reader.messages, reader.code, b"".join(reader.protocol.data_to_send()))
    assert found == by_websockets_alone(data)


@given(st.lists(message(), min_size=1, max_size=3))
def test_byte_by_byte(messages: list[bytes]) -> None:
    data = b"".join(messages)[:3000]
    reader = Reader()
    for place in range(len(data)):
        reader.take(data[place : place + 1])
    assert reader.messages == by_websockets_alone(data)[0]


def test_a_piece_is_given_as_it_comes_and_lies_where_it_was_read_to() -> None:
    reader = Reader()
    data = bytearray(frame(0x82, b"hello, world", b"\0\0\0\0"))
    assert list(reader.frames.receive(memoryview(data)[:9])) != []
    (piece,) = reader.frames.receive(memoryview(data)[9:])
    assert isinstance(piece, Piece)
    data[-1:] = b"D"
    assert (b"".join(piece.data.blocks()), piece.last) == (b"lo, worlD", True)


def test_an_empty_message_is_one_empty_piece() -> None:
    reader = Reader()
    (piece,) = reader.take(frame(0x82, b""))
    assert isinstance(piece, Piece)
    assert (len(piece.data), piece.last) == (0, True)
    assert reader.take(frame(0x02, b"")) == []


@pytest.mark.parametrize("fin", [0x80, 0])
def test_what_is_owed(fin: int) -> None:
    """Nobody is to wait for bytes that a sender need not send before it hears from us."""
    reader = Reader()
    data = frame(fin | BINARY, bytes(1000))
    owed = []
    for place in range(len(data)):
        owed.append(reader.frames.owed)
        reader.take(data[place : place + 1])
    assert owed[:9] == [0, 1, 6, 5, 4, 3, 2, 1, 1000]
    assert owed[9:] == list(range(999, 0, -1))
    assert reader.frames.owed == 0


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(0x81, bytes(LONGEST_TEXT + 1))[:8], 1009),
        (frame(0x82, bytes(LONGEST_BINARY + 1))[:10], 1009),
        (b"\x82\xff" + (2**63 + 1).to_bytes(8, "big") + b"mask", 1009),
        (frame(0x01, bytes(LONGEST_TEXT)) + frame(0x80, b"x")[:6], 1009),
        (frame(0x02, b"x") + module._MOST_FRAGMENTS * frame(0x00, b""), 1009),
        (frame(0x89, bytes(126))[:8], 1002),
        (frame(0x83, b"")[:2], 1002),
        (frame(0xC2, bytes(9))[:2], 1002),
        (frame(0x82, bytes(9), masked=False)[:2], 1002),
        (frame(0x80, bytes(9))[:6], 1002),
        (frame(0x02, b"x") + frame(0x82, bytes(9))[:6], 1002),
        (frame(0x02, b"x") + frame(0x81, bytes(9))[:6], 1002),
        (frame(0x02, b"x") + frame(0x88, b"\x03\xe8"), 1000),
        (frame(0x02, b"x") + frame(0x88, b"\x03\xe7"), 1002),
        (frame(0x01, b"\xc3") + frame(0x80, b"\x28"), 1007),
    ],
)
def test_what_is_wrong_is_refused_as_soon_as_it_can_be_known(data: bytes, code: int) -> None:
    reader = Reader()
    reader.take(data + frame(0x81, b"nobody hears this"))
    assert reader.code == code
    assert reader.messages == []


def test_a_text_of_many_fragments_takes_no_more_room_than_its_bytes() -> None:
    reader = Reader()
    reader.take(frame(0x01, b"a") + 200 * frame(0x00, b"b") + frame(0x80, b"c"))
    assert reader.messages == ["a" + 200 * "b" + "c"]


@pytest.mark.parametrize("how", ["speedups", "utils"])
@given(st.binary(max_size=50), masks, st.integers(0, 50), st.integers(0, 50))
def test_parts_of_what_is_masked(how: str, payload: bytes, mask: bytes, one: int, other: int) -> None:
    apply_mask: Callable[..., bytes] = getattr(pytest.importorskip(f"websockets.{how}"), "apply_mask")  # noqa: B009
    start, stop = sorted(min(place, len(payload)) for place in (one, other))
    masked = Masked(memoryview(apply_mask(payload, mask)), mask)
    assert b"".join(masked.part(start, stop).blocks()) == payload[start:stop]
    assert len(masked.part(start, stop)) == stop - start


def test_masked_bytes_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UNMASKED", 8)
    payload = bytes(range(100))
    masked = [Masked(memoryview(frame(0x82, payload, b"mask"))[6:], b"mask") for _ in range(3)]
    with (tmp_path / "file").open("wb") as file:
        Chain(masked).part(50, 250).into(file.fileno(), 5)
        masked[0].into(file.fileno(), 300)
    assert (tmp_path / "file").read_bytes() == bytes(5) + (3 * payload)[50:250] + bytes(95) + payload
    assert os.path.getsize(tmp_path / "file") == 400
