"""For apps that give files away again: as downloads, which no browser opens as a page of the app's.

A file from a stranger can be a page with a script. Shown by the app's own host it would act as the person who looks at
it. These headers make every browser save it instead, and should one show it after all, in a box without rights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO
from urllib.parse import quote

from webob import Response

from .filenames import safe_filename

_PIECE = 256 * 1024  # bytes of a file sent at once

#: What may stand unescaped in ``filename*`` (RFC 8187, section 3.2.1), besides letters and digits.
_UNESCAPED = "!#$&+-.^_`|~"


def download_headers(filename: str) -> dict[str, str]:
    """The headers of an answer that is somebody's file, for whatever framework sends it.

    :param filename: the name to save it by: any text; it is made safe first.
    """
    return {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": _attachment(safe_filename(filename)),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


def download(
    path: str | os.PathLike[str], filename: str, *, x_accel: Mapping[str, str] | None = None, x_sendfile: bool = False
) -> Response:
    """A file as a WSGI app, which views of Flask and WebOb can return: whole or in ranges (RFC 9110, section 14).

    :param filename: the name to save it by: any text.
    :param x_accel: nginx is to send it: folders, and the internal addresses that nginx knows them by. A file that is
        in none of them is sent from here.
    :param x_sendfile: Apache (mod_xsendfile) or lighttpd is to send it; they get its path percent-encoded, as both take
        it by default. Without that ``%2e%2e%2f`` in a name would lead them elsewhere.
    :raises FileNotFoundError: there is none.
    """
    file = open(path, "rb", buffering=0)  # noqa: SIM115 (the server closes it)
    status = os.fstat(file.fileno())
    address = _address_for_nginx(os.path.realpath(path), x_accel or {})
    if address or x_sendfile:
        file.close()
        response = Response()
        name, value = ("X-Accel-Redirect", address) if address else ("X-Sendfile", quote(os.path.realpath(path)))
        response.headers[name] = value
    else:
        response = file_response(file, status.st_size)
        response.last_modified = status.st_mtime
    response.headers.update(download_headers(filename).items())
    return response


def file_response(file: BinaryIO, length: int) -> Response:
    """An open file of ``length`` bytes as an answer, of which a part may be asked for; it is closed in the end."""
    response = Response(
        app_iter=_Pieces(file, 0, length), content_type="application/octet-stream", conditional_response=True
    )
    response.content_length = length
    response.accept_ranges = "bytes"
    return response


def _attachment(filename: str) -> str:
    """``Content-Disposition`` (RFC 6266): for old readers in ASCII, for all others in UTF-8."""
    plain = re.sub(r'[^ -~]|["\\%]', "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe=_UNESCAPED)}"


def _address_for_nginx(path: str, internal: Mapping[str, str]) -> str:
    for folder, address in internal.items():
        inside = os.path.join(os.path.realpath(folder), "")
        if path.startswith(inside):
            return quote(address.rstrip("/") + "/" + path.removeprefix(inside))
    return ""


class _Pieces:
    """A file as a WSGI body. WebOb asks :meth:`app_iter_range` for a part when the request has a ``Range``."""

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        self._file = file
        self._start = start
        self._stop = stop

    def app_iter_range(self, start: int, stop: int) -> _Pieces:
        return _Pieces(self._file, start, stop)

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        left = self._stop - self._start
        while left > 0 and (piece := self._file.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece

    def close(self) -> None:
        self._file.close()
