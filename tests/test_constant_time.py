"""What is secret is compared by ``hmac.compare_digest``, whose time tells nothing: it, and nothing else, decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from webob import Request
from webtest import TestApp

from incoming_wsgi import Incoming, backend, session, signatures
from incoming_wsgi.delivery.targets import FinishHosts
from incoming_wsgi.gates import terms

from .helpers import ROOT

KEY = {"Authorization": "Bearer key"}
OPENING = {"Incoming-Length": "10", "Incoming-Name": "x"}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[TestApp]:
    def app(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b""]

    incoming = Incoming(app, storage=tmp_path, on_finish=lambda _: "done", backend_key="key")
    yield TestApp(incoming)
    incoming.close()


def by_key(web: TestApp) -> Any:
    ticket = web.app.new_upload()
    return web.get(f"/incoming/backend/uploads/{ticket}", headers=KEY, expect_errors=True).status_int


def by_secret(web: TestApp) -> Any:
    given = {"id": web.app.new_upload(backend_secret="s"), "backendSecret": "s"}
    return web.post("/incoming/backend/cancel_upload", given, headers=KEY, expect_errors=True).status_int


def by_session(web: TestApp) -> Any:
    url = f"/incoming/frontend/uploads/{web.app.new_upload()}"
    session = web.post(url, b"", headers=OPENING).json["session"]
    headers = {"Content-Range": "bytes 0-0/10", "Incoming-Session": session}
    return web.put(url, b"x", headers=headers, content_type="application/octet-stream", expect_errors=True).status_int


def by_cookie(web: TestApp) -> Any:
    ticket = web.app.new_upload(bind_cookie="a=b")
    url = f"/incoming/frontend/uploads/{ticket}"
    return web.get(url, headers={"Cookie": "a=b"}, expect_errors=True).status_int


@pytest.mark.parametrize(
    ("module", "ask", "refusal"),
    [(backend, by_key, 401), (backend, by_secret, 403), (session, by_session, 409), (terms, by_cookie, 403)],
)
def test_the_comparison_decides(
    web: TestApp, module: Any, ask: Callable[[TestApp], Any], refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(web) == 200
    patched = {"by_secret": lambda one, two: one == two != b"s"}  # the key is compared by the same function
    monkeypatch.setattr(module, "compare_digest", patched.get(ask.__name__, lambda *_: False))
    assert ask(web) == refusal


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the first one fits: else the time would tell which it is."""
    compared: list[bytes] = []

    def compare(one: bytes, two: bytes) -> bool:
        compared.append(one)
        return one == two

    monkeypatch.setattr(backend, "compare_digest", compare)
    clients = [backend.Client(name, f"key of {name}", FinishHosts()) for name in ("a", "b", "c")]
    request = Request.blank("/", headers={"Authorization": "Bearer key of a"})
    assert backend.Backend(lambda: pytest.fail("not asked"), clients)._identify(request).app == "a"
    assert compared == [b"key of a", b"key of b", b"key of c"]


def test_signatures_too() -> None:
    assert "compare_digest" in Path(signatures.__file__).read_text("utf-8")


def test_nothing_secret_is_compared_otherwise() -> None:
    """By ``==`` with what somebody has sent."""
    otherwise = re.compile(r"\b(shown|token|request\S*) (==|!=) \S*(key|secret|session|token|cookie)\b")
    files = list((ROOT / "incoming_wsgi").rglob("*.py"))
    assert otherwise.search("if token == upload.session and not is_over:")
    assert [path.name for path in files if otherwise.search(path.read_text("utf-8"))] == []
