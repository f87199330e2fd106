"""The stand-alone server for back ends in any language: one upload server for one app, or for many.

A public listener serves the front end only, an internal one the back-end API only; which of the two a request came in
by is read from its socket.
"""

from __future__ import annotations

import configparser
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import metrics
from .backend import Backend, Client
from .delivery.handover import URLHandler
from .delivery.targets import FinishHosts
from .errors import IncomingError
from .frontend import Frontend
from .gates.clients import Proxies
from .gates.quotas import Allowance, rate_of
from .middleware import (
    PerProcess,
    allowance_of,
    begin,
    make_receiver,
    manners_of,
    refuse,
    route,
    storage_of,
    storages_of,
)
from .receiver import App, Receiver
from .settings import Settings, check_storages, size, storages_in
from .signatures import key_of
from .storage import Storage
from .storage.bucket import is_bucket
from .wire import servers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: How a section of the configuration file for an app begins: ``[app:photos]``.
_SECTION = "app:"
_ALLOWANCES = {each.name: str(each.type) for each in fields(Allowance)}
_APP_OPTIONS = frozenset({"key", "finish_hosts", "storage", "storages", "max_length", "signing_keys", *_ALLOWANCES})


@dataclass(frozen=True)
class Tenant:
    """One of the apps that a central server works for.

    :ivar key: what its back end shows; empty where the internal listener is protection enough.
    :ivar finish_hosts: hosts that may be called for it, besides this machine and the back end's own address.
    :ivar places: what the storages were made of: folders, and URLs of buckets.
    """

    name: str
    storage: Storage
    key: str
    finish_hosts: tuple[str, ...]
    max_length: int
    signing_keys: tuple[bytes, ...] = ()
    allowance: Allowance = field(default_factory=Allowance)
    storages: Mapping[str, Storage] = field(default_factory=dict)
    places: tuple[str, ...] = ()


def tenants_of(settings: Settings, config: str) -> list[Tenant]:
    """The apps of a configuration file; without one a single app, from the settings.

    :raises ValueError: the file can't be understood.
    """
    if not config:
        only = Tenant(
            settings.name,
            storage_of(settings),
            settings.backend_key,
            settings.finish_hosts,
            settings.max_length,
            tuple(map(key_of, settings.signing_keys)),
            allowance_of(settings),
            storages_of(settings, settings.storages),
            (settings.storage, *settings.storages.values()),
        )
        return [only]
    parser = configparser.ConfigParser(interpolation=None)
    with Path(config).open(encoding="utf-8") as file:
        parser.read_file(file)
    tenants = [_tenant(parser[name], settings) for name in parser.sections() if name.startswith(_SECTION)]
    if not tenants or len(tenants) != len(parser.sections()):
        raise ValueError(f"{config} must have a section [app:NAME] for each app, and no other")
    if len({tenant.key for tenant in tenants}) != len(tenants):
        raise ValueError(f"in {config} two apps have the same key")
    return tenants


def _tenant(section: configparser.SectionProxy, settings: Settings) -> Tenant:
    name = section.name.removeprefix(_SECTION)
    unknown = ", ".join(sorted(section.keys() - _APP_OPTIONS))
    if unknown:
        raise ValueError(f"[{section.name}] has no option {unknown}; it has {', '.join(sorted(_APP_OPTIONS))}")
    if not section.get("key"):
        raise ValueError(f"[{section.name}] needs a key")
    place = section.get("storage", "") or _below(settings.storage, name)
    inherited = {other: _below(where, name) for other, where in settings.storages.items()}
    places = storages_in(section["storages"]) if "storages" in section else inherited
    check_storages(place, places)
    return Tenant(
        name=name,
        storage=storage_of(settings, place),
        key=section["key"],
        finish_hosts=_words(section, "finish_hosts"),
        max_length=size(section.get("max_length", str(settings.max_length))),
        signing_keys=tuple(map(key_of, _words(section, "signing_keys"))),
        allowance=replace(allowance_of(settings), **_allowances(section)),
        storages=storages_of(settings, places),
        places=(place, *places.values()),
    )


def _allowances(section: configparser.SectionProxy) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in section.keys() & _ALLOWANCES.keys():
        text = section[name]
        found[name] = size(text) if _ALLOWANCES[name] == "int" else text
        if isinstance(found[name], str) and text:
            rate_of(name, text)
    return found


def _below(storage: str, name: str) -> str:
    if not is_bucket(storage):
        return str(Path(storage) / name)
    parts = urlsplit(storage)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def _words(section: configparser.SectionProxy, name: str) -> tuple[str, ...]:
    return tuple(section.get(name, "").replace(",", " ").split())


def receiver_of(settings: Settings, tenants: Iterable[Tenant]) -> Receiver:
    """The engine for these apps; not started."""
    return make_receiver(settings, [_app_of(tenant, settings) for tenant in tenants])


def _app_of(tenant: Tenant, settings: Settings) -> App:
    hosts = _hosts_of(tenant, settings)
    handlers = {"url": URLHandler(settings.handover_timeout, tenant.signing_keys, hosts.addresses_of)}
    return App(tenant.name, tenant.storage, handlers, tenant.max_length, tenant.allowance, storages=tenant.storages)


def _hosts_of(tenant: Tenant, settings: Settings) -> FinishHosts:
    return FinishHosts(allowed=tenant.finish_hosts, loopback=True, caller=True, prefix=settings.prefix)


class Central:
    """The WSGI app of the stand-alone server.

    :param internal: addresses of the internal listener, as they were given to bind to.
    """

    def __init__(self, settings: Settings, tenants: list[Tenant], internal: Iterable[str]) -> None:
        self._settings = settings
        self._tenants = tenants
        self._internal = tuple(internal)
        self._proxies = Proxies(settings.trusted_proxies)
        self._engine = PerProcess(self._make_receiver)
        self._frontend = Frontend(self._engine.get, manners_of(settings))
        self._backend = Backend(self._engine.get, [self._client(tenant) for tenant in tenants])

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            self._engine.get()
        except IncomingError as error:
            return refuse(error, environ, start_response)
        address = servers.listener(environ)
        internal = any(is_bound(bind, address) for bind in self._internal)
        if internal and self._settings.metrics and environ.get("PATH_INFO") == f"{self._settings.prefix}/metrics":
            return metrics.app(environ, start_response)
        frontend, backend = (None, self._backend) if internal else (self._frontend, None)
        return route(
            self._proxies.behind(environ),
            start_response,
            self._settings.prefix,
            frontend,
            backend,
            is_draining=self._frontend.is_draining,
        )

    def _make_receiver(self) -> Receiver:
        receiver = receiver_of(self._settings, self._tenants)
        begin(receiver, self._frontend, self._settings)
        return receiver

    def _client(self, tenant: Tenant) -> Client:
        return Client(tenant.name, tenant.key, _hosts_of(tenant, self._settings))


def is_bound(bind: str, address: tuple[str, int] | str | None) -> bool:
    """Whether a connection to ``address`` came in by the listener ``bind`` (``HOST:PORT`` or ``unix:PATH``)."""
    if isinstance(address, str) or bind.startswith("unix:"):
        return bind.removeprefix("unix:") == address
    host, _, port = bind.rpartition(":")
    if address is None or int(port) != address[1]:
        return False
    if host == "localhost":
        return ipaddress.ip_address(address[0]).is_loopback
    return host in ("", "*", "0.0.0.0", "[::]") or host.strip("[]") == address[0]  # noqa: S104


def is_loopback(bind: str) -> bool:
    """Whether only this machine can reach a listener."""
    if bind.startswith("unix:"):
        return True
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
