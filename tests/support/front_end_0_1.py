"""A front end of Incoming!! 0.1, by hand: it follows the protocol of 2014 and knows nothing newer."""

from __future__ import annotations

import json
from typing import Any

from websocket import ABNF, WebSocket, WebSocketConnectionClosedException, create_connection


class FrontEndError(Exception):
    """The server sent MsgError: a 0.1 front end gives the upload up."""


class Closed(Exception):
    """The connection was closed without an error: a 0.1 front end comes back after a minute."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class FrontEnd:
    """One connection.

    :param url: of the server, ``http://…``.
    :param versioned: whether to use the path with the version.
    """

    def __init__(self, url: str, ticket: str, data: bytes, name: str = "file.bin", versioned: bool = True) -> None:
        self.data = data
        self._ticket = ticket
        self._name = name
        path = "/incoming/0.1/frontend/upload_ws" if versioned else "/incoming/frontend/upload_ws"
        self.socket: WebSocket = create_connection(url.replace("http", "ws", 1) + path, timeout=30)
        self.chunk_size = 0
        self.send_ahead = 0
        self.position = 0
        self.acked = 0
        self.chunks_ahead = 0

    def open(self) -> int:
        """The handshake; gives ``FilePos``."""
        self.send("MsgUploadReq", Id=self._ticket, LengthBytes=len(self.data), Name=self._name)
        conf = self.expect("MsgUploadConf")
        assert set(conf) == {"ChunkSizeKB", "FilePos", "SendAhead"}, "a 0.1 peer gets nothing newer"
        self.chunk_size = conf["ChunkSizeKB"] * 1024
        self.send_ahead = conf["SendAhead"]
        self.position = self.acked = conf["FilePos"]
        self.send("MsgAck", Ack=True)
        return self.position

    def send_chunks(self, until: int | None = None) -> None:
        """Send, with the window that the server allows, until all, or ``until``, is acknowledged."""
        end = len(self.data) if until is None else until
        while self.acked < end:
            while self.position < end and self.chunks_ahead < self.send_ahead:
                self.send_chunk(self.data[self.position : min(self.position + self.chunk_size, end)])
            self.take_ack()

    def send_chunk(self, chunk: bytes) -> None:
        self.socket.send_binary(chunk)
        self.position += len(chunk)
        self.chunks_ahead += 1

    def take_ack(self) -> int:
        size: int = self.expect("MsgChunkAck")["ChunkSize"]
        self.acked += size
        self.chunks_ahead -= 1
        return size

    def finish(self) -> None:
        """Wait for the end."""
        assert self.expect("MsgAllDone") == {"Success": True}
        assert self.closing_code() == 1000

    def upload(self) -> None:
        """All of it, from wherever the server says."""
        self.open()
        self.send_chunks()
        self.finish()
        self.socket.close()

    def pause(self) -> None:
        self.send("MsgPause", Pause=True)
        self.socket.close()

    def cancel(self, reason: str) -> None:
        self.send("MsgCancel", Reason=reason)
        while True:
            kind, data = self.receive()
            if kind != "MsgChunkAck":
                break
        assert (kind, data) == ("MsgCancelAck", {"Ack": True})
        assert self.closing_code() == 1000

    # -- messages ---------------------------------------------------------------------------------------------

    def send(self, kind: str, **data: Any) -> None:
        self.socket.send(json.dumps({"MsgType": kind, "MsgData": data}))

    def receive(self) -> tuple[str, dict[str, Any]]:
        try:
            opcode, payload = self.socket.recv_data()
        except (WebSocketConnectionClosedException, OSError) as error:
            raise Closed(None) from error
        if opcode == ABNF.OPCODE_CLOSE:
            raise Closed(int.from_bytes(payload[:2], "big") if payload else None)
        message = json.loads(payload)
        if message["MsgType"] == "MsgError":
            raise FrontEndError(message["MsgData"])
        return message["MsgType"], message["MsgData"]

    def expect(self, kind: str) -> dict[str, Any]:
        found, data = self.receive()
        assert found == kind, f"{found} came where {kind} was due"
        return data

    def closing_code(self) -> int | None:
        try:
            kind, _ = self.receive()
        except Closed as closed:
            return closed.code
        raise AssertionError(f"{kind} came where the end was due")

    def vanish(self) -> None:
        """Drop the connection without a word."""
        self.socket.shutdown()
