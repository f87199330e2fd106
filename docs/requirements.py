"""Writes docs/requirements.rst: what the protocols of others ask of a server, and which tests hold it.

``python -m docs.requirements``. The requirements are in files beside this one; a test names those that it holds by
``@pytest.mark.requirement("tus-1", …)``; those that are not followed are in ``NOT_FOLLOWED`` of the protocol's tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = HERE / "requirements.rst"

_KINDS = {"M": "must", "S": "should", "P": "practice"}
_HEAD = """Requirements
============

.. Made by python -m docs.requirements

What a server of other people's protocols must and should do, and what their clients are used to (practice), each with
the tests that hold it.
"""


@dataclass(frozen=True)
class Protocol:
    """:ivar prefix: of the numbers of its requirements.
    :ivar tests: where ``NOT_FOLLOWED`` is.
    """

    prefix: str
    title: str
    tests: Path

    @property
    def source(self) -> Path:
        return HERE / f"requirements_{self.prefix}.txt"


@dataclass(frozen=True)
class Requirement:
    number: str
    kind: str
    text: str


PROTOCOLS = (
    Protocol("tus", "tus 1.0.0", ROOT / "tests" / "protocols" / "test_tus.py"),
    Protocol("ietf", "Resumable uploads of the IETF", ROOT / "tests" / "protocols" / "test_resumable.py"),
)


def protocols() -> list[Protocol]:
    """Those that have requirements here."""
    return [protocol for protocol in PROTOCOLS if protocol.source.exists()]


def requirements(protocol: Protocol) -> list[Requirement]:
    lines = protocol.source.read_text("utf-8").splitlines()
    parts = [line.split(" ", 2) for line in lines if line]
    return [Requirement(f"{protocol.prefix}-{number}", _KINDS[kind], text) for number, kind, text in parts]


def tests_by_number() -> dict[str, list[str]]:
    """``file::test``, by the numbers that the tests name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, number in _marked(ast.parse(path.read_text("utf-8"))):
            test = f"{path.relative_to(ROOT).as_posix()}::{name}"
            if test not in found.setdefault(number, []):
                found[number].append(test)
    return found


def not_followed(protocol: Protocol) -> Mapping[str, str]:
    """Why, by number."""
    for node in ast.parse(protocol.tests.read_text("utf-8")).body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "NOT_FOLLOWED" and node.value:
            reasons: Mapping[str, str] = ast.literal_eval(node.value)
            return reasons
    return {}


def page() -> str:
    """The whole page."""
    held = tests_by_number()
    return "\n".join([_HEAD, *(line for protocol in protocols() for line in _section(protocol, held))])


def _marked(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("requirement"):
                yield from ((node.name, str(ast.literal_eval(argument))) for argument in decorator.args)


def _section(protocol: Protocol, held: Mapping[str, list[str]]) -> Iterator[str]:
    reasons = not_followed(protocol)
    yield from (protocol.title, "-" * len(protocol.title), "")
    yield from (".. list-table::", "    :header-rows: 1", "    :widths: 10 10 40 40", "")
    yield from _row("number", "kind", "requirement", ["held by"])
    for one in requirements(protocol):
        tests = [f"``{test}``" for test in held.get(one.number, ())]
        why = [f"not followed: {reasons[one.number]}"] if one.number in reasons else []
        yield from _row(one.number, one.kind, one.text, why or tests)
    yield ""


def _row(number: str, kind: str, text: str, last: list[str]) -> Iterator[str]:
    yield f"    * - {number}"
    yield f"      - {kind}"
    yield f"      - {text}"
    yield f"      - {last[0] if last else ''}"
    for line in last[1:]:
        yield ""
        yield f"        {line}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
