"""Sends back what comes over a WebSocket: for test suites of the protocol, which expect a server that does.

Between the upgrade and the end it is the way that uploads go: the same handshake, socket, frames and channel. Only the
limits are those of a test suite that sends 16 MiB in one message, or in 65,536 fragments.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from incoming_wsgi.wire import frames, servers
from incoming_wsgi.wire.channel import Channel, handshake
from incoming_wsgi.wire.frames import Event

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_LONGEST = 16 * 2**20  # bytes
_PATIENCE = 10.0  # seconds

frames._MOST_FRAGMENTS = 2**17


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if "HTTP_UPGRADE" not in environ:
        start_response("200 OK", [("Content-Length", "0")])
        return []
    response = handshake(environ)
    assert response.status_code == 101
    connection = servers.take(environ)
    assert connection is not None
    channel = Channel(connection, response, longest_text=_LONGEST, longest_binary=_LONGEST)
    _echo(channel)
    return connection.leave()


def _echo(channel: Channel) -> None:
    message = bytearray()
    try:
        while events := channel.receive(_PATIENCE):
            for event in events:
                _answer(channel, event, message)
    finally:
        channel.close(1000)


def _answer(channel: Channel, event: Event, message: bytearray) -> None:
    """:param message: what has come of a binary one."""
    if isinstance(event, str):
        channel.send(event)
        return
    for block in event.data.blocks():
        message += block
    if event.last:
        channel._protocol.send_binary(bytes(message))
        channel._flush()
        message.clear()
