"""Clients of tus that other people have written, as they come, against real gunicorn, direct and behind real nginx.

A length that is not known at first is tried in Chromium only: in node, tus-js-client 4.3.1 never sees the end of a
stream, or announces more bytes than it has left.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import aiotus
import pytest
from playwright.sync_api import Browser, Page
from tusclient.client import TusClient

from tests.faults.disks import Disk, FileSystem
from tests.needs import need
from tests.support.nginx import Nginx
from tests.support.processes import ROOT, AppServer
from tests.support.waiting import eventually

from .conftest import assert_arrived_once, sha256

requirement = pytest.mark.requirement

MIB = 1 << 20
SIZE = 24 * MIB
NAME = "Grüße, 世界 & 100%.bin"
SCRIPT = ROOT / "tests" / "javascript" / "clients" / "tus_js_client.mjs"
MODULES = ROOT / "tests" / "javascript" / "node_modules"

FileOf = Callable[[int], Path]


@dataclass
class Site:
    """Where clients find a server.

    :ivar certificate: that they have to trust, behind TLS.
    """

    server: AppServer
    url: str
    certificate: Path | None = None

    def endpoint(self, ticket: str) -> str:
        return f"{self.url}/incoming/frontend/uploads?ticket={ticket}"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Site]]:
    """One server; direct, and by nginx with TLS and HTTP/2, as docs/tus.rst says."""
    folder = tmp_path_factory.mktemp("clients")
    with ExitStack() as stack:
        server = stack.enter_context(AppServer("gevent", folder))
        sites = {"direct": Site(server, server.url)}

        def site(kind: str) -> Site:
            if kind not in sites:
                nginx = stack.enter_context(
                    Nginx(folder / "nginx", server.port, recommended=True, source="docs/tus.rst", tls=True)
                )
                sites[kind] = Site(server, nginx.url, nginx.certificate)
            return sites[kind]

        yield site


@pytest.fixture(params=["direct", "nginx, TLS, HTTP/2"])
def site(request: pytest.FixtureRequest, servers: Callable[[str], Site]) -> Site:
    return servers(request.param)


def package(name: str) -> Path:
    """A package of npm's, by ``make javascript``."""
    if not (MODULES / name).is_dir():
        pytest.skip(f"{name} is not installed: make javascript")
    return MODULES / name


# -- tus-js-client in node --------------------------------------------------------------------------------------


def in_node(site: Site, path: Path, ticket: str = "", **options: Any) -> dict[str, Any]:
    package("tus-js-client")
    given = {"endpoint": site.endpoint(ticket), "path": str(path), **options}
    environ = {**os.environ, "NODE_EXTRA_CA_CERTS": str(site.certificate or "")}
    command = [need("node"), str(SCRIPT), json.dumps(given)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@requirement("tus-80")
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (SIZE, {}),
        (0, {}),
        (SIZE, {"chunkSize": 1_000_000}),
        (SIZE, {"uploadDataDuringCreation": True, "chunkSize": 5 * MIB}),
        (SIZE, {"overridePatchMethod": True}),
    ],
)
def test_tus_js_client_in_node(site: Site, file_of: FileOf, size: int, options: dict[str, Any]) -> None:
    ticket = site.server.ticket()
    metadata = {"filename": NAME, "filetype": "application/x-thing"}
    result = in_node(site, file_of(size), ticket, metadata=metadata, **options)
    assert result.get("error") is None, result
    assert result["url"] == f"{site.url}/incoming/frontend/uploads/{ticket}"
    assert_arrived_once(site.server, ticket, sha256(file_of(size)))
    (event,) = site.server.events(ticket)
    assert event["name"] == NAME
    assert event["client_metadata"] == metadata


@requirement("tus-76")
def test_tus_js_client_in_node_in_parts(site: Site, file_of: FileOf) -> None:
    ticket = site.server.ticket()
    result = in_node(site, file_of(SIZE + 5), ticket, parallelUploads=4, metadata={"filename": NAME})
    assert result.get("error") is None, result
    assert_arrived_once(site.server, ticket, sha256(file_of(SIZE + 5)))
    assert site.server.events(ticket)[0]["name"] == NAME


@requirement("tus-22", "tus-81")
def test_tus_js_client_in_node_aborts_and_resumes(site: Site, file_of: FileOf) -> None:
    """After so many bytes that some are recorded, however many the proxy and the sockets hold."""
    ticket = site.server.ticket()
    result = in_node(site, file_of(160 * MIB), ticket, abortAfter=96 * MIB)
    assert result.get("error") is None, result
    assert result["resumedFrom"] > 0
    assert result["statuses"][-2:] == ["HEAD 200", "PATCH 204"]
    assert_arrived_once(site.server, ticket, sha256(file_of(160 * MIB)))


