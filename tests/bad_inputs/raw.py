"""Requests as bytes that no client library would write: what could be read in two ways, floods, and what is no HTTP."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .uploads import DATA, SAFE, Upload

#: What would be answered with 200 if any part of a body were taken for a request.
HIDDEN_REQUEST = b"GET /incoming/ready HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = DATA[SAFE : SAFE + 5]
CHUNKED_PIECE = b"5\r\n" + PIECE + b"\r\n0\r\n\r\n"

_QUIET = 0.15  # seconds
_LONGEST = 10.0  # seconds


@dataclass(frozen=True)
class Heard:
    """What came back.

    :ivar statuses: of all answers on the connection; empty where it was closed without one.
    :ivar data: all of it.
    """

    statuses: tuple[int, ...]
    data: bytes


def talk(port: int, data: bytes, quiet: float = _QUIET) -> Heard:
    """Send this on a connection of its own, and listen until it is closed, or nothing more comes.

    :param quiet: seconds without a byte, after an answer.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=_LONGEST) as connection:
        with contextlib.suppress(OSError):  # who has refused need not read on
            connection.sendall(data)
        return _listen(connection, quiet)


def _listen(connection: socket.socket, quiet: float) -> Heard:
    heard = b""
    deadline = time.monotonic() + _LONGEST
    with contextlib.suppress(ConnectionError, TimeoutError):
        while time.monotonic() < deadline:
            connection.settimeout(quiet if heard else deadline - time.monotonic())
            piece = connection.recv(65536)
            if not piece:
                break
            heard += piece
    statuses = tuple(int(found) for found in re.findall(rb"HTTP/1\.[01] ([0-9]{3})", heard))
    return Heard(statuses, heard)


# -- a chunk of our own dialect ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raw:
    """A chunk that is good but for these lines of its head.

    :ivar start: in place of the request line; ``PATH`` in it is the upload's.
    :ivar replaced: what in the head gives way to what, and how often.
    """

    lines: tuple[bytes, ...]
    body: bytes
    start: bytes = b"PUT PATH HTTP/1.1"
    replaced: tuple[bytes, bytes, int] = (b"", b"", 0)

    def of(self, upload: Upload) -> bytes:
        start = self.start.replace(b"PATH", upload.path.encode())
        about = [f"{name}: {value}".encode() for name, value in upload.chunk_headers(SAFE, SAFE + 5)]
        head = b"\r\n".join((start, b"Host: 127.0.0.1", *about, *self.lines, b"", b""))
        old, new, count = self.replaced
        return (head.replace(old, new, count) if old else head) + self.body


def framed(*lines: bytes, body: bytes = PIECE + HIDDEN_REQUEST) -> Raw:
    return Raw(lines, body)


LENGTH = b"Content-Length: 5"
CHUNKED = b"Transfer-Encoding: chunked"
LAST = b"X-Last: a"
AFTER = CHUNKED_PIECE + HIDDEN_REQUEST


def changed(old: bytes, new: bytes, count: int = 1) -> Raw:
    """A good request, with this in place of that in its head."""
    return Raw((LENGTH, LAST), PIECE + HIDDEN_REQUEST, replaced=(old, new, count))


def begun(start: bytes, *lines: bytes, body: bytes = PIECE + HIDDEN_REQUEST) -> Raw:
    """With another request line; ``PATH`` in it is the upload's."""
    return Raw(lines or (LENGTH,), body, start)


