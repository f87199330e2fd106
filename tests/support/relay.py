"""A TCP relay between client and server that can be cut, and made to swallow everything, in the middle of anything."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

_PIECE = 256 * 1024


class Relay:
    """Listens on :attr:`port` and passes everything on to ``target``, both ways, in a thread.

    :param rate: bytes per second at most, towards the target; ``None``: as fast as it goes.
    """

    def __init__(self, target: int, rate: float | None = None) -> None:
        self._target = target
        self._rate = rate
        self._piece = _PIECE if rate is None else max(1024, min(_PIECE, int(rate / 20)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._guard = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._swallowing = False
        self._flowing = threading.Event()
        self._flowing.set()
        self.passed = 0  # bytes towards the target
        self._cut_at: int | None = None
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones until :meth:`mend`."""
        self._open.clear()
        self._drop_all()

    def mend(self) -> None:
        self._cut_at = None
        self._swallowing = False
        self._flowing.set()
        self._open.set()

    def cut_after(self, count: int) -> None:
        """Cut by itself when ``count`` further bytes have passed towards the target."""
        self._cut_at = self.passed + count

    @property
    def is_cut(self) -> bool:
        return not self._open.is_set()

    def swallow(self) -> None:
        """Keep connections open, but let nothing through: what a dead link looks like."""
        self._swallowing = True

    def hold(self) -> None:
        """Keep connections open, take new ones, and pass nothing on until :meth:`mend`: nothing is lost meanwhile."""
        self._flowing.clear()

    def drop(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._drop_all()

    def close(self) -> None:
        self._closed = True
        self._flowing.set()
        self._listener.close()
        self._drop_all()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():
                _reset(near)
                continue
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            _reset(near)
            return
        pair = (near, far)
        with self._guard:
            self._pairs.add(pair)
        with contextlib.suppress(OSError, ValueError):
            self._pump(near, far)
        with self._guard:
            self._pairs.discard(pair)
        for sock in pair:
            sock.close()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select(0.2):
                    self._flowing.wait()
                    data = key.fileobj.recv(self._piece)  # type: ignore[union-attr]
                    if not data:
                        key.data.shutdown(socket.SHUT_WR)
                        selector.unregister(key.fileobj)
                        if not selector.get_map():
                            return
                        continue
                    if self._swallowing:
                        continue
                    key.data.sendall(data)
                    if key.data is far:
                        self._count(len(data))

    def _count(self, count: int) -> None:
        self.passed += count
        if self._rate is not None:
            threading.Event().wait(count / self._rate)
        if self._cut_at is not None and self.passed >= self._cut_at:
            self.cut()

    def _drop_all(self) -> None:
        with self._guard:
            for pair in self._pairs:
                for sock in pair:
                    _reset(sock)


def _reset(sock: socket.socket) -> None:
    """Close with a reset, as a cut cable does in the end; other threads notice."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
