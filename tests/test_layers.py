"""Holds the arrows: every import goes up the list of rooms, and each foreign library is named where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import ROOT

PACKAGE = ROOT / "incoming_wsgi"

#: From the bottom to the top: a room may import those before it, and none behind it.
ROOMS = (
    "errors",
    "events",
    "offload",
    "once",
    "signatures",
    "extents",
    "filenames",
    "disk",
    "locks",
    "relocate",
    "upload",
    "wire",
    "gates",
    "downloads",
    "registry",
    "storage",
    "digests",
    "watermark",
    "delivery",
    "session",
    "receiver",
    "intake",
    "protocols",
    "settings",
    "assets",
    "frontend",
    "backend",
    "metrics",
    "draining",
    "middleware",
    "",  # the package itself: the public names
    "central",
    "operate",
    "__main__",
)

#: Foreign library → the files that may name it. Others are free.
BELONGS_TO = {
    "gevent": {"offload.py", "wire/sockets.py", "wire/servers.py", "__main__.py"},
    "gunicorn": {"__main__.py"},
    "requests": {"delivery/handover.py"},
    "sqlite3": {"registry/sqlite.py", "once.py"},
    "ctypes": {"digests.py", "storage/space.py", "storage/write_back.py"},
    "websockets": {"wire/frames.py", "wire/channel.py"},
    "prometheus_client": {"metrics.py"},
    "puremagic": {"gates/first_look.py"},
    "redis": {"registry/redis.py", "registry/redis_client.py"},
    "boto3": {"storage/bucket.py"},
    "botocore": {"storage/bucket.py", "storage/signing.py"},
}

#: Never imported while the package is: extras, and what gevent wants to patch first.
LAZY = {"prometheus_client", "puremagic", "gevent", "gunicorn", "requests", "redis", "boto3", "botocore"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that a piece of code imports."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                yield f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def own_imports(path: Path) -> Iterator[str]:
    """What a file imports of this package, as names below it: ``registry.sqlite``; the package itself is empty."""
    for name in imports(path, ast.parse(path.read_text("utf-8"))):
        if name.split(".")[0] == "incoming_wsgi":
            yield name.removeprefix("incoming_wsgi").removeprefix(".")


def room_of(path: Path) -> str:
    name = path.relative_to(PACKAGE).with_suffix("").parts[0]
    return "" if name == "__init__" else name


def test_every_room_is_on_the_list() -> None:
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_arrow_goes_up(path: Path) -> None:
    here = ROOMS.index(room_of(path))
    for name in own_imports(path):
        there = ROOMS.index(name.split(".")[0])
        assert there < here or room_of(path) == name.split(".")[0], f"{path.name} must not import {name}"


def test_files_of_one_room_make_no_circle() -> None:
    """Within a room the contract comes first; it may name its implementations lazily only."""
    for room in ("registry", "storage", "protocols"):
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text("utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        names = set(imports(PACKAGE / room / "__init__.py", top))
        assert not {name for name in names if name.startswith(f"incoming_wsgi.{room}.")}


def test_registries_and_storages_never_meet() -> None:
    for path in FILES:
        names = {name.split(".")[0] for name in own_imports(path)}
        if room_of(path) == "registry":
            assert "storage" not in names, path
        if room_of(path) == "storage":
            assert "registry" not in names, path


def test_only_the_receiver_brings_registry_storage_and_handover_together() -> None:
    """And its sessions the first two."""
    below = ROOMS[: ROOMS.index("session")]
    for path in FILES:
        names = {name.split(".")[0] for name in own_imports(path)}
        if room_of(path) in below:
            assert not {"registry", "storage"} <= names, path
        if room_of(path) == "session":
            assert "delivery" not in names
    receiver = {name.split(".")[0] for name in own_imports(PACKAGE / "receiver.py")}
    assert {"registry", "storage", "delivery"} <= receiver


def test_protocols_know_neither_each_other_nor_sockets() -> None:
    for path in (PACKAGE / "protocols").glob("*.py"):
        names = set(imports(path, ast.parse(path.read_text("utf-8"))))
        assert not {name for name in names if name.startswith("incoming_wsgi.protocols")}, path
        assert not names & {"socket", "select", "selectors", "ssl", "incoming_wsgi.wire.servers"}, path


@pytest.mark.parametrize("path", FILES, ids=str)
def test_libraries_are_named_where_they_belong(path: Path) -> None:
    named = {name.split(".")[0] for name in imports(path, ast.parse(path.read_text("utf-8")))}
    for library, places in BELONGS_TO.items():
        if library in named:
            assert path.relative_to(PACKAGE).as_posix() in places, f"{library} in {path}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_extras_are_imported_lazily(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    top = ast.Module([node for node in tree.body if not is_function_or_types_only(node)], [])
    assert not {name.split(".")[0] for name in imports(path, top)} & LAZY


def is_function_or_types_only(node: ast.stmt) -> bool:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.FunctionDef | ast.ClassDef)
