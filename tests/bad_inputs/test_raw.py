"""What could be read in two ways, floods, and what is no HTTP, as bytes: under each server, and behind nginx.

What holds everywhere: no request is taken out of another one's body; and where there is no good request, nothing is
kept. Servers differ in what they mend. gunicorn refuses nearly all of it. gevent's own server and Werkzeug read much as
if it were right, and the app can't see it: such a request counts as the good one that they make of it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.support.nginx import Nginx
from tests.support.processes import AppServer, memory_of

from .raw import ENDLESS, RAW, talk
from .uploads import SAFE, Upload

COLUMNS = ("gunicorn", "pywsgi", "werkzeug", "nginx")
KINDS = ("gevent", "gthread", "pywsgi", "werkzeug", "nginx")

#: The status by each of the :data:`COLUMNS`. ``-``: hangs up without a word; ``+``: and goes on with the next request,
#: which is behind the body by any reading; ``ok``: the server has mended it, and the good request is answered.
ANSWERS: Mapping[str, str] = {
    "CL.TE": "400  411  400  400",
    "TE.CL": "400  411  400  400",
    "CL.TE, the length hides a request": "400  411  400  400",
    "CL.TE of HTTP/1.0": "400  411  400  400",
    "TE of HTTP/1.0": "400  411  411  400",
    "CL zero and TE": "400  411  400  400",
    "TE xchunked": "501  501  501  501",
    "TE chunked, identity": "400  501  501  501",
    "TE identity, chunked": "501+ 501  501  501",
    "TE gzip, chunked": "501  501  501  501",
    "TE chunked, chunked": "400  501  501  501",
    "TE twice": "400  501  501  400",
    "TE twice, one is nonsense": "501  501  501  400",
    "TE empty": "501  411  411  501",
    "TE with a vertical tab": "400  400  400  501",
    "TE in quotes": "501  400  400  501",
    "TE with a parameter": "501  400  400  501",
    "TE after a space": "400  400  400  400",
    "TE before a space": "400  ok   ok   400",
    "TE with an underscore": "ok   ok   ok   ok",
    "TE in the folded line": "400  400  ok   400",
    "TE folded": "400  400  400  400",
    "TE behind a bare CR": "400  411  400  400",
    "TE behind a bare LF": "400  411  400  400",
    "CL twice, different": "400  ok   400  400",
    "CL twice, the same": "400  ok   ok   400",
    "CL as a list": "400  400  400  400",
    "CL as a list of different": "400  400  400  400",
    "CL plus": "400  400  400  400",
    "CL minus": "400  400  400  400",
    "CL hexadecimal": "400  400  400  400",
    "CL underscore": "400  400  400  400",
    "CL fraction": "400  400  400  400",
    "CL other digits": "400  400  400  400",
    "CL with a space within": "400  400  400  400",
    "CL before a space": "400  411  411  400",
    "CL folded": "400  400  ok   400",
    "CL with NUL": "400  400  400  400",
    "CL beyond 64 bits": "413  413  413  400",
    "CL of sixty digits": "413  413  413  400",
    "bare LF in the head": "400  ok   ok   ok",
    "bare LF everywhere": "400  ok   ok   ok",
    "bare CR in a value": "400  ok   ok   400",
    "folded line": "400  400  ok   400",
    "folded first line": "400  400  400  400",
    "NUL in a value": "400  400  400  400",
    "NUL in a name": "400  ok   ok   400",
    "no colon": "400  ok   ok   ok",
    "no name": "400  ok   ok   400",
    "a space in a name": "400  ok   ok   400",
    "two Hosts": "400  400  400  400",
    "no Host": "400+ 400  400  400",
    "HTTP/0.9": "400  400  -    -",
    "HTTP/0.9 of our own methods": "400  400  -    -",
    "HTTP/2.0": "400  400  -    505",
    "the preface of HTTP/2": "400  400  -    400",
    "two spaces": "400  ok   ok   ok",
    "a tab": "400  ok   ok   400",
    "NUL in the path": "400  404+ 404  400",
    "a method with a space before it": "400  ok   ok   400",
    "a method in small letters": "400  405+ 405  400",
    "CONNECT": "404  404+ 404  400",
    "absolute form of another host": "404+ 404+ 404  400",
    "absolute form of another scheme": "404+ 404+ 404  400",
    "authority form": "400  404+ 404  400",
    "asterisk form": "400  404+ 404  400",
    "a request line of 100,000 bytes": "414  414  414  414",
    "a header of 100,000 bytes": "431  400  431  400",
    "a name of 100,000 bytes": "431  400  431  400",
    "10,000 headers": "431  400  431  400",
    "10,000 times the same header": "431  400  431  400",
    "more body than is taken": "413  413  413  413",
    "a refused body that is a request": "400  400  400  400",
    "a refused body, and a request in place of its end": "403  403  403  403",
    "an expectation that nobody knows": "417  403+ 403  403+",
}

Doors = Callable[[str], int]


def test_all_are_expected() -> None:
    assert set(ANSWERS) == set(RAW)


@pytest.fixture(scope="module")
def port_of(server_of: Callable[[str], AppServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("nginx")
        nginx = stack.enter_context(Nginx(folder / "nginx", server_of("gevent").port, recommended=True))
        yield lambda kind: nginx.port if kind == "nginx" else server_of(kind).port


@pytest.fixture(scope="module")
def upload_of(server_of: Callable[[str], AppServer]) -> Iterator[Callable[[str], Upload]]:
    """One for each server, in the middle; after all cases it can be completed."""
    uploads: dict[str, Upload] = {}

    def of(kind: str) -> Upload:
        if kind not in uploads:
            uploads[kind] = Upload(server_of("gevent" if kind == "nginx" else kind))
        return uploads[kind]

    yield of
    for upload in uploads.values():
        upload.complete()
        upload.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", RAW)
def test_raw(case: str, kind: str, upload_of: Callable[[str], Upload], port_of: Doors) -> None:
    column = COLUMNS.index("gunicorn" if kind in ("gevent", "gthread") else kind)
    expected, upload = ANSWERS[case].split()[column], upload_of(kind)
    if expected == "ok":
        _expect_mended(case, Upload(upload.server), port_of(kind))
        return
    heard = talk(port_of(kind), RAW[case].of(upload))
    statuses = [] if expected == "-" else [int(expected.rstrip("+"))]
    assert list(heard.statuses[:1]) == statuses, heard.data[:500]
    assert len(heard.statuses) == len(statuses) + expected.endswith("+"), heard.data[:500]
    assert b"Traceback" not in heard.data
    upload.assert_unchanged()


def _expect_mended(case: str, upload: Upload, port: int) -> None:
    """As much is kept as the good request has."""
    heard = talk(port, RAW[case].of(upload))
    assert heard.statuses[0] == 200
    assert upload.client.status()["received"] == SAFE + 5
    upload.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ENDLESS)
def test_endless(case: str, kind: str, upload_of: Callable[[str], Upload], port_of: Doors) -> None:
    """It is cut off, or refused and read no more, long before it costs anything."""
    upload = upload_of(kind)
    before = memory_of(upload.server.workers())
    start = f"PUT {upload.path} HTTP/1.1\r\nHost: x\r\n".encode() + (b"X-One: " if "one" in case else b"")
    assert _is_refused(port_of(kind), start + 4 * 2**20 // len(ENDLESS[case]) * ENDLESS[case])
    assert memory_of(upload.server.workers()) - before < 16 * 2**20
    upload.assert_unchanged()


def _is_refused(port: int, data: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(data)
            return connection.recv(10) in (b"HTTP/1.1 4", b"")
        except ConnectionError:
            return True
