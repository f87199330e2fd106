"""Reports of a run that is not over, so that a scenario that fails does not take those with it that went well."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .report import Report, report_from_json

_ROOT = Path(__file__).resolve().parent.parent
_MEASURED = ("incoming_wsgi", "bench")


class Kept:
    """:param folder: made if it is not there.
    :param of: what they are reports of; those of anything else are not used.
    """

    def __init__(self, folder: Path, of: str) -> None:
        self._folder = folder
        self._of = of

    def keep(self, report: Report) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(report.letter)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps({"of": self._of, "report": report.as_json()}))
        unfinished.replace(path)

    def report(self, letter: str) -> Report | None:
        path = self._path(letter)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        return report_from_json(found["report"]) if found["of"] == self._of else None

    def clear(self) -> None:
        """The run is over."""
        for path in self._folder.glob("*.json"):
            path.unlink()

    def _path(self, letter: str) -> Path:
        return self._folder / f"{letter}.json"


def code() -> str:
    """What is measured, and how, as a digest: any change makes it another one."""
    digest = hashlib.sha256()
    for folder in _MEASURED:
        for path in sorted((_ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".c", ".lua", ".js"):
                digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
