"""The options of :class:`~incoming_wsgi.Incoming`: declared, explained and read here, and nowhere else.

Each is a keyword argument, or comes from the environment variable ``INCOMING_`` and its name in capitals, or has its
default; in this order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

from .gates.clients import Proxies
from .gates.quotas import rate_of
from .registry import check as check_registry
from .signatures import key_of
from .storage.bucket import check as check_bucket
from .storage.bucket import is_bucket

_STORAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes are bytes (text may say ``8M``, ``10G``), times seconds."""

    storage: str
    """Folder that the files are kept in. Made if it is not there; nothing in it that is not ours is ever touched.
    Or a bucket of S3, of Ceph, say: ``s3://bucket/prefix?endpoint=https://rgw.example.org``."""

    storages: Mapping[str, str] = field(default_factory=dict)
    """Further places by name, of either kind, that a ticket can ask for: ``{"archive": "s3://…", "fast": "/ssd"}``; as
    text ``archive=s3://… fast=/ssd``. Uploads remember the name: keep it while there are any."""

    registry: str = ""
    """URL of the registry; by default ``sqlite://`` in the storage folder, which must be on a local disk. With a bucket
    in place of a folder it has to be given. Several
    machines share one in Redis: ``redis://``, ``rediss://``, ``unix://`` or ``redis+sentinel://``."""

    durability: str = "process"
    """When a byte counts as arrived. ``process``: it survives that processes are killed; after a power cut some bytes
    are asked for again. ``fsync``: it survives a power cut, too; each acknowledgement waits for the disk. A folder on
    NFS or CephFS needs it."""

    free_space_floor: int = 256 * 2**20
    """The part of the disk that uploads leave free. Below it they wait for space; nothing that has arrived is lost."""

    digest: bool = True
    """Whether the SHA-256 of each file is computed, beside its arrival; the app is told it."""

    name: str = "app"
    """Whose uploads these are. Apps that share a registry have different names."""

    prefix: str = "/incoming"
    """Where we are, below the place that the app is mounted at."""

    public_url: str = ""
    """Scheme and host by which browsers know this server, where a proxy hides it: ``https://www.example.org``."""

    allow_origins: tuple[str, ...] = ()
    """Origins of other sites' pages that may upload here, exactly as browsers send them; ``*`` for all."""

    backend_key: str = ""
    """Key that a back end shows to use the HTTP API under ``/incoming/backend``. Without one there is no such API."""

    finish_hosts: tuple[str, ...] = ()
    """Hosts (``host`` or ``host:port``) that tickets of the HTTP API may name in ``signalFinishURL``."""

    signing_keys: tuple[str, ...] = ()
    """Keys (``whsec_…``) that hand-over calls over HTTP are signed with, by Standard Webhooks; two while one replaces
    the other."""

    websocket: bool = True
    """Whether WebSockets are offered, for front ends of Incoming!! 0.1 and where HTTP fails."""

    interim_responses: bool = False
    """Whether clients of the IETF's resumable uploads are sent ``104 Upload Resumption Supported``. Only where no proxy
    is in between, or one that passes it on: nginx takes it for the final answer. See docs/resumable.rst."""

    chunk_size: int = 64 * 2**20
    """The longest chunk that is taken over HTTP. A proxy that takes less is found out by our library."""

    websocket_chunk_size: int = 2**20
    """The longest chunk that our own library may send over a WebSocket; a 0.1 front end sends 512 KiB."""

    send_ahead: int = 64
    """Chunks that our library may have unacknowledged on a WebSocket."""

    trusted_proxies: tuple[str, ...] = ()
    """Networks of the proxies in front (``10.0.0.0/8``, ``127.0.0.1``), and ``unix`` for one that comes by a unix
    socket. Only their ``X-Forwarded-For``, ``-Proto`` and ``-Host`` are believed."""

    owner_uploads: int = 0
    """Uploads that may be open for one owner at the same time; like all limits of this kind, 0 for any number."""

    owner_bytes: int = 0
    """Bytes that the open uploads of one owner may have together."""

    owner_tickets: str = ""
    """How many tickets there are for one owner: ``100/h``, as many at once; also per ``s``, ``m`` or ``d``."""

    address_uploads: int = 1000
    """Uploads that may be open from one client address (of IPv6, one /64) at the same time."""

    address_bytes: int = 0
    """Bytes that the open uploads from one address may have together."""

    address_tickets: str = "600/m"
    """How many uploads one address may create without a ticket, where ``authorize`` lets it."""

    address_connections: int = 256
    """Connections from one address that may bring bytes at the same time, to each process."""

    total_uploads: int = 0
    """Uploads of the app that may be open at the same time."""

    total_bytes: int = 0
    """Bytes that the open uploads of the app may have together; ``free_space_floor`` holds besides."""

    total_connections: int = 5000
    """Connections that may bring bytes at the same time, to each process."""

    upload_connections: int = 32
    """Connections that may bring bytes of one upload at the same time, to each process."""

    backend_tickets: str = ""
    """How many tickets the HTTP API gives to one back end."""

    metrics: bool = False
    """Whether figures are counted for Prometheus (extra ``[metrics]``). Where they can be read is up to you."""

    lanes: int = 4
    """Chunks of one client that may be on their way over HTTP at the same time."""

    max_length: int = 2**40
    """The longest file that is taken; a ticket can say less."""

    idle_timeout: float = 12 * 3600.0
    """An upload that nothing arrives for is given up after this, and its bytes deleted."""

    receive_timeout: float = 30.0
    """A connection that owes bytes, and over which less than 1 KiB comes in this time, is closed; what has arrived
    is kept."""

    wait_timeout: float = 600.0
    """An app that answered ``wait`` is called again when nothing was heard of it for so long."""

    handover_timeout: float = 55.0
    """How long an app may take to answer a hand-over call over HTTP."""

    drain_file: str = ""
    """A file, best below ``/run``, by which ``incoming drain`` empties the processes of this machine. They have to be
    able to make it; each machine has its own."""

    file_mode: int = 0o640
    """Permission bits of the files (as text: octal); the folders get the matching ones."""

    file_group: str = ""
    """Group of the files, by name or number, so that another Unix user can take them. The process must be in it."""