RAW: Mapping[str, Raw] = {
    # Content-Length and Transfer-Encoding: who is right?
    "CL.TE": framed(LENGTH, CHUNKED, body=AFTER),
    "TE.CL": framed(CHUNKED, LENGTH, body=AFTER),
    "CL.TE, the length hides a request": framed(
        b"Content-Length: %d" % (5 + len(HIDDEN_REQUEST)), CHUNKED, body=b"0\r\n\r\n" + HIDDEN_REQUEST
    ),
    "CL.TE of HTTP/1.0": begun(b"PUT PATH HTTP/1.0", LENGTH, CHUNKED, body=AFTER),
    "TE of HTTP/1.0": begun(b"PUT PATH HTTP/1.0", CHUNKED, body=AFTER),
    "CL zero and TE": framed(b"Content-Length: 0", CHUNKED, body=AFTER),
    # Transfer-Encoding in disguise
    "TE xchunked": framed(b"Transfer-Encoding: xchunked", body=AFTER),
    "TE chunked, identity": framed(b"Transfer-Encoding: chunked, identity", body=AFTER),
    "TE identity, chunked": framed(b"Transfer-Encoding: identity, chunked", body=AFTER),
    "TE gzip, chunked": framed(b"Transfer-Encoding: gzip, chunked", body=AFTER),
    "TE chunked, chunked": framed(b"Transfer-Encoding: chunked, chunked", body=AFTER),
    "TE twice": framed(CHUNKED, CHUNKED, body=AFTER),
    "TE twice, one is nonsense": framed(CHUNKED, b"Transfer-Encoding: x", body=AFTER),
    "TE empty": framed(LENGTH, b"Transfer-Encoding:"),
    "TE with a vertical tab": framed(LENGTH, b"Transfer-Encoding:\x0bchunked", body=AFTER),
    "TE in quotes": framed(LENGTH, b'Transfer-Encoding: "chunked"', body=AFTER),
    "TE with a parameter": framed(LENGTH, b"Transfer-Encoding: chunked;a=b", body=AFTER),
    "TE after a space": framed(LENGTH, b" Transfer-Encoding: chunked", body=AFTER),
    "TE before a space": framed(LENGTH, b"Transfer-Encoding : chunked", body=AFTER),
    "TE with an underscore": framed(LENGTH, b"Transfer_Encoding: chunked", body=AFTER),
    "TE in the folded line": framed(LENGTH, b"X-Fold: a\r\n\tTransfer-Encoding: chunked", body=AFTER),
    "TE folded": framed(LENGTH, b"Transfer-Encoding:\r\n chunked", body=AFTER),
    "TE behind a bare CR": framed(LENGTH, b"X-Last: a\rTransfer-Encoding: chunked", body=AFTER),
    "TE behind a bare LF": framed(LENGTH, b"X-Last: a\nTransfer-Encoding: chunked", body=AFTER),
    # Content-Length in disguise
    "CL twice, different": framed(LENGTH, b"Content-Length: 0"),
    "CL twice, the same": framed(LENGTH, LENGTH),
    "CL as a list": framed(b"Content-Length: 5, 5"),
    "CL as a list of different": framed(b"Content-Length: 5, 0"),
    "CL plus": framed(b"Content-Length: +5"),
    "CL minus": framed(b"Content-Length: -5"),
    "CL hexadecimal": framed(b"Content-Length: 0x5"),
    "CL underscore": framed(b"Content-Length: 0_5"),
    "CL fraction": framed(b"Content-Length: 5.0"),
    "CL other digits": framed(b"Content-Length: \xd9\xa5"),
    "CL with a space within": framed(b"Content-Length: 5 0"),
    "CL before a space": framed(b"Content-Length : 5"),
    "CL folded": framed(b"Content-Length:\r\n 5"),
    "CL with NUL": framed(b"Content-Length: 5\0"),
    "CL beyond 64 bits": framed(b"Content-Length: 18446744073709551621"),
    "CL of sixty digits": framed(b"Content-Length: 1" + 59 * b"0"),
    # lines
    "bare LF in the head": changed(b"\r\n", b"\n", 3),
    "bare LF everywhere": changed(b"\r\n", b"\n", -1),
    "bare CR in a value": changed(LAST, b"X-Last: a\rb"),
    "folded line": changed(LAST, b"X-Last: a\r\n b"),
    "folded first line": changed(b"\r\nHost: 127.0.0.1", b"\r\n Host: 127.0.0.1"),
    "NUL in a value": changed(LAST, b"X-Last: a\0b"),
    "NUL in a name": changed(LAST, b"X-L\0ast: a"),
    "no colon": changed(LAST, b"X-Last"),
    "no name": changed(LAST, b": a"),
    "a space in a name": changed(LAST, b"X Last: a"),
    "two Hosts": changed(LAST, b"Host: example.org"),
    "no Host": changed(b"Host: 127.0.0.1\r\n", b""),
    # the request line
    "HTTP/0.9": begun(b"GET PATH", body=b""),
    "HTTP/0.9 of our own methods": begun(b"PUT PATH"),
    "HTTP/2.0": begun(b"PUT PATH HTTP/2.0"),
    "the preface of HTTP/2": begun(b"PRI * HTTP/2.0", body=b"SM\r\n\r\n"),
    "two spaces": begun(b"PUT  PATH HTTP/1.1"),
    "a tab": begun(b"PUT\tPATH\tHTTP/1.1"),
    "NUL in the path": begun(b"PUT PATH\0 HTTP/1.1"),
    "a method with a space before it": begun(b" PUT PATH HTTP/1.1"),
    "a method in small letters": begun(b"put PATH HTTP/1.1"),
    "CONNECT": begun(b"CONNECT 127.0.0.1:80 HTTP/1.1"),
    "absolute form of another host": begun(b"PUT http://example.org/../PATH HTTP/1.1"),
    "absolute form of another scheme": begun(b"PUT file:///etc/passwd HTTP/1.1"),
    "authority form": begun(b"PUT 127.0.0.1:80 HTTP/1.1"),
    "asterisk form": begun(b"PUT * HTTP/1.1"),
    "a request line of 100,000 bytes": begun(b"PUT PATH?" + 100_000 * b"a" + b" HTTP/1.1"),
    # too much
    "a header of 100,000 bytes": framed(LENGTH, b"X-Long: " + 100_000 * b"a"),
    "a name of 100,000 bytes": framed(LENGTH, 100_000 * b"a" + b": b"),
    "10,000 headers": framed(LENGTH, *(b"X-%d: a" % number for number in range(10_000))),
    "10,000 times the same header": framed(LENGTH, *(10_000 * [b"Incoming-Session: a"])),
    # answered before the body is read
    "more body than is taken": framed(b"Content-Length: 65537", body=HIDDEN_REQUEST + 60_000 * b"x"),
    "a refused body that is a request": framed(
        b"Content-Range: bytes 9-0/5", b"Content-Length: %d" % len(HIDDEN_REQUEST), body=HIDDEN_REQUEST
    ),
    "a refused body, and a request in place of its end": framed(
        b"Origin: http://evil.example", b"Content-Length: 60000", body=HIDDEN_REQUEST
    ),
    "an expectation that nobody knows": framed(LENGTH, b"Expect: the impossible", b"Origin: null"),
}

#: Endless: sent until the server hangs up.
ENDLESS: Mapping[str, bytes] = {
    "headers without an end": b"X-Endless: a\r\n",
    "one header without an end": 1000 * b"a",
}
