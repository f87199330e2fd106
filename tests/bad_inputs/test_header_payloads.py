"""Every header that we read, with all in it that must not be there: nothing of it comes back, and no 500."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.support.processes import AppServer

from .raw import talk
from .uploads import DATA, Upload
from .wire import UPLOAD_WS

MARK = b"zq9xk"  # is in each payload, and in no answer

PAYLOADS: tuple[bytes, ...] = (
    MARK,
    b"\r" + MARK,
    b"a\rX-Injected: " + MARK,
    b"a\nX-Injected: " + MARK,
    b"a\r\n X-Injected: " + MARK,
    b"a\r\n\tfolded " + MARK,
    b"a\r\nX-Injected: " + MARK,
    b"%0d%0aX-Injected:%20" + MARK,
    b"%0aX-Injected:%20" + MARK,
    b"%E5%98%8D%E5%98%8AX-Injected:%20" + MARK,
    b"\xe5\x98\x8d\xe5\x98\x8aX-Injected: " + MARK,  # what is a line break when cut to eight bits
    b"a%00" + MARK,
    b"a\0" + MARK,
    b"a\x08" + MARK,
    b"a\x1b[31m" + MARK,
    b"a\x7f" + MARK,
    b"a\x0b" + MARK,
    b"a\x85" + MARK,
    b"\xff\xfe" + MARK,
    b"\xc0\xaf" + MARK,
    b"\xed\xa0\x80" + MARK,
    "ü".encode() + MARK,
    "\u202e".encode() + MARK,
    b"\xfc" + MARK,
    b"=?utf-8?q?" + MARK + b"?=",
    b"utf-8''" + MARK,
    b"attachment; filename*=idna''" + MARK,  # of which Python's decoder raises, whatever it is asked to do
    b"attachment; filename*=utf-7''%2B2AA-" + MARK,  # half a character
    b"<script>" + MARK + b"</script>",
    b'"><img src=x onerror=' + MARK + b">",
    b"' OR '1'='1' -- " + MARK,
    b"'; DROP TABLE uploads; " + MARK,
    b"${jndi:ldap://" + MARK + b"/a}",
    b"{{7*7}}" + MARK,
    b"$(touch /tmp/" + MARK + b")",
    b"`" + MARK + b"`",
    b"../../../etc/passwd " + MARK,
    b"..\\..\\" + MARK,
    b"file:///etc/passwd#" + MARK,
    b"%s%n%x" + MARK,
    b"{0.__class__}" + MARK,
    b"a, b, " + MARK,
    b"a; b=" + MARK,
    b'"' + MARK,
    b"'" + MARK,
    b"\\" + MARK,
    b":" + MARK,
    b"=" + MARK,
    b"?1;" + MARK,
    b"-1" + MARK,
    b"1e9" + MARK,
    b"9" * 5000 + MARK,
    b"a" * 7000 + MARK,
    b"(" * 3000 + MARK,
    b" " * 3000 + MARK,
    b"a=1," * 1000 + MARK,
)

_BYTES = "application/offset+octet-stream"
_OWN = {"Incoming-Length": str(len(DATA)), "Incoming-Name": "x"}
_PIECE = {"Content-Range": "bytes 40000-40004/100000", "Content-Type": "application/octet-stream"}
_TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": "1000"}
_DRAFT = {"Upload-Complete": "?0", "Upload-Draft-Interop-Version": "8"}
_UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
_KEY = {"Authorization": "Bearer key"}
_NEW = "/incoming/backend/new_upload?signalFinishURL=/api/arrived"

#: header → method, address (``UPLOAD`` is the upload's) and the other headers of a request that has it.
READ_BY: tuple[tuple[str, str, str, Mapping[str, str]], ...] = (
    ("Incoming-Length", "POST", "UPLOAD", _OWN),
    ("Incoming-Name", "POST", "UPLOAD", _OWN),
    ("Incoming-Fingerprint", "POST", "UPLOAD", _OWN),
    ("Incoming-Session", "PUT", "UPLOAD", _PIECE),
    ("Incoming-Session", "POST", "UPLOAD/pause", {}),
    ("Incoming-Reason", "DELETE", "UPLOAD", {"Origin": "null"}),
    ("Incoming-Ticket", "POST", "/incoming/frontend/uploads", _TUS),
    ("Content-Range", "PUT", "UPLOAD", _PIECE),
    ("Content-Type", "PUT", "UPLOAD", _PIECE),
    ("Content-Digest", "PUT", "UPLOAD", _PIECE),
    ("Content-Length", "PUT", "UPLOAD", _PIECE),
    ("Transfer-Encoding", "PUT", "UPLOAD", _PIECE),
    ("Expect", "PUT", "UPLOAD", _PIECE),
    ("Connection", "GET", "UPLOAD", {}),
    ("Origin", "PUT", "UPLOAD", _PIECE),
    ("Origin", "OPTIONS", "UPLOAD", {}),
    ("Access-Control-Request-Method", "OPTIONS", "UPLOAD", {"Origin": "https://evil.example"}),
    ("Access-Control-Request-Headers", "OPTIONS", "UPLOAD", {"Origin": "https://evil.example"}),
    ("Sec-Fetch-Site", "DELETE", "UPLOAD", {"Origin": "null"}),
    ("Host", "GET", "UPLOAD", {}),
    ("Tus-Resumable", "POST", "/incoming/frontend/uploads", {"Upload-Length": "1"}),
    ("Upload-Length", "POST", "/incoming/frontend/uploads", {"Tus-Resumable": "1.0.0"}),
    ("Upload-Defer-Length", "POST", "/incoming/frontend/uploads", {"Tus-Resumable": "1.0.0"}),
    ("Upload-Metadata", "POST", "/incoming/frontend/uploads", _TUS),
    ("Upload-Concat", "POST", "/incoming/frontend/uploads", _TUS),
    ("Upload-Offset", "PATCH", "UPLOAD", {"Tus-Resumable": "1.0.0", "Content-Type": _BYTES}),
    ("Upload-Checksum", "PATCH", "UPLOAD", {"Tus-Resumable": "1.0.0", "Content-Type": _BYTES, "Upload-Offset": "1"}),
    ("Trailer", "PATCH", "UPLOAD", {"Tus-Resumable": "1.0.0", "Content-Type": _BYTES, "Upload-Offset": "1"}),
    ("X-HTTP-Method-Override", "POST", "UPLOAD", {"Tus-Resumable": "1.0.0", "Upload-Concat": "x"}),
    ("Upload-Complete", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Upload-Incomplete", "POST", "/incoming/frontend/uploads", {"Upload-Draft-Interop-Version": "3"}),
    ("Upload-Draft-Interop-Version", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Content-Disposition", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Content-Encoding", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Repr-Digest", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Unencoded-Digest", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Want-Repr-Digest", "POST", "/incoming/frontend/uploads", _DRAFT),
    ("Upgrade", "GET", UPLOAD_WS, _UPGRADE),
    ("Sec-WebSocket-Key", "GET", UPLOAD_WS, _UPGRADE),
    ("Sec-WebSocket-Version", "GET", UPLOAD_WS, _UPGRADE),
    ("Authorization", "POST", _NEW, {}),
    ("Content-Type", "POST", _NEW, _KEY),
    ("Incoming-Secret", "GET", "/incoming/backend/uploads/TICKET/file", _KEY),
    ("Range", "GET", "/incoming/frontend/incoming.js", {}),
    ("If-None-Match", "GET", "/incoming/frontend/incoming.js", {}),
    ("X-Forwarded-Host", "POST", "/incoming/frontend/uploads", _TUS),
    ("X-Forwarded-Proto", "POST", "/incoming/frontend/uploads", _TUS),
    ("Forwarded", "POST", "/incoming/frontend/uploads", _TUS),
)


def test_enough() -> None:
    assert len(set(PAYLOADS)) >= 40


@pytest.mark.parametrize(
    ("header", "method", "path", "others"), READ_BY, ids=[f"{row[0]} of {row[1]}" for row in READ_BY]
)
def test_nothing_comes_back(header: str, method: str, path: str, others: Mapping[str, str], server: AppServer) -> None:
    upload = Upload(server)
    path = path.replace("UPLOAD", upload.path).replace("TICKET", upload.ticket)
    log = len(server.log())
    for payload in PAYLOADS:
        heard = talk(server.port, _request(method, path, {**others, header: ""}, header, payload), quiet=0.01)
        assert len(heard.statuses) == 1, (payload, heard)
        assert heard.statuses[0] < 500 or heard.statuses[0] in (501, 505), (payload, heard)
        if b"<title>" in heard.data:  # gunicorn says what it did not understand, escaped
            assert b"<script>" not in heard.data
            assert b"<img" not in heard.data
        else:
            assert MARK not in heard.data.lower(), (payload, heard)
        assert not re.search(rb"(?im)^x-injected", heard.data), (payload, heard)
    assert "Traceback" not in server.log()[log:]
    upload.assert_unchanged()
    upload.close()


def _request(method: str, path: str, headers: Mapping[str, str], spoilt: str, payload: bytes) -> bytes:
    values = {name: value.encode() for name, value in {"Host": "127.0.0.1", **headers}.items()} | {spoilt: payload}
    if method in ("POST", "PUT", "PATCH") and spoilt != "Content-Length":
        values["Content-Length"] = b"5"
    lines = [f"{name}: ".encode() + value for name, value in {"Connection": b"close", **values}.items()]
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *lines, b"", b"01234"])
