"""The WebSocket: opening it, its frames, its messages, and its silence."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import AppServer, memory_of
from tests.support.waiting import eventually

from .conftest import Begin, StartServer
from .limits import BIG, ROOM, limited_file_size
from .uploads import DATA, SAFE, Upload, assert_refused, assert_sentence
from .wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    UPLOAD_WS,
    Answer,
    Connection,
    WebSocket,
    drip,
    frame,
    frame_head,
    handshake_headers,
    request,
)

GOOD_ORIGIN = "https://good.example"


def upgrade(server: AppServer, headers: dict[str, str], body: bytes | None = None, version: str = "1.1") -> Answer:
    """The answer to an upgrade request with these headers."""
    address = {"Host": f"127.0.0.1:{server.port}"}
    with Connection(server.port) as connection:
        connection.send(request("GET", UPLOAD_WS, tuple({**address, **headers}.items()), body, version))
        return connection.answer()


# -- the handshake ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server_with_friends(start_server: StartServer) -> AppServer:
    return start_server(INCOMING_ALLOW_ORIGINS=GOOD_ORIGIN)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "https://good.example.evil.example",
        "https://evilgood.example",
        "https://good.exampl",
        "https://good.example:8443",
        "https://good.example.",
        "https://good.example/",
        "https://good.example@evil.example",
        "http://good.example",
        "good.example",
        "//good.example",
        "*",
        "http://127.0.0.1",
        "http://127.0.0.1:{port}0",
        "http://127.0.0.1:{port}.evil.example",
        "http://x127.0.0.1:{port}",
        "http://127.0.0.1:{port}@evil.example",
        "http://evil.example@127.0.0.1:{port}",
        "http://localhost:{port}",
        "https://127.0.0.1",
        "ws://127.0.0.1:{port}",
        "file://127.0.0.1:{port}",
        "chrome-extension://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/path",
        "http://[",
        "http://[::1",
        "http://127.0.0.1:port",
        "http://\xe9.example",
        "http://evil.example http://127.0.0.1:{port}",
    ],
)
def test_origin_null_foreign_prefix_or_suffix_trick(origin: str, server_with_friends: AppServer) -> None:
    headers = handshake_headers(origin.format(port=server_with_friends.port))
    assert_refused(upgrade(server_with_friends, headers), 403, about="origin")


@pytest.mark.parametrize("origin", ["http://127.0.0.1:{port}", GOOD_ORIGIN, None])
def test_origin_that_is_welcome(origin: str | None, server_with_friends: AppServer) -> None:
    """None at all is welcome, too: only browsers send one, and they always do."""
    headers = handshake_headers(origin and origin.format(port=server_with_friends.port))
    assert upgrade(server_with_friends, headers).status == 101


@pytest.mark.parametrize("version", ["12", "14", "8", "0", "-13", "13.0", "013", "x", ""])
def test_wrong_version(version: str, server: AppServer) -> None:
    answer = upgrade(server, {**handshake_headers(), "Sec-WebSocket-Version": version})
    assert_refused(answer, 426)
    assert answer.headers["sec-websocket-version"] == "13"


def test_no_upgrade(server: AppServer) -> None:
    assert_refused(upgrade(server, {}), 426)
    assert_refused(upgrade(server, {**handshake_headers(), "Upgrade": "h2c"}), 426)


@pytest.mark.parametrize("key", ["", "x", "dGhlIHNhbXBsZSBub25jZ", "AAAA", "!" * 24, 24 * "A", 5000 * "A", None])
def test_bad_or_missing_key(key: str | None, server: AppServer) -> None:
    headers = handshake_headers()
    del headers["Sec-WebSocket-Key"]
    assert_refused(upgrade(server, headers if key is None else {**headers, "Sec-WebSocket-Key": key}), 400)


@pytest.mark.parametrize("connection", ["close", "keep-alive", ""])
def test_connection_without_upgrade(connection: str, server: AppServer) -> None:
    assert_refused(upgrade(server, {**handshake_headers(), "Connection": connection}), 400)


def test_upgrade_with_a_body(server: AppServer) -> None:
    assert_refused(upgrade(server, handshake_headers(), b"body"), 400)


def test_upgrade_with_a_chunked_body(server: AppServer) -> None:
    headers = {**handshake_headers(), "Transfer-Encoding": "chunked"}
    with Connection(server.port) as connection:
        connection.send(request("GET", UPLOAD_WS, tuple(headers.items())) + b"4\r\nbody\r\n0\r\n\r\n")
        assert_refused(connection.answer(), 400)


def test_http_1_0(server: AppServer) -> None:
    assert_refused(upgrade(server, handshake_headers(), version="1.0"), 400)


def test_too_many_connections(server_of: Callable[[str], AppServer], begin: Begin) -> None:
    """Half of the threads always go on answering; the next one is let in when one has gone."""
    server = server_of("gthread")
    upload = begin(server)
    asking = request("GET", UPLOAD_WS, tuple(handshake_headers().items()))
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(Connection(server.port))
            connection.send(asking)
            answer = connection.answer()
            if answer.status != 101:
                break
        assert_refused(answer, 503)
        upload.assert_unchanged()
    eventually(lambda: upgrade(server, handshake_headers()).status == 101)


# -- frames -----------------------------------------------------------------------------------------------------

CHUNK = DATA[SAFE : SAFE + 100]
PAUSE = json.dumps({"MsgType": "MsgPause", "MsgData": {"Pause": True}}).encode()

PROTOCOL_ERRORS: dict[str, bytes] = {
    "unmasked text": frame(TEXT, PAUSE, masked=False),
    "unmasked chunk": frame(BINARY, CHUNK, masked=False),
    "unmasked ping": frame(PING, masked=False),
    "unmasked close": frame(CLOSE, b"\x03\xe8", masked=False),
    **{f"RSV bits {rsv:03b}": frame(BINARY, CHUNK, rsv=rsv) for rsv in range(1, 8)},
    "RSV bits in text": frame(TEXT, PAUSE, rsv=4),
    "RSV bits in a ping": frame(PING, rsv=4),
    **{f"bad opcode {opcode}": frame(opcode, CHUNK) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "bad control frame: long ping": frame(PING, 126 * b"p"),
    "bad control frame: long pong": frame(PONG, 126 * b"p"),
    "bad control frame: long close": frame(CLOSE, b"\x03\xe8" + 124 * b"p"),
    "bad control frame: ping in pieces": frame(PING, b"p", fin=False),
    "bad control frame: close in pieces": frame(CLOSE, b"\x03\xe8", fin=False),
    "bad control frame: close with one byte": frame(CLOSE, b"\x03"),
    "bad control frame: close with code 999": frame(CLOSE, b"\x03\xe7"),
    "bad control frame: close with code 1005": frame(CLOSE, b"\x03\xed"),
    "bad control frame: close with code 1015": frame(CLOSE, b"\x03\xf7"),
    "bad control frame: close with code 5000": frame(CLOSE, b"\x13\x88"),
    "stray continuation": frame(CONTINUATION, CHUNK),
    "stray continuation, more to come": frame(CONTINUATION, CHUNK, fin=False),
    "a message within a message": frame(BINARY, CHUNK, fin=False) + frame(BINARY, CHUNK),
    "text within a message": frame(BINARY, CHUNK, fin=False) + frame(TEXT, PAUSE),
}


@pytest.mark.parametrize("turn", ["in the middle", "before the first message"])
@pytest.mark.parametrize("case", PROTOCOL_ERRORS)
def test_protocol_error(case: str, turn: str, upload: Upload) -> None:
    with upload.resume() if turn == "in the middle" else upload.connect() as peer:
        peer.send(PROTOCOL_ERRORS[case] + frame(TEXT, PAUSE))
        assert peer.hear_until_the_end() == [("close", 1002)]


@pytest.mark.parametrize(
    "text", [b"\xff", b'{"MsgType": "\xc3"}', b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", PAUSE + b"\xe2\x82"]
)
@pytest.mark.parametrize("in_pieces", [False, True])
def test_text_that_is_not_utf_8(in_pieces: bool, text: bytes, upload: Upload) -> None:
    with upload.resume() as peer:
        if in_pieces:
            peer.send(frame(TEXT, text[:1], fin=False) + frame(CONTINUATION, text[1:]))
        else:
            peer.send(frame(TEXT, text))
        assert peer.hear_until_the_end() == [("close", 1007)]


LONGEST_TEXT = 64 * 1024
LONGEST_CHUNK = 1024 * 1024

TOO_BIG: dict[str, Callable[[], bytes]] = {
    "text": lambda: frame(TEXT, b'{"MsgType": "' + LONGEST_TEXT * b"x" + b'"}'),
    "text in pieces": lambda: frame(TEXT, LONGEST_TEXT * b" ", fin=False) + frame(CONTINUATION, b"x"),
    "a chunk, by its head alone": lambda: frame_head(BINARY, LONGEST_CHUNK + 1),
    "a chunk of 2^62 bytes, by its head alone": lambda: frame_head(BINARY, 2**62),
    "too many fragments": lambda: frame(BINARY, b"x", fin=False) + 1100 * frame(CONTINUATION, b"x", fin=False),
    "too many empty fragments": lambda: frame(TEXT, fin=False) + 1100 * frame(CONTINUATION, fin=False),
}


@pytest.mark.parametrize("case", TOO_BIG)
def test_message_too_big(case: str, upload: Upload) -> None:
    with upload.resume() as peer:
        peer.send(TOO_BIG[case]())
        assert peer.hear_until_the_end() == [("close", 1009)]


def test_a_chunk_in_pieces_too_big(server: AppServer) -> None:
    """Of a file for which it is not."""
    with closing(Upload(server, data=3 * LONGEST_CHUNK * b"x", safe=0)) as upload, upload.resume() as peer:
        peer.send(frame(BINARY, LONGEST_CHUNK * b"x", fin=False) + frame_head(CONTINUATION, LONGEST_CHUNK, fin=False))
        assert peer.hear_until_the_end() == [("close", 1009)]
        upload.assert_unchanged()


# -- messages ---------------------------------------------------------------------------------------------------


def assert_fatal(peer: WebSocket, *, code: int | None = None) -> None:
    """``MsgError`` with a sentence, and the end."""
    (kind, data), end = peer.hear_until_the_end()
    assert (kind, end) == ("MsgError", ("close", 1008)), (kind, data)
    assert set(data) == {"ErrorCode", "Msg"}
    assert data["ErrorCode"] == (code or data["ErrorCode"])
    assert_sentence(data["Msg"])


def nested(depth: int, inner: str = "1") -> str:
    return depth * "[" + inner + depth * "]"


BAD_REQUEST = 1
OPENING = '{"MsgType": "MsgUploadReq", "MsgData": {"Id": "x", "LengthBytes": 1, "Name": "n"%s}}'

MALFORMED: dict[str, str] = {
    "not JSON: nothing": "",
    "not JSON: a word": "MsgPause",
    "not JSON: cut": '{"MsgType": "MsgPause", "MsgData"',
    "not JSON: two values": '{"MsgType": "MsgPause", "MsgData": {}} {}',
    "not JSON: single quotes": "{'MsgType': 'MsgPause', 'MsgData': {}}",
    "not JSON: trailing comma": '{"MsgType": "MsgPause", "MsgData": {},}',
    "not JSON: byte order mark": '\ufeff{"MsgType": "MsgPause", "MsgData": {}}',
    "not JSON: raw control character": '{"MsgType": "Msg\0Pause", "MsgData": {}}',
    "not an object: null": "null",
    "not an object: list": "[]",
    "not an object: string": '"MsgPause"',
    "not an object: number": "1",
    "no MsgType": '{"MsgData": {}}',
    "MsgType in small letters": '{"msgtype": "MsgPause", "MsgData": {}}',
    "no MsgData": '{"MsgType": "MsgPause"}',
    "MsgType null": '{"MsgType": null, "MsgData": {}}',
    "MsgType a number": '{"MsgType": 1, "MsgData": {}}',
    "MsgType a list": '{"MsgType": ["MsgPause"], "MsgData": {}}',
    "MsgData null": '{"MsgType": "MsgPause", "MsgData": null}',
    "MsgData a list": '{"MsgType": "MsgPause", "MsgData": []}',
    "MsgData a string": '{"MsgType": "MsgPause", "MsgData": "{}"}',
    "nesting over 16": OPENING % f', "X": {nested(15)}',
    "nesting of 400": OPENING % f', "X": {nested(400)}',
    "nesting of 950": OPENING % f', "X": {nested(950)}',
    "nesting of 5000": OPENING % f', "X": {nested(5000)}',
    "nesting of 30000": nested(30_000),
    "nesting of objects": OPENING % (', "X": ' + 500 * '{"a":' + "1" + 500 * "}"),
    "duplicate keys: MsgType": '{"MsgType": "MsgPause", "MsgType": "MsgPause", "MsgData": {}}',
    "duplicate keys: within": OPENING % ', "Id": "y"',
    "duplicate keys: deep within": OPENING % ', "X": [{"a": 1, "a": 1}]',
    "NaN": OPENING % ', "X": NaN',
    "Infinity": OPENING % ', "X": Infinity',
    "-Infinity": OPENING % ', "X": -Infinity',
    "a number of 5000 digits": OPENING % (', "X": ' + 5000 * "9"),
}


@pytest.mark.parametrize("turn", ["in the middle", "before the first message"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_message(case: str, turn: str, upload: Upload) -> None:
    with upload.resume() if turn == "in the middle" else upload.connect() as peer:
        peer.text(MALFORMED[case])
        assert_fatal(peer, code=BAD_REQUEST)


WRONG_TYPES: dict[str, dict[str, Any]] = {
    "Id missing": {"Id": ...},
    "Id null": {"Id": None},
    "Id a number": {"Id": 1},
    "Id a list": {"Id": ["x"]},
    "Id with half a surrogate pair": {"Id": "\ud800"},
    "Id too long": {"Id": 65 * "a"},
    "Name missing": {"Name": ...},
    "Name null": {"Name": None},
    "Name a number": {"Name": 1},
    "Name an object": {"Name": {}},
    "Name with half a surrogate pair": {"Name": "\udc00"},
    "Name over 4 KiB": {"Name": 4097 * "n"},
    "Name over 4 KiB in UTF-8": {"Name": 1366 * "€"},
    "Fingerprint a number": {"Fingerprint": 1},
    "Fingerprint too long": {"Fingerprint": 129 * "f"},
    "LengthBytes missing": {"LengthBytes": ...},
    "LengthBytes null": {"LengthBytes": None},
    "LengthBytes negative": {"LengthBytes": -1},
    "LengthBytes a fraction": {"LengthBytes": 1.5},
    "LengthBytes a fraction that is whole": {"LengthBytes": float(len(DATA))},
    "LengthBytes a boolean": {"LengthBytes": True},
    "LengthBytes a string": {"LengthBytes": str(len(DATA))},
    "LengthBytes a list": {"LengthBytes": [len(DATA)]},
    "LengthBytes over 2^63": {"LengthBytes": 2**63},
    "LengthBytes of 100 digits": {"LengthBytes": 10**100},
}


def opening(upload: Upload, **changes: Any) -> dict[str, Any]:
    """A good ``MsgUploadReq``, changed; an ellipsis leaves a field out."""
    good = {"Id": upload.ticket, "LengthBytes": len(upload.data), "Name": "file.bin"}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


@pytest.mark.parametrize("case", WRONG_TYPES)
def test_opening_with_wrong_types(case: str, upload: Upload) -> None:
    with upload.connect() as peer:
        peer.say("MsgUploadReq", **opening(upload, **WRONG_TYPES[case]))
        assert_fatal(peer, code=BAD_REQUEST)


@pytest.mark.parametrize(
    "data", [{}, {"Ack": False}, {"Ack": 1}, {"Ack": "true"}, {"Ack": None}, {"ack": True}], ids=str
)
def test_ack_with_wrong_types(data: dict[str, Any], upload: Upload) -> None:
    with upload.connect() as peer:
        upload.ask_for(peer)
        assert peer.hear()[0] == "MsgUploadConf"
        peer.say("MsgAck", **data)
        assert_fatal(peer, code=BAD_REQUEST)


@pytest.mark.parametrize("reason", [1, None, False, ["x"], {"x": "y"}, "half a pair: \ud800", 60_000 * "r"], ids=type)
def test_cancel_with_an_odd_reason(reason: Any, server: AppServer) -> None:
    """Whatever is said: who wants to cancel may."""
    with closing(Upload(server)) as upload, upload.resume() as peer:
        peer.say("MsgCancel", Reason=reason)
        assert peer.hear_until_the_end() == [("MsgCancelAck", {"Ack": True}), ("close", 1000)]
        assert upload.client.status()["state"] == "cancelled"


OUT_OF_TURN: dict[str, tuple[bytes, ...]] = {
    "chunk before the handshake is over: first of all": (frame(BINARY, CHUNK),),
    "chunk before the handshake is over: before MsgAck": (b"opening", frame(BINARY, CHUNK)),
    "empty chunk before the handshake is over": (b"opening", frame(BINARY)),
    "second MsgUploadReq, before MsgAck": (b"opening", b"opening"),
    "second MsgUploadReq, after MsgAck": (b"opening", b"ack", b"opening"),
    "MsgAck first": (b"ack",),
    "second MsgAck": (b"opening", b"ack", b"ack"),
    "MsgPause first": (frame(TEXT, PAUSE),),
    "MsgCancel first": (frame(TEXT, b'{"MsgType": "MsgCancel", "MsgData": {"Reason": "x"}}'),),
    "MsgError first": (frame(TEXT, b'{"MsgType": "MsgError", "MsgData": {"ErrorCode": 1, "Msg": "x"}}'),),
}


@pytest.mark.parametrize("case", OUT_OF_TURN)
def test_out_of_turn(case: str, upload: Upload) -> None:
    asking = json.dumps({"MsgType": "MsgUploadReq", "MsgData": opening(upload)}).encode()
    acknowledging = json.dumps({"MsgType": "MsgAck", "MsgData": {"Ack": True}}).encode()
    named = {b"opening": frame(TEXT, asking), b"ack": frame(TEXT, acknowledging)}
    with upload.connect() as peer:
        for step in OUT_OF_TURN[case]:
            peer.send(named.get(step, step))
        if OUT_OF_TURN[case][0] == b"opening":
            assert peer.hear()[0] == "MsgUploadConf"
        assert_fatal(peer, code=BAD_REQUEST)


UNKNOWN_UPLOAD, EXPIRED, FILE_CHANGED, TOO_LARGE = 6, 14, 11, 19


@pytest.mark.parametrize(
    "ticket",
    [
        "",
        "x",
        "00000000-0000-4000-8000-000000000000",
        "../../registry.sqlite3",
        "{ticket}\n",
        " {ticket}",
        "{TICKET}",
        "\0",
        "%2e%2e",
        64 * "é"[:32],
    ],
)
def test_unknown_id(ticket: str, upload: Upload) -> None:
    odd = ticket.format(ticket=upload.ticket, TICKET=upload.ticket.upper())
    with upload.connect() as peer:
        peer.say("MsgUploadReq", **opening(upload, Id=odd))
        assert_fatal(peer, code=UNKNOWN_UPLOAD if len(odd.encode()) <= 64 else BAD_REQUEST)


def test_expired_id(forgetful_server: AppServer, expire: Callable[[], None]) -> None:
    with closing(Upload(forgetful_server)) as upload, upload.connect() as peer:
        expire()
        upload.ask_for(peer)
        assert_fatal(peer, code=EXPIRED)


def test_cancelled_id(server: AppServer) -> None:
    with closing(Upload(server)) as upload, upload.connect() as peer:
        assert upload.client.cancel().status_code == 200
        upload.ask_for(peer)
        assert [kind for kind, _ in peer.hear_until_the_end()] == ["MsgCancel", "close"]


@pytest.mark.parametrize(
    ("length", "code"),
    [
        (len(DATA) - 1, FILE_CHANGED),
        (len(DATA) + 1, FILE_CHANGED),
        (0, FILE_CHANGED),
        (SAFE, FILE_CHANGED),
        (2**63 - 1, FILE_CHANGED),
    ],
)
def test_length_different_on_resume(length: int, code: int, upload: Upload) -> None:
    with upload.connect() as peer:
        peer.say("MsgUploadReq", **opening(upload, LengthBytes=length))
        assert_fatal(peer, code=code)


@pytest.mark.parametrize("length", [10_000_001, 2**63 - 1])
def test_length_over_the_limit(length: int, server: AppServer) -> None:
    ticket = server.ticket()
    with WebSocket(server.port) as peer:
        peer.say("MsgUploadReq", Id=ticket, LengthBytes=length, Name="n")
        assert_fatal(peer, code=TOO_LARGE)
    with closing(Upload(server, ticket)) as upload:
        upload.complete()


def upload_by_websocket(server: AppServer, data: bytes, name: str) -> dict[str, Any]:
    """A small file as a 0.1 front end sends it; what the app was told of it."""
    ticket = server.ticket()
    with WebSocket(server.port) as peer:
        peer.say("MsgUploadReq", Id=ticket, LengthBytes=len(data), Name=name)
        assert peer.hear() == ("MsgUploadConf", {"ChunkSizeKB": 512, "FilePos": 0, "SendAhead": 4})
        peer.say("MsgAck", Ack=True)
        if data:
            peer.chunk(data)
            assert peer.hear() == ("MsgChunkAck", {"ChunkSize": len(data)})
        assert peer.hear_until_the_end() == [("MsgAllDone", {"Success": True}), ("close", 1000)]
    (event,) = server.events(ticket)
    assert (event["kind"], event["name"]) == ("finished", name)
    assert server.file(ticket).read_bytes() == data
    return event


def test_length_0(server: AppServer) -> None:
    assert upload_by_websocket(server, b"", "empty")["length"] == 0


@pytest.mark.parametrize(
    "name",
    [
        "a\0b",
        "a\r\nSet-Cookie: b",
        "a\x1b[31mb",
        "a\x7fb",
        "\u202egpj.exe",
        "a\u2066b\u2069",
        "a\u2028b",
        "a/b",
        "/etc/passwd",
        "../../etc/passwd",
        "..",
        ".",
        "",
        "/",
        "...",
        " ",
        "..\\..\\windows\\win.ini",
        "C:\\x",
        "CON",
        "nul.txt",
        ".htaccess",
        "-rf",
        "<script>.html",
        256 * "n",
        200 * "é" + ".jpeg",
        4096 * "n",
        1365 * "€",
        "\U0001f600.png",
        "A\u030a.txt",
    ],
)
def test_name(name: str, server: AppServer) -> None:
    """Any name is taken as it is: data; beside it the app gets one that can be used for a file."""
    safe: str = upload_by_websocket(server, b"data", name)["safe_name"]
    assert safe not in ("", ".", "..")
    assert not safe.startswith((".", " "))
    assert not set(safe) & set("/\\\0\r\n\x1b\x7f\u202e\u2066\u2069\u2028:<>")
    assert 0 < len(safe.encode()) <= 255


def test_empty_chunks(upload: Upload) -> None:
    with upload.resume() as peer:
        for _ in range(100):
            peer.chunk(b"")
            assert peer.hear() == ("MsgChunkAck", {"ChunkSize": 0})
        peer.chunk(b"")
        assert_fatal(peer, code=BAD_REQUEST)


@pytest.mark.parametrize("extra", [1, 1000, 400_000])
def test_chunk_past_the_length(extra: int, upload: Upload) -> None:
    with upload.resume() as peer:
        peer.chunk(DATA[SAFE:] + extra * b"x")
        assert_fatal(peer, code=TOO_LARGE)


def test_unknown_message_type(upload: Upload) -> None:
    with upload.resume() as peer:
        peer.say("MsgNew\nFrom the future", Anything=[1, 2, 3])
        peer.say("", Anything=None)
        peer.say(1000 * "M")
        peer.chunk(b"")
        assert peer.hear() == ("MsgChunkAck", {"ChunkSize": 0})
    assert r"'MsgNew\nFrom the " in upload.server.log()
    assert 41 * "M" not in upload.server.log()


# -- too much, too little, too late -----------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else can write to the file of an upload."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_more_than_send_ahead_allows_is_not_read_yet(start_server: StartServer) -> None:
    """The storage stands still, the front end does not: what it sends stays in the network."""
    server = start_server(INCOMING_MAX_LENGTH="1G")
    data = random.Random(9).randbytes(64 * 1024 * 1024)
    size = 512 * 1024
    stream = b"".join(frame(BINARY, data[start : start + size]) for start in range(0, len(data), size))
    with closing(Upload(server, data=data, safe=0)) as upload, upload.resume() as peer:
        before = memory_of(server.workers())
        with locked(server.folder / "incoming" / "arriving" / upload.ticket):
            sent = _send_until_nothing_moves(peer.socket, stream)
            assert sent < 32 * 1024 * 1024
            assert memory_of(server.workers()) - before < 16 * 1024 * 1024
        peer.socket.settimeout(30)
        peer.send(stream[sent:])
        heard = peer.hear_until_the_end()
        assert heard[-2:] == [("MsgAllDone", {"Success": True}), ("close", 1000)]
        assert heard[:-2] == (len(data) // size) * [("MsgChunkAck", {"ChunkSize": size})]
        upload.assert_arrived()


def _send_until_nothing_moves(sock: socket.socket, stream: bytes) -> int:
    """How many bytes the other end has let us send when it takes no more for a second."""
    sent = 0
    sock.settimeout(1)
    while sent < len(stream):
        try:
            sent += sock.send(stream[sent : sent + 65536])
        except TimeoutError:
            break
    return sent


HEAD = frame_head(BINARY, 1000) + b"\0\0\0\0"

SILENT: dict[str, tuple[str, bytes]] = {
    "before the first message": ("connect", b""),
    "after MsgUploadReq": ("ask", b""),
    "after the handshake": ("resume", b""),
    "in the middle of a frame": ("resume", HEAD + CHUNK),
    "in the middle of a frame's head": ("resume", HEAD[:3]),
    "between two fragments": ("resume", frame(BINARY, CHUNK, fin=False)),
}


def at_turn(upload: Upload, turn: str) -> WebSocket:
    if turn == "resume":
        return upload.resume()
    peer = upload.connect()
    if turn == "ask":
        upload.ask_for(peer)
        assert peer.hear()[0] == "MsgUploadConf"
    return peer


@pytest.mark.parametrize("case", SILENT)
def test_silent(case: str, impatient_server: AppServer, begin: Begin) -> None:
    turn, last_words = SILENT[case]
    with at_turn(begin(impatient_server), turn) as peer:
        peer.send(last_words)
        assert peer.hear_until_the_end() == [("close", 1001)]


SLOW: dict[str, bytes] = {
    "a chunk": HEAD + 1000 * b"x",
    "a text": frame(TEXT, 1000 * b" "),
    "pings": 300 * frame(PING),
    "a fragment at a time": frame(BINARY, b"x", fin=False) + 200 * frame(CONTINUATION, b"x", fin=False),
}


@pytest.mark.parametrize("case", SLOW)
def test_below_the_minimum_rate(case: str, impatient_server: AppServer, begin: Begin) -> None:
    with begin(impatient_server).resume() as peer:
        dripping = threading.Thread(target=drip, args=(peer, SLOW[case], 0.02))
        dripping.start()
        heard = peer.hear_until_the_end()
        peer.hang_up()
        dripping.join()
        assert heard == [("close", 1001)]


def test_disk_full(server_with_large_chunks: AppServer, begin: Begin) -> None:
    upload = begin(server_with_large_chunks, data=BIG, safe=ROOM - 20_000)
    with limited_file_size(upload.server, ROOM), upload.resume() as peer:
        peer.chunk(BIG[ROOM - 20_000 : ROOM + 20_000])
        assert peer.hear_until_the_end() == [("close", 1013)]


@pytest.mark.parametrize("newer", ["a WebSocket", "HTTP"])
def test_newer_connection(newer: str, upload: Upload) -> None:
    with upload.resume() as older:
        if newer == "HTTP":
            upload.client.open()
        else:
            upload.resume().close()
        assert older.hear_until_the_end() == [("close", 1012)]


def test_newer_connection_while_a_chunk_is_on_its_way(upload: Upload) -> None:
    with upload.resume() as older:
        older.send(HEAD + CHUNK)
        upload.client.open()
        assert older.hear_until_the_end() == [("close", 1012)]


def test_shutdown(tmp_path: Path) -> None:
    """Of any turn, and in the middle of a frame."""
    with AppServer("gevent", tmp_path) as server, ExitStack() as stack:
        uploads = [stack.enter_context(closing(Upload(server))) for _ in range(4)]
        turns = ["connect", "ask", "resume", "resume"]
        peers = [stack.enter_context(at_turn(*pair)) for pair in zip(uploads, turns, strict=True)]
        peers[3].send(HEAD + CHUNK)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert [peer.hear_until_the_end() for peer in peers] == 4 * [[("close", 1012)]]
        for peer in peers:
            peer.close()
        stopping.join()
        server.start()
        for upload in uploads:
            upload.assert_unchanged()
            upload.complete()
