"""A TCP relay that loses answers: the request gets through, and then the connection breaks."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading


class ReplyDropper:
    """Listens on :attr:`port` and passes everything on to ``target``, where one answer follows each request.

    :ivar dropped: answers that were lost.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._guard = threading.Lock()
        self._until = 0
        self._count = 0
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def drop(self, number: int, count: int = 1) -> None:
        """Lose the answer ``number``, counted from here on, and those to further requests, ``count`` in all."""
        with self._guard:
            self._until, self._count = number, count

    @property
    def is_armed(self) -> bool:
        """Whether some of it has not happened yet."""
        return self._count > 0

    def __enter__(self) -> ReplyDropper:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(("127.0.0.1", self._target)) as far:
            greeted = False
            with selectors.DefaultSelector() as selector:
                selector.register(near, selectors.EVENT_READ)
                selector.register(far, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(1 << 20)  # type: ignore[union-attr]
                        if not data:
                            return
                        if key.fileobj is near:
                            greeted = greeted or b"EVALSHA" in data or b"ZRANGEBYSCORE" in data
                            far.sendall(data)
                        elif greeted and self._is_to_be_lost():
                            return
                        else:
                            near.sendall(data)

    def _is_to_be_lost(self) -> bool:
        with self._guard:
            if not self._count:
                return False
            self._until -= 1
            if self._until > 0:
                return False
            self._count -= 1
            self.dropped += 1
            return True
