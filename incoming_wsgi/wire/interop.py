"""The drafts of "Resumable Uploads for HTTP" that clients speak, by their interop version, in ONE table.

A client says which one by ``Upload-Draft-Interop-Version``. One that says none, or a number that we do not know, is
answered as by the newest, which is what clients of the RFC will send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Interop:
    """What one version asks of a server; the defaults are those of the newest.

    :ivar number: the version; ``None`` where the client has not said a known one.
    :ivar says_incomplete: ``Upload-Incomplete`` stands in place of ``Upload-Complete``, with the opposite meaning.
    :ivar ends_by_silence: an append without that field completes the upload.
    :ivar ignores_malformed: a malformed field is as if absent; before, the request was refused.
    :ivar refuses_stray_fields: ``HEAD`` and ``DELETE`` must not have the fields of an append.
    :ivar needs_media_type: an append must be ``application/partial-upload``.
    :ivar appended: status of the answer to an append after which more will come.
    :ivar lifetime: name of the lifetime in ``Upload-Limit``; empty where there is no such field.
    :ivar tells_progress: interim responses may have ``Upload-Offset``.
    :ivar excess_kills: an upload that gets more bytes than its length is dead.
    :ivar has_completed_problem: there is a problem type for uploads that are complete.
    """

    number: int | None = None
    says_incomplete: bool = False
    ends_by_silence: bool = False
    ignores_malformed: bool = True
    refuses_stray_fields: bool = False
    needs_media_type: bool = True
    appended: int = 204
    lifetime: str = "max-age"
    tells_progress: bool = True
    excess_kills: bool = True
    has_completed_problem: bool = False

    @property
    def completeness(self) -> str:
        """The field that says whether an upload is complete."""
        return "Upload-Incomplete" if self.says_incomplete else "Upload-Complete"

    def means(self, value: bool | None) -> bool | None:
        """Whether a value of that field says «complete»."""
        return value if value is None else value is not self.says_incomplete

    def marks(self, *, complete: bool) -> dict[str, str]:
        """That field for an answer."""
        return {self.completeness: "?1" if complete is not self.says_incomplete else "?0"}


_DRAFT_01 = Interop(
    number=3,
    says_incomplete=True,
    ends_by_silence=True,
    ignores_malformed=False,
    refuses_stray_fields=True,
    needs_media_type=False,
    appended=201,
    lifetime="",
    tells_progress=False,
    excess_kills=False,
)
_DRAFT_02 = replace(_DRAFT_01, number=4, says_incomplete=False)
_DRAFT_03 = replace(_DRAFT_02, number=5, tells_progress=True)
_DRAFT_05 = replace(_DRAFT_03, number=6, needs_media_type=True, lifetime="expires", has_completed_problem=True)
_DRAFT_08 = replace(
    _DRAFT_05,
    number=7,
    ends_by_silence=False,
    refuses_stray_fields=False,
    appended=204,
    lifetime="max-age",
    excess_kills=True,
)
_DRAFT_11 = replace(_DRAFT_08, number=8, ignores_malformed=True)
_DRAFT_12 = replace(_DRAFT_11, number=9, has_completed_problem=False)
_DRAFT_13 = replace(_DRAFT_12, number=10)  # its differences are what a server may leave out

#: By number.
VERSIONS: Mapping[int, Interop] = {
    version.number: version
    for version in (_DRAFT_01, _DRAFT_02, _DRAFT_03, _DRAFT_05, _DRAFT_08, _DRAFT_11, _DRAFT_12, _DRAFT_13)
    if version.number is not None
}


def interop_of(number: int | None, *, says_incomplete: bool) -> Interop:
    """What is spoken.

    :param says_incomplete: whether the request has the field that only the oldest knows.
    """
    known = VERSIONS.get(number) if number is not None else None
    return known or replace(_DRAFT_01 if says_incomplete else _DRAFT_13, number=None)
