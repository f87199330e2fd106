"""Figures for Prometheus (extra ``[metrics]``): counted from the events, over all worker processes.

With several processes prometheus_client keeps its figures in the folder ``PROMETHEUS_MULTIPROC_DIR``, which must be set
before it is imported; the stand-alone server does that by itself. There is no address for them by default: they are for
an internal listener.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import events

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Metrics:
    """Counts what happens, from now on, in this process.

    :raises ImportError: the extra is not installed.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge

        self._registry = CollectorRegistry()
        self._created = Counter("incoming_uploads_created", "Tickets made.", registry=self._registry)
        self._moves = Counter(
            "incoming_upload_moves", "Moves of uploads into a state.", ["state"], registry=self._registry
        )
        self._refusals = Counter("incoming_refusals", "Requests refused.", ["error"], registry=self._registry)
        self._bytes = Counter("incoming_received_bytes", "Bytes that have arrived.", registry=self._registry)
        self._handovers = Counter("incoming_handovers", "Answers of apps.", ["answer"], registry=self._registry)
        self._connections = Gauge(
            "incoming_connections",
            "Connections that bring bytes now.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def hear(self, event: str, fields: Mapping[str, Any]) -> None:
        """Count an event."""
        if event == "arrived":
            self._bytes.inc(fields["count"])
        elif event == "moved":
            self._moves.labels(fields["state"]).inc()
        elif event == "refused":
            self._refusals.labels(fields["reason"]).inc()
        elif event == "handed_over":
            self._handovers.labels(fields["answer"]).inc()
        elif event == "created":
            self._created.inc()
        elif event == "connected":
            self._connections.inc(fields["count"])

    def exposition(self) -> bytes:
        """All figures, of all processes, in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest, multiprocess

        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


@functools.cache
def metrics() -> Metrics:
    """Those of this process; counting begins with the first call."""
    made = Metrics()
    events.listen(made.hear)
    return made


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001 (a WSGI app)
    """Answers any request with the figures: to be mounted where only the operator gets to."""
    from prometheus_client import CONTENT_TYPE_LATEST

    body = metrics().exposition()
    start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))])
    return [body]


def mark_dead(process: int) -> None:
    """A worker process has ended: what it had open is not open any more. For gunicorn's ``child_exit``."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(process)  # type: ignore[no-untyped-call]
