from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from incoming_wsgi.locks import FileLock, try_flock

from .helpers import ROOT, Child

HOLD = """
import os, sys
from incoming_wsgi.locks import FileLock
descriptor = os.open(sys.argv[1], os.O_RDWR)
with FileLock(descriptor):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    """Each with a descriptor of its own, or with the same one."""
    inside = most = total = 0

    def work(descriptor: int) -> None:
        nonlocal inside, most, total
        for _ in range(200):
            with FileLock(descriptor):
                inside += 1
                most = max(most, inside)
                seen = total
                os.getpid()  # somebody else could run here
                total = seen + 1
                inside -= 1

    with ExitStack() as stack:
        first, second = (stack.enter_context(opened(tmp_path / "lock")) for _ in range(2))
        threads = [threading.Thread(target=work, args=(one,)) for one in (first, first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (most, total) == (1, 600)


def test_other_files_are_not_concerned(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as one, opened(tmp_path / "other") as other, FileLock(one):
        assert try_flock(other)
        entered = threading.Event()

        def enter() -> None:
            with FileLock(other):
                entered.set()

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        assert entered.wait(5)
        thread.join()


def test_processes_exclude_each_other(tmp_path: Path) -> None:
    with opened(tmp_path / "lock") as descriptor, Child(HOLD, [tmp_path / "lock"]) as child:
        assert child.line() == "held"
        assert not try_flock(descriptor)
        child.say("let go")
        assert child.line() == "released"
        with FileLock(descriptor):
            pass
        assert try_flock(descriptor)


def test_the_kernel_gives_the_lock_of_a_killed_process_back(tmp_path: Path) -> None:
    with opened(tmp_path / "lock") as descriptor, Child(HOLD, [tmp_path / "lock"]) as child:
        assert child.line() == "held"
        entered = threading.Event()

        def enter() -> None:
            with FileLock(descriptor):
                entered.set()

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        assert not entered.wait(0.1)
        child.kill()
        assert entered.wait(5)
        thread.join()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with opened(tmp_path / "lock") as one, opened(tmp_path / "lock") as other:
        with pytest.raises(KeyError), FileLock(one):
            raise KeyError
        with FileLock(other):
            assert not try_flock(one)


def test_an_error_while_waiting_lets_go(tmp_path: Path) -> None:
    with opened(tmp_path / "lock") as descriptor:
        lock = FileLock(descriptor)
        closed = os.dup(descriptor)
        broken = FileLock(closed)
        os.close(closed)
        with pytest.raises(OSError, match="descriptor"):
            broken.__enter__()
        with lock:
            pass


def test_waiting_does_not_block_the_event_loop(tmp_path: Path) -> None:
    code = """
from gevent import monkey; monkey.patch_all()
import gevent, os, sys
from incoming_wsgi.locks import FileLock
one, other = (os.open(sys.argv[1], os.O_RDWR | os.O_CREAT) for _ in range(2))
order = []
def second():
    with FileLock(other):
        order.append("second")
with FileLock(one):
    waiting = gevent.spawn(second)
    gevent.sleep(0.05)
    order.append("first")
waiting.join()
print(*order)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    assert run.stdout.split() == ["first", "second"]


def test_waiting_for_another_process_does_not_block_the_event_loop(tmp_path: Path) -> None:
    code = """
from gevent import monkey; monkey.patch_all()
import gevent, os, sys
from incoming_wsgi.locks import FileLock
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
def enter():
    with FileLock(descriptor):
        print("in", flush=True)
waiting = gevent.spawn(enter)
gevent.sleep(0.05)
print("waiting", flush=True)
waiting.join()
"""
    with opened(tmp_path / "lock"), Child(HOLD, [tmp_path / "lock"]) as holder:
        assert holder.line() == "held"
        with Child(code, [tmp_path / "lock"]) as waiter:
            assert waiter.line() == "waiting"
            holder.say("let go")
            assert waiter.line() == "in"


def test_a_lock_that_a_server_keeps_does_not_block_the_event_loop(tmp_path: Path) -> None:
    """Each call to the server takes a while; also the one that gives the lock back, which brings what was written."""
    code = """
from gevent import monkey; monkey.patch_all()
import fcntl, gevent, os, sys
from incoming_wsgi.locks import FileLock
sleep, flock = monkey.get_original("time", "sleep"), fcntl.flock
def slow_flock(descriptor, operation):
    sleep(0.2)
    flock(descriptor, operation)
fcntl.flock = slow_flock
ticks = 0
def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1
gevent.spawn(tick)
lock = FileLock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), is_remote=True)
for call in (lock.__enter__, lambda: lock.__exit__(None, None, None)):
    ticks = 0
    call()
    print(ticks)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    assert all(int(ticks) > 3 for ticks in run.stdout.split())


def test_what_another_thread_held_at_a_fork_is_free_in_the_child(tmp_path: Path) -> None:
    code = """
import os, signal, sys, threading
from incoming_wsgi.locks import FileLock
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
held = FileLock(descriptor)._thread_lock
held.acquire()
pid = os.fork()
if pid == 0:
    signal.alarm(5)
    with FileLock(os.open(sys.argv[1], os.O_RDWR)):
        os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    assert run.stdout.strip() == "0"


def test_a_closed_lock_is_nobodys(tmp_path: Path) -> None:
    """Above all not that of another file, which has got its number."""
    lock = FileLock.on(tmp_path / "one")
    lock.close()
    lock.close()
    with opened(tmp_path / "another"), pytest.raises(OSError, match="Bad file descriptor"), lock:
        pass


def test_what_can_not_be_looked_at_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        failed.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    failed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(OSError, match="Input/output error"):
            FileLock.on(tmp_path / "one")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(failed[0])
