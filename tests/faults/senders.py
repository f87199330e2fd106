"""Uploads that go on by themselves, whatever happens to the server: each in a thread of its own, slow, and watchful.

What a sender is told is held against what it was told before: a byte that was acknowledged is never asked for again,
and none counts as arrived that was never sent. What would make a front end give up is a failure.
"""

from __future__ import annotations

import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import requests
from websocket import WebSocketBadStatusException, WebSocketException

from tests.support.chunk_client import ChunkClient, Refused
from tests.support.front_end_0_1 import Closed, FrontEnd, FrontEndError
from tests.support.processes import AppServer
from tests.support.waiting import eventually

from .networks import Network

#: Seconds after which a sender that was turned away comes again.
_COMEBACK = 0.1

#: Answers of servers, and of proxies before them, by which a front end comes again.
_PASSING_STATUS = frozenset({502, 503, 504})

#: By which it is told that there is no such upload (any more): ``unknown_upload`` and ``damaged``.
_FORGOTTEN_STATUS, _FORGOTTEN_CODES = frozenset({404, 410}), frozenset({6, 15})

#: Close codes by which it does; ``None``: the connection was cut.
_PASSING_CLOSE = frozenset({None, 1012, 1013})


#: Chunks that a client with several lanes has on their way.
_LANES = 3


class Forgotten(Exception):
    """A front end was told that there is no such upload."""


class Page(Protocol):
    """What the app's page can do for an upload, besides sending its bytes."""

    def ticket(self) -> str:
        """A new one."""

    def has_file(self, ticket: str) -> bool:
        """Whether the app has acted on the file."""


class Sender(threading.Thread, ABC):
    """One file on its way.

    :param chunk: bytes of a chunk.
    :param pause: seconds between two chunks, until :meth:`hurry`.
    :param ahead: chunks that may be unacknowledged in such a pause, on a WebSocket.
    :param sent: bytes that another client has sent of it before.
    :param network: that it is on; else it is on ours.
    :ivar failure: what a front end would give up for.
    :ivar closed_with: close codes of its WebSockets, so far.
    :ivar delays: of each chunk so far: when it was acknowledged, and how many seconds after it was sent.
    :ivar troubles: what it came again after, so far.
    :ivar is_forgiving: whether the server may have forgotten what it had acknowledged: after a fail-over of Redis, say.
    :ivar returns: seconds from each trouble until it sends bytes again.
    :ivar gaps: seconds from each trouble to the next acknowledgement.
    :ivar page: where a server may forget tickets: what helps then. That is a failure if a byte had been acknowledged,
        unless the app has the file.
    :ivar forgotten: tickets that were forgotten.
    """

    def __init__(
        self,
        url: str,
        ticket: str,
        data: bytes,
        chunk: int,
        pause: float,
        *,
        ahead: int = 2,
        sent: int = 0,
        network: Network | None = None,
    ) -> None:
        super().__init__(daemon=True)
        self.ticket = ticket
        self.data = data
        self.acknowledged = 0
        self.is_finished = False
        self.failure: Exception | None = None
        self.closed_with: list[int | None] = []
        self.delays: list[tuple[float, float]] = []
        self.troubles: list[str] = []
        self.gaps: list[float] = []
        self.returns: list[float] = []
        self._away_since: float | None = None
        self._url = url
        self._chunk = chunk
        self._pause = pause
        self._ahead = ahead
        self._sent = sent
        self._network = network
        self.is_forgiving = False
        self._in_a_hurry = threading.Event()
        self._given_up = False
        self._trouble_at: float | None = None
        self.page: Page | None = None
        self.forgotten: list[str] = []

    def hurry(self) -> None:
        """Make no more pauses."""
        self._in_a_hurry.set()

    def give_up(self) -> None:
        """Come back no more."""
        self._given_up = True
        self.hurry()

    @property
    def is_live(self) -> bool:
        """Whether it is in the middle of its file."""
        return self.is_alive() and 0 < self.acknowledged < len(self.data)

    @property
    def away_since(self) -> float | None:
        """When it ran into trouble, if it has not sent anything since; by the monotonic clock."""
        return self._away_since

    def _enter(self) -> None:
        """This thread is on the network of this sender."""
        if self._network is not None:
            self._network.enter()

    def run(self) -> None:
        try:
            self._enter()
            while not self._given_up and not self._attempt():
                time.sleep(_COMEBACK)
        except Exception as error:  # noqa: BLE001 (whatever it is, the front end is at its end)
            self.failure = error

    def _attempt(self) -> bool:
        """Go on until the app has the file; says whether it has."""
        try:
            self._upload()
        except Exception as error:
            if self.page is not None and is_forgotten(error):
                return self._ask(self.page)
            if not self._is_passing(error):
                raise
            self.troubles.append(f"{type(error).__name__}: {error}")
            now = time.monotonic()
            self._trouble_at = now if self._trouble_at is None else self._trouble_at
            self._away_since = now if self._away_since is None else self._away_since
            return False
        self.is_finished = True
        return True

    def _is_passing(self, error: Exception) -> bool:
        return is_passing(error)

    def _ask(self, page: Page) -> bool:
        """The server does not know the upload: says whether the app does; else it is begun anew."""
        if page.has_file(self.ticket):
            self.is_finished = True
            return True
        assert not self.acknowledged, f"{self.acknowledged} bytes were acknowledged, and the upload is forgotten"
        self.forgotten.append(self.ticket)
        self.ticket = page.ticket()
        self._sent = 0
        return False

    @abstractmethod
    def _upload(self) -> None:
        """One connection, from wherever the server says to the end."""

    def _is_within(self, position: int) -> bool:
        """Whether an upload may go on there."""
        return position <= self._sent and (self.is_forgiving or self.acknowledged <= position)

    def _rest(self) -> None:
        self._in_a_hurry.wait(self._pause)

    def _goes_on(self, left: int) -> None:
        """:param left: bytes that are to be sent; without any nobody waits for it to send again."""
        if not left:
            self._away_since = None

    def _sends_again(self) -> float:
        """A chunk goes out now, at the time that this gives."""
        now = time.monotonic()
        if self._away_since is not None:
            self.returns.append(now - self._away_since)
            self._away_since = None
        return now

    def _got_on(self, sent_at: float) -> None:
        """The chunk that was sent then is acknowledged now."""
        now = time.monotonic()
        self.delays.append((now, now - sent_at))
        if self._trouble_at is not None:
            self.gaps.append(now - self._trouble_at)
            self._trouble_at = None


