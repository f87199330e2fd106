from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from webob import Request, Response
from webtest import TestApp

from incoming_wsgi import FinishedUpload, Incoming, State, Upload
from incoming_wsgi.errors import BadRequest, NotReady, TooLate, UnknownUpload
from incoming_wsgi.middleware import PerProcess
from incoming_wsgi.receiver import Receiver
from incoming_wsgi.storage import mounts
from incoming_wsgi.storage.mounts import Mount
from tests.support.waiting import eventually

from .helpers import ROOT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = b"a small file"


class Site:
    """An app that gives tickets and takes files, wrapped."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.requests: list[Request] = []
        self.finished: list[FinishedUpload] = []
        self.cancelled: list[tuple[Upload, str]] = []
        self.answer: Any = None
        self.ticket_options: dict[str, Any] = {}
        options.setdefault("storage", folder)
        self.incoming = Incoming(self.app, on_finish=self.on_finish, on_cancel=self.on_cancel, **options)
        self.web = TestApp(self.incoming)

    def app(self, environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        self.requests.append(request)
        if request.path_info == "/ticket":
            body = environ["incoming"].new_upload(**self.ticket_options).encode()
        elif request.path_info == "/arrived":
            body = b"done"
        else:
            body = b"the app"
        return Response(body=body, content_type="text/plain")(environ, start_response)

    def on_finish(self, finished: FinishedUpload) -> Any:
        self.finished.append(finished)
        return self.answer

    def on_cancel(self, upload: Upload, reason: str) -> None:
        self.cancelled.append((upload, reason))

    def ticket(self, **options: Any) -> str:
        self.ticket_options = options
        return str(self.web.get("/ticket").text)

    def upload(self, ticket: str, data: bytes = DATA) -> dict[str, Any]:
        answer: dict[str, Any] = self.web.post(
            f"/incoming/frontend/uploads/{ticket}",
            data,
            headers={"Incoming-Length": str(len(data)), "Incoming-Name": "x.bin"},
            content_type="application/octet-stream",
        ).json
        return answer


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.incoming.close()


def test_a_whole_life(site: Site) -> None:
    ticket = site.ticket(metadata={"owner": "me"}, backend_secret="geheim")
    assert site.upload(ticket)["state"] == "finished"
    (finished,) = site.finished
    assert (finished.id, finished.length, finished.filename) == (ticket, len(DATA), "x.bin")
    assert (finished.metadata, finished.secret) == ({"owner": "me"}, "geheim")
    upload = site.incoming.upload(ticket)
    assert upload is not None
    assert upload.state is State.FINISHED


def test_wait_and_finish(site: Site) -> None:
    site.answer = "wait"
    ticket = site.ticket()
    site.upload(ticket)
    eventually(lambda: (one := site.incoming.upload(ticket)) and one.state is State.WAITING_FOR_APP)
    with pytest.raises(TooLate):
        site.incoming.cancel_upload(ticket)
    site.incoming.finish_upload(ticket)
    site.incoming.finish_upload(ticket)
    assert site.web.get(f"/incoming/frontend/uploads/{ticket}").json["state"] == "finished"


def test_cancel(site: Site) -> None:
    ticket = site.ticket()
    with pytest.raises(NotReady):
        site.incoming.finish_upload(ticket)
    site.incoming.cancel_upload(ticket, "not today")
    (told,) = eventually(lambda: site.cancelled)
    assert (told[0].id, told[1]) == (ticket, "not today")


def test_unknown_tickets(site: Site) -> None:
    for ticket in (Upload().id, "x"):
        assert site.incoming.upload(ticket) is None
        for act in (site.incoming.cancel_upload, site.incoming.finish_upload):
            with pytest.raises(UnknownUpload):
                act(ticket)


def test_move_to_from_on_finish(site: Site, tmp_path: Path) -> None:
    places: list[str] = []

    def take(finished: FinishedUpload) -> None:
        places.append(finished.move_to(f"{tmp_path}/mine/", within=str(tmp_path / "mine")))

    site.on_finish = take  # type: ignore[method-assign]
    site.incoming._on_finish = take
    ticket = site.ticket()
    assert site.upload(ticket)["state"] == "finished"
    assert places == [str(tmp_path / "mine" / "x.bin")]
    assert Path(places[0]).read_bytes() == DATA
    upload = site.incoming.upload(ticket)
    assert upload is not None
    assert upload.moved_to == places[0]


def test_hand_over_into_the_app_itself(site: Site) -> None:
    """With host, scheme and mount point of the request that made the ticket, and with the wrapper in the environ."""
    site.ticket_options = {"signal_finish_url": "/arrived?kind=photo", "backend_secret": "geheim"}
    environ = {"HTTP_HOST": "files.example:8443", "wsgi.url_scheme": "https", "SCRIPT_NAME": "/mounted"}
    ticket = site.web.get("/ticket", extra_environ=environ).text
    assert site.upload(ticket)["state"] == "finished"
    request = site.requests[-1]
    assert request.url == "https://files.example:8443/mounted/arrived?kind=photo"
    assert request.environ["incoming"] is site.incoming
    assert request.environ["incoming.handover"] is True
    form = dict(request.POST.items())
    assert (form["id"], form["backendSecret"]) == (ticket, "geheim")
    assert not site.finished


def test_nobody_outside_can_pretend_to_hand_over(site: Site) -> None:
    site.web.get("/x", headers={"Incoming-Handover": "true", "Incoming.handover": "true"})
    assert "incoming.handover" not in site.requests[-1].environ


def test_a_ticket_that_is_made_while_the_answer_is_sent(tmp_path: Path) -> None:
    """An app may be a generator: then it runs only when the server asks for the answer."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield environ["incoming"].new_upload(signal_finish_url="/x").encode()

    incoming = Incoming(app, storage=tmp_path)
    ticket = TestApp(incoming).get("/", extra_environ={"HTTP_HOST": "files.example", "SCRIPT_NAME": "/mounted"}).text
    upload = incoming.upload(ticket)
    assert upload is not None
    assert upload.base_url == "http://files.example/mounted"
    incoming.close()


