"""Streams of WebSocket frames, right and wrong, in pieces of any size; what comes of them goes to a conversation."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from incoming_wsgi.protocols.websocket import LONGEST_TEXT, Close, Conversation, Window
from incoming_wsgi.wire.frames import Frames
from tests.helpers import Engine

from .choices import Choices
from .engines import Forgetful, give_up

_LENGTH = 2000  # bytes of the files
_WINDOW = Window(64 * 1024, 4)
_CODES = {1000, 1002, 1007, 1009}  # that we close with of ourselves; a peer's own are given back
_TICKET_USES = 200  # after which another is taken

_KINDS = ("MsgUploadReq", "MsgAck", "MsgPause", "MsgCancel", "MsgError", "MsgElse", "")
_VALUES: tuple[Any, ...] = (
    0,
    1,
    -1,
    _LENGTH,
    2**63,
    1.5,
    True,
    False,
    None,
    "",
    "x",
    "../\0\u202e",
    5000 * "ä",
    "\ud800",
    [],
    {},
    [[[]]],
)


class FramesTarget:
    """:ivar done: frames that have been sent."""

    about = "frames"

    def __init__(self, folder: Path) -> None:
        self._engine = Engine(folder, handler=Forgetful())
        self._engine.start()
        self._ticket, self._uses = self._engine.ticket(), 0
        self.done = 0

    def close(self) -> None:
        self._engine.close()

    def try_one(self, data: bytes) -> None:
        """One connection.

        :raises Exception: where nothing may be raised.
        """
        choices = Choices(data)
        stream = b"".join(self._frame(choices) for _ in range(1 + choices.below(12)))
        cuts = sorted(choices.below(len(stream) + 1) for _ in range(choices.below(5)))
        protocol = ServerProtocol(state=OPEN)
        frames = Frames(protocol, longest_text=LONGEST_TEXT, longest_binary=_WINDOW.chunk_size)
        conversation = Conversation(self._engine.receiver, _WINDOW)
        try:
            for start, stop in pairwise([0, *cuts, len(stream)]):
                if self._is_over(frames, conversation, memoryview(stream[start:stop])):
                    break
        finally:
            conversation.close()
        assert protocol.eof_sent or frames.owed >= 0
        assert protocol.close_sent is None or protocol.close_rcvd or protocol.close_sent.code in _CODES
        assert len(b"".join(protocol.data_to_send())) <= len(stream) + 200, "it says more than it hears"
        self._next_ticket()

    def _next_ticket(self) -> None:
        self._uses += 1
        if self._uses == _TICKET_USES:
            give_up(self._engine, self._ticket)
            self._ticket, self._uses = self._engine.ticket(), 0

    @staticmethod
    def _is_over(frames: Frames, conversation: Conversation, piece: memoryview) -> bool:
        for event in frames.receive(piece):
            if isinstance(event, str):
                said = conversation.text(event)
            else:
                said = conversation.binary(event.data, last=event.last)
            if any(isinstance(action, Close) for action in said):
                return True
        return any(isinstance(action, Close) for action in conversation.flush())

    def _frame(self, choices: Choices) -> bytes:
        self.done += 1
        if choices.chance(12):
            return choices.some(40)
        first = choices.pick((0x81, 0x82, 0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x88, 0x89, 0x8A, 0x83, 0xC1, 0x08))
        if choices.chance(20):
            first = choices.below(256)
        payload = self._payload(first & 15, choices)
        return self._head(first, len(payload), choices) + payload

    @staticmethod
    def _head(first: int, length: int, choices: Choices) -> bytes:
        """With a mask of zeros: what is meant stands there, and a guided fuzzer sees it."""
        if choices.chance(15):
            length = choices.pick((0, 1, 125, 126, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1))
        width = choices.pick((0, 0, 0, 2, 8))
        flag = 0 if choices.chance(30) else 0x80
        mask = bytes(4) if flag else b""
        if length < 126 and not width:
            return bytes((first, flag | length)) + mask
        if length < 65536 and width != 8:
            return bytes((first, flag | 126)) + length.to_bytes(2, "big") + mask
        return bytes((first, flag | 127)) + length.to_bytes(8, "big") + mask

    def _payload(self, opcode: int, choices: Choices) -> bytes:
        if opcode == 1 and not choices.chance(6):
            return self._message(choices)
        if opcode == 8 and not choices.chance(3):
            return choices.pick((1000, 1001, 999, 1005, 1006, 3000, 5000, 65535)).to_bytes(2, "big") + choices.some(130)
        return choices.some(choices.pick((0, 20, 130, 700)))

    def _message(self, choices: Choices) -> bytes:
        """Mostly in the order of the protocol, so that something is reached."""
        request: dict[str, Any] = {"Id": self._ticket, "LengthBytes": _LENGTH, "Name": "x", "Additions": 1}
        kind, data = choices.pick([("MsgUploadReq", request), ("MsgAck", {"Ack": True}), (choices.pick(_KINDS), {})])
        if choices.chance(3):
            key = choices.pick((*request, "Ack", "Reason", "Msg", "Fingerprint"))
            data = {**data, key: choices.pick(_VALUES)}
        text = json.dumps({"MsgType": kind, "MsgData": data}).encode()
        if choices.chance(10):
            place = choices.below(len(text))
            text = text[:place] + choices.some(6) + text[place + choices.below(6) :]
        return text
