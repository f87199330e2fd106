"""The frames of a WebSocket (RFC 6455, section 5) without a socket: bytes in, texts and pieces of binary messages out.

``websockets`` keeps the rules: it gets every control frame as it is, and of each data frame an empty one of the same
kind, so that it knows what may follow. The bytes of data frames go past it: it would copy each of them several times,
and hold a message until all of it has come. Here a piece of a binary message stays where it was read to, and is
unmasked at the moment that it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from websockets.exceptions import ProtocolError
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from .bulk import Buffer, Bulk, write_blocks

try:
    from websockets.speedups import apply_mask
except ImportError:  # where the package was not compiled; websockets does the same
    from websockets.utils import apply_mask

_MOST_FRAGMENTS = 1024  # frames of one message
_LONGEST_CONTROL = 125  # bytes (section 5.5)
_LONGEST_HEAD = 14  # bytes (section 5.2)

#: Bytes that are unmasked at a time, a multiple of four: they are still in the processor's cache when they are written.
_UNMASKED = 128 * 1024

_PROTOCOL_ERROR, _INVALID_DATA, _TOO_BIG = 1002, 1007, 1009  # close codes, section 7.4.1

_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_MASK_SIZE = 4  # bytes
_LONGER_LENGTHS = {126: 2, 127: 8}  # what stands for a length that follows, in so many bytes
_OPCODES = frozenset(Opcode)
_CONTROL = frozenset({Opcode.CLOSE, Opcode.PING, Opcode.PONG})


class Masked(Bulk):
    """Bytes as they came, with the mask that takes them back to what was meant.

    :param mask: of four bytes; its first is that of the first byte.
    """

    def __init__(self, data: memoryview, mask: bytes) -> None:
        self._data = data
        self._mask = mask

    def __len__(self) -> int:
        return len(self._data)

    def part(self, start: int, stop: int) -> Bulk:
        return Masked(self._data[start:stop], _rotated(self._mask, start))

    def into(self, descriptor: int, position: int) -> None:
        write_blocks(descriptor, position, self.blocks())

    def blocks(self) -> Iterator[Buffer]:
        for start in range(0, len(self._data), _UNMASKED):
            yield apply_mask(self._data[start : start + _UNMASKED], self._mask)


def _rotated(mask: bytes, count: int) -> bytes:
    """The mask of what lies ``count`` bytes further on."""
    turn = count % 4
    return mask[turn:] + mask[:turn]


@dataclass(frozen=True)
class Piece:
    """A piece of a binary message.

    :ivar last: whether the message ends with it; an empty message is one empty piece.
    """

    data: Bulk
    last: bool


#: A whole text message, or a piece of a binary one.
Event: TypeAlias = str | Piece


@dataclass
class _Frame:
    """The frame under way.

    :ivar left: bytes of its payload that have not come yet.
    :ivar mask: of the next byte.
    """

    opcode: Opcode
    is_final: bool
    left: int
    mask: bytes


class Frames:
    """Reads what a client sends.

    :param protocol: open; answers pings and closes, and ends by itself when it is told of what must not be.
    :param longest_text: bytes of a text message, at most.
    :param longest_binary: bytes of a binary message, at most.
    """

    def __init__(self, protocol: ServerProtocol, *, longest_text: int, longest_binary: int) -> None:
        self._protocol = protocol
        self._longest = {Opcode.TEXT: longest_text, Opcode.BINARY: longest_binary}
        self._head = b""
        self._frame: _Frame | None = None
        self._kind: Opcode | None = None  # of the message under way
        self._size = 0
        self._fragments = 0
        self._text = bytearray()

    @property
    def owed(self) -> int:
        """Bytes that the sender has to send before it may wait for anything; 0 between two frames."""
        if self._frame is not None:
            return self._frame.left
        return _head_size(self._head) - len(self._head) if self._head else 0

    def receive(self, data: memoryview) -> Iterator[Event]:
        """What these bytes bring, found as it is asked for: ask to the end before you give more.

        Pieces lie in these bytes, and are good for as long as they are.
        """
        position = 0
        while position < len(data) and not self._protocol.eof_sent:
            if self._frame is None:
                position += self._take_head(data[position : position + _LONGEST_HEAD])
            if self._frame is not None:
                payload = data[position : position + self._frame.left]
                position += len(payload)
                yield from self._take_payload(self._frame, payload)

    # -- the head -------------------------------------------------------------------------------------------

    def _take_head(self, data: memoryview) -> int:
        """:returns: how many of these bytes belong to the head."""
        known = len(self._head)
        self._head += bytes(data)
        size = _head_size(self._head)
        head = self._head[:size]
        if len(head) >= 2 and _is_malformed(head):
            self._tell(head[:1] + bytes((head[1] & _MASKED,)))
        elif len(head) >= size - _MASK_SIZE and self._is_too_long(head, size):
            self._refuse_as_too_big()
        elif len(head) == size:
            self._head = b""
            self._begin(head)
            return size - known
        return len(data)

    def _begin(self, head: bytes) -> None:
        opcode, length = Opcode(head[0] & _OPCODE), _length(head, len(head))
        if opcode in _CONTROL:
            if length > _LONGEST_CONTROL:
                self._protocol.fail(_PROTOCOL_ERROR, "control frame too long")
                return
            if opcode is Opcode.CLOSE and self._kind is not None:
                self._tell(bytes((_FIN | Opcode.CONT, _MASKED)))  # it may come amid fragments (5.4); websockets minds
            self._feed(head)
        elif not self._begin_data(head[0], opcode, length):
            return
        self._frame = _Frame(opcode, bool(head[0] & _FIN), length, head[-_MASK_SIZE:])

    def _begin_data(self, first: int, opcode: Opcode, length: int) -> bool:
        """:returns: whether such a frame may come now, and be so long."""
        if first != _FIN | Opcode.BINARY or self._kind is not None:  # a whole message in one frame changes nothing
            self._tell(bytes((first, _MASKED)))
            if self._protocol.eof_sent:
                return False
        if opcode is not Opcode.CONT:
            self._kind = opcode
        assert self._kind is not None, "the protocol has refused a continuation of nothing"
        self._size += length
        self._fragments += 1
        if self._size <= self._longest[self._kind] and self._fragments <= _MOST_FRAGMENTS:
            return True
        self._refuse_as_too_big()
        return False

    def _is_too_long(self, head: bytes, size: int) -> bool:
        """Whether such a frame can't be right, whatever it is."""
        held = 0 if head[0] & _OPCODE in _CONTROL else self._size
        return held + _length(head, size) > max(self._longest.values())

    def _refuse_as_too_big(self) -> None:
        self._protocol.fail(_TOO_BIG, "This message is too large.")

    def _tell(self, start: bytes) -> None:
        """Let the protocol know of a frame that begins like this, as if it were empty."""
        self._feed(start + bytes(_MASK_SIZE))

    def _feed(self, data: bytes) -> None:
        with suppress(ProtocolError):
            self._protocol.receive_data(data)
        self._protocol.events_received()

    # -- the payload ----------------------------------------------------------------------------------------

    def _take_payload(self, frame: _Frame, payload: memoryview) -> Iterator[Event]:
        frame.left -= len(payload)
        if not frame.left:
            self._frame = None
        if frame.opcode in _CONTROL:
            if len(payload):
                self._feed(bytes(payload))
            return
        is_last = not frame.left and frame.is_final
        if self._kind is Opcode.BINARY:
            if len(payload) or is_last:
                yield Piece(Masked(payload, frame.mask), is_last)
        else:
            self._text += apply_mask(payload, frame.mask)
            if is_last:
                yield from self._decoded()
        frame.mask = _rotated(frame.mask, len(payload))
        if is_last:
            self._kind, self._size, self._fragments = None, 0, 0

    def _decoded(self) -> Iterator[str]:
        data, self._text = self._text, bytearray()
        try:
            yield data.decode()
        except UnicodeDecodeError:
            self._protocol.fail(_INVALID_DATA, "This text is not UTF-8.")


def _is_malformed(head: bytes) -> bool:
    """By the first two bytes alone: reserved bits, an unknown kind of frame, or no mask."""
    return bool(head[0] & _RESERVED) or head[0] & _OPCODE not in _OPCODES or not head[1] & _MASKED


def _head_size(head: bytes) -> int:
    """Bytes of a masked frame's head, as far as is known yet."""
    if len(head) < 2:
        return 2
    return 2 + _LONGER_LENGTHS.get(head[1] & _LENGTH, 0) + _MASK_SIZE


def _length(head: bytes, size: int) -> int:
    """Bytes of the payload, by a head of which the mask may be missing."""
    if size == 2:
        return 0  # not known yet
    return int.from_bytes(head[2 : size - _MASK_SIZE], "big") if size > 2 + _MASK_SIZE else head[1] & _LENGTH
