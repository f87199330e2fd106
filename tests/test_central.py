from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from incoming_wsgi.central import Central, is_bound, is_loopback, tenants_of
from incoming_wsgi.settings import Settings, gather
from incoming_wsgi.wire import servers

CONFIG = """
[app:photos]
key = key of photos
finish_hosts = photos.example, photos.example:8000
max_length = 10M

[app:films]
key = 50% more: key of films
storage = {}/elsewhere
"""

PUBLIC, INTERNAL = ("127.0.0.1", 8080), ("127.0.0.1", 8081)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return gather({"storage": tmp_path / "files"}, {})


def config(folder: Path, text: str) -> str:
    path = folder / "apps.ini"
    path.write_text(text, "utf-8")
    return str(path)


class Server:
    """A central server; each request says which listener it came in by."""

    def __init__(self, settings: Settings, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.central = Central(settings, tenants_of(settings, config), ["127.0.0.1:8081"])
        self.web = TestApp(self.central)
        monkeypatch.setattr(servers, "listener", lambda environ: environ["test.listener"])

    def ask(self, listener: tuple[str, int], method: str, path: str, key: str = "", **more: Any) -> Any:
        return self.web.request(
            path,
            method=method,
            headers={"Authorization": f"Bearer {key}"},
            environ={**self.web.extra_environ, "test.listener": listener, "REMOTE_ADDR": "192.0.2.7"},
            expect_errors=True,
            **more,
        )

    def ticket(self, key: str, url: str) -> Any:
        return self.ask(INTERNAL, "POST", f"/incoming/backend/new_upload?signalFinishURL={url}", key)


@pytest.fixture
def server(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(settings, config(tmp_path, CONFIG.format(tmp_path)), monkeypatch)
    yield server
    server.central._frontend.close()
    server.central._engine.close()


def test_each_listener_has_its_own_door(server: Server) -> None:
    library = "/incoming/frontend/incoming.js"
    assert server.ask(PUBLIC, "GET", library).status_int == 200
    assert server.ask(INTERNAL, "GET", library).status_int == 404
    for path in ("/incoming/backend/new_upload", "/incoming/0.1/backend/new_upload"):
        assert server.ask(PUBLIC, "POST", path, "key of photos").status_int == 404
        assert server.ask(INTERNAL, "POST", path, "key of photos").status_int == 400
    for listener in (PUBLIC, INTERNAL):
        assert server.ask(listener, "GET", "/incoming/ready").status_int == 200
        assert server.ask(listener, "GET", "/").status_int == 404


def test_what_a_client_says_of_the_address_does_not_matter(server: Server) -> None:
    server.web.extra_environ = {"HTTP_HOST": "127.0.0.1:8081", "SERVER_PORT": "8081", "SERVER_NAME": "127.0.0.1"}
    assert server.ask(PUBLIC, "POST", "/incoming/backend/new_upload", "key of photos").status_int == 404


def test_apps_are_apart(server: Server, tmp_path: Path) -> None:
    assert server.ticket("", "http://localhost/").status_int == 401
    assert server.ticket("another", "http://localhost/").status_int == 401
    ticket = server.ticket("key of photos", "http://photos.example/finish").text
    assert server.ticket("50% more: key of films", "http://photos.example/finish").status_int == 403
    path = f"/incoming/backend/uploads/{ticket}"
    assert server.ask(INTERNAL, "GET", path, "key of photos").status_int == 200
    assert server.ask(INTERNAL, "GET", path, "50% more: key of films").status_int == 404
    assert (tmp_path / "files" / "photos" / "complete").is_dir()
    assert (tmp_path / "elsewhere" / "complete").is_dir()


@pytest.mark.parametrize("url", ["http://localhost:5000/", "http://127.0.0.1/", "http://192.0.2.7/the-caller"])
def test_this_machine_and_the_caller_may_always_be_called(server: Server, url: str) -> None:
    assert server.ticket("key of photos", url).status_int == 200


@pytest.mark.parametrize("url", ["http://192.0.2.8/", "/a/path", "http://evil.example/"])
def test_others_may_not(server: Server, url: str) -> None:
    assert server.ticket("key of photos", url).status_int in (400, 403)


def test_limits(server: Server) -> None:
    ticket = server.ticket("key of photos", "http://photos.example/").text
    answer = server.web.post(
        f"/incoming/frontend/uploads/{ticket}",
        headers={"Incoming-Length": str(10 * 2**20 + 1), "Incoming-Name": "x"},
        extra_environ={"test.listener": PUBLIC},
        status=413,
    )
    assert answer.json["error"]["name"] == "too_large"


def test_apps_have_limits_of_their_own(settings: Settings, tmp_path: Path) -> None:
    text = "[app:a]\nkey = a\nowner_bytes = 1G\nbackend_tickets = 5/m\n[app:b]\nkey = b\n"
    first, second = tenants_of(replace(settings, owner_uploads=3), config(tmp_path, text))
    assert first.allowance == replace(second.allowance, owner_bytes=2**30, backend_tickets="5/m")
    assert second.allowance.owner_uploads == 3
    with pytest.raises(ValueError, match="is no rate"):
        tenants_of(settings, config(tmp_path, "[app:a]\nkey = a\nowner_tickets = 5\n"))


def test_apps_have_storages_of_their_own(settings: Settings, tmp_path: Path) -> None:
    text = f"[app:a]\nkey = a\nstorages = slow={tmp_path}/slow, s3=s3://bucket\n[app:b]\nkey = b\n"
    inherited = replace(settings, storages={"fast": f"{tmp_path}/fast"})
    first, second = tenants_of(inherited, config(tmp_path, text))
    assert {name: storage.kind for name, storage in first.storages.items()} == {"slow": "file", "s3": "s3"}
    assert list(second.storages) == ["fast"]
    assert (tmp_path / "slow" / "arriving").is_dir()
    assert (tmp_path / "fast" / "b" / "arriving").is_dir()
    (only,) = tenants_of(inherited, "")
    assert list(only.storages) == ["fast"]


def test_a_single_app_needs_no_file(settings: Settings) -> None:
    (tenant,) = tenants_of(settings, "")
    assert (tenant.name, tenant.key, tenant.max_length) == ("app", "", 2**40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "section"),
        ("[photos]\nkey = x", "section"),
        ("[app:a]\nkey = x\n[other]\nkey = y", "section"),
        ("[app:a]\nkey = x\n[app:b]\nkey = x", "same key"),
        ("[app:a]\nstorage = /x", "needs a key"),
        ("[app:a]\nkey =", "needs a key"),
        ("[app:a]\nkey = x\nkeys = y", "no option keys"),
        ("[app:a]\nkey = x\nmax_length = big", "size"),
        ("[app:a]\nkey = x\nstorages = /srv/slow", "NAME=PLACE"),
        ("[app:a]\nkey = x\nstorages = file=/srv/slow", "is what"),
    ],
)
def test_a_file_that_means_nothing(settings: Settings, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tenants_of(settings, config(tmp_path, text))


@pytest.mark.parametrize(
    ("bind", "address", "expected"),
    [
        ("127.0.0.1:8081", ("127.0.0.1", 8081), True),
        ("127.0.0.1:8081", ("127.0.0.1", 8080), False),
        ("127.0.0.1:8081", ("10.0.0.1", 8081), False),
        ("localhost:8081", ("127.0.0.1", 8081), True),
        ("localhost:8081", ("::1", 8081), True),
        ("localhost:8081", ("10.0.0.1", 8081), False),  # a public listener on the same port
        ("0.0.0.0:8081", ("10.0.0.1", 8081), True),
        (":8081", ("10.0.0.1", 8081), True),
        ("[::]:8081", ("::1", 8081), True),
        ("[::1]:8081", ("::1", 8081), True),
        ("127.0.0.1:8081", None, False),
        ("unix:/run/x.sock", "/run/x.sock", True),
        ("unix:/run/x.sock", "/run/y.sock", False),
        ("unix:/run/x.sock", ("127.0.0.1", 8080), False),
        ("unix:/run/x.sock", None, False),
        ("127.0.0.1:8081", "/run/x.sock", False),
    ],
)
def test_is_bound(bind: str, address: tuple[str, int] | str | None, expected: bool) -> None:
    assert is_bound(bind, address) is expected


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1:8081", True),
        ("127.9.9.9:1", True),
        ("[::1]:8081", True),
        ("localhost:8081", True),
        ("unix:/run/x.sock", True),
        ("0.0.0.0:8081", False),
        ("[::]:8081", False),
        (":8081", False),
        ("10.0.0.1:8081", False),
        ("files.example:8081", False),
        ("8081", False),
    ],
)
def test_is_loopback(bind: str, expected: bool) -> None:
    assert is_loopback(bind) is expected
