"""``python -m tests.fuzz``: so many frames and requests by chance; with ``--guided`` by what they reach (atheris)."""

from __future__ import annotations

import argparse
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .frames import FramesTarget
from .requests import RequestsTarget

Target = FramesTarget | RequestsTarget
TARGETS: dict[str, Callable[[Path], Target]] = {"frames": FramesTarget, "requests": RequestsTarget}

_MEMORY = "/dev/shm"
_SIZES = (30, 100, 300, 1000)  # bytes of chance for one try
_WARM_UP = 0.1  # of the tries, after which memory is to stay what it is


def main() -> int:
    options = _options()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=_MEMORY if Path(_MEMORY).is_dir() else None) as folder:
        target = TARGETS[options.target](Path(folder))
        try:
            return _guided(target, options.rest) if options.guided else by_chance(target, options.seed, options.count)
        finally:
            target.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=50_000, help="default: 50,000")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9), help="default: a new one")
    parser.add_argument("--guided", action="store_true", help="by atheris; what else stands there is for it")
    options, rest = parser.parse_known_args()
    options.rest = [argument for argument in rest if argument != "--"]
    return options


def by_chance(target: Target, seed: int, count: int) -> int:
    """:raises Exception: something is wrong; the bytes that brought it about have been printed."""
    print(f"{target.about}, seed {seed}", flush=True)
    chance = random.Random(seed)
    began, before = time.monotonic(), 0
    while target.done < count:
        data = chance.randbytes(chance.choice(_SIZES))
        try:
            target.try_one(data)
        except Exception:
            print(f"after {target.done:,}: {data!r}", flush=True)
            raise
        if not before and target.done > count * _WARM_UP:
            before = _peak()
    growth = (_peak() - before) / 2**20
    print(f"{target.done:,} {target.about} in {time.monotonic() - began:.0f} s; memory grew by {growth:.0f} MiB")
    return 0


def _peak() -> int:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _guided(target: Target, arguments: list[str]) -> int:
    import atheris

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments], target.try_one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
