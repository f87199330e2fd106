"""The HTTP chunk: PUT with Content-Range."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .conftest import Begin
from .uploads import DATA, SAFE, Upload, assert_refused
from .wire import Answer, Connection, ask, drip, request

END = SAFE + 1000
CHUNK = DATA[SAFE:END]


def put(upload: Upload, start: int, body: bytes, **headers: str | None) -> Answer:
    """A chunk from ``start`` on, its headers changed."""
    return ask(upload.server.port, "PUT", upload.path, upload.chunk_headers(start, start + len(body), **headers), body)


def digest_of(data: bytes, algorithm: str = "sha-256") -> str:
    value = hashlib.new(algorithm.replace("-", ""), data).digest()
    return f"{algorithm}=:{base64.b64encode(value).decode()}:"


def assert_refused_with_status(answer: Answer, status: int, upload: Upload) -> None:
    """An error that also says how the upload is getting on."""
    assert_refused(answer, status)
    for name, value in upload.client.status().items():
        assert answer.json()[name] == value, name


# -- Content-Range ----------------------------------------------------------------------------------------------

RANGES: dict[str, str | None] = {
    "missing": None,
    "empty": "",
    "malformed: no unit": f"{SAFE}-{END - 1}/{len(DATA)}",
    "malformed: another unit": f"lines {SAFE}-{END - 1}/{len(DATA)}",
    "malformed: unit in capitals": f"BYTES {SAFE}-{END - 1}/{len(DATA)}",
    "malformed: equals sign": f"bytes={SAFE}-{END - 1}/{len(DATA)}",
    "malformed: no length": f"bytes {SAFE}-{END - 1}",
    "malformed: length unknown": f"bytes {SAFE}-{END - 1}/*",
    "malformed: unsatisfied": f"bytes */{len(DATA)}",
    "malformed: open": f"bytes {SAFE}-/{len(DATA)}",
    "malformed: suffix": f"bytes -1000/{len(DATA)}",
    "malformed: two spaces": f"bytes  {SAFE}-{END - 1}/{len(DATA)}",
    "malformed: spaces within": f"bytes {SAFE} - {END - 1} / {len(DATA)}",
    "malformed: hexadecimal": f"bytes {SAFE:#x}-{END - 1:#x}/{len(DATA)}",
    "malformed: fraction": f"bytes {SAFE}.0-{END - 1}/{len(DATA)}",
    "malformed: exponent": f"bytes {SAFE}-{END - 1}/1e5",
    "malformed: underscores": f"bytes 4_0000-{END - 1}/{len(DATA)}",
    "malformed: two ranges": f"bytes {SAFE}-{SAFE + 499},{SAFE + 500}-{END - 1}/{len(DATA)}",
    "malformed: more behind it": f"bytes {SAFE}-{END - 1}/{len(DATA)}; x",
    "malformed: other digits": f"bytes {SAFE}-{END - 1}/1000\xb20",
    "negative": f"bytes -{SAFE}-{END - 1}/{len(DATA)}",
    "negative length": f"bytes {SAFE}-{END - 1}/-{len(DATA)}",
    "+5": f"bytes +{SAFE}-{END - 1}/{len(DATA)}",
    "backwards": f"bytes {END - 1}-{SAFE}/{len(DATA)}",
    "over 2^63": f"bytes {SAFE}-{END - 1}/{2**63}",
    "over 2^63: all": f"bytes {2**63}-{2**63 + 999}/{2**63 + 1000}",
    "over 2^64": f"bytes {2**64 + SAFE}-{2**64 + END - 1}/{2**64 + len(DATA)}",
    "over 2^63: 5000 digits": f"bytes {SAFE}-{END - 1}/{5000 * '9'}",
    "total differs: less": f"bytes {SAFE}-{END - 1}/{len(DATA) - 1}",
    "total differs: more": f"bytes {SAFE}-{END - 1}/{len(DATA) + 1}",
    "shorter than the body": f"bytes {SAFE}-{END - 2}/{len(DATA)}",
    "longer than the body": f"bytes {SAFE}-{END}/{len(DATA)}",
}


@pytest.mark.parametrize("case", RANGES)
def test_content_range(case: str, upload: Upload) -> None:
    assert_refused(put(upload, SAFE, CHUNK, Content_Range=RANGES[case]), 400, about="Content-Range")


# -- what has arrived already, what can't arrive ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, SAFE), (0, 1), (SAFE - 1, SAFE), (100, 200)],
    ids=["all", "first byte", "last byte", "inside"],
)
@pytest.mark.parametrize("times", [1, 3])
def test_a_chunk_that_has_arrived_already(start: int, end: int, times: int, upload: Upload) -> None:
    for _ in range(times):
        answer = put(upload, start, DATA[start:end])
        assert (answer.status, answer.json()["received"]) == (200, SAFE)


@pytest.mark.parametrize(("start", "end"), [(SAFE - 1000, SAFE + 1000), (0, SAFE + 1), (SAFE - 1, SAFE + 1)])
@pytest.mark.parametrize("with_digest", [False, True])
def test_a_chunk_that_has_arrived_in_part(start: int, end: int, with_digest: bool, server: AppServer) -> None:
    with closing(Upload(server)) as upload:
        piece = DATA[start:end]
        for _ in range(2):
            answer = put(upload, start, piece, Content_Digest=digest_of(piece) if with_digest else None)
            assert (answer.status, answer.json()["received"], answer.json()["offset"]) == (200, end, end)
        upload.complete()


@pytest.mark.parametrize(("start", "end"), [(0, SAFE), (SAFE - 1000, SAFE)])
def test_other_bytes_for_what_has_arrived(start: int, end: int, upload: Upload) -> None:
    """What is safe stays as it is; :func:`begin` looks at the digest of the whole."""
    answer = put(upload, start, (end - start) * b"x")
    assert (answer.status, answer.json()["received"]) == (200, SAFE)


def test_other_bytes_for_what_has_arrived_in_part(server: AppServer) -> None:
    with closing(Upload(server)) as upload:
        assert put(upload, SAFE - 1000, 1000 * b"x" + CHUNK).status == 200
        upload.complete()


@pytest.mark.parametrize(
    ("start", "length"),
    [(len(DATA) - 10, 11), (len(DATA), 1), (len(DATA) + 1, 10), (SAFE, 60_001), (2**62, 10)],
    ids=["by a byte", "at the end", "behind the end", "a long one", "far away"],
)
def test_beyond_the_length(start: int, length: int, upload: Upload) -> None:
    assert_refused_with_status(put(upload, start, length * b"x"), 413, upload)
    assert _stored_bytes(upload) == SAFE


def test_over_the_chunk_limit(server: AppServer, begin: Begin) -> None:
    upload = begin(server, data=DATA + DATA)
    assert_refused_with_status(put(upload, SAFE, (DATA + DATA)[SAFE : SAFE + 65_537]), 413, upload)
    assert _stored_bytes(upload) == SAFE


def _stored_bytes(upload: Upload) -> int:
    return (upload.server.folder / "incoming" / "arriving" / upload.ticket).stat().st_size


# -- bodies that end early --------------------------------------------------------------------------------------


def half_a_body(upload: Upload, **headers: str | None) -> None:
    """The rest of the file announced, 1000 bytes sent, and the connection cut."""
    with Connection(upload.server.port) as connection:
        good = [*upload.chunk_headers(SAFE, len(DATA), **headers), ("Content-Length", str(len(DATA) - SAFE))]
        connection.send(request("PUT", upload.path, good) + CHUNK)
        connection.send_nothing_more()
        connection.everything()


def test_body_shorter_than_announced(server: AppServer) -> None:
    """Its beginning counts, and the status says where to go on; it is never taken for all."""
    with closing(Upload(server)) as upload:
        half_a_body(upload)
        status = eventually(lambda: (found := upload.client.status())["received"] > SAFE and found)
        assert (status["received"], status["offset"], status["missing"]) == (END, END, [[END, len(DATA)]])
        assert status["phase"] == "uploading"
        upload.complete()


def test_body_shorter_than_announced_but_with_a_digest(upload: Upload) -> None:
    half_a_body(upload, Content_Digest=digest_of(DATA[SAFE:]))


def test_body_shorter_than_announced_with_a_digest_that_fits(upload: Upload) -> None:
    half_a_body(upload, Content_Digest=digest_of(CHUNK))


# -- digests ----------------------------------------------------------------------------------------------------

DIGESTS: dict[str, str] = {
    "mismatch": digest_of(b"other bytes"),
    "mismatch, sha-512": digest_of(b"other bytes", "sha-512"),
    "mismatch: of the whole file": digest_of(DATA),
    "unknown algorithm: md5": digest_of(CHUNK, "md5"),
    "unknown algorithm: sha": digest_of(CHUNK, "sha1").replace("sha1", "sha"),
    "unknown algorithm: crc32c": "crc32c=:AAAAAA==:",
    "unknown algorithm: rot13": "rot13=:AAAA:",
    "of another length": digest_of(CHUNK, "sha-512").replace("sha-512", "sha-256"),
    "empty": "",
    "empty value": "sha-256=::",
    "no colons": digest_of(CHUNK).replace(":", ""),
    "no base64": "sha-256=:!!!:",
    "base64 cut": digest_of(CHUNK).replace("=:", "=:A", 1),
    "hexadecimal": f"sha-256={hashlib.sha256(CHUNK).hexdigest()}",
    "two of them": f"{digest_of(CHUNK)}, {digest_of(CHUNK, 'sha-512')}",
    "5000 characters": f"sha-256=:{5000 * 'A'}:",
}


@pytest.mark.parametrize("case", DIGESTS)
def test_digest(case: str, upload: Upload) -> None:
    assert_refused_with_status(put(upload, SAFE, CHUNK, Content_Digest=DIGESTS[case]), 400, upload)


def test_digest_mismatch_where_some_has_arrived(upload: Upload) -> None:
    spoilt = 1000 * b"x" + CHUNK
    answer = put(upload, SAFE - 1000, spoilt, Content_Digest=digest_of(DATA[SAFE - 1000 : END]))
    assert_refused_with_status(answer, 400, upload)


def test_digest_mismatch_of_the_last_chunk(upload: Upload) -> None:
    answer = put(upload, SAFE, DATA[SAFE:-1] + b"x", Content_Digest=digest_of(DATA[SAFE:]))
    assert_refused_with_status(answer, 400, upload)


# -- openings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("media_type", ["text/plain", "multipart/form-data; boundary=x", "application/json", "x"])
def test_wrong_media_type(media_type: str, method: str, upload: Upload) -> None:
    headers = upload.chunk_headers(
        SAFE, END, Content_Type=media_type, Incoming_Length=str(len(DATA)), Incoming_Name="n"
    )
    assert_refused(ask(upload.server.port, method, upload.path, headers, CHUNK), 415)


OPENINGS: dict[str, tuple[dict[str, str | None], int]] = {
    "Incoming-Length missing": ({"Incoming-Length": None}, 400),
    "Incoming-Length malformed": ({"Incoming-Length": "many"}, 400),
    "Incoming-Length negative": ({"Incoming-Length": "-1"}, 400),
    "Incoming-Length +5": ({"Incoming-Length": "+100000"}, 400),
    "Incoming-Length a fraction": ({"Incoming-Length": "100000.0"}, 400),
    "Incoming-Length of other digits": ({"Incoming-Length": "10000\xb2"}, 400),
    "Incoming-Length over 2^63": ({"Incoming-Length": str(2**63)}, 400),
    "Incoming-Length of 5000 digits": ({"Incoming-Length": 5000 * "9"}, 400),
    "Incoming-Length differs": ({"Incoming-Length": "100001"}, 409),
    "Incoming-Name missing": ({"Incoming-Name": None}, 400),
    "Incoming-Name over 4 KiB": ({"Incoming-Name": 4097 * "n"}, 400),
    "Incoming-Name not UTF-8": ({"Incoming-Name": "%FF"}, 400),
    "Incoming-Name half a surrogate pair": ({"Incoming-Name": "%ED%A0%80"}, 400),
    "Incoming-Fingerprint malformed": ({"Incoming-Fingerprint": "a b"}, 400),
    "Incoming-Fingerprint too long": ({"Incoming-Fingerprint": 129 * "f"}, 400),
    "more bytes than the file": ({"Incoming-Length": "999"}, 413),
}


@pytest.mark.parametrize("case", OPENINGS)
def test_opening(case: str, upload: Upload) -> None:
    changes, status = OPENINGS[case]
    good = {"Incoming-Length": str(len(DATA)), "Incoming-Name": "n", "Content-Type": "application/octet-stream"}
    headers = [(name, value) for name, value in {**good, **changes}.items() if value is not None]
    answer = ask(upload.server.port, "POST", upload.path, headers, DATA[:1000])
    assert_refused_with_status(answer, status, upload)


def test_opening_over_the_limit(server: AppServer) -> None:
    ticket = server.ticket()
    headers = [("Incoming-Length", "10000001"), ("Incoming-Name", "n")]
    assert_refused(ask(server.port, "POST", f"/incoming/frontend/uploads/{ticket}", headers, b""), 413)
    with closing(Upload(server, ticket)) as upload:
        upload.complete()


@pytest.mark.parametrize("wait", ["x", "-1", "1e9", "nan", "inf", "+1", "99999", "1.5.2"])
def test_status_with_an_odd_wait(wait: str, upload: Upload) -> None:
    assert_refused_with_status(ask(upload.server.port, "GET", f"{upload.path}?wait={wait}"), 400, upload)


@pytest.mark.parametrize("since", ["x", "-1", "%D9%A1", 500 * "9", ""])
def test_status_with_an_odd_since(since: str, upload: Upload) -> None:
    assert ask(upload.server.port, "GET", f"{upload.path}?wait=9&since={since}").json()["received"] == SAFE


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://127.0.0.1:1", "http://[", ""])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_foreign_origin(method: str, origin: str, upload: Upload) -> None:
    headers = upload.chunk_headers(SAFE, END, Origin=origin, Incoming_Length=str(len(DATA)), Incoming_Name="n")
    answer = ask(upload.server.port, method, upload.path, headers, CHUNK if method != "DELETE" else None)
    assert_refused(answer, 403, about="origin")
    assert "access-control-allow-origin" not in answer.headers


# -- who may send, and when -------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", "x", "{token}x", "{cut}", "{TOKEN}", "\xe9", 5000 * "t", "other"])
def test_session_token_missing_or_wrong(token: str | None, upload: Upload) -> None:
    real = upload.client.session
    shown = token and token.format(token=real, cut=real[:-1], TOKEN=real.swapcase())
    answer = put(upload, SAFE, CHUNK, Incoming_Session=shown)
    assert_refused_with_status(answer, 409, upload)
    assert real.encode() not in answer.body
    pausing = ask(
        upload.server.port, "POST", f"{upload.path}/pause", upload.chunk_headers(0, 1, Incoming_Session=shown)
    )
    assert_refused_with_status(pausing, 409, upload)


@pytest.mark.parametrize("how", ["over HTTP", "over a WebSocket"])
@pytest.mark.parametrize(("start", "end"), [(SAFE, END), (0, SAFE)], ids=["a new chunk", "one that has arrived"])
def test_session_token_replaced(start: int, end: int, how: str, upload: Upload) -> None:
    older = upload.client.session
    if how == "over HTTP":
        upload.client.open()
    else:
        upload.resume().close()
    answer = put(upload, start, DATA[start:end], Incoming_Session=older)
    assert_refused_with_status(answer, 409, upload)
    assert answer.json()["error"]["name"] == "replaced"


def test_session_token_replaced_in_the_middle_of_a_chunk(upload: Upload) -> None:
    """What the older one has on its way neither counts nor spoils anything."""
    with Connection(upload.server.port) as connection:
        headers = [*upload.chunk_headers(SAFE, END), ("Content-Length", "1000")]
        connection.send(request("PUT", upload.path, headers) + 500 * b"x")
        upload.client.open()
        connection.send(500 * b"x")
        assert_refused_with_status(connection.answer(), 409, upload)


def test_upload_finished(server: AppServer) -> None:
    """A repetition of what has arrived is fine for who sent it; anybody else is told that it is too late."""
    with closing(Upload(server)) as upload:
        token = upload.client.session
        upload.complete()
        finishing = upload.client.session
        before = upload.client.status()
        assert_refused_with_status(put(upload, SAFE, CHUNK, Incoming_Session=token), 409, upload)
        assert_refused_with_status(put(upload, SAFE, CHUNK, Incoming_Session=None), 409, upload)
        assert put(upload, SAFE, CHUNK, Incoming_Session=finishing).json()["phase"] == "finished"
        assert put(upload, 0, b"").status == 400
        assert upload.client.status() == before
        upload.assert_arrived()


def assert_over(upload: Upload, status: int, name: str) -> None:
    """Neither new bytes, nor a repetition, nor an opening."""
    opening = [("Incoming-Length", str(len(upload.data))), ("Incoming-Name", "n")]
    answers = [
        put(upload, SAFE, CHUNK),
        put(upload, 0, DATA[:SAFE]),
        put(upload, SAFE, CHUNK, Incoming_Session="other"),
        ask(upload.server.port, "POST", upload.path, opening, b""),
    ]
    for answer in answers:
        assert_refused_with_status(answer, status, upload)
        assert answer.json()["error"]["name"] == name


def test_upload_cancelled(server: AppServer) -> None:
    with closing(Upload(server)) as upload:
        cancelled = ask(server.port, "DELETE", upload.path, [("Incoming-Reason", "I%20have%20changed%20my%20mind.")])
        assert cancelled.json()["state"] == "cancelled"
        assert_over(upload, 410, "cancelled")
        assert upload.client.cancel().json()["state"] == "cancelled"


def test_upload_expired(forgetful_server: AppServer, expire: Callable[[], None]) -> None:
    with closing(Upload(forgetful_server)) as upload:
        expire()
        assert_over(upload, 410, "expired")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_upload_unknown(method: str, upload: Upload) -> None:
    path = "/incoming/frontend/uploads/00000000-0000-4000-8000-000000000000"
    headers = upload.chunk_headers(SAFE, END, Incoming_Length=str(len(DATA)), Incoming_Name="n")
    answer = ask(upload.server.port, method, path, headers, CHUNK if method in ("POST", "PUT") else None)
    if method == "HEAD":
        assert (answer.status, answer.body) == (404, b"")
    else:
        assert_refused(answer, 404)


# -- too slow ---------------------------------------------------------------------------------------------------


def slowly(upload: Upload, first: bytes, then: bytes = b"") -> bytes:
    """What is answered to a chunk that begins well, goes on byte by byte, and never ends."""
    with Connection(upload.server.port) as connection:
        headers = [*upload.chunk_headers(SAFE, len(DATA)), ("Content-Length", str(len(DATA) - SAFE))]
        connection.send(request("PUT", upload.path, headers) + first)
        dripping = threading.Thread(target=drip, args=(connection, then, 0.05))
        dripping.start()
        try:
            return connection.everything()
        finally:
            connection.hang_up()
            dripping.join()


@pytest.mark.parametrize(
    ("first", "then"),
    [(CHUNK, b""), (b"", b""), (CHUNK, 200 * b"x"), (b"", 200 * b"x")],
    ids=["idle", "idle from the beginning", "too slow", "too slow from the beginning"],
)
def test_idle_or_too_slow(first: bytes, then: bytes, impatient_server: AppServer) -> None:
    """The connection is closed; what has arrived is kept, but nothing that has not."""
    with closing(Upload(impatient_server)) as upload:
        then = DATA[SAFE + len(first) : SAFE + len(first) + len(then)]
        answer = slowly(upload, first, then)
        assert answer.startswith(b"HTTP/1.1 408 "), answer[:200]
        assert answer.count(b"HTTP/1.1") == 1
        assert b"too_slow" in answer
        status = upload.client.status()
        assert SAFE + len(first) <= status["received"] <= SAFE + len(first) + len(then)
        assert status["received"] == status["offset"]
        upload.complete()


def test_idle_with_a_digest(impatient_server: AppServer, begin: Begin) -> None:
    upload = begin(impatient_server)
    with Connection(upload.server.port) as connection:
        digest: dict[str, Any] = {"Content_Digest": digest_of(DATA[SAFE:])}
        headers = [*upload.chunk_headers(SAFE, len(DATA), **digest), ("Content-Length", str(len(DATA) - SAFE))]
        connection.send(request("PUT", upload.path, headers) + CHUNK)
        assert_refused_with_status(connection.answer(), 408, upload)
