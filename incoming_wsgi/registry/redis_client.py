"""Reaching a Redis server: what a URL means, and what the server's troubles mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from ..errors import IncomingError, NoSpace, Unavailable

#: Seconds to wait for a connection, and for an answer.
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 2.0, 3.0


def connected(url: str) -> tuple[Any, str]:
    """A client for a URL, which connects when it is first used, and what our keys begin with.

    ``redis+sentinel://user:password@host:port,host:port/service/db`` names Sentinels (user and password are the
    server's; the Sentinels' own are ``?sentinel_username=`` and ``?sentinel_password=``). ``?prefix=`` tells several
    registries on one server apart; other options are those of the package ``redis``.

    :raises ValueError: it can't be used.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    prefix = query.pop("prefix", "incoming")
    if not prefix or set(prefix) & set("{}"):
        raise ValueError("the prefix of a Redis registry must be text without braces")
    options = {
        "decode_responses": True,
        "protocol": 2,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),  # the caller repeats what may be repeated
    }
    if parts.scheme == "redis+sentinel":
        client = _sentinel_client(parts.netloc, parts.path, query, options)
    else:
        client = redis.Redis.from_url(f"{url.partition('?')[0]}?{urlencode(query)}", **options)
    return client, "{" + prefix + "}"


def _sentinel_client(netloc: str, path: str, query: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    from redis.sentinel import Sentinel

    login, _, hosts = netloc.rpartition("@")
    service, _, db = path.strip("/").partition("/")
    if not service or not hosts:
        raise ValueError("write redis+sentinel://host:port,host:port/service/db")
    username, _, password = login.partition(":")
    about: dict[str, Any] = {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": CONNECT_TIMEOUT}
    about |= {name.removeprefix("sentinel_"): text for name, text in query.items() if name.startswith("sentinel_")}
    own: dict[str, Any] = {name: text for name, text in query.items() if not name.startswith("sentinel_")}
    sentinel = Sentinel([_address(host) for host in hosts.split(",")], sentinel_kwargs=about)
    return sentinel.master_for(
        service,
        db=int(db or own.pop("db", 0)),
        username=unquote(username) or None,
        password=unquote(password) or None,
        **own,
        **options,
    )


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("write redis+sentinel://host:port,host:port/service/db")
    return parts.hostname, parts.port or 26379


def translated(error: Exception) -> IncomingError:
    """What the server said, or did not say, as our own error."""
    text = str(error)
    if "maxmemory" in text or "No space left" in text:
        return NoSpace(retry_after=10)
    return Unavailable("The server's records have trouble; what has arrived is kept.", retry_after=1)
