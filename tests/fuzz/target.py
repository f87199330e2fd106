"""What ``python -m tests.fuzz`` runs: requests by what code they reach; the process ends with the first fault."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["incoming_wsgi.tus_headers", "incoming_wsgi.protocols.tus"]):
    import incoming_wsgi.protocols.tus
    import incoming_wsgi.tus_headers  # noqa: F401

from incoming_wsgi import intake
from tests.fuzz.requests import SEEDS, Fuzzed
from tests.helpers import Engine

_LONGEST = 600  # bytes of a request
_RENEWED = 2000  # requests after which the registry is empty again


def main(folder: Path, seconds: int) -> None:
    intake._WAIT_FOR_END = 0.001
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={_LONGEST}", f"-artifact_prefix={tempfile.gettempdir()}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], Round(folder))
    atheris.Fuzz()


class Round:
    """One fuzzed server after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "engine"
        self._asked = 0
        self._begin()

    def __call__(self, data: bytes) -> None:
        self._asked += 1
        if self._asked % _RENEWED == 0:
            self._engine.close()
            shutil.rmtree(self._folder)
            self._begin()
        self._fuzzed.ask(data)

    def _begin(self) -> None:
        self._engine = Engine(self._folder)
        self._fuzzed = Fuzzed(self._engine)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
