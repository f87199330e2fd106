"""tus and the IETF's resumable uploads: what is wrong with a request, and the answer, wherever it comes from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from tests.support.processes import AppServer

from .conftest import EVERYWHERE
from .uploads import assert_sentence, sentence_of
from .wire import Answer, ask

UPLOADS = "/incoming/frontend/uploads"
LENGTH, SAFE = 1000, 400
DATA = bytes(range(250)) * 4
PIECE = DATA[SAFE : SAFE + 10]
BYTES, PARTIAL = "application/offset+octet-stream", "application/partial-upload"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True)
class Case:
    """A good request but for these headers; of ``None`` there is none.

    :ivar url: ``UPPER`` stands for that of the upload, its id in capitals.
    :ivar headers: in their values, ``UPLOAD`` stands for the upload's path.
    """

    status: int
    method: str = ""
    url: str = ""
    body: bytes | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    twice: Mapping[str, str] = field(default_factory=dict)


def case(status: int, method: str = "", url: str = "", body: bytes | None = None, /, **headers: str | None) -> Case:
    return Case(status, method, url, body, {name.replace("_", "-"): value for name, value in headers.items()})


def twice(status: int, name: str, value: str) -> Case:
    """With a header twice, each time as it should be."""
    return Case(status, headers={name: value}, twice={name: value})


#: What is appended, in a good request of each dialect.
APPEND: Mapping[str, Mapping[str, str]] = {
    "tus": {"Tus-Resumable": "1.0.0", "Upload-Offset": str(SAFE), "Content-Type": BYTES},
    "draft": {"Upload-Complete": "?0", "Upload-Offset": str(SAFE), "Content-Type": PARTIAL},
}
CREATE: Mapping[str, Mapping[str, str]] = {
    "tus": {"Tus-Resumable": "1.0.0", "Upload-Length": str(LENGTH)},
    "draft": {"Upload-Complete": "?0", "Upload-Length": str(LENGTH)},
}

TUS_PATCH = {
    "no version": case(412, Tus_Resumable=None),
    "another version": case(412, Tus_Resumable="0.2.2"),
    "an empty version": case(412, Tus_Resumable=""),
    "a list of versions": case(412, Tus_Resumable="1.0.0,0.2.2"),
    "no offset": case(400, Upload_Offset=None),
    "an empty offset": case(400, Upload_Offset=""),
    "a negative offset": case(400, Upload_Offset="-1"),
    "an offset with a sign": case(400, Upload_Offset="+400"),
    "an offset with a fraction": case(400, Upload_Offset="400.0"),
    "a hexadecimal offset": case(400, Upload_Offset="0x190"),
    "an offset with an underscore": case(400, Upload_Offset="4_00"),
    "an offset of other digits": case(400, Upload_Offset="\xd9\xa4\xd9\xa0\xd9\xa0"),
    "a list of offsets": case(400, Upload_Offset="400,400"),
    "an offset twice": twice(400, "Upload-Offset", str(SAFE)),
    "an offset over 2^63": case(413, Upload_Offset=str(2**63)),
    "an offset of sixty digits": case(413, Upload_Offset="1" + 59 * "0"),
    "an earlier offset": case(409, Upload_Offset="399"),
    "a later offset": case(409, Upload_Offset="401"),
    "an offset beyond the length": case(409, Upload_Offset="1001"),
    "more than the length": case(413, "", "", DATA),
    "another length": case(400, Upload_Length="999"),
    "a malformed length": case(400, Upload_Length="x"),
    "no media type": case(415, Content_Type=None),
    "another media type": case(415, Content_Type="application/octet-stream"),
    "two media types": case(415, Content_Type=f"{BYTES}, text/plain"),
    "a checksum of an unknown algorithm": case(400, Upload_Checksum=f"sha3 {b64(bytes(28))}"),
    "a checksum that is no base64": case(400, Upload_Checksum="sha1 ????"),
    "a checksum that is too short": case(400, Upload_Checksum=f"sha1 {b64(b'1234')}"),
    "a checksum without a value": case(400, Upload_Checksum="sha1"),
    "an empty checksum": case(400, Upload_Checksum=""),
    "a checksum twice": twice(400, "Upload-Checksum", f"sha256 {b64(hashlib.sha256(PIECE).digest())}"),
    "another checksum": case(460, Upload_Checksum=f"sha1 {b64(bytes(20))}"),
    "unknown id": case(404, "", f"{UPLOADS}/00000000-0000-4000-8000-000000000000"),
    "id that is none": case(404, "", f"{UPLOADS}/x"),
    "id in capitals": case(404, "", "UPPER"),
    "no id": case(404, "", UPLOADS),
    "a foreign origin": case(403, Origin="https://evil.example"),
    "the origin of nobody": case(403, Origin="null"),
    "PUT": case(405, "PUT"),
    "TRACE": case(405, "TRACE"),
    "an override of our own dialect": case(400, "POST", "", None, X_HTTP_Method_Override="PUT"),
    "an override of GET": case(400, "POST", "", None, X_HTTP_Method_Override="GET"),
    "an override that is nonsense": case(400, "POST", "", None, X_HTTP_Method_Override="PATCH, DELETE"),
    "an override with a tab": case(400, "POST", "", None, X_HTTP_Method_Override="PA\tTCH"),
}  # fmt: skip

TUS_POST = {
    "no length": case(400, Upload_Length=None),
    "a length, and that it will follow": case(400, Upload_Defer_Length="1"),
    "that it will follow, malformed": case(400, Upload_Length=None, Upload_Defer_Length="2"),
    "that it will follow, true": case(400, Upload_Length=None, Upload_Defer_Length="true"),
    "a negative length": case(400, Upload_Length="-1"),
    "a length with a fraction": case(400, Upload_Length="1.5"),
    "a length over the limit": case(413, Upload_Length="10000001"),
    "a length over 2^63": case(413, Upload_Length=str(2**63)),
    "a length twice": twice(400, "Upload-Length", str(LENGTH)),
    "metadata with a key twice": case(400, Upload_Metadata="filename eA==,filename eQ=="),
    "metadata without a key": case(400, Upload_Metadata=",filename eA=="),
    "metadata with a comma at the end": case(400, Upload_Metadata="filename eA==,"),
    "metadata that is no base64": case(400, Upload_Metadata="filename ?"),
    "metadata in base64 of URLs": case(400, Upload_Metadata="filename -_-_"),
    "metadata with a line in base64": case(400, Upload_Metadata="filename eA==\teQ=="),
    "metadata that is not ASCII": case(400, Upload_Metadata="filename \xe4"),
    "concatenation of nothing": case(400, Upload_Length=None, Upload_Concat="final;"),
    "concatenation malformed": case(400, Upload_Concat="finale"),
    "concatenation of a URL elsewhere": case(
        400, Upload_Length=None, Upload_Concat=f"final;https://evil.example{UPLOADS}/00000000-0000-4000-8000-000000000000"
    ),
    "concatenation of no URL": case(400, Upload_Length=None, Upload_Concat="final;http://["),
    "concatenation of an unfinished upload": case(400, Upload_Length=None, Upload_Concat="final;UPLOAD"),
    "concatenation of an unknown upload": case(
        400, Upload_Length=None, Upload_Concat=f"final;{UPLOADS}/00000000-0000-4000-8000-000000000000"
    ),
    "concatenation with a length": case(400, Upload_Concat="final;UPLOAD"),
    "an unknown ticket": case(404, "", f"{UPLOADS}?ticket=00000000-0000-4000-8000-000000000000"),
    "a ticket that is none": case(404, "", f"{UPLOADS}?ticket=../../etc/passwd"),
    "no ticket": case(403, "", UPLOADS),
    "a query that is not UTF-8": case(400, "", f"{UPLOADS}?ticket=%ff"),
    "a foreign origin": case(403, Origin="https://evil.example"),
    "a body that is more than the length": case(413, "", "", DATA + b"x", Content_Type=BYTES),
    "no version": case(412, Tus_Resumable=None),
}  # fmt: skip

DRAFT_PATCH = {
    "no offset": case(400, Upload_Offset=None),
    "an empty offset": case(400, Upload_Offset=""),
    "a negative offset": case(400, Upload_Offset="-1"),
    "an offset with a fraction": case(400, Upload_Offset="400.0"),
    "an offset in quotes": case(400, Upload_Offset='"400"'),
    "an offset that is true": case(400, Upload_Offset="?1"),
    "a list of offsets": case(400, Upload_Offset="400, 400"),
    "an offset twice": twice(400, "Upload-Offset", str(SAFE)),
    "an offset of sixty digits": case(400, Upload_Offset="1" + 59 * "0"),
    "an earlier offset": case(409, Upload_Offset="399"),
    "a later offset": case(409, Upload_Offset="401"),
    "not said whether it is all": case(400, Upload_Complete=None),
    "said twice whether it is all": twice(400, "Upload-Complete", "?0"),
    "said by a word whether it is all": case(400, Upload_Complete="true"),
    "another length": case(400, Upload_Length="999"),
    "all, and it is not": case(400, Upload_Complete="?1"),
    "another media type": case(415, Content_Type="application/octet-stream"),
    "another digest": case(400, Content_Digest=f"sha-256=:{b64(bytes(32))}:"),
    "unknown id": case(404, "", f"{UPLOADS}/00000000-0000-4000-8000-000000000000"),
    "id that is none": case(404, "", f"{UPLOADS}/x"),
    "a foreign origin": case(403, Origin="https://evil.example"),
    "the origin of nobody": case(403, Origin="null"),
    "TRACE": case(405, "TRACE"),
}  # fmt: skip

DRAFT_POST = {
    "not said whether it is all": case(400, Upload_Complete=None, Upload_Draft_Interop_Version="8"),
    "said by a word whether it is all": case(400, Upload_Complete="yes", Upload_Draft_Interop_Version="8"),
    "with an offset": case(400, Upload_Offset="0"),
    "a length over the limit": case(413, Upload_Length="10000001"),
    "all, and another length": case(400, Upload_Complete="?1", Upload_Length="3"),
    "an unknown ticket": case(404, "", f"{UPLOADS}?ticket=00000000-0000-4000-8000-000000000000"),
    "a ticket that is none": case(404, "", f"{UPLOADS}?ticket=x"),
    "no ticket": case(403, "", UPLOADS),
    "a foreign origin": case(403, Origin="https://evil.example"),
}  # fmt: skip

GROUPS: Mapping[str, tuple[str, Mapping[str, Case]]] = {
    "tus PATCH": ("PATCH", TUS_PATCH),
    "tus POST": ("POST", TUS_POST),
    "draft PATCH": ("PATCH", DRAFT_PATCH),
    "draft POST": ("POST", DRAFT_POST),
}
ALL = [(group, name) for group, (_, cases) in GROUPS.items() for name in cases]


class Under:
    """An upload under way in one of the dialects."""

    def __init__(self, server: AppServer, dialect: str) -> None:
        self.server = server
        self._dialect = dialect
        self.ticket = server.ticket()
        headers = {**CREATE[dialect], **({"Content-Type": BYTES} if dialect == "tus" else {})}
        created = ask(server.port, "POST", f"{UPLOADS}?ticket={self.ticket}", headers.items(), DATA[:SAFE])
        assert created.status == 201, created
        self.path = urlsplit(created.headers["location"]).path

    def answer(self, method: str, wrong: Case) -> Answer:
        """To a request that is good but for what is wrong."""
        path = self.path if method == "PATCH" else f"{UPLOADS}?ticket={self.server.ticket()}"
        path = (wrong.url or path).replace("UPPER", f"{UPLOADS}/{self.ticket.upper()}")
        good = (APPEND if method == "PATCH" else CREATE)[self._dialect]
        headers = {name: value for name, value in {**good, **wrong.headers}.items() if value is not None}
        given = [(name, value.replace("UPLOAD", self.path)) for name, value in headers.items()]
        given += wrong.twice.items()
        body = wrong.body if wrong.body is not None else PIECE if method == "PATCH" else b""
        return ask(self.server.port, wrong.method or method, path, given, body)

    def offset(self) -> int:
        headers = {"Tus-Resumable": "1.0.0"} if self._dialect == "tus" else {"Upload-Draft-Interop-Version": "8"}
        return int(ask(self.server.port, "HEAD", self.path, headers.items()).headers["upload-offset"])


@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize(("group", "name"), ALL)
def test_refused(group: str, name: str, kind: str, server_at: Callable[[str], AppServer]) -> None:
    method, cases = GROUPS[group]
    upload = Under(server_at(kind), group.partition(" ")[0])
    answer = upload.answer(method, cases[name])
    assert answer.status == cases[name].status, answer
    if "<center>nginx" not in answer.body.decode():  # which refuses some by itself
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert_sentence(sentence_of(answer) if "error" in answer.json() else answer.json()["detail"])
    assert upload.offset() == SAFE