@requirement("tus-63", "tus-65")
def test_tus_js_client_in_node_terminates(site: Site, file_of: FileOf) -> None:
    ticket = site.server.ticket()
    result = in_node(site, file_of(64 * MIB), ticket, abortAfter=20 * MIB, terminate=True)
    assert result["aborted"]
    assert result["statuses"][-1] == "DELETE 204"
    eventually(lambda: [event["kind"] for event in site.server.events(ticket)] == ["cancelled"])


# -- in a browser -----------------------------------------------------------------------------------------------

_UPLOAD = """([endpoint, options, abortAfter, terminate]) => new Promise((resolve) => {
    const file = document.getElementById("file").files[0];
    const {stream, ...rest} = options;
    const seen = {methods: [], resumedFrom: null};
    const upload = new tus.Upload(stream ? file.stream().getReader() : file, {
        endpoint, retryDelays: [0, 100, 500], ...rest,
        metadata: {filename: file.name},
        onAfterResponse: (request, response) => {
            seen.methods.push(`${request.getMethod()} ${response.getStatus()}`);
        },
        onProgress: (sent) => {
            if (seen.resumedFrom === null) seen.resumedFrom = sent;
            if (abortAfter && sent >= abortAfter) {
                abortAfter = 0;
                upload.abort(terminate).then(() => resolve({...seen, aborted: true, url: upload.url}));
            }
        },
        onSuccess: () => resolve({...seen, url: upload.url}),
        onError: (error) => resolve({...seen, error: String(error)}),
    });
    upload.findPreviousUploads().then((previous) => {
        seen.previous = previous.length;
        if (previous.length) upload.resumeFromPreviousUpload(previous[0]);
        upload.start();
    });
})"""


class Tab:
    """A tab with tus-js-client in it."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site
        self.load()

    def load(self) -> None:
        self.page.goto(f"{self.site.url}/page")
        self.page.add_script_tag(path=package("tus-js-client") / "dist" / "tus.min.js")

    def upload(
        self, path: Path, ticket: str, *, abort_after: int = 0, terminate: bool = False, **options: Any
    ) -> dict[str, Any]:
        self.page.set_input_files("#file", path)
        arguments = [self.site.endpoint(ticket), options, abort_after, terminate]
        result: dict[str, Any] = self.page.evaluate(_UPLOAD, arguments)
        assert "error" not in result, result
        return result


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(ignore_https_errors=True)
    yield context.new_page()
    context.close()


@pytest.fixture
def tab(page: Page, site: Site) -> Tab:
    return Tab(page, site)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (SIZE, {}),
        (0, {}),
        (SIZE, {"chunkSize": 1_000_000}),
        (SIZE, {"parallelUploads": 3}),
        (SIZE, {"stream": True, "uploadLengthDeferred": True, "chunkSize": 5 * MIB}),
    ],
)
def test_tus_js_client_in_chromium(
    tab: Tab, site: Site, file_of: FileOf, tmp_path: Path, size: int, options: dict[str, Any]
) -> None:
    ticket, named = site.server.ticket(), tmp_path / NAME
    named.hardlink_to(file_of(size))
    tab.upload(named, ticket, **options)
    assert_arrived_once(site.server, ticket, sha256(named))
    assert site.server.events(ticket)[0]["name"] == NAME


@pytest.mark.parametrize("reloads", [False, True])
def test_tus_js_client_in_chromium_resumes(tab: Tab, site: Site, file_of: FileOf, reloads: bool) -> None:
    ticket, path = site.server.ticket(), file_of(64 * MIB)
    assert tab.upload(path, ticket, abort_after=20 * MIB)["aborted"]
    if reloads:
        tab.load()
    result = tab.upload(path, ticket)
    assert result["previous"] == 1
    assert result["methods"] == ["HEAD 200", "PATCH 204"]
    assert result["resumedFrom"] > 0
    assert_arrived_once(site.server, ticket, sha256(path))


def test_tus_js_client_in_chromium_terminates(tab: Tab, site: Site, file_of: FileOf) -> None:
    ticket = site.server.ticket()
    result = tab.upload(file_of(64 * MIB), ticket, abort_after=20 * MIB, terminate=True)
    assert result["methods"][-1] == "DELETE 204"
    eventually(lambda: [event["kind"] for event in site.server.events(ticket)] == ["cancelled"])


_UPPY = """([uploads, tickets]) => {
    const uppy = new Uppy.Uppy();
    uppy.use(Uppy.Tus, {endpoint: uploads});
    uppy.addPreProcessor(async (ids) => {
        for (const id of ids)
            uppy.setFileState(id, {tus: {endpoint: `${uploads}?ticket=${tickets.pop()}`}});
    });
    for (const file of document.getElementById("file").files)
        uppy.addFile({name: file.name, type: file.type, data: file});
    return uppy.upload().then((result) => [result.successful.length, result.failed.map((file) => file.error)]);
}"""


def test_uppy_in_chromium(page: Page, site: Site, file_of: FileOf) -> None:
    page.goto(f"{site.url}/page")
    page.add_script_tag(path=package("uppy") / "dist" / "uppy.min.js")
    paths = [file_of(SIZE), file_of(0), file_of(3 * MIB)]
    tickets = [site.server.ticket() for _ in paths]
    page.set_input_files("#file", paths)
    done = page.evaluate(_UPPY, [f"{site.url}/incoming/frontend/uploads", tickets])
    assert done == [3, []]
    arrived = {sha256(site.server.wait_for_file(ticket)) for ticket in tickets}
    assert arrived == {sha256(path) for path in paths}
    assert site.server.events(tickets[0])[0]["client_metadata"]["name"].endswith(".bin")


# -- Python -----------------------------------------------------------------------------------------------------


@requirement("tus-39", "tus-58")
@pytest.mark.parametrize("checks", [False, True])
def test_tuspy(site: Site, file_of: FileOf, monkeypatch: pytest.MonkeyPatch, checks: bool) -> None:
    if site.certificate is not None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(site.certificate))
    ticket, path = site.server.ticket(), file_of(SIZE)
    client = TusClient(site.endpoint(ticket))
    with path.open("rb") as file:
        options: dict[str, Any] = {"file_stream": file, "chunk_size": 5 * MIB, "upload_checksum": checks}
        first = client.uploader(metadata={"filename": NAME}, **options)
        first.upload(stop_at=10 * MIB)
        again = client.uploader(url=first.url, **options)
        assert again.offset == 10 * MIB
        again.upload()
    assert_arrived_once(site.server, ticket, sha256(path))
    assert site.server.events(ticket)[0]["name"] == NAME


def test_tuspy_without_metadata(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends the header all the same, empty."""
    if site.certificate is not None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(site.certificate))
    ticket = site.server.ticket()
    TusClient(site.endpoint(ticket)).uploader(file_stream=BytesIO(b"some bytes")).upload()
    assert_arrived_once(site.server, ticket, sha256(b"some bytes"))


