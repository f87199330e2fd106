"""A Django project with Django's own checks switched on, under the wrapper and gunicorn with two gevent workers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support.chunk_client import ChunkClient
from tests.support.processes import AppServer

from .conftest import Connect, assert_arrived_once, data_of, sha256

HOST = "files.example.org"
DATA = data_of(9_000_000)

StartSite = Callable[..., AppServer]
MakeClient = Callable[..., ChunkClient]

mounted = pytest.mark.parametrize("mount", ["", "/shop"])


@pytest.fixture
def start_site(tmp_path: Path) -> Iterator[StartSite]:
    """Starts the project, at a place below the host; it answers to ``HOST`` only."""
    with ExitStack() as stack:

        def start(mount: str = "", **env: str) -> AppServer:
            env = {"DJANGO_HOSTS": HOST, "SCRIPT_NAME": mount, **env}
            return stack.enter_context(AppServer("gevent", tmp_path, env, "tests.support.django_site.wsgi:application"))

        yield start


@pytest.fixture
def visit() -> Iterator[Callable[[AppServer], Visitor]]:
    with ExitStack() as stack:
        yield lambda server, *headers: stack.enter_context(Visitor(server, dict(headers)))


class Visitor:
    """Somebody who has the project's page open, and so its cookie and its token."""

    def __init__(self, server: AppServer, headers: dict[str, str]) -> None:
        self._url = server.url
        self._http = requests.Session()
        self._http.headers.update({"Host": HOST, **headers})
        page = self._http.get(f"{self._url}/page/", timeout=10)
        page.raise_for_status()
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert found, page.text
        self.token = found[1]

    def post(self, path: str, data: object = b"", **options: object) -> requests.Response:
        """A request that the page makes."""
        headers = {"X-CSRFToken": self.token, "Referer": f"https://{HOST}/page/"}
        return self._http.post(self._url + path, data=data, headers=headers, timeout=30, **options)  # type: ignore[arg-type]

    def post_blindly(self, path: str, data: dict[str, str]) -> requests.Response:
        """A request without the token, as another site would make it."""
        return self._http.post(self._url + path, data=data, timeout=30)

    def ticket(self, by: str = "") -> str:
        response = self.post(f"/ticket/?by={by}")
        response.raise_for_status()
        return response.text

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


Visit = Callable[..., Visitor]


class DevelopmentServer(AppServer):
    """``manage.py runserver``."""

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "django", "runserver", "--noreload", str(self.port)]


@mounted
def test_the_project_works_as_without_the_wrapper(start_site: StartSite, visit: Visit, mount: str) -> None:
    site = start_site(mount)
    visitor = visit(site)
    response = visitor.post("/page/", {"text": "Grüße", "csrfmiddlewaretoken": visitor.token})
    assert response.text == "taken: Grüße"
    assert visitor.post("/measure/", DATA).text == sha256(DATA)
    assert visitor.post("/measure/", files={"file": ("large.bin", DATA)}).text == sha256(DATA)


@mounted
def test_the_checks_of_the_project_stay_as_strict(start_site: StartSite, visit: Visit, mount: str) -> None:
    site = start_site(mount)
    visitor = visit(site)
    assert visitor.post_blindly("/page/", {"text": "from elsewhere"}).status_code == 403
    assert visitor.post_blindly("/ticket/", {}).status_code == 403
    assert requests.get(f"{site.url}/page/", headers={"Host": "evil.example"}, timeout=10).status_code == 400
    assert requests.get(f"{site.url}/page", headers={"Host": HOST}, timeout=10).url.endswith("/page/")


@mounted
def test_on_finish_takes_the_file(
    start_site: StartSite, visit: Visit, chunk_client: MakeClient, connect: Connect, mount: str
) -> None:
    site = start_site(mount)
    visitor = visit(site)
    by_http, by_websocket = visitor.ticket(), visitor.ticket()
    assert chunk_client(site.url, by_http, DATA).upload()["phase"] == "finished"
    connect(site.url, by_websocket, DATA).upload()
    for ticket in (by_http, by_websocket):
        assert_arrived_once(site, ticket, sha256(DATA))


@mounted
def test_a_view_takes_the_file(start_site: StartSite, visit: Visit, chunk_client: MakeClient, mount: str) -> None:
    """The call passes the host check: it bears host, scheme and place of the request that made the ticket."""
    site = start_site(mount)
    ticket = visit(site).ticket(by="path")
    assert chunk_client(site.url, ticket, DATA).upload()["phase"] == "finished"
    assert_arrived_once(site, ticket, sha256(DATA))
    (event,) = site.events(ticket)
    assert event["url"] == f"http://{HOST}{mount}/api/arrived/"
    assert event["page"] == f"{mount}/page/"


@mounted
def test_the_view_takes_nothing_from_outside(
    start_site: StartSite, visit: Visit, chunk_client: MakeClient, mount: str
) -> None:
    site = start_site(mount)
    visitor = visit(site)
    form = {"id": "x", "filename": "/etc/passwd", "backendSecret": "s3cret", "incoming.handover": "1"}
    assert visitor.post_blindly("/api/arrived/", form).status_code == 403
    forged = requests.post(
        f"{site.url}/api/arrived/", data=form, headers={"Host": HOST, "Incoming.Handover": "1"}, timeout=10
    )
    assert forged.status_code == 403
    assert not (site.folder / "events").exists()


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({}, id="gunicorn trusts the proxy"),
        pytest.param(
            {"FORWARDED_ALLOW_IPS": "192.0.2.1", "INCOMING_PUBLIC_URL": f"https://{HOST}"}, id="public_url says it"
        ),
    ],
)
def test_a_view_takes_the_file_behind_a_proxy_that_speaks_https(
    start_site: StartSite, visit: Visit, chunk_client: MakeClient, env: dict[str, str]
) -> None:
    """Also in a project that sends everybody to https who does not come by it."""
    site = start_site("/shop", DJANGO_HTTPS_ONLY="yes", **env)
    visitor = visit(site, ("X-Forwarded-Proto", "https"))
    ticket = visitor.ticket(by="path")
    assert chunk_client(site.url, ticket, DATA).upload()["phase"] == "finished"
    assert site.events(ticket)[0]["url"] == f"https://{HOST}/shop/api/arrived/"


def test_the_host_of_a_proxy_that_hides_it(start_site: StartSite, visit: Visit, chunk_client: MakeClient) -> None:
    """The project is reached under an inner name; ``public_url`` is what its views hear."""
    site = start_site(DJANGO_HOSTS=f"inner.example {HOST}", INCOMING_PUBLIC_URL=f"http://{HOST}")
    ticket = visit(site, ("Host", "inner.example")).ticket(by="path")
    assert chunk_client(site.url, ticket, DATA).upload()["phase"] == "finished"
    assert site.events(ticket)[0]["url"] == f"http://{HOST}/api/arrived/"


def test_the_development_server(tmp_path: Path, visit: Visit, chunk_client: MakeClient) -> None:
    env = {"DJANGO_HOSTS": HOST, "DJANGO_SETTINGS_MODULE": "tests.support.django_site.settings"}
    with DevelopmentServer("runserver", tmp_path, env) as site:
        visitor = visit(site)
        for by in ("", "path"):
            ticket = visitor.ticket(by)
            assert chunk_client(site.url, ticket, DATA).upload()["phase"] == "finished"
            assert_arrived_once(site, ticket, sha256(DATA))