class ChunkSender(Sender):
    """Over HTTP."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._missing = [[0, len(self.data)]]

    def _upload(self) -> None:
        client = ChunkClient(self._url, self.ticket, self.data)
        try:
            status = self._noted(client.open())
            while status["missing"]:
                start, end = status["missing"][0]
                end = min(end, start + self._chunk)
                self._sent = max(self._sent, end)
                began = self._sends_again()
                status = self._noted(client.answer(client.put(start, end)))
                self._got_on(began)
                arrived = status["offset"] >= end or self.is_forgiving
                assert arrived, f"{start} to {end} was answered with 200, and is missing"
                self._rest()
            _assert_finished(client.wait(status)["phase"])
        finally:
            client.http.close()

    def _noted(self, status: dict[str, Any]) -> dict[str, Any]:
        for start, end in status["missing"]:
            known = any(first <= start and end <= last for first, last in self._missing)
            assert known or self.is_forgiving, f"{start} to {end} was acknowledged, and is asked for again"
        assert self._is_within(status["offset"]), f"{status['offset']} of {self._sent} sent"
        self._missing, self.acknowledged = status["missing"], status["offset"]
        self._goes_on(len(self._missing))
        return status


class LanesSender(ChunkSender):
    """Over HTTP, with several chunks on their way at a time, as a browser has."""

    def _upload(self) -> None:
        client = ChunkClient(self._url, self.ticket, self.data)
        self._sent = len(self.data)
        try:
            with ThreadPoolExecutor(_LANES, initializer=self._enter) as lanes:
                status = self._noted(client.open())
                while status["missing"]:
                    began = self._sends_again()
                    pieces = list(islice(self._pieces(), _LANES))
                    answers = list(lanes.map(lambda piece: client.answer(client.put(*piece)), pieces))
                    self._got_on(began)
                    assert self.is_forgiving or not any(map(_is_missing, answers, pieces))
                    status = self._noted(client.status())
                    self._rest()
            _assert_finished(client.wait(status)["phase"])
        finally:
            client.http.close()

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """What is missing, as long as the chunks are."""
        for first, last in self._missing:
            for start in range(first, last, self._chunk):
                yield start, min(last, start + self._chunk)


def _assert_finished(phase: str) -> None:
    """:raises Forgotten: the server says that the file is gone; its app may know better."""
    if phase == "failed":
        raise Forgotten
    assert phase == "finished", phase


def _is_missing(status: dict[str, Any], piece: tuple[int, int]) -> bool:
    return any(start < piece[1] and piece[0] < end for start, end in status["missing"])


class WebSocketSender(Sender):
    """By the protocol of 0.1."""

    def _upload(self) -> None:
        front_end = FrontEnd(self._url, self.ticket, self.data)
        try:
            position = front_end.open()
            assert self._is_within(position), (
                f"{self.acknowledged} were acknowledged, {self._sent} sent, and it goes on at {position}"
            )
            self.acknowledged = position
            self._goes_on(len(self.data) - position)
            self._send_all(front_end)
            assert front_end.expect("MsgAllDone") == {"Success": True}  # whatever becomes of the connection now
        except Closed as closed:
            self.closed_with.append(closed.code)
            raise
        finally:
            front_end.vanish()

    def _send_all(self, front_end: FrontEnd) -> None:
        began: list[float] = []
        while self.acknowledged < len(self.data):
            if front_end.position < len(self.data):
                self._sent = max(self._sent, front_end.position + self._chunk)
                began.append(self._sends_again())
                front_end.send_chunk(self.data[front_end.position : front_end.position + self._chunk])
            while front_end.chunks_ahead > self._ahead or (front_end.chunks_ahead and self._is_caught_up(front_end)):
                front_end.take_ack()
                self.acknowledged = front_end.acked
                self._got_on(began.pop(0))
            self._rest()

    def _is_caught_up(self, front_end: FrontEnd) -> bool:
        return front_end.position == len(self.data)


class TusSender(Sender):
    """By tus 1.0, with a chunk in each ``PATCH``; after a conflict about the offset it asks for that again."""

    def _is_passing(self, error: Exception) -> bool:
        return super()._is_passing(error) or (isinstance(error, Refused) and error.status in (409, 423))

    def _upload(self) -> None:
        with requests.Session() as http:
            http.headers["Tus-Resumable"] = "1.0.0"
            resource = f"{self._url}/incoming/frontend/uploads/{self.ticket}"
            self._send_all(http, resource)
            while (state := self._accepted(http.get(resource, timeout=60)).json()["phase"]) != "finished":
                if state not in ("uploading", "processing"):
                    _assert_finished(state)
                time.sleep(_COMEBACK)

    def _send_all(self, http: requests.Session, resource: str) -> None:
        position = self._offset(http.head(resource, timeout=60))
        assert self._is_within(position), (
            f"{self.acknowledged} were acknowledged, {self._sent} sent, and it goes on at {position}"
        )
        self.acknowledged = position
        self._goes_on(len(self.data) - position)
        while self.acknowledged < len(self.data):
            end = min(self.acknowledged + self._chunk, len(self.data))
            self._sent = max(self._sent, end)
            began = self._sends_again()
            about = {
                "Upload-Offset": str(self.acknowledged),
                "Upload-Length": str(len(self.data)),
                "Content-Type": "application/offset+octet-stream",
            }
            answer = http.patch(resource, data=self.data[self.acknowledged : end], headers=about, timeout=60)
            self.acknowledged = self._offset(answer)
            known = self.acknowledged == end or (self.is_forgiving and self._is_within(self.acknowledged))
            assert known, f"{self.acknowledged} were acknowledged, {end} sent"
            self._got_on(began)
            self._rest()

    def _offset(self, answer: requests.Response) -> int:
        return int(self._accepted(answer).headers["Upload-Offset"])

    def _accepted(self, answer: requests.Response) -> requests.Response:
        if answer.status_code not in (200, 204):
            raise Refused(answer)
        return answer


SENDERS: tuple[type[Sender], ...] = (ChunkSender, WebSocketSender)

#: Of all dialects. A tus client asks for the offset, and may be told of more than was acknowledged.
ALL_SENDERS: tuple[type[Sender], ...] = (*SENDERS, TusSender)


def is_forgotten(error: Exception) -> bool:
    """Whether a front end is told by this that there is no such upload, or that its file is gone."""
    if isinstance(error, Refused):
        return error.status in _FORGOTTEN_STATUS
    if isinstance(error, FrontEndError):
        return error.args[0]["ErrorCode"] in _FORGOTTEN_CODES
    return isinstance(error, Forgotten)


def is_passing(error: Exception) -> bool:
    """Whether a front end comes again after this."""
    if isinstance(error, Refused):
        return error.status in _PASSING_STATUS
    if isinstance(error, WebSocketBadStatusException):
        return error.status_code in _PASSING_STATUS
    if isinstance(error, Closed):
        return error.code in _PASSING_CLOSE
    return isinstance(error, OSError | WebSocketException | requests.RequestException)


def finish_all(senders: Iterable[Sender], seconds: float) -> None:
    """Have them all hurry to their ends.

    :raises AssertionError: one failed, or did not get there in time.
    """
    senders = list(senders)
    deadline = time.monotonic() + seconds
    for sender in senders:
        sender.hurry()
    for sender in senders:
        sender.join(max(0.0, deadline - time.monotonic()))
        if sender.failure is not None:
            raise AssertionError(f"a {type(sender).__name__} gave up {sender.ticket}") from sender.failure
        how_far = f"{sender.acknowledged} of {len(sender.data)} bytes in {seconds} s"
        assert sender.is_finished, f"a {type(sender).__name__} of {sender.ticket} got no further than {how_far}"


def assert_whole(server: AppServer, sender: Sender) -> int:
    """The app has the sender's file, whole, and heard of it under one event id; gives how often."""
    expected = hashlib.sha256(sender.data).hexdigest()
    assert sha256_of(server, sender.ticket) == expected, "the app has another file"
    told = server.events(sender.ticket)
    assert {event["kind"] for event in told} == {"finished"}
    assert {event["sha256"] for event in told} == {expected}
    assert len({event["event_id"] for event in told}) == 1
    return len(told)


def sha256_of(server: AppServer, ticket: str) -> str:
    path = server.file(ticket)
    eventually(path.exists, 30, f"the file of {ticket}")
    return hashlib.sha256(path.read_bytes()).hexdigest()
