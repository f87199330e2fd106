"""The registry of many machines: a Redis server that all of them reach, by itself or under Sentinel.

Each method is one script (``lua/*.lua``), and so one step and one round trip. A script whose answer was lost is sent
again and does no harm: it compares before it sets, or knows its own call by a name. Leases end by themselves unless
their holder shows signs of life; a holder that was cut off for too long finds the rows changed and can't write them.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from .. import offload
from ..errors import Conflict, IncomingError, Unavailable
from ..extents import Extents
from ..gates.quotas import Quota, Rate, Use
from ..upload import State, Upload
from . import LONGEST_TRAIL, Delivery, Entry, Loss, Registry, Unsubscribe, entry_of
from .boot import boot_id_of_machine
from .glances import Glances
from .group import Group
from .push import Push
from .redis_client import ANSWER_TIMEOUT, connected, translated

log = logging.getLogger("incoming_wsgi")

#: Raised with every change of what the keys hold; data of a newer one is refused.
SCHEMA_VERSION = 1

_LEASE = 10.0  # seconds without a sign of life after which a holder counts as dead
_BEAT_INTERVAL = 1.0  # seconds between two signs of life
_PATIENCE = 5.0  # seconds in which a machine that is up is heard of

_PAUSES = (0.0, 0.1)  # seconds before a call whose answer was lost is sent again
_LONG_SYNC = 0.5  # seconds
_SYNC_TIMEOUT = 2.5  # seconds; less than for an answer
_CONNECTIONS = 32  # calls of one process that may be on their way at the same time
_CALM = 5.0  # seconds without trouble after which it is over
_BATCH = 200  # uploads that one script reads: it holds up all others
_REMEMBERED = 1000  # uploads that are not decoded again while they have not changed

_SCRIPTS = Path(__file__).with_name("lua")

#: How fields are written, and read: by their kind, as the dataclasses declare it.
_CODECS: Mapping[str, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    "str": (str, str),
    "int": (str, int),
    "int | None": (lambda number: "" if number is None else str(number), lambda text: int(text) if text else None),
    "float": (repr, float),
    "bool": (lambda flag: "1" if flag else "0", lambda text: text == "1"),
    "State": (lambda state: str(state.value), State),
    "Extents": (Extents.to_json, Extents.from_json),
    "tuple[str, ...]": (json.dumps, lambda text: tuple(json.loads(text))),
    "Mapping[str, str]": (lambda mapping: json.dumps(dict(mapping)), json.loads),
}
_UPLOAD_KINDS = {field.name: str(field.type) for field in fields(Upload)}
_DELIVERY_KINDS = {field.name: str(field.type) for field in fields(Delivery)}
#: Fields that :meth:`RedisRegistry.save` writes; the others it takes from nobody.
_SAVED = tuple(name for name in _UPLOAD_KINDS if name not in ("version", "extents", "taken_back"))
#: What must be as it was. The holder, too: one that was cut off while it completed an upload has been replaced.
_COMPARED = ("state", "epoch", "session", "holder")


class RedisRegistry(Registry):
    """:param url: ``redis://``, ``rediss://`` (TLS), ``unix://`` or ``redis+sentinel://``; see :func:`connected`.
    :param boot_id: the boot of the machine that this is; tests make power cuts with it.
    :raises Unavailable: the server can't be reached, now.
    :raises RuntimeError: the data was written by a newer version of this package.
    """

    def __init__(self, url: str, boot_id: str = "") -> None:
        self._boot = boot_id or boot_id_of_machine()
        self._client, self._prefix = connected(url)
        self._scripts: dict[str, Any] = {}
        self._calls = threading.BoundedSemaphore(_CONNECTIONS)
        self._latest = "0"  # what the clock showed when it was last looked at
        self._era = ""
        self._holder = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._duties: dict[str, str] = {}
        self._unheard: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self._group = Group(self._sync)
        self._troubles: set[str] = set()
        self._troubled_at = 0.0
        self._warned = False
        self._closed = threading.Event()
        self._beating = threading.Lock()
        try:
            self._arrive()
            self._beat()
        except BaseException:
            self._client.close()
            raise
        self._push = Push(self._listen)
        self._glances = Glances(self._push.subscribe)
        offload.background(self._keep_alive, name="signs of life")

    # -- time and power -----------------------------------------------------------------------------------------

    @property
    def boot_id(self) -> str:
        """The era of all machines, which ends when one of them may have gone down with bytes that were not synced."""
        return self._era

    def now(self) -> float:
        """While the server can't be asked the clock stands still: nobody can do anything meanwhile."""
        with suppress(IncomingError):
            self._notice_time(self._run("now", self._latest))
        return float(self._latest)

    def sync(self) -> None:
        self._group.join()

    def _sync(self) -> None:
        """Wait until the server has synced its log. It waits for the writes of one connection, so there is one."""
        import redis

        began = time.monotonic()
        written, waited = self._try(self._write_and_wait)
        if isinstance(written, redis.RedisError):
            raise translated(written) from written
        if isinstance(waited, redis.RedisError):
            self._refuse_or_warn(waited)
        elif not waited[0]:
            raise Unavailable("The server's records have trouble; what has arrived is kept.", retry_after=5)
        elif time.monotonic() - began > _LONG_SYNC:
            self._warn_once("the Redis server syncs its log once a second: set appendfsync always, or all wait for it")

    def _write_and_wait(self) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.incr(f"{self._prefix}:syncs")
            pipeline.execute_command("WAITAOF", 1, 0, int(_SYNC_TIMEOUT * 1000))
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            return answers

    def _refuse_or_warn(self, error: Exception) -> None:
        """Servers older than 7.2 can't be waited for, nor those without a log: they are as good as they are set up."""
        if not re.match("unknown command|WAITAOF cannot", str(error)):
            raise translated(error) from error
        if not self._warned and self._policy() != ("yes", "always"):
            self._warn_once(
                "a power cut may take what the Redis server has recorded: set appendonly yes and appendfsync always"
            )

    def _warn_once(self, advice: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s", advice)

    def _policy(self) -> tuple[str, str]:
        import redis

        try:
            found = self._client.config_get("append*")
        except redis.RedisError:
            return "", ""  # hidden, by many a provider
        return str(found.get("appendonly")), str(found.get("appendfsync"))

    def _notice_time(self, shown: str) -> None:
        if float(shown) > float(self._latest):
            self._latest = shown

    # -- uploads ------------------------------------------------------------------------------------------------

    def create(self, upload: Upload, *, quotas: Sequence[Quota] = (), rates: Sequence[Rate] = ()) -> Upload:
        call = {
            "upload": _written(upload, _UPLOAD_KINDS),
            "quotas": _written_quotas(quotas),
            "entry": json.dumps(entry_of(None, upload)),
            "longest_trail": LONGEST_TRAIL,
            "rates": [{"name": rate.name, "burst": rate.burst, "interval": rate.interval} for rate in rates],
        }
        answer = self._run("create", json.dumps(call))
        _refuse(answer, quotas, rates)
        created = self._only(answer)
        self.moved(None, created)
        return created

    def get(self, upload_id: str) -> Upload | None:
        found = self._look(upload_id)
        return self._get_surely(upload_id) if found is None and self.apps else found

    def _look(self, upload_id: str) -> Upload | None:
        return next(self._uploads(self._run("get", upload_id)), None)

    def _get_surely(self, upload_id: str) -> Upload | None:
        """In one step: whether it is here, and if not, whether it could be."""
        answer = self._run("get_surely", upload_id, *self.apps)
        if answer is None:
            raise Unavailable("The server is looking for the uploads that it knew; what has arrived is kept.")
        return next(self._uploads(answer), None)

    def glance(self, upload_id: str) -> Upload | None:
        """Remembered, until this process hears that it was changed."""
        return self._glances.of(upload_id, lambda: self.get(upload_id))

    def save(
        self,
        before: Upload,
        after: Upload,
        *,
        enqueue: Delivery | None = None,
        settle: Delivery | None = None,
        back_to_synced: bool = False,
        if_nothing_came: bool = False,
        all_came: bool = False,
        quotas: Sequence[Quota] = (),
    ) -> Upload:
        was, is_now = _written(before, _UPLOAD_KINDS), _written(after, _UPLOAD_KINDS)
        call: dict[str, Any] = {
            "id": before.id,
            "request": secrets.token_hex(8),
            "before": {name: was[name] for name in _COMPARED},
            "changes": {name: is_now[name] for name in _SAVED if is_now[name] != was[name]},
            "back_to_synced": back_to_synced,
        }
        if all_came:
            call["all_came"] = Extents().add(0, after.length or 0).to_json()
        if if_nothing_came:
            call["arrived"] = was["extents"]
        if settle is not None:
            call["settle"] = settle.event_id
        if enqueue is not None:
            call["enqueue"] = _written(enqueue, _DELIVERY_KINDS)
        entry = entry_of(before, after)
        if entry is not None:
            call |= {"entry": json.dumps(entry), "longest_trail": LONGEST_TRAIL}
        if quotas:
            call["quotas"] = _written_quotas(quotas)
        answer = self._run("save", json.dumps(call))
        _refuse(answer, quotas)
        saved = self._only(answer)
        if saved.version != before.version:
            self._push.notify(before.id)
            self.moved(before, saved)
        return saved

    def add_extents(self, upload_id: str, session: str, extents: Extents, *, synced: bool = False) -> Upload:
        added = extents.to_json()
        upload = self._only(self._run("add_extents", upload_id, session, added, int(synced), self._boot))
        self._glances.refresh(upload)
        return upload

    def add_synced(self, upload: Upload) -> None:
        self._run("add_synced", upload.id, upload.taken_back, upload.extents.to_json())

    def forget(self, upload_id: str) -> None:
        self._run("forget", upload_id)

    def find(
        self,
        states: Collection[State],
        *,
        idle_since: float | None = None,
        limit: int = 1000,
        app: str | None = None,
    ) -> list[Upload]:
        def is_wanted(upload: Upload) -> bool:
            idle = idle_since is None or upload.active_at <= idle_since
            return idle and upload.state in states and app in (None, upload.app)

        ids = self._ids_in(states, idle_since, None if app else limit)
        found: list[Upload] = []
        for first in range(0, len(ids), _BATCH):
            batch = self._uploads(self._run("get", *ids[first : first + _BATCH]))
            found += filter(is_wanted, batch)
            if len(found) >= limit:
                break
        return found[:limit]

    def _ids_in(self, states: Collection[State], idle_since: float | None, limit: int | None) -> list[str]:
        """The longest idle first."""
        latest: float | str = "+inf" if idle_since is None else idle_since
        some = (None, None) if limit is None else (0, limit)
        found: list[tuple[float, str]] = []
        for state in states:
            key = f"{self._prefix}:state:{state.value}"
            listed = self._try(self._client.zrangebyscore, key, "-inf", latest, *some, withscores=True)
            found += [(score, upload_id) for upload_id, score in listed]
        return [upload_id for _, upload_id in sorted(found)]

    def usage(self, quota: Quota) -> Use:
        uploads, size = self._run("usage", quota.app, quota.scope.value, quota.whose)
        return Use(int(uploads or 0), int(size or 0))

    def find_expired(self, now: float, limit: int = 1000) -> list[Upload]:
        ids = self._try(self._client.zrangebyscore, f"{self._prefix}:expiring", "-inf", now, 0, limit)
        batches = (ids[first : first + _BATCH] for first in range(0, len(ids), _BATCH))
        return [upload for batch in batches for upload in self._uploads(self._run("get", *batch))]

    def parts_of(self, upload_id: str) -> list[Upload]:
        return sorted(self._uploads(self._run("parts_of", upload_id)), key=attrgetter("created_at"))

    def find_complete(self) -> list[Upload]:
        # Under another era less of their bytes may count.
        return [upload for upload in self._uploads(self._run("find_complete", _BATCH)) if upload.is_complete]

    def _only(self, answer: list[Any] | None) -> Upload:
        if answer is None:
            raise Conflict
        (upload,) = self._uploads(answer)
        return upload

    def _uploads(self, answer: list[Any]) -> Iterator[Upload]:
        """What a script answers: the era, then uploads."""
        era, *texts = answer
        self._note_era(era)
        return (_upload(text, era) for text in texts)

    # -- after a loss ------------------------------------------------------------------------------------------

    def lost(self, app: str) -> Loss | None:
        answer = self._run("lost", app)
        return None if answer is None else Loss(answer[0], float(answer[1]))

    def regained(self, app: str, era: str) -> None:
        self._run("regained", app, era)

    def has(self, upload_id: str) -> bool:
        return self._look(upload_id) is not None

    def restore(self, upload: Upload) -> bool:
        if not super().restore(upload):
            return False
        self._try(self._client.publish, f"{self._prefix}:changed", upload.id)  # somebody may wait for its end
        return True

    def _note_era(self, era: str) -> None:
        """Another one may be that of a server that was emptied."""
        is_another = era != self._era
        self._era = era
        if is_another:
            self.began_anew()

    def trail(self, upload_id: str) -> list[Entry]:
        lines = self._try(self._client.lrange, f"{self._prefix}:trail:{upload_id}", 0, -1)
        parted = [line.split(" ", 1) for line in lines]
        entries = [(float(at), json.loads(about)) for at, about in parted]
        return [Entry(at, State(about.pop("state")), about) for at, about in entries]

    # -- outbox -------------------------------------------------------------------------------------------------

    def lease(self, app: str, handlers: Collection[str], now: float) -> Delivery | None:
        """What had no answer is asked again under its name: nothing may be held by us who have not heard of it."""
        wanted = (app, *sorted(handlers))
        unheard = self._unheard[wanted]
        request = unheard.pop() if unheard else secrets.token_hex(8)
        try:
            return _delivery(self._run("lease", request, self._holder, repr(now), *wanted))
        except IncomingError:
            unheard.append(request)
            raise

    def enqueue(self, delivery: Delivery) -> None:
        self._run("enqueue", json.dumps(_written(delivery, _DELIVERY_KINDS)))

    def postpone(self, delivery: Delivery) -> None:
        self._run("postpone", self._holder, json.dumps(_written(delivery, _DELIVERY_KINDS)))

    def due(self, upload_id: str) -> Delivery | None:
        return _delivery(self._run("due", upload_id))

    # -- digests ------------------------------------------------------------------------------------------------

    def keep_digest(self, upload: Upload, position: int, state: bytes) -> None:
        self._run("keep_digest", upload.id, upload.taken_back, position, state.hex())

    def digest(self, upload_id: str) -> tuple[int, bytes] | None:
        kept = self._run("digest", upload_id)
        return None if kept is None else (int(kept[0]), bytes.fromhex(kept[1]))

    # -- waiting ------------------------------------------------------------------------------------------------

    def subscribe(self, upload_id: str, changed: Callable[[], None]) -> Unsubscribe:
        return self._push.subscribe(upload_id, changed)

    @contextmanager
    def _listen(self) -> Iterator[Callable[[float], str | None]]:
        """A connection that hears of changes: waits so many seconds for the next one, and gives the upload's id.

        :raises Unavailable: it is lost, or the server does not answer on it any more.
        """
        import redis

        channel = f"{self._prefix}:changed"
        listening = self._client.pubsub()
        try:
            listening.subscribe(channel)
            if listening.get_message(timeout=ANSWER_TIMEOUT) is None:
                raise Unavailable
            yield functools.partial(_next_change, listening)
        except (redis.RedisError, OSError) as error:
            raise translated(error) from error
        finally:
            listening.close()

    # -- holders ------------------------------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        return self._holder

    def is_alive(self, holder: str) -> bool:
        """Whether it has shown a sign of life within the last seconds."""
        return bool(self._run("is_alive", holder))

    @contextmanager
    def alone(self, duty: str) -> Iterator[bool]:
        """It is a lease, too: who is cut off for too long may not be alone any more."""
        token = secrets.token_hex(8)
        alone = bool(self._run("take_duty", duty, token, _LEASE))
        if alone:
            self._duties[duty] = token
        try:
            yield alone
        finally:
            if alone:
                self._duties.pop(duty, None)
                with suppress(IncomingError):  # it ends by itself
                    self._run("leave_duty", duty, token)

    def _arrive(self) -> None:
        came, era = "", None
        while era is None:
            new_era = secrets.token_hex(8)
            schema, came, era = self._run("arrive", SCHEMA_VERSION, self._boot, new_era, came, _PATIENCE)
            if int(schema) > SCHEMA_VERSION:
                raise RuntimeError(
                    f"the registry in Redis was written by a newer incoming_wsgi (schema {schema}, this one knows"
                    f" {SCHEMA_VERSION})"
                )
            if era is None:
                time.sleep(_BEAT_INTERVAL / 5)
        self._era = era
        self._notice_time(came)

    def _beat(self) -> None:
        with self._beating:
            if self._closed.is_set():
                return
            duties = [part for duty in tuple(self._duties.items()) for part in duty]
            new_era = secrets.token_hex(8)
            shown, era = self._run("beat", self._holder, self._boot, _LEASE, self._latest, new_era, *duties)
            self._notice_time(shown)
            self._note_era(era)

    def _keep_alive(self) -> None:
        while not self._closed.wait(_BEAT_INTERVAL):
            with suppress(IncomingError):  # others say so, who have something to do
                self._beat()

    # -- the server ---------------------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Nothing grows that is not forgotten by itself."""

    def close(self) -> None:
        self._closed.set()
        self._push.close()
        with self._beating, suppress(IncomingError):
            self._run("leave", self._holder)
        self._client.close()

    def _run(self, script: str, *arguments: str | float) -> Any:
        """What a script answers.

        :raises NoSpace, Unavailable: as :meth:`_try` does, and after the end.
        """
        if self._closed.is_set() and script != "leave":
            raise Unavailable
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(_source(script))
        return self._try(self._scripts[script], keys=[self._prefix], args=arguments)

    def _try(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the server; again, where an answer was lost.

        :raises NoSpace, Unavailable: by the last answer, or for want of one.
        """
        import redis

        for pause in (*_PAUSES, None):
            try:
                with self._calls:
                    answer = call(*arguments, **options)
            except (redis.RedisError, OSError) as error:
                self._note_trouble(error)
                is_lost = isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError)
                if pause is None or not is_lost:
                    raise translated(error) from error
                time.sleep(pause)
            else:
                self._note_answer()
                return answer
        raise AssertionError

    def _note_trouble(self, error: Exception) -> None:
        """One line for each trouble, and not for each call that meets it."""
        trouble = f"{type(error).__name__}: {error}"
        self._troubled_at = time.monotonic()
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            log.warning("the Redis server can't be used: %s", trouble)

    def _note_answer(self) -> None:
        """It may answer some calls and refuse others, for want of memory, say."""
        if self._troubles and time.monotonic() - self._troubled_at > _CALM:
            self._troubles.clear()
            log.info("the Redis server can be used again")


def _written_quotas(quotas: Sequence[Quota]) -> list[dict[str, str]]:
    return [
        {
            "app": quota.app,
            "scope": quota.scope.value,
            "whose": quota.whose,
            "uploads": str(quota.uploads),
            "bytes": str(quota.bytes),
        }
        for quota in quotas
    ]


def _refuse(answer: list[Any] | None, quotas: Sequence[Quota], rates: Sequence[Rate] = ()) -> None:
    """:raises OverQuota: a script has answered so: with nothing where the era stands otherwise."""
    if answer is not None and answer[0] is None:
        _, place, what = answer
        raise rates[place].exceeded(float(what)) if what not in ("uploads", "bytes") else quotas[place].exceeded(what)


@functools.cache
def _source(script: str) -> str:
    return "\n".join((_SCRIPTS / f"{name}.lua").read_text("utf-8") for name in ("common", script))


def _next_change(listening: Any, timeout: float) -> str | None:
    message = listening.get_message(timeout=timeout)
    if message is None:
        listening.ping()
        message = listening.get_message(timeout=ANSWER_TIMEOUT)
        if message is None:
            raise Unavailable
    return str(message["data"]) if message["type"] == "message" else None


def _written(record: Upload | Delivery, kinds: Mapping[str, str]) -> dict[str, str]:
    return {name: _CODECS[kind][0](getattr(record, name)) for name, kind in kinds.items()}


def _read(texts: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, Any]:
    """What an older version has written may lack a field, which then has its default."""
    return {name: _CODECS[kind][1](texts[name]) for name, kind in kinds.items() if name in texts}


@functools.lru_cache(_REMEMBERED)
def _upload(text: str, era: str) -> Upload:
    """Most are read several times before they change."""
    return Upload(**_read(json.loads(text), _UPLOAD_KINDS)).under(era)


def _delivery(text: str | None) -> Delivery | None:
    return None if text is None else Delivery(**_read(json.loads(text), _DELIVERY_KINDS))
