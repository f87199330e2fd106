"""A look at the first bytes of a file: what they are, by libmagic-like signatures, and whether a ticket is for that."""

from __future__ import annotations

import mimetypes
from functools import cached_property

from .kinds import accept_of

#: Bytes that are looked at; all of a file that is shorter.
LENGTH = 64 * 1024

_SHORTEST_SIGNATURE = 3  # bytes; shorter ones stand at the beginning of many a text

#: Of ``application/…``, what is certainly neither a picture, nor sound, nor text. Others may be: containers, say.
_DOCUMENTS = frozenset(
    {
        "application/java-archive",
        "application/msword",
        "application/pdf",
        "application/vnd.fdf",
        "application/vnd.microsoft.portable-executable",
        "application/vnd.rar",
        "application/x-7z-compressed",
        "application/x-sharedlib",
        "application/x-executable",
    }
)
_FAMILIES = {"image": "image", "audio": "media", "video": "media", "text": "text", "application": "document"}


class FirstBytes(bytes):
    """The first :data:`LENGTH` bytes of a file, or all of a shorter one."""

    @cached_property
    def media_types(self) -> tuple[str, ...]:
        """What they may be, all as likely; empty where nobody knows, as with most text."""
        import puremagic

        try:
            found = puremagic.magic_string(bytes(self))
        except (puremagic.PureError, ValueError):
            return ()
        known = [each for each in found if each.mime_type and len(each.byte_match) >= _SHORTEST_SIGNATURE]
        likely = [each.mime_type for each in known if each.confidence == known[0].confidence]
        return tuple(dict.fromkeys(likely))

    @property
    def media_type(self) -> str:
        """The likeliest. Of several the one with the shortest name: ``application/zip``, not what is made of it."""
        return min(self.media_types, key=len, default="")


def is_of_other_kind(accept: str, head: FirstBytes) -> bool:
    """Whether the first bytes are certainly of no kind that a ticket accepts: a program that is called ``x.jpg``.

    Among documents, archives and programs, all of them ``application/…``, nothing is certain.
    """
    accepted = accept_of(accept)
    endings = (mimetypes.guess_type(name.replace("*", "x"))[0] or "" for name in accepted.names)
    families = {_family_of_accepted(media_type) for media_type in (*accepted.types, *endings)}
    found = {_family(media_type) for media_type in head.media_types}
    return bool(found) and "" not in families | found and not families & found


def _family_of_accepted(media_type: str) -> str:
    return _FAMILIES.get(media_type.partition("/")[0], "")


def _family(media_type: str) -> str:
    """Empty where it may be of any."""
    if media_type.startswith("application/") and media_type not in _DOCUMENTS:
        return ""
    return _family_of_accepted(media_type)