def test_an_app_that_was_loaded_before_gevent_patched_threads() -> None:
    """As under gunicorn --preload: the lock is the kernel's; a greenlet that blocked in it would stop all others."""
    code = """
from incoming_wsgi.middleware import PerProcess
made = []
def make():
    import gevent
    made.append(1)
    gevent.sleep(0.2)  # as while another worker holds the registry
    return len(made)
engine = PerProcess(make)
from gevent import monkey; monkey.patch_all()
import gevent
jobs = [gevent.spawn(engine.get) for _ in range(4)]
gevent.joinall(jobs, timeout=5)
print([job.value for job in jobs], len(made))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stdout.strip() == "[1, 1, 1, 1] 1", done.stderr


def test_public_url(tmp_path: Path) -> None:
    site = Site(tmp_path, public_url="https://www.example.org")
    ticket = site.web.get("/ticket", extra_environ={"SCRIPT_NAME": "/mounted", "HTTP_HOST": "10.0.0.1:8000"}).text
    upload = site.incoming.upload(ticket)
    assert upload is not None
    assert upload.base_url == "https://www.example.org/mounted"
    site.incoming.close()


@pytest.mark.parametrize("url", ["ftp://x/", "/incoming/backend/new_upload", "x", "http://u:p@x/"])
def test_targets_that_can_not_be(site: Site, url: str) -> None:
    with pytest.raises(BadRequest):
        site.incoming.new_upload(signal_finish_url=url)


def test_without_on_finish_a_target_is_needed(tmp_path: Path) -> None:
    incoming = Incoming(lambda environ, start_response: [], storage=tmp_path)
    with pytest.raises(BadRequest, match="nobody"):
        incoming.new_upload()
    assert incoming.new_upload(signal_finish_url="/x")
    incoming.close()


# -- what is ours, and what is not ------------------------------------------------------------------------------


def test_everything_else_passes_through_untouched(site: Site) -> None:
    for path in ("/", "/incomings", "/incoming-x/frontend", "/x/incoming/frontend", "/Incoming/frontend"):
        answer = site.web.get(path)
        assert answer.text == "the app"
        assert set(answer.headers) == {"Content-Type", "Content-Length"}
    assert site.requests[-1].environ["incoming"] is site.incoming


def test_what_the_app_returns_and_raises_is_its_own(tmp_path: Path) -> None:
    class Body(list[bytes]):
        pass

    body = Body([b"x"])

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/fail":
            raise KeyError("mine")
        start_response("200 OK", [])
        return body

    incoming = Incoming(app, storage=tmp_path)
    environ = Request.blank("/").environ
    assert incoming(environ, lambda *_: lambda data: None) is body
    with pytest.raises(KeyError, match="mine"):
        incoming(Request.blank("/fail").environ, lambda *_: lambda data: None)
    incoming.close()


@pytest.mark.parametrize("path", ["/incoming/frontend/incoming.js", "/incoming/0.1/frontend/incoming.js"])
def test_both_path_forms(site: Site, path: str) -> None:
    assert "incoming" in site.web.get(path).text


@pytest.mark.parametrize(
    "path",
    [
        "/incoming",
        "/incoming/",
        "/incoming/0.1",
        "/incoming/0.1/",
        "/incoming/0.2/frontend/incoming.js",
        "/incoming/0.10/frontend/incoming.js",
        "/incoming/0.1frontend/incoming.js",
        "/incoming/0.1/0.1/frontend/incoming.js",
        "/incoming//frontend/incoming.js",
        "/incoming/frontend//incoming.js",
        "/incoming/frontend/../frontend/incoming.js",
        "/incoming/frontend/./incoming.js",
        "/incoming/frontend;x/incoming.js",
        "/incoming/frontend/%252e%252e/incoming.js",
        "/incoming/frontend",
        "/incoming/frontend/",
        "/incoming/frontend/incoming.js/",
        "/incoming/backend/new_upload",
        "/incoming/ready/x",
        "/incoming/nothing",
    ],
)
def test_not_found(site: Site, path: str) -> None:
    answer = site.web.get(path, status=404)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not site.requests


def test_ready(site: Site) -> None:
    assert site.web.get("/incoming/ready").text == "ready\n"


def test_another_prefix(tmp_path: Path) -> None:
    site = Site(tmp_path, prefix="/up/load")
    assert site.web.get("/up/load/ready").status_int == 200
    assert site.web.get("/incoming/ready").text == "the app"
    site.incoming.close()


def test_the_back_end_api_is_off_unless_asked_for(site: Site, tmp_path: Path) -> None:
    site.web.post("/incoming/backend/new_upload", {"signalFinishURL": "/arrived"}, status=404)
    other = Site(tmp_path / "other", backend_key="key")
    other.web.post("/incoming/backend/new_upload", {"signalFinishURL": "/arrived"}, status=401)
    headers = {"Authorization": "Bearer key"}
    ticket = other.web.post("/incoming/backend/new_upload", {"signalFinishURL": "/arrived"}, headers=headers).text
    assert other.upload(ticket)["state"] == "finished"
    assert other.requests[-1].path_info == "/arrived"
    other.incoming.close()


# -- life of a process ------------------------------------------------------------------------------------------


def test_options_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INCOMING_STORAGE", raising=False)
    with pytest.raises(TypeError, match="no option stroage"):
        Incoming(lambda environ, start_response: [], stroage=tmp_path)
    with pytest.raises(TypeError, match="needs storage"):
        Incoming(lambda environ, start_response: [])
    with pytest.raises(ValueError, match="prefix"):
        Incoming(lambda environ, start_response: [], storage=tmp_path, prefix="x")


def test_a_shared_folder_is_not_used_like_one_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is one of several, and where the registry's file is in it."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    monkeypatch.setattr(mounts, "mount_of", lambda path: Mount("nfs4" if Path(path).is_relative_to(shared) else "ext4"))

    def make(**options: Any) -> None:
        Incoming(lambda environ, start_response: [], **options)

    redis = "redis://127.0.0.1:1/0"
    bad: list[dict[str, Any]] = [
        {"storage": shared},
        {"storage": shared, "registry": redis},
        {"storage": own, "storages": {"archive": shared}},
        {"storage": shared, "durability": "fsync"},
        {"storage": own, "registry": f"sqlite://{shared}/registry.sqlite3"},
    ]
    for options in bad:
        with pytest.raises(ValueError, match="shared file system"):
            make(**options)
    make(storage=shared, durability="fsync", registry=redis)
    make(storage=shared, durability="fsync", registry=f"sqlite://{own}/registry.sqlite3")
    make(storage="s3://bucket/x", registry=redis)


def test_nothing_happens_before_the_first_request(tmp_path: Path) -> None:
    site = Site(tmp_path / "files")
    assert not (tmp_path / "files").exists()
    site.incoming.close()  # nothing to close
    site.web.get("/")
    assert (tmp_path / "files" / "registry.sqlite3").exists()
    site.incoming.close()


def test_the_app_goes_on_when_uploads_can_not(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text("a file where a folder should be")
    site = Site(tmp_path / "files", registry=f"sqlite://{tmp_path}/registry/x.sqlite3")
    assert site.web.get("/").text == "the app"
    answer = site.web.get("/incoming/ready", status=503)
    assert answer.json["error"]["name"] == "unavailable"
    site.incoming.close()


def test_after_close_no_more_bytes_are_taken(site: Site) -> None:
    ticket = site.ticket()
    site.incoming.close()
    site.incoming.close()
    answer = site.web.post(
        f"/incoming/frontend/uploads/{ticket}",
        headers={"Incoming-Length": "5", "Incoming-Name": "x"},
        content_type="application/octet-stream",
        status=503,
    )
    assert answer.json["error"]["retryable"] is True  # another process takes them


def test_one_receiver_for_all_threads_of_a_process() -> None:
    made: list[object] = []
    gate = threading.Barrier(8)

    class Fake:
        def close(self) -> None:
            made.append("closed")

    def make() -> Receiver:
        made.append("made")
        return Fake()  # type: ignore[return-value]

    engine = PerProcess(make)

    def get() -> None:
        gate.wait()
        engine.get()

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["made"]
    engine.close()
    engine.close()
    assert made == ["made", "closed"]


def test_nothing_is_carried_over_a_fork(tmp_path: Path) -> None:
    """Neither an open database nor a lease nor a lock that somebody held at that moment."""
    code = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from incoming_wsgi import Incoming
incoming = Incoming(lambda environ, start_response: [], storage=sys.argv[1], on_finish=print)
incoming.start()
before = incoming._engine.get()
# As if other threads held these while we fork. (SQLite itself must not be forked in the middle of a transaction.)
with incoming._engine._guard, before.registry._write_lock, before.registry._read_guard:
    pid = os.fork()
if pid == 0:
    signal.alarm(20)
    after = incoming._engine.get()
    ticket = incoming.new_upload()
    same = after is before or after.registry.holder == before.registry.holder
    found = incoming.upload(ticket) is not None
    incoming.close()
    os._exit(0 if found and not same else 1)
_, status = os.waitpid(pid, 0)
assert incoming._engine.get() is before
assert before.registry.is_alive(before.registry.holder)
assert incoming.upload(incoming.new_upload()) is not None
incoming.close()
print(os.waitstatus_to_exitcode(status))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (run.stdout.strip(), run.stderr) == ("0", "")


def test_one_machine_needs_nothing_of_what_several_do() -> None:
    """Neither for an upload to its end nor for the operator's commands."""
    code = """
import sys, tempfile, threading
for name in ("boto3", "botocore", "redis"):
    sys.modules[name] = None
from webob import Request
from incoming_wsgi import Incoming
from incoming_wsgi.__main__ import run_operator as operate
told, storage = threading.Event(), tempfile.mkdtemp()
incoming = Incoming(lambda environ, start_response: [], storage=storage, on_finish=lambda upload: told.set())
headers = {"Incoming-Length": "3", "Incoming-Name": "x", "Content-Type": "application/octet-stream"}
path = f"/incoming/frontend/uploads/{incoming.new_upload()}"
answer = Request.blank(path, method="POST", body=b"abc", headers=headers).get_response(incoming)
assert answer.status_code == 200, answer.text
assert told.wait(20)
incoming.close()
sys.argv = ["incoming", "list", "--storage", storage]
operate()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
