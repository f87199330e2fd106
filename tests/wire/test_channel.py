"""A channel on one end of a socket pair, a client of the ``websockets`` library's own on the other."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from incoming_wsgi.wire import channel as module
from incoming_wsgi.wire.channel import Channel, handshake
from incoming_wsgi.wire.frames import Event, Piece
from incoming_wsgi.wire.servers import Connection

HANDSHAKE = {
    "PATH_INFO": "/incoming/frontend/upload_ws",
    "HTTP_CONNECTION": "keep-alive, Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate",
}
TEXT, BINARY = 100, 1000  # the longest messages


class Peer:
    """The browser's end."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(5)
        self.protocol = ClientProtocol(parse_uri("ws://x/"), state=OPEN, max_size=None)
        self.frames: list[Frame] = []

    def flush(self) -> None:
        self.socket.sendall(b"".join(self.protocol.data_to_send()))

    def text(self, text: str | bytes, *, fin: bool = True) -> None:
        self.protocol.send_text(text if isinstance(text, bytes) else text.encode(), fin)
        self.flush()

    def binary(self, data: bytes, *, fin: bool = True) -> None:
        self.protocol.send_binary(data, fin)
        self.flush()

    def more(self, data: bytes, *, fin: bool) -> None:
        self.protocol.send_continuation(data, fin)
        self.flush()

    def read(self) -> bool:
        """Take what has come; whether the other end is still there."""
        data = self.socket.recv(65536)
        if data:
            self.protocol.receive_data(data)
            self.frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        return bool(data)

    def frame(self) -> Frame:
        while not self.frames:
            assert self.read()
        return self.frames.pop(0)

    def close_code(self) -> int | None:
        while self.protocol.close_rcvd is None and self.read():
            pass
        return self.protocol.close_rcvd.code if self.protocol.close_rcvd else None


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


