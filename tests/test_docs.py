"""The tables of the manual say what the code says, and what they point to is there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from incoming_wsgi import errors
from incoming_wsgi.settings import Settings

from .faults.campaigns import all_campaigns

ROOT = Path(__file__).resolve().parent.parent
API = (ROOT / "docs" / "api.rst").read_text("utf-8")
PROMISES = (ROOT / "docs" / "promises.rst").read_text("utf-8")
THREATS = (ROOT / "docs" / "threats.rst").read_text("utf-8")
#: The browser's own: the server never sends it.
BROWSER_ONLY = "file_unreadable"


def table(header: str) -> str:
    """The simple table whose first column is called ``header``."""
    found = re.search(rf"^=[= ]+\n{header}.*\n=[= ]+\n((?:.+\n)+?)=[= ]+$", API, re.MULTILINE)
    assert found is not None
    return found[1]


def test_options() -> None:
    documented = set(re.findall(r"^``(\w+)``", table("option"), re.MULTILINE))
    assert documented == {field.name for field in fields(Settings)} | {
        "on_finish",
        "on_cancel",
        "on_first_bytes",
        "authorize",
        "authorize_opening",
    }


def test_errors() -> None:
    rows = re.findall(r"^(\d+) +(\w+) +(\d+) *(again)?", table("code"), re.MULTILINE)
    documented = {(int(code), name, int(status), bool(again)) for code, name, status, again in rows}
    kinds = error_kinds(errors.IncomingError)
    # Some dialects have a kind under the same name, with a status of their own.
    sent = {(kind.code, kind.name, kind.status, kind.retryable) for kind in kinds if kind.__module__ == errors.__name__}
    assert {row for row in documented ^ sent if row[1] != BROWSER_ONLY} == set()


def error_kinds(root: type[errors.IncomingError]) -> set[type[errors.IncomingError]]:
    return {root}.union(*(error_kinds(kind) for kind in root.__subclasses__()))


def test_promises() -> None:
    """Each test that is named is there, and each campaign is named."""
    table_of_promises = PROMISES[PROMISES.index(".. list-table::") : PROMISES.index("The order of things")]
    named = set(re.findall(r"``([^`]+)``", table_of_promises))
    files = {name for name in named if name.startswith("tests/")}
    assert files
    assert all((ROOT / name).is_file() for name in files)
    assert set(all_campaigns()) <= named


def test_threats() -> None:
    """Each row names tests that are there, or campaigns."""
    assert unfounded(THREATS) == []


#: What is written in place of the name of a test.
SPOILT = {
    "a test that is not there": "``tests/test_upload.py::test_of_another_name``",
    "a file that is not there": "``tests/test_nothing.py::test_tickets``",
    "a file without a test": "``tests/test_upload.py``",
    "the beginning of a name": "``tests/test_upload.py::test_all_bits``",
    "no campaign": "campaign ``nothing``",
    "no name": "see there",
    "nothing": "",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_threat_without_a_test_is_noticed(how: str) -> None:
    named = "``tests/bad_inputs/test_raw.py::test_endless``"
    assert THREATS.count(named) == 1
    assert len(unfounded(THREATS.replace(named, SPOILT[how]))) == 1


def unfounded(threats: str) -> list[str]:
    """The rows of the table that name no test, or one that is not there."""
    listed = threats[threats.index(".. list-table::") : threats.index("What stands against nothing")]
    rows = re.split(r"^   \* - ", listed, flags=re.MULTILINE)[2:]
    assert len(rows) > 20
    return [row for row in rows if not is_founded(re.split(r"^     -(?: |$)", row, flags=re.MULTILINE))]


def is_founded(cells: list[str]) -> bool:
    assert len(cells) == 5, cells
    named = re.findall(r"``([^`]+)``", cells[-1])
    return bool(named) and all(name in all_campaigns() or is_test(name) for name in named)


def is_test(name: str) -> bool:
    path, _, function = name.partition("::")
    if not function.startswith("test_") or not (ROOT / path).is_file():
        return False
    return re.search(rf"^def {function}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE) is not None
