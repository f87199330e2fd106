"""An inlet on one end of a connection, something that sends on the other."""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from incoming_wsgi.wire import sockets
from incoming_wsgi.wire.bulk import PIECE, Bulk, Piped, buffers, pipes
from incoming_wsgi.wire.sockets import Inlet, stop_reading

from ..helpers import ROOT

DATA = random.Random(5).randbytes(3 * PIECE + 17)


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection; what a socket pair is, knows nothing of ``SO_RCVLOWAT``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    return sender, receiver


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    sender, receiver = connected()
    yield sender, receiver
    sender.close()
    receiver.close()


@pytest.fixture
def sender(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    return ends[0]


@pytest.fixture
def receiver(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    return ends[1]


@pytest.fixture
def inlet(receiver: socket.socket) -> Iterator[Inlet]:
    inlet = Inlet(receiver)
    yield inlet
    inlet.close()


def bytes_of(piece: Bulk | None) -> bytes:
    assert piece is not None
    data = b"".join(bytes(block) for block in piece.blocks())
    piece.release()
    return data


def everything(inlet: Inlet, *, splice: bool, most: int = PIECE) -> tuple[bytes, int]:
    """All that comes until the end, and in how many pieces."""
    data, count = bytearray(), 0
    while inlet.wait(most, 5):
        piece = bytes_of(inlet.take(most, splice=splice))
        if not piece:
            break
        data += piece
        count += 1
    return bytes(data), count


@pytest.mark.parametrize("splice", [False, True])
def test_everything_comes_in_large_pieces(sender: socket.socket, inlet: Inlet, splice: bool) -> None:
    def send() -> None:
        for start in range(0, len(DATA), 10_000):
            sender.sendall(DATA[start : start + 10_000])
        sender.shutdown(socket.SHUT_WR)

    threading.Thread(target=send).start()
    data, count = everything(inlet, splice=splice)
    assert data == DATA
    assert count <= 1 + len(DATA) // (256 * 1024)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("splice", [False, True])
def test_never_more_than_is_wanted(ends: tuple[socket.socket, socket.socket], splice: bool, blocking: bool) -> None:
    sender, receiver = ends
    receiver.setblocking(blocking)
    inlet = Inlet(receiver)
    sender.sendall(DATA[:1000])
    assert inlet.wait(10, 5)
    assert bytes_of(inlet.take(10, splice=splice)) == DATA[:10]
    inlet.close()
    assert receiver.recv(2000) == DATA[10:1000]


@pytest.mark.parametrize("splice", [False, True])
def test_a_little_is_given_after_a_while(sender: socket.socket, inlet: Inlet, splice: bool) -> None:
    sender.sendall(b"a little")
    assert inlet.wait(PIECE, 0.05)
    assert bytes_of(inlet.take(PIECE, splice=splice)) == b"a little"


def test_nothing_comes(inlet: Inlet) -> None:
    assert not inlet.wait(PIECE, 0.01)
    assert not inlet.wait(1, 0)


def test_the_end_wakes_up(sender: socket.socket, inlet: Inlet) -> None:
    threading.Timer(0.05, lambda: sender.shutdown(socket.SHUT_WR)).start()
    began = time.monotonic()
    assert inlet.wait(PIECE, 30)
    assert time.monotonic() - began < 20
    assert bytes_of(inlet.take(PIECE)) == b""


def test_whoever_waits_can_be_woken(receiver: socket.socket, inlet: Inlet) -> None:
    threading.Timer(0.05, lambda: stop_reading(receiver.fileno())).start()
    assert inlet.wait(PIECE, 30)
    assert bytes_of(inlet.take(PIECE)) == b""


@pytest.mark.parametrize("splice", [False, True])
def test_a_broken_connection(ends: tuple[socket.socket, socket.socket], splice: bool) -> None:
    sender, receiver = ends
    inlet = Inlet(receiver)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sender.close()
    assert inlet.wait(PIECE, 5)
    with pytest.raises(ConnectionResetError):
        inlet.take(PIECE, splice=splice)


def test_the_socket_is_left_as_it_was(receiver: socket.socket) -> None:
    inlet = Inlet(receiver)
    inlet.wait(PIECE, 0)
    inlet.wait(1000, 0.001)
    inlet.close()
    assert receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert receiver.getblocking()


def test_nothing_is_lent_while_nothing_is_there(receiver: socket.socket) -> None:
    receiver.setblocking(False)
    inlet = Inlet(receiver)
    before = len(buffers.kept), len(pipes.kept)
    for splice in (False, True):
        assert inlet.take(PIECE, splice=splice) is None
    assert (len(buffers.kept), len(pipes.kept)) >= before


# -- where it can't be spliced ----------------------------------------------------------------------------------


def test_a_socket_that_can_not_be_spliced(sender: socket.socket, inlet: Inlet, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def splice(*args: object, **_: object) -> int:
        tries.append(args)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "splice", splice)
    for text in (b"first", b"second"):
        sender.sendall(text)
        assert inlet.wait(len(text), 5)
        assert bytes_of(inlet.take(PIECE, splice=True)) == text
    assert len(tries) == 1  # it is not asked again


def test_no_further_pipe_can_be_made(sender: socket.socket, inlet: Inlet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    sender.sendall(DATA[:100])
    inlet.wait(100, 5)
    with monkeypatch.context() as patch:
        patch.setattr(pipes, "lend", refuse)
        assert bytes_of(inlet.take(50, splice=True)) == DATA[:50]
    piece = inlet.take(50, splice=True)
    assert isinstance(piece, Piped)
    assert bytes_of(piece) == DATA[50:100]


# -- TLS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", *key, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def test_tls(certificate: Path) -> None:
    sender, receiver = connected()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    client_side = ssl.create_default_context(cafile=f"{certificate}.crt")
    client_side.check_hostname = False

    def send() -> None:
        with client_side.wrap_socket(sender) as encrypted:
            encrypted.sendall(DATA)
            encrypted.unwrap()

    thread = threading.Thread(target=send)
    thread.start()
    with server_side.wrap_socket(receiver, server_side=True) as encrypted:
        inlet = Inlet(encrypted)
        data, _ = everything(inlet, splice=True)
        inlet.close()
        assert encrypted.gettimeout() is None
        encrypted.unwrap()
    thread.join()
    assert data == DATA


# -- under gevent -----------------------------------------------------------------------------------------------

_UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, random, socket
from incoming_wsgi.wire.bulk import PIECE
from incoming_wsgi.wire.sockets import Inlet
from tests.wire.test_sockets import DATA, connected, everything

for splice in (False, True):
    sender, receiver = connected()
    def send():
        gevent.sleep(0.01)
        sender.sendall(DATA)
        sender.shutdown(socket.SHUT_WR)
    ticks = []
    def tick():
        while True:
            ticks.append(1)
            gevent.sleep(0.001)
    others = gevent.spawn(tick)
    inlet = Inlet(receiver)
    inlet.wait(PIECE, 0.001)
    assert inlet.take(PIECE, splice=splice) is None
    gevent.spawn(send)
    data, _ = everything(inlet, splice=splice)
    assert data == DATA
    others.kill()
    assert len(ticks) > 3, "the loop was held up"
    inlet.close()
print("well")
"""


def test_under_gevent() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _UNDER_GEVENT], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.stderr) == ("well\n", "")


def test_no_splicing_on_this_system(
    sender: socket.socket, receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_HAS_SPLICE", False)
    inlet = Inlet(receiver)
    sender.sendall(b"text")
    inlet.wait(4, 5)
    assert bytes_of(inlet.take(PIECE, splice=True)) == b"text"
    inlet.close()
