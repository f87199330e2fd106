"""Kinds of files, as a ticket lists them: like the attribute ``accept`` of HTML's file input."""

from __future__ import annotations

import mimetypes
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)|\*/\*")
_NAME = re.compile(r"[^,/\\\0]+")
_LONGEST = 1000  # characters


@dataclass(frozen=True)
class Accept:
    """What may be uploaded: ``.jpg, image/*, application/pdf``, and patterns of names: ``scan-*.tif``.

    :ivar names: patterns in small letters; ``.jpg`` is ``*.jpg``.
    :ivar types: media types in small letters, ``image/*`` for all of a kind.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]

    def fits(self, name: str, declared_type: str = "") -> bool:
        """Whether a file of that name may come. A type that the client declares counts where its name says nothing."""
        named = name.lower()
        if any(fnmatchcase(named, pattern) for pattern in self.names):
            return True
        return self.fits_type(mimetypes.guess_type(named)[0] or declared_type)

    def fits_type(self, media_type: str) -> bool:
        essence = media_type.partition(";")[0].strip().lower()
        return bool(essence) and any(_is_of(essence, accepted) for accepted in self.types)


def accept_of(text: str) -> Accept:
    """:raises ValueError: it is no list of name endings, patterns and media types."""
    words = [word.strip().lower() for word in text.split(",")]
    types = tuple(word for word in words if _MEDIA_TYPE.fullmatch(word))
    names = tuple(f"*{word}" if word.startswith(".") else word for word in words if word not in types)
    is_wrong = any(not _NAME.fullmatch(name) or not name.isprintable() or "." not in name for name in names)
    if is_wrong or len(text) > _LONGEST:
        raise ValueError("accept lists endings, name patterns and media types: «.jpg, scan-*.tif, image/*»")
    return Accept(names, types)


def _is_of(essence: str, accepted: str) -> bool:
    return accepted in ("*/*", essence) or (accepted.endswith("/*") and essence.startswith(accepted[:-1]))
