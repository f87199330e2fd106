"""Kinds of files, as a ticket lists them: like the attribute ``accept`` of HTML's file input."""

from __future__ import annotations

import mimetypes
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..filenames import safe_filename

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
        """Whether a file of that name may come. A type that the client declares counts where its name says nothing.

        Both as it came and as it will be offered to the app.
        """
        return all(self._fits(each.lower(), declared_type) for each in (name, safe_filename(name, default="")))

    def _fits(self, name: str, declared_type: str) -> bool:
        if any(fnmatchcase(name, pattern) for pattern in self.names):
            return True
        return self.fits_type(_type_by_ending(name) or declared_type)

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


def _type_by_ending(name: str) -> str:
    """The media type that a name in small letters stands for; empty where it says nothing."""
    media_type, coding = mimetypes.guess_type("/" + name)  # without it, the beginning could be the scheme of a URL
    if coding and os.path.splitext(name)[1] not in mimetypes.suffix_map:  # what is packed is not what is in it
        return "application/gzip" if coding == "gzip" else f"application/x-{coding}"
    return media_type or ""


def _is_of(essence: str, accepted: str) -> bool:
    return accepted in ("*/*", essence) or (accepted.endswith("/*") and essence.startswith(accepted[:-1]))
