"""A proxy in front of a server of S3 that does one call, or some, a wrong."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ERROR = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>no</Message></Error>'


class Fault(Enum):
    DROP_REQUEST = "the connection breaks before the server hears of it"
    DROP_REPLY = "the connection breaks before the client hears the answer"
    RESET = "the connection is reset in the middle of the call"
    ERROR = "500"
    SLOW_DOWN = "503"
    CUT = "the connection breaks in the middle of the answer"
    SILENCE = "the answer does not come in time"
    LATE = "the call is done after the client has given it up"
    ERROR_IN_200 = "200 with an error inside"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked may have died since; the others are errors of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Faulty:
    """Passes all on to ``target``, a port, but for what it is told to do.

    :param silence: seconds without an answer; more than a client waits for one.
    :param host: the address that it listens at.

    :ivar calls: that came since :meth:`strike` was called.
    :ivar struck: calls that something was done to.
    """

    def __init__(self, target: int, silence: float, host: str = "127.0.0.1") -> None:
        self._target = target
        self._silence = silence
        self._guard = threading.Lock()
        self._fault: Fault | None = None
        self._numbers: range = range(0)
        self._late = silence
        self.calls = self.struck = 0
        self._server = _Server((host, 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def strike(self, fault: Fault, first: int, count: int = 1, late: float | None = None) -> Iterator[None]:
        """Do that to the call number ``first``, counted from 1, and to those after it, ``count`` in all.

        :param late: seconds after which a call is done that is done late; else as many as a silence has.
        """
        with self._guard:
            self.calls = self.struck = 0
            self._fault, self._numbers = fault, range(first, first + count)
            self._late = self._silence if late is None else late
        try:
            yield
        finally:
            with self._guard:
                self._fault = None

    def _next(self) -> Fault | None:
        with self._guard:
            self.calls += 1
            if self._fault is None or self.calls not in self._numbers:
                return None
            self.struck += 1
            return self._fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:  # noqa: C901 (a class in a function)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                fault = proxy._next()
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length // 2 if fault is Fault.RESET else length)
                if fault is Fault.RESET:
                    self._reset()
                elif fault is Fault.DROP_REQUEST:
                    self._break()
                elif fault is Fault.LATE:
                    threading.Event().wait(proxy._late)
                    with contextlib.suppress(OSError):  # nobody listens to the answer any more
                        self._pass_on(body, None)
                    self._break()
                elif fault is Fault.SILENCE:
                    threading.Event().wait(proxy._silence)
                    self._break()
                elif fault in (Fault.ERROR, Fault.SLOW_DOWN):
                    code = b"InternalError" if fault is Fault.ERROR else b"SlowDown"
                    self._answer(500 if fault is Fault.ERROR else 503, {}, _ERROR % code, 0)
                else:
                    self._pass_on(body, fault)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

            def _pass_on(self, body: bytes, fault: Fault | None) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", proxy._target, timeout=60)
                with contextlib.closing(connection):
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in ("expect", "connection"):
                            connection.putheader(name, value)
                    connection.endheaders(body)
                    answer = connection.getresponse()
                    data = answer.read()
                if fault is Fault.DROP_REPLY:
                    self._break()
                elif fault is Fault.ERROR_IN_200 and self.command != "HEAD":
                    self._answer(200, {"Content-Type": "application/xml"}, _ERROR % b"InternalError", 0)
                elif fault is Fault.CUT:
                    self._answer(answer.status, dict(answer.getheaders()), data, len(data) // 2 + 1)
                    self._break()
                else:
                    self._answer(answer.status, dict(answer.getheaders()), data, 0)

            def _answer(self, status: int, headers: dict[str, str], body: bytes, missing: int) -> None:
                self.send_response_only(status)
                length = headers.get("Content-Length", str(len(body)))
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) - missing] if missing else body)
                    self.wfile.flush()

            def _break(self) -> None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            def _reset(self) -> None:
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.rfile.close()
                self.connection.close()  # the last one of them sends it

            def log_message(self, *_: object) -> None: ...

        return Handler
