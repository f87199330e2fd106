from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from incoming_wsgi import offload

from .helpers import ROOT, eventually


def test_a_thread_of_its_own_does_its_own_work() -> None:
    assert not offload.under_gevent()
    assert offload.run(threading.get_ident) == threading.get_ident()


def test_result_and_exception() -> None:
    assert offload.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        offload.run(divmod, 7, 0)


def test_background() -> None:
    heard: list[tuple[int, str, bool]] = []
    done = threading.Event()

    def work(number: int) -> None:
        current = threading.current_thread()
        heard.append((number, current.name, current.daemon))
        done.set()

    offload.background(work, 5, name="test")
    assert done.wait(5)
    assert heard == [(5, "incoming-test", True)]


def test_a_crash_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        raise OSError("out of paper")

    with caplog.at_level(logging.ERROR, "incoming_wsgi"):
        thread = offload.background(work, name="printer")
        thread.join(5)
    eventually(lambda: "printer stopped with an error" in caplog.text)
    assert "out of paper" in caplog.text


def under_gevent(code: str) -> str:
    """What ``code`` prints in a process where gevent has replaced threads."""
    start = "from gevent import monkey; monkey.patch_all()\nimport gevent, threading, time\n"
    start += "from gevent.monkey import get_original\n"
    start += "from incoming_wsgi import offload\nsleep = get_original('time', 'sleep')\n"
    run = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert not run.stderr
    return run.stdout.strip()


def test_the_event_loop_goes_on_while_work_blocks() -> None:
    ticks = under_gevent("""
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.01)
gevent.spawn(tick)
offload.run(sleep, 0.5)  # blocks in C, as a hash does
print(ticks)
""")
    assert int(ticks) > 5


def test_exceptions_come_back_from_native_threads_as_they_were() -> None:
    assert (
        under_gevent("""
def work():
    raise KeyError("key")
try:
    offload.run(work)
except KeyError as error:
    print(error)
""")
        == "'key'"
    )


def test_work_within_work_stays_in_its_thread() -> None:
    """Else a pool whose threads all wait for a further one would stand still."""
    assert (
        under_gevent("""
ident = get_original("_thread", "get_ident")
def work():
    return offload.run(ident) == ident()
print({job.get() for job in [gevent.spawn(offload.run, work) for _ in range(20)]}, ident() == offload.run(ident))
""")
        == "{True} False"
    )


def test_one_pool_does_not_starve_another() -> None:
    assert (
        under_gevent("""
busy = offload.Pool(1)
release = False
def hold():
    while not release:
        sleep(0.01)
holder = gevent.spawn(busy.run, hold)
gevent.sleep(0.1)
print(offload.run(str, 5))
release = True
holder.join()
""")
        == "5"
    )


def test_what_native_threads_share_with_greenlets_is_touched_in_greenlets_only() -> None:
    """gevent's lock, taken in both, would be waited for in vain after a moment."""
    assert (
        under_gevent("""
lock, taken = threading.Lock(), 0
@offload.in_greenlet
def take(times):
    global taken
    with lock:
        gevent.sleep(0)
        taken += times
def natively():
    for _ in range(100):
        take(1)
def here():
    for _ in range(100):
        take(times=1)
        gevent.sleep(0)
with gevent.Timeout(30):
    gevent.joinall([gevent.spawn(offload.run, natively) for _ in range(4)] + [gevent.spawn(here) for _ in range(4)])
print(taken)
""")
        == "800"
    )


def test_what_a_native_thread_has_done_in_a_greenlet_gives_results_and_raises() -> None:
    assert (
        under_gevent("""
divide = offload.in_greenlet(divmod)
def natively():
    try:
        divide(1, 0)
    except ZeroDivisionError:
        return divide(7, 2)
print(offload.run(natively), divide(9, 2), gevent.getcurrent() is offload.in_greenlet(gevent.getcurrent)())
""")
        == "(3, 1) (4, 1) True"
    )