def gather(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from keyword arguments and the environment.

    :raises TypeError: an option is unknown, or ``storage`` is missing.
    :raises ValueError: a value can't be used.
    """
    environ = os.environ if environ is None else environ
    known = {field.name for field in fields(Settings)}
    unknown = ", ".join(sorted(options.keys() - known))
    if unknown:
        raise TypeError(f"Incoming has no option {unknown}; it has {', '.join(sorted(known))}")
    values = {name: _of_environment(name, environ[_variable(name)]) for name in known if _variable(name) in environ}
    values |= {name: _of_argument(name, value) for name, value in options.items() if value is not None}
    if not values.get("storage"):
        raise TypeError("Incoming needs storage=, the folder that files are kept in, or INCOMING_STORAGE")
    return _checked(Settings(**values))


def _variable(name: str) -> str:
    return "INCOMING_" + name.upper()


def size(text: str) -> int:
    """Bytes: ``1048576``, ``1M``, ``1.5G``.

    :raises ValueError: it is not a size.
    """
    found = re.fullmatch(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([KMGT]?)i?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is no size; write 1048576, 8M or 1.5G")
    return int(Fraction(found[1]) * _UNITS[found[2].upper()])


def _boolean(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in ("1", "true", "yes", "on")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", text) if word)


def storages_in(text: str) -> dict[str, str]:
    """Places by name: ``archive=s3://bucket fast=/ssd``.

    :raises ValueError: it is not written so.
    """
    pairs = [word.partition("=") for word in _words(text)]
    if any(not equals for _, equals, _ in pairs) or len({name for name, _, _ in pairs}) < len(pairs):
        raise ValueError("storages are written NAME=PLACE, apart by spaces, and each name once")
    return {name: place for name, _, place in pairs}


_READERS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": size,
    "float": float,
    "bool": _boolean,
    "tuple[str, ...]": _words,
    "Mapping[str, str]": storages_in,
}

_KINDS = {field.name: str(field.type) for field in fields(Settings)}


def _of_environment(name: str, text: str) -> Any:
    try:
        return _read(name, text)
    except ValueError as error:
        raise ValueError(f"{_variable(name)}: {error}") from None


def _read(name: str, text: str) -> Any:
    return int(text, 8) if name == "file_mode" else _READERS[_KINDS[name]](text)


def _of_argument(name: str, value: Any) -> Any:
    """An argument as its kind: text is read like the environment's, a path or a list is taken too."""
    kind = _KINDS[name]
    if kind == "str":
        return os.fspath(value)
    if isinstance(value, str):
        return _read(name, value)
    if kind == "Mapping[str, str]":
        return {str(key): os.fspath(place) for key, place in value.items()}
    if kind == "tuple[str, ...]":
        return tuple(value)
    if kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False")
    if kind == "int" and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} must be a whole number")
    if kind == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{name} must be a number")
    return value


def _check_places(settings: Settings) -> None:
    if settings.registry:
        check_registry(settings.registry)
    check_storages(settings.storage, settings.storages)
    if is_bucket(settings.storage) and not settings.registry:
        raise ValueError("a storage at s3:// needs a registry: redis://…, or sqlite:///… on a single machine")


def check_storages(default: str, others: Mapping[str, str]) -> None:
    """:raises ValueError: a place can't be used, or a name."""
    for place in (default, *others.values()):
        if is_bucket(place):
            check_bucket(place)
    for name, place in others.items():
        if not _STORAGE_NAME.fullmatch(name) or not place:
            raise ValueError(f"storages: {name!r} must be letters, digits, dots and hyphens, and name a place")
        if name == ("s3" if is_bucket(default) else "file"):
            raise ValueError(f"storages: {name!r} is what the one in the option storage is called")


def _checked(settings: Settings) -> Settings:
    _check_places(settings)
    for key in settings.signing_keys:
        key_of(key)
    _check_limits(settings)
    if settings.metrics and find_spec("prometheus_client") is None:
        raise ValueError("metrics need the package prometheus_client: pip install 'incoming-wsgi[metrics]'")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", settings.prefix):
        raise ValueError(f"prefix must be a path such as /incoming, not {settings.prefix!r}")
    if settings.durability not in ("process", "fsync"):
        raise ValueError(f"durability must be process or fsync, not {settings.durability!r}")
    for name in ("chunk_size", "websocket_chunk_size"):
        if not 64 * 1024 <= getattr(settings, name) <= 2**30 or getattr(settings, name) % 1024:
            raise ValueError(f"{name} must be whole KiB, from 64K to 1G")
    for name in (
        "lanes",
        "send_ahead",
        "idle_timeout",
        "receive_timeout",
        "wait_timeout",
        "handover_timeout",
    ):
        if not getattr(settings, name) > 0:  # nor is what is no number
            raise ValueError(f"{name} must be greater than 0")
    return settings


def _check_limits(settings: Settings) -> None:
    Proxies(settings.trusted_proxies)
    for name in ("owner_tickets", "address_tickets", "backend_tickets"):
        if getattr(settings, name):
            rate_of(name, getattr(settings, name))
    for name, kind in _KINDS.items():
        if kind == "int" and getattr(settings, name) < 0:
            raise ValueError(f"{name} must not be negative")
