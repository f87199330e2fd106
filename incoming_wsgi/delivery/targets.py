"""Where a hand-over may go: the check of ``signalFinishURL``, when a ticket is made and again when it is called."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ..errors import BadRequest, Forbidden
from .addresses import is_plain_host, is_public
from .handover import resolve

_LONGEST = 2048  # characters
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class FinishHosts:
    """The hosts that a back end may have called.

    :ivar allowed: ``host`` or ``host:port``; ``*`` for any host whose address is public.
    :ivar loopback: whether this machine is among them.
    :ivar caller: whether the address is that the ticket is asked for from.
    :ivar path: whether it may be a path of a wrapped app.
    :ivar prefix: our own mount point, which is never a target.
    """

    allowed: Collection[str] = ()
    loopback: bool = False
    caller: bool = False
    path: bool = False
    prefix: str = "/incoming"

    def addresses_of(self, host: str) -> list[str]:
        """The addresses that a host may be called at: what it resolves to now, once and for all.

        Where any public host is allowed, others have to be named: a name may mean another address by now. An address
        that stood in the ticket is what was checked then.

        :raises OSError: it can't be found, or has an address that is not allowed.
        """
        addresses = resolve(host)
        if addresses == [host]:
            return addresses
        names = {allowed.rpartition(":")[0] or allowed for allowed in self.allowed} | {*self.allowed}
        is_named = host in names or (self.loopback and host in _LOOPBACK)
        if "*" in self.allowed and not is_named and not all(map(is_public, addresses)):
            raise PermissionError("an address is not public")
        return addresses


def checked_target(url: str, hosts: FinishHosts, caller: str | None = None) -> str:
    """``url``, if it is one that may be called.

    :param caller: address of who asks.
    :raises BadRequest: it is no URL of the right form.
    :raises Forbidden: its host is not among those allowed.
    """
    parts = parsed_target(url, hosts.prefix)
    if not parts.netloc:
        if not hosts.path:
            raise BadRequest("signalFinishURL must be an http or https URL.")
        return url
    if not _is_allowed(parts, hosts, caller):
        raise Forbidden(f"Files may not be handed over to {parts.hostname}.")
    return url


def parsed_target(url: str, prefix: str) -> SplitResult:
    """:raises BadRequest: it is neither an http(s) URL nor an absolute path, or has what it should not.
    :raises Forbidden: its host could mean another one to whoever resolves it.
    """
    if len(url) > _LONGEST or not url.isprintable() or " " in url or "\\" in url:
        raise BadRequest("signalFinishURL is too long, or has characters that no URL has.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise BadRequest("signalFinishURL is not a URL.") from None
    if parts.fragment or "#" in url or parts.username is not None or parts.password is not None or port == 0:
        raise BadRequest("signalFinishURL may have neither user, password, fragment nor port 0.")
    if url.startswith("/") and not url.startswith("//"):
        if parts.path == prefix or parts.path.startswith(prefix + "/"):
            raise BadRequest("signalFinishURL must be an address of the app's.")
        return parts
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadRequest("signalFinishURL must be an http or https URL, or an absolute path.")
    if not is_plain_host(parts.hostname):
        raise Forbidden("The host of signalFinishURL must be a name, or an address in its usual form.")
    return parts


def _is_allowed(parts: SplitResult, hosts: FinishHosts, caller: str | None) -> bool:
    host = (parts.hostname or "").lower()
    if host in hosts.allowed or parts.netloc.lower() in hosts.allowed:
        return True
    if hosts.loopback and host in _LOOPBACK:
        return True
    if hosts.caller and caller is not None and host == caller:
        return True
    return "*" in hosts.allowed and _is_public(host)


def _is_public(host: str) -> bool:
    try:
        return all(map(is_public, resolve(host)))
    except OSError:
        raise BadRequest("The host of signalFinishURL can't be found.") from None