class Messages:
    """A channel, with the pieces of binary messages put together."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._events: list[Event] = []

    def receive(self, timeout: float) -> str | bytes | None:
        data = b""
        while True:
            self._events = self._events or self._channel.receive(timeout)
            if not self._events:
                return None
            event = self._events.pop(0)
            if isinstance(event, str):
                assert not data
                return event
            data += b"".join(event.data.blocks())
            if event.last:
                return data


class Pair:
    def __init__(self, read_ahead: bytes = b"", *, is_upgraded: bool = True, over_tcp: bool = False) -> None:
        server, client = tcp_pair() if over_tcp else socket.socketpair()
        self.peer = Peer(client)
        connection = Connection(server, read_ahead, is_upgraded, "test", {})
        self.channel = Channel(connection, handshake(HANDSHAKE), longest_text=TEXT, longest_binary=BINARY)
        self.messages = Messages(self.channel)
        self._sockets = (server, client)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture(autouse=True)
def short_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINGER", 0.05)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


# -- the handshake ----------------------------------------------------------------------------------------------


def test_handshake() -> None:
    response = handshake(HANDSHAKE)
    assert response.status_code == 101
    assert response.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
    assert "Sec-WebSocket-Extensions" not in response.headers  # files do not deflate


@pytest.mark.parametrize(
    "changes",
    [
        {"HTTP_UPGRADE": "h2c"},
        {"HTTP_CONNECTION": "keep-alive"},
        {"HTTP_SEC_WEBSOCKET_KEY": "short"},
        {"HTTP_SEC_WEBSOCKET_KEY": ""},
        {"HTTP_SEC_WEBSOCKET_VERSION": "8"},
    ],
)
def test_no_handshake(changes: dict[str, str]) -> None:
    assert handshake({**HANDSHAKE, **changes}).status_code != 101


@pytest.mark.parametrize("is_upgraded", [False, True])
def test_the_answer_is_written_unless_the_server_has_done_so(is_upgraded: bool) -> None:
    pair = Pair(is_upgraded=is_upgraded)
    pair.channel.send("hello")
    data = pair.peer.socket.recv(65536)
    assert data.startswith(b"HTTP/1.1 101 " if not is_upgraded else b"\x81\x05hello")
    assert data.endswith(b"\x81\x05hello")
    pair.close()


# -- messages ---------------------------------------------------------------------------------------------------


def test_messages(pair: Pair) -> None:
    pair.peer.text("Übersicht")
    pair.peer.binary(b"\0\xff")
    pair.peer.binary(b"")
    assert [pair.messages.receive(5) for _ in range(3)] == ["Übersicht", b"\0\xff", b""]
    pair.channel.send("{}")
    frame = pair.peer.frame()
    assert (frame.opcode, bytes(frame.data)) == (Opcode.TEXT, b"{}")


def test_bytes_that_the_server_read_ahead() -> None:
    sender = ClientProtocol(parse_uri("ws://x/"), state=OPEN)
    sender.send_text(b"first")
    sender.send_text(b"second")
    early = b"".join(sender.data_to_send())
    pair = Pair(early[:15])
    pair.peer.socket.sendall(early[15:])
    assert [pair.messages.receive(5), pair.messages.receive(5)] == ["first", "second"]
    pair.close()


def test_a_message_in_pieces(pair: Pair) -> None:
    pair.peer.text("Ü".encode()[:1], fin=False)
    pair.peer.protocol.send_ping(b"in between")
    pair.peer.more("Ü".encode()[1:], fin=False)
    pair.peer.more(b"ber", fin=True)
    pair.peer.binary(b"x", fin=False)
    pair.peer.more(b"y", fin=True)
    assert [pair.messages.receive(5), pair.messages.receive(5)] == ["Über", b"xy"]
    assert pair.peer.frame().opcode is Opcode.PONG


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize(("kind", "size"), [("text", TEXT), ("binary", BINARY)])
def test_the_longest_message(pair: Pair, kind: str, size: int, pieces: int) -> None:
    send_in_pieces(pair.peer, kind, size, pieces)
    message = pair.messages.receive(5)
    assert message is not None
    assert len(message) == size


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize(("kind", "size"), [("text", TEXT + 1), ("text", BINARY + 1), ("binary", BINARY + 1)])
def test_too_long_a_message(pair: Pair, kind: str, size: int, pieces: int) -> None:
    send_in_pieces(pair.peer, kind, size, pieces)
    assert pair.messages.receive(5) is None
    assert pair.peer.close_code() == 1009


def test_too_long_a_message_is_refused_by_its_header(pair: Pair) -> None:
    pair.peer.socket.sendall(b"\x82\xff" + (2**40).to_bytes(8, "big") + b"mask")
    assert pair.messages.receive(5) is None
    assert pair.peer.close_code() == 1009


def test_too_many_pieces(pair: Pair) -> None:
    pair.peer.protocol.send_binary(b"", fin=False)
    for _ in range(1100):
        pair.peer.protocol.send_continuation(b"", fin=False)
    pair.peer.flush()
    assert pair.messages.receive(5) is None
    assert pair.peer.close_code() == 1009


def send_in_pieces(peer: Peer, kind: str, size: int, pieces: int) -> None:
    send = peer.text if kind == "text" else peer.binary
    step = -(-size // pieces)
    data = b"x" * size
    send(data[:step], fin=pieces == 1)
    for start in range(step, size, step):
        peer.more(data[start : start + step], fin=start + step >= size)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x82maskXX"[:2] + b"\0\0\0\0" + b"\xc3\x28", 1007),  # text that is not UTF-8
        (b"\x81\x05hello", 1002),  # not masked
        (b"\xc1\x80\0\0\0\0", 1002),  # compressed, which was never agreed
        (b"\x83\x80\0\0\0\0", 1002),  # an unknown kind of frame
        (b"\x80\x80\0\0\0\0", 1002),  # goes on with nothing
        (b"\x09\x80\0\0\0\0", 1002),  # a ping in pieces
    ],
)
def test_what_no_browser_sends(pair: Pair, data: bytes, code: int) -> None:
    pair.peer.socket.sendall(data)
    assert pair.messages.receive(5) is None
    assert pair.peer.close_code() == code


def test_a_piece_of_a_message_is_given_before_the_rest_has_come(pair: Pair) -> None:
    pair.peer.protocol.send_binary(b"x" * 500)
    data = b"".join(pair.peer.protocol.data_to_send())
    pair.peer.socket.sendall(data[:-200])
    (piece,) = pair.channel.receive(5)
    assert isinstance(piece, Piece)
    assert (len(piece.data), piece.last) == (300, False)
    pair.peer.socket.sendall(data[-200:])
    (piece,) = pair.channel.receive(5)
    assert isinstance(piece, Piece)
    assert (len(piece.data), piece.last) == (200, True)


def test_what_is_there_is_given_at_once(pair: Pair) -> None:
    for _ in range(5):
        pair.peer.binary(b"x" * 900)
    pair.peer.text("hello")
    *pieces, text = pair.channel.receive(5)
    assert sum(len(piece.data) for piece in pieces if isinstance(piece, Piece)) == 4500
    assert text == "hello"


def test_many_small_messages_are_given_in_portions(pair: Pair) -> None:
    count = 3 * module._MOST_EVENTS
    pair.peer.socket.sendall(count * b"\x82\x81\0\0\0\0x")
    found: list[int] = []
    while sum(found) < count:
        found.append(len(pair.channel.receive(5)))
    assert max(found) < 2 * module._MOST_EVENTS


@pytest.fixture
def over_tcp() -> Iterator[Pair]:
    pair = Pair(over_tcp=True)
    yield pair
    pair.close()


@pytest.mark.parametrize("size", [1, 900, BINARY])
def test_nobody_waits_for_more_than_is_owed(over_tcp: Pair, size: int) -> None:
    """Who waits for an answer before it sends more gets it at once, however little it has sent."""
    for _ in range(20):
        began = time.monotonic()
        over_tcp.peer.binary(b"x" * size)
        assert over_tcp.messages.receive(5) == b"x" * size
        over_tcp.peer.protocol.send_ping(b"")
        over_tcp.peer.text("hello")
        assert over_tcp.messages.receive(5) == "hello"
        assert time.monotonic() - began < 0.9


def test_who_waits_holds_no_buffer(pair: Pair) -> None:
    held: list[bool] = []

    def note() -> None:
        held.append(pair.channel._buffer is not None)

    pair.peer.binary(b"x" * 900)
    pair.channel.receive(5)
    note()
    with pytest.raises(TimeoutError):
        pair.channel.receive(0.01)
    note()
    pair.peer.text("hello")
    pair.channel.receive(5)
    pair.channel.close(1000)
    note()
    assert held == [True, False, False]


def test_the_goodbye_of_a_peer_is_found_behind_half_a_message(pair: Pair) -> None:
    pair.peer.protocol.send_binary(b"x" * 900)
    data = b"".join(pair.peer.protocol.data_to_send())
    pair.peer.socket.sendall(data[:100])
    pair.channel.receive(5)
    pair.peer.protocol.send_close(1000)
    pair.peer.socket.sendall(data[100:] + b"".join(pair.peer.protocol.data_to_send()))
    began = time.monotonic()
    pair.channel.close(1012)
    assert pair.channel._protocol.close_rcvd is not None
    assert time.monotonic() - began < 5


# -- silence and goodbye ----------------------------------------------------------------------------------------


def test_silence(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair.messages.receive(0.02)
    assert pair.channel.silence >= 0.02
    pair.peer.text("hello")
    assert pair.messages.receive(5) == "hello"
    assert pair.channel.silence < 5


def test_a_message_that_trickles_in_is_given_time_for_what_has_come(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOWEST_RATE", 1000.0)
    pair.peer.protocol.send_binary(b"x" * 500)
    data = b"".join(pair.peer.protocol.data_to_send())
    stop = threading.Event()

    def trickle() -> None:
        for start in range(0, len(data), 100):
            pair.peer.socket.sendall(data[start : start + 100])
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    assert pair.messages.receive(0.15) == b"x" * 500  # five pieces, 0.25 s in all
    stop.set()
    thread.join()


def test_a_byte_now_and_then_is_not_enough(pair: Pair) -> None:
    pair.peer.protocol.send_binary(b"x" * 900)
    data = b"".join(pair.peer.protocol.data_to_send())
    stop = threading.Event()

    def trickle() -> None:
        for position in range(len(data)):
            pair.peer.socket.sendall(data[position : position + 1])
            if stop.wait(0.01):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        pair.messages.receive(0.1)
    assert time.monotonic() - began < 3
    stop.set()
    thread.join()


def test_ping(pair: Pair) -> None:
    pair.channel.ping()
    assert pair.peer.frame().opcode is Opcode.PING
    with pytest.raises(TimeoutError):
        pair.messages.receive(0.05)
    heard_at = pair.channel._heard_at
    pair.peer.flush()  # the pong: no message, but a sign of life
    with pytest.raises(TimeoutError):
        pair.messages.receive(0.05)
    assert pair.channel._heard_at > heard_at


def test_the_peer_closes(pair: Pair) -> None:
    pair.peer.protocol.send_close(1001)
    pair.peer.flush()
    assert pair.messages.receive(5) is None
    pair.channel.send("too late")
    pair.channel.ping()
    pair.channel.close(1000)
    assert pair.peer.close_code() == 1001


def test_what_came_before_the_close_is_read(pair: Pair) -> None:
    pair.peer.text("last words")
    pair.peer.protocol.send_close(1000)
    pair.peer.flush()
    assert pair.messages.receive(5) == "last words"
    assert pair.messages.receive(5) is None


@pytest.mark.parametrize("how", ["shutdown", "reset"])
def test_the_peer_vanishes(pair: Pair, how: str) -> None:
    if how == "shutdown":
        pair.peer.socket.shutdown(socket.SHUT_RDWR)
    else:
        pair.peer.socket.close()
    assert pair.messages.receive(5) is None
    pair.channel.send("anybody there?")
    pair.channel.close(1000)


def test_close(pair: Pair) -> None:
    pair.channel.close(1008, "Ü" * 100)
    assert pair.peer.close_code() == 1008
    close = pair.peer.protocol.close_rcvd
    assert close is not None
    assert 100 < len(close.reason.encode()) <= 123
    assert set(close.reason) == {"Ü"}


def test_close_leaves_time_to_read_it(pair: Pair) -> None:
    """Though the peer has sent more than we read: unread bytes would reset the connection."""
    for _ in range(50):
        pair.peer.protocol.send_binary(b"x" * 900)
    pair.peer.flush()
    pair.channel.close(4001)
    assert pair.peer.close_code() == 4001


def test_wake(pair: Pair) -> None:
    heard: list[Any] = []
    thread = threading.Thread(target=lambda: heard.append(pair.messages.receive(10)))
    thread.start()
    pair.channel.wake()
    thread.join(5)
    assert heard == [None]
    assert pair.channel.was_woken
    pair.channel.send("bye")  # the other half is still open
    assert bytes(pair.peer.frame().data) == b"bye"
    pair.channel.close(1012)
    assert pair.peer.close_code() == 1012


def test_wake_after_the_end(pair: Pair) -> None:
    pair.channel.close(1000)
    pair.channel.wake()
    assert pair.messages.receive(1) is None


def test_close_lets_go_of_the_socket(pair: Pair) -> None:
    pair.channel.close(1000)
    with pytest.raises(OSError, match="descriptor"):
        pair._sockets[0].getpeername()
