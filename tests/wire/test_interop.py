from __future__ import annotations

import pytest

from incoming_wsgi.wire.interop import VERSIONS, interop_of


def test_all_that_clients_send() -> None:
    assert list(VERSIONS) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert all(number == version.number for number, version in VERSIONS.items())


@pytest.mark.parametrize("number", VERSIONS)
def test_completeness_is_said_and_understood_in_one_way(number: int) -> None:
    version = VERSIONS[number]
    assert version.means(None) is None
    for complete in (True, False):
        ((field, value),) = version.marks(complete=complete).items()
        assert field == ("Upload-Incomplete" if number == 3 else "Upload-Complete")
        assert version.means(value == "?1") is complete


@pytest.mark.parametrize("number", [None, 0, 2, 11, 999])
def test_an_unknown_number(number: int | None) -> None:
    newest, oldest = interop_of(number, says_incomplete=False), interop_of(number, says_incomplete=True)
    assert (newest.number, oldest.number) == (None, None)
    assert (newest.completeness, oldest.completeness) == ("Upload-Complete", "Upload-Incomplete")
