from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest

from incoming_wsgi import offload
from tests.support.waiting import eventually

from .helpers import ROOT


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


def test_a_crew_does_a_few_jobs_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    crew = offload.Crew(2, "job")
    may_end = threading.Event()
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        may_end.wait(10)
        if number == 3:
            raise OSError("out of paper")

    for number in range(6):
        crew.do(work, number)
    eventually(lambda: len(begun) == 2)
    assert sum(thread.name == "incoming-job" for thread in threading.enumerate()) == 2
    with caplog.at_level(logging.ERROR, "incoming_wsgi"):
        may_end.set()
        eventually(lambda: len(begun) == 6)
        eventually(lambda: not any(thread.name == "incoming-job" for thread in threading.enumerate()))
    assert "job stopped with an error" in caplog.text
    crew.do(work, 6)  # the first ones have gone home
    eventually(lambda: sorted(begun) == list(range(7)))


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


def test_an_app_that_logs_in_a_hand_over_and_in_its_views_goes_on() -> None:
    """In a native thread a hand-over would share gevent's locks with greenlets, and logging has one: it would hang."""
    code = """
import logging, os
from incoming_wsgi.delivery.handover import CallableHandler, Notice
from incoming_wsgi.registry import Delivery
from incoming_wsgi.upload import Upload
logging.basicConfig(stream=open(os.devnull, "w"), level=logging.INFO)
log = logging.getLogger("app")
def on_finish(upload):
    for _ in range(200):
        log.info("handed over")
def view():
    for _ in range(200):
        log.info("asked")
        gevent.sleep(0)
handler = CallableHandler(on_finish, None, lambda upload, target: None)
notice = Notice(Upload(), Delivery("e", "u", "app", "finished", "callable"), "/x")
jobs = [gevent.spawn(handler.deliver, notice) for _ in range(4)] + [gevent.spawn(view) for _ in range(4)]
gevent.joinall(jobs, timeout=20)
print(all(job.successful() for job in jobs))
"""
    assert under_gevent(code) == "True"


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
