"""Incoming!! 0.1 over a WebSocket, and its additions: messages and :class:`Conversation`. There is no socket here.

Calling contract: give the conversation what comes (:meth:`Conversation.text`, and :meth:`Conversation.binary` for each
piece of a chunk); call :meth:`Conversation.flush` before you wait for more, or let go of the bytes that you gave, since
only then they are surely written and acknowledged; call :meth:`Conversation.changed` after the upload has moved. Send
what each call returns, in order; after a :class:`Close` call nothing but :meth:`Conversation.close`.

A 0.1 front end gives an upload up at any ``MsgError``. So a condition that passes is never one: the connection is
closed instead, and the front end comes back by itself. The additions are spoken only to a peer that asks for them
(``Additions`` in ``MsgUploadReq``), and are extra fields that a 0.1 peer would ignore, but for ``MsgPhase``.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from .. import events
from ..errors import (
    BadRequest,
    Cancelled,
    Damaged,
    Expired,
    IncomingError,
    NoSpace,
    Replaced,
    TooLate,
    Unavailable,
    Undeliverable,
)
from ..receiver import Receiver
from ..session import Session
from ..storage import Data
from ..upload import OPEN_STATES, State, Upload, shortened
from ..wire.bulk import Bulk, Chain, bulk_of

log = logging.getLogger("incoming_wsgi")

#: Close codes: RFC 6455, section 7.4.1; 1012 and 1013 from its registry; 4001 is ours.
NORMAL, GOING_AWAY, POLICY_VIOLATION, RESTART, TRY_AGAIN_LATER, REPLACED = 1000, 1001, 1008, 1012, 1013, 4001

#: The longest text message, in bytes: a file name of 4 KiB fits, written as JSON escapes.
LONGEST_TEXT = 64 * 1024

_LONGEST_NAME = 4096  # bytes of UTF-8
_LONGEST_REASON = 1000  # characters
_DEEPEST_JSON = 16
_LONGEST_WAIT = 5.0  # seconds without an acknowledgement, where a storage would rather have more first
_MOST_EMPTY_CHUNKS = 100


@dataclass(frozen=True)
class Window:
    """How much a front end may send.

    :ivar chunk_size: bytes of a chunk, at most.
    :ivar send_ahead: chunks that may be unacknowledged.
    """

    chunk_size: int
    send_ahead: int

    def holding(self, size: int) -> Window:
        """One that has at least so many bytes."""
        return replace(self, send_ahead=max(self.send_ahead, -(-size // self.chunk_size)))


#: What 0.1 used, and what its front ends were tried with.
WINDOW_OF_0_1 = Window(512 * 1024, 4)


@dataclass(frozen=True)
class Send:
    """A text message to send."""

    text: str


@dataclass(frozen=True)
class Close:
    """Close the connection; nothing follows."""

    code: int
    reason: str = ""


Action: TypeAlias = Send | Close


class _Turn(Enum):
    REQUEST = "MsgUploadReq is due"
    ACK = "MsgAck is due"
    CHUNKS = "chunks are due"
    END = "all bytes are here"


class Conversation:
    """One connection of one front end.

    :param window: what a peer with additions may send; a 0.1 peer gets :data:`WINDOW_OF_0_1`.
    """

    def __init__(self, receiver: Receiver, window: Window) -> None:
        self._receiver = receiver
        self._window = self._agreed = window
        self._turn = _Turn.REQUEST
        self._additions = False
        self._upload: Upload | None = None
        self._session: Session | None = None
        self._position = 0  # of what is written
        self._queue: list[Bulk] = []  # what is to be written there
        self._end = 0  # the position behind it
        self._chunks: list[int] = []  # bytes of the whole chunks that are not acknowledged yet
        self._acked_at = -math.inf  # by the monotonic clock
        self._part = 0  # bytes of the chunk under way
        self._empty_chunks = 0

    @property
    def upload_id(self) -> str | None:
        """The upload that this is about, once the front end has said so."""
        return self._upload.id if self._upload else None

    @property
    def owes_bytes(self) -> bool:
        """Whether the front end has something to say next; otherwise the app has."""
        return self._turn is not _Turn.END

    @property
    def is_over(self) -> bool:
        """Whether :meth:`changed` would end this: asked from other threads, so it changes nothing."""
        if self._upload is None:
            return False
        upload = self._receiver.registry.get(self._upload.id)
        if upload is None or not self._is_ours(upload):
            return True
        if upload.state is State.FINISHED:
            return self._turn is _Turn.END  # else the front end has to hear MsgUploadConf and MsgAck it first
        return upload.phase in ("cancelled", "failed")

    def text(self, text: str) -> list[Action]:
        """A text message has come."""
        return self._guarded(lambda: self._after_chunks(text))

    def binary(self, data: Data, *, last: bool = True) -> list[Action]:
        """A piece of a binary message, which is one chunk, has come. It is kept as it is until :meth:`flush`.

        :param last: whether the chunk ends with it.
        """
        return self._guarded(lambda: self._piece(bulk_of(data), last))

    def flush(self) -> list[Action]:
        """Write all bytes that have come, record them, and acknowledge the chunks that are whole: in one go each.

        Where a storage would rather have more first, that waits, as long as the front end goes on sending.
        """
        return self._guarded(self._keep_up)

    @property
    def holds_back(self) -> bool:
        """Whether whole chunks are not acknowledged yet, since the storage would rather have more first."""
        return bool(self._chunks)

    def settle(self) -> list[Action]:
        """Nothing more comes for the moment: :meth:`flush`, whatever it costs."""
        return self._guarded(self._flush)

    def changed(self) -> list[Action]:
        """The upload has moved, perhaps by another process."""
        return self._guarded(self._look)

    def close(self) -> None:
        """The connection is over."""
        self._queue = []
        if self._session is not None:
            self._session.close()
            self._session = None

    def _guarded(self, step: Callable[[], Iterable[Action]]) -> list[Action]:
        actions: list[Action] = []
        try:
            for action in step():
                actions.append(action)  # noqa: PERF402 (what came before an error is kept)
        except IncomingError as error:
            actions += self._said_of(error)
        return actions

    def _said_of(self, error: IncomingError) -> list[Action]:
        name, owner = (shortened(self._upload.id), self._upload.owner) if self._upload else ("", "")
        about: dict[str, Any] = {"upload": name, "owner": owner, "reason": error.name}
        events.tell("refused", "refused on a WebSocket %r: %s", name, error.name, **about)
        if isinstance(error, Replaced):
            return [Close(REPLACED if self._additions else RESTART, str(error))]
        if isinstance(error, Cancelled):
            return [_message("MsgCancel", Reason=str(error)), Close(NORMAL)]
        if error.retryable:
            return [Close(TRY_AGAIN_LATER, error.name if isinstance(error, NoSpace) else str(error))]
        return [_message("MsgError", ErrorCode=error.code, Msg=str(error)), Close(POLICY_VIOLATION)]

    # -- messages -------------------------------------------------------------------------------------------

    def _after_chunks(self, text: str) -> Iterator[Action]:
        yield from self._flush()
        yield from self._message(*_parse(text))

    def _message(self, kind: str, data: Mapping[str, Any]) -> list[Action]:
        handlers: Mapping[str, Callable[[Mapping[str, Any]], list[Action]]] = {
            "MsgUploadReq": self._upload_req,
            "MsgAck": self._ack,
            "MsgPause": self._pause,
            "MsgCancel": self._cancel,
            "MsgError": self._peer_failed,
        }
        if kind not in handlers:
            log.info("ignored a message of the unknown type '%s'", kind[:32])
            return []
        return handlers[kind](data)

    def _upload_req(self, data: Mapping[str, Any]) -> list[Action]:
        self._expect(_Turn.REQUEST, "MsgUploadReq")
        self._additions = data.get("Additions") == 1
        upload_id, name = _string(data, "Id", 64), _string(data, "Name", _LONGEST_NAME)
        length = _natural(data, "LengthBytes")
        fingerprint = _string(data, "Fingerprint", 128) if "Fingerprint" in data else ""
        opening = _string(data, "Opening", 64) if "Opening" in data else ""
        self._session = self._receiver.open(
            upload_id, length=length, name=name, fingerprint=fingerprint, opening=opening
        )
        self._upload = self._session.upload if self._session else self._receiver.status(upload_id)
        self._position = self._end = self._upload.offset
        self._turn = _Turn.ACK
        window = self._window if self._additions else WINDOW_OF_0_1
        self._agreed = window if self._grain == 1 else window.holding(2 * self._grain)
        return [self._conf()]

    @property
    def _grain(self) -> int:
        return self._session.grain if self._session else 1

    def _conf(self) -> Send:
        fields = {
            "ChunkSizeKB": self._agreed.chunk_size // 1024,
            "FilePos": self._position,
            "SendAhead": self._agreed.send_ahead,
        }
        return _message("MsgUploadConf", **fields, **({"Additions": 1} if self._additions else {}))

    def _ack(self, data: Mapping[str, Any]) -> list[Action]:
        self._expect(_Turn.ACK, "MsgAck")
        if data.get("Ack") is not True:
            raise BadRequest("MsgAck without Ack: true.")
        self._turn = _Turn.CHUNKS
        return self._complete_if_all_here()

    def _piece(self, data: Bulk, last: bool) -> Iterator[Action]:
        self._expect(_Turn.CHUNKS, "a chunk")
        assert self._upload is not None
        size = len(data)
        if self._end + size > (self._upload.length or 0):
            yield from self._flush()  # it will be refused, but not what came before it
        if size:
            self._queue.append(data)
            self._end += size
            self._part += size
        if last:
            yield from self._end_chunk()

    def _end_chunk(self) -> Iterator[Action]:
        size, self._part = self._part, 0
        if not size:
            yield from self._count_empty_chunk()
        self._chunks.append(size)
        assert self._upload is not None
        if len(self._chunks) > self._agreed.send_ahead // 2 or self._end >= (self._upload.length or 0):
            yield from self._keep_up()

    def _count_empty_chunk(self) -> Iterator[Action]:
        self._empty_chunks += 1
        if self._empty_chunks > _MOST_EMPTY_CHUNKS:
            yield from self._flush()
            raise BadRequest("Too many chunks without a byte.")

    def _keep_up(self) -> list[Action]:
        """:meth:`_flush`, but where bytes are kept in grains: then those that are, as long as more may come."""
        assert self._upload is not None or not self._chunks
        if self._grain == 1 or self._upload is None or self._end >= (self._upload.length or 0):
            return self._flush()
        if time.monotonic() - self._acked_at >= _LONGEST_WAIT:
            return self._flush()  # the first chunk shows the front end whether any gets through
        assert self._session is not None
        self._write_queue()
        is_stuck = len(self._chunks) >= self._agreed.send_ahead
        self._upload = self._session.sync(only_grains=True) if is_stuck else self._session.record()
        acks = self._acks(self._recorded())
        return acks or self._flush() if is_stuck else acks

    def _recorded(self) -> int:
        """Chunks that are."""
        assert self._upload is not None
        begin = end = self._position - self._part - sum(self._chunks)
        count = 0
        for size in self._chunks:
            end += size
            if not self._upload.extents.contains(begin, end):
                break
            count += 1
        return count

    def _flush(self) -> list[Action]:
        self._write_queue()
        if not self._chunks:
            return []
        assert self._session is not None
        if any(self._chunks):
            self._upload = self._session.sync()
        acks = self._acks(len(self._chunks))
        # All bytes may be here, and the end of the last chunk not: it is to be acknowledged first.
        return acks if self._part else [*acks, *self._complete_if_all_here()]

    def _write_queue(self) -> None:
        queue, self._queue = self._queue, []
        if queue:
            assert self._session is not None
            self._session.write(self._position, Chain(queue))
            self._position = self._end

    def _acks(self, count: int) -> list[Action]:
        """Of the first chunks. 0.1 counts chunks by them: one for each."""
        position = self._position - self._part - sum(self._chunks)
        chunks, self._chunks = self._chunks[:count], self._chunks[count:]
        if chunks:
            self._acked_at = time.monotonic()
        acks: list[Action] = []
        for size in chunks:
            position += size
            offset = {"Offset": position} if self._additions else {}
            acks.append(_message("MsgChunkAck", ChunkSize=size, **offset))
        return acks

    def _complete_if_all_here(self) -> list[Action]:
        assert self._upload is not None
        if not self._upload.is_complete:
            return []
        self._turn = _Turn.END
        self._receiver.complete(self._upload)
        phase = [_message("MsgPhase", Phase="processing")] if self._additions else []
        return [*phase, *self._look()]

    def _pause(self, _data: Mapping[str, Any]) -> list[Action]:
        self._expect_upload("MsgPause")
        if self._session is not None:
            self._receiver.pause(self._session.upload.id, self._session.token)
        return []

    def _cancel(self, data: Mapping[str, Any]) -> list[Action]:
        upload = self._expect_upload("MsgCancel")
        reason = _reason(data, "Reason")
        self._receiver.cancel(upload.id, reason or "cancelled by the front end")
        return [_message("MsgCancelAck", Ack=True), Close(NORMAL)]

    def _peer_failed(self, data: Mapping[str, Any]) -> list[Action]:
        upload = self._expect_upload("MsgError")
        reason = _reason(data, "Msg")
        try:
            self._receiver.cancel(upload.id, f"the front end failed: {reason}")
        except TooLate:
            log.info("the front end of %s failed during hand-over: %s", shortened(upload.id), reason)
        return [Close(NORMAL)]

    # -- the end --------------------------------------------------------------------------------------------

    def _look(self) -> list[Action]:
        if self._upload is None:
            return []
        upload = self._receiver.status(self._upload.id)
        if upload.state is State.FINISHED and self._turn is _Turn.END:
            return [_message("MsgAllDone", Success=True), Close(NORMAL)]
        if upload.state is State.CANCELLED:
            raise Cancelled(upload.reason)
        if upload.state is State.EXPIRED:
            raise Expired
        if upload.state is State.DAMAGED:
            raise Damaged
        if upload.phase == "failed":
            raise Undeliverable
        if upload.is_to_be_reopened:
            raise Unavailable("Some bytes of this upload are needed again.", retry_after=1)
        if not self._is_ours(upload):
            raise Replaced
        return []

    def _is_ours(self, upload: Upload) -> bool:
        """Beyond the last byte also one whose record was lost and made anew: nobody can have opened it since."""
        assert self._upload is not None
        is_anew = not upload.session and upload.state not in OPEN_STATES
        return is_anew or upload.session == self._upload.session

    def _expect(self, turn: _Turn, what: str) -> None:
        if self._turn is not turn:
            raise BadRequest(f"{what} came out of turn: {self._turn.value}.")

    def _expect_upload(self, what: str) -> Upload:
        if self._upload is None:
            raise BadRequest(f"{what} came out of turn: {self._turn.value}.")
        return self._upload


def _message(kind: str, **data: Any) -> Send:
    return Send(json.dumps({"MsgType": kind, "MsgData": data}))


def _parse(text: str) -> tuple[str, Mapping[str, Any]]:
    """:raises BadRequest: it is no message of ours."""
    try:
        message = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        depth = _depth(message)
    except (ValueError, RecursionError) as error:
        raise BadRequest("A message is not valid JSON.") from error
    if not isinstance(message, dict) or not isinstance(message.get("MsgType"), str):
        raise BadRequest("A message has no MsgType.")
    if not isinstance(message.get("MsgData"), dict):
        raise BadRequest("A message has no MsgData.")
    if depth > _DEEPEST_JSON:
        raise BadRequest("A message is nested too deeply.")
    return message["MsgType"], message["MsgData"]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """How deep containers are nested.

    :raises RecursionError: too deep even to count.
    """
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _string(data: Mapping[str, Any], key: str, longest: int) -> str:
    """:raises BadRequest: it is missing, no string, too long or not valid Unicode."""
    value = data.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a string.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"{key} is not valid Unicode.") from None
    if size > longest:
        raise BadRequest(f"{key} is longer than {longest} bytes.")
    return value


def _reason(data: Mapping[str, Any], key: str) -> str:
    """What a front end says in its own words. Whatever it is: it must not stand in the way of the end."""
    value = data.get(key)
    return value[:_LONGEST_REASON].encode(errors="replace").decode() if isinstance(value, str) else ""


def _natural(data: Mapping[str, Any], key: str) -> int:
    """:raises BadRequest: it is not a whole number from 0 on. ``true`` is not, though Python thinks so."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise BadRequest(f"{key} must be a whole number of bytes.")
    return value
