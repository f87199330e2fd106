"""File names from strangers, made harmless."""

from __future__ import annotations

import unicodedata
from email.message import Message
from typing import Any

#: The longest name that common file systems take, in bytes of UTF-8.
LONGEST = 255

#: What Windows does not take.
_FORBIDDEN = str.maketrans(dict.fromkeys('<>:"|?*', "_"))

#: What a name in a header is written in, if not in the other one that RFC 5987 knows (section 3.2.1). Python has
#: decoders by many more names: some raise, whatever they are asked to do, others make what is no text.
_CHARSET, _OTHER_CHARSET = "utf-8", "iso-8859-1"

#: Device names of Windows: a file saved as one of these can't be opened there.
_RESERVED = frozenset(
    {"con", "prn", "aux", "nul", *(f"com{digit}" for digit in "123456789"), *(f"lpt{d}" for d in "123456789")}
)


def safe_filename(name: str, default: str = "unnamed") -> str:
    """``name`` as one path component: no folder, no control, bidirectional or Windows-forbidden character.

    Never empty, never ``.`` or ``..``, never hidden, at most 255 bytes of UTF-8, the extension kept.
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = last if last.isascii() and last.isprintable() else "".join(filter(_printable, last))
    kept = kept.translate(_FORBIDDEN)
    kept = unicodedata.normalize("NFC", kept).strip(" .")
    if not kept:
        return default
    kept = _shorten(kept)
    if kept.split(".", 1)[0].rstrip().lower() in _RESERVED:
        kept = _shorten("_" + kept)
    return kept


def name_in_disposition(header: str) -> str:
    """The name in a ``Content-Disposition`` (RFC 6266), as the client wrote it; ``filename*`` before ``filename``.

    :returns: nothing where it has none.
    """
    message = Message()
    message["Content-Disposition"] = header
    params: list[tuple[str, Any]] = message.get_params([], "content-disposition")
    found = [value for name, value in params if name == "filename"]
    encoded = [value for value in found if isinstance(value, tuple)]
    if encoded:
        charset, _, text = encoded[0]
        charset = _CHARSET if str(charset).lower() == _CHARSET else _OTHER_CHARSET
        return str(text).encode("latin-1", "replace").decode(charset, "replace")
    return _utf8(found[0]) if found else ""


def _utf8(text: str) -> str:
    """What a server has read as Latin-1, and a client may have written as UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def numbered(name: str, number: int) -> str:
    """``report.pdf`` with 2 is ``report (2).pdf``: the next name to try when one is taken."""
    return _shorten(name, f" ({number})")


def _printable(char: str) -> bool:
    """Neither control (Cc), format such as bidi overrides (Cf), surrogate (Cs), private (Co) nor separator of lines."""
    return unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def _shorten(name: str, mark: str = "") -> str:
    """``name`` with ``mark`` before its extension; what is before both is cut to fit."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) > 32:
        stem, dot, extension = name, "", ""
    end = mark + dot + extension
    room = LONGEST - len(end.encode())
    if len(stem.encode()) > room:
        stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .")
    return stem + end