large_bodies = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


@large_bodies
@requirement("tus-32", "tus-37")
def test_aiotus(site: Site) -> None:
    ticket, data = site.server.ticket(), os.urandom(5 * MIB)
    metadata = {"filename": NAME.encode(), "binary": bytes(range(256)), "empty": None}

    async def talk(session: aiohttp.ClientSession) -> Any:
        location = await aiotus.upload(site.endpoint(ticket), BytesIO(data), metadata, session)
        assert location is not None
        return await aiotus.metadata(location, session)

    assert run(site, talk) == metadata
    assert_arrived_once(site.server, ticket, sha256(data))


@large_bodies
@requirement("tus-69", "tus-76")
def test_aiotus_in_parts(site: Site) -> None:
    """It gives the parts by their paths alone."""
    ticket, pieces = site.server.ticket(), [os.urandom(3 * MIB + 1) for _ in range(3)]

    async def talk(session: aiohttp.ClientSession) -> Any:
        files = [BytesIO(piece) for piece in pieces]
        return await aiotus.upload_multiple(site.endpoint(ticket), files, {"filename": b"x.bin"}, session)

    assert run(site, talk) is not None
    assert_arrived_once(site.server, ticket, sha256(b"".join(pieces)))


def run(site: Site, talk: Callable[[aiohttp.ClientSession], Any]) -> Any:
    """In a thread of its own: the one of the tests belongs to Playwright."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(with_session(site, talk))).result(60)


async def with_session(site: Site, talk: Callable[[aiohttp.ClientSession], Any]) -> Any:
    trusted = ssl.create_default_context(cafile=str(site.certificate)) if site.certificate else True
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted)) as session:
        return await talk(session)


# -- parts on a disk that can share blocks ----------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
@requirement("tus-68")
def test_parts_are_joined_without_a_copy(tmp_path: Path, file_of: FileOf) -> None:
    """On XFS. The disk has not even the room for one."""
    need("mkfs.xfs")
    path = file_of(64 * MIB)
    (tmp_path / "logs").mkdir()
    with Disk(tmp_path, FileSystem("XFS", 300 * MIB, ("mkfs.xfs", "-q", "-f"))) as disk:
        env = {"INCOMING_FREE_SPACE_FLOOR": "1M"}
        with AppServer("gevent", disk.root, env) as server:
            free = os.statvfs(disk.root)
            filling = free.f_bavail * free.f_bsize - 100 * MIB
            with (disk.root / "filling").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, filling)
            ticket = server.ticket()
            result = in_node(Site(server, server.url), path, ticket, parallelUploads=4)
            assert result.get("error") is None, result
            assert_arrived_once(server, ticket, sha256(path))
