"""Real servers that speak S3: a Ceph of one machine (mon, OSD and radosgw), and rclone on a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import requests
from botocore.config import Config

from tests.needs import need

from .processes import Process, free_port
from .waiting import eventually

if TYPE_CHECKING:
    from typing_extensions import Self

_CEPH = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

KEY, SECRET = "testaccess", "testsecret"

#: For boto3 in the processes that use a server.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}

#: For Ceph: memory that objects had is used again. To get it anew for each would be most of what they cost.
_KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_ARENA_MAX": "1"}


class S3Server(ABC):
    """:ivar port: that it listens on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def client(self) -> Any:
        """A plain one, for what a test does by itself."""
        config = Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=config,
        )

    def bucket(self) -> str:
        """A new one."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def url(self, bucket: str, endpoint: str = "", **options: object) -> str:
        """Of a storage in it."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"s3://{bucket}/up/loads?endpoint={quote(endpoint or self.endpoint, safe='')}{more}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Rclone(S3Server):
    """Starts at once, and does less than S3: it does not know ``If-None-Match`` and takes no part twice."""

    def start(self) -> None:
        files = self.folder / "files"
        files.mkdir()
        program = str(Path(sysconfig.get_path("scripts")) / "rclone")
        command = [program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}"]
        self._process = Process([*command, str(files)], self.folder / "rclone.log")
        eventually(lambda: _answers(self.endpoint), what="rclone answering")

    def stop(self) -> None:
        self._process.kill()


class Ceph(S3Server):
    """All of it in a folder and on 127.0.0.1; what is stored is kept in memory.

    :ivar tls_endpoint: the same over TLS.
    :ivar certificate: of that: the path of a file, which says that it can be trusted.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._tls_port = free_port()
        self.tls_endpoint = f"https://127.0.0.1:{self._tls_port}"
        self.certificate = folder / "tls.pem"

    @staticmethod
    def missing() -> str:
        """What this machine lacks for it; empty when there is nothing."""
        lacking = [name for name in _CEPH if shutil.which(name) is None]
        return f"{lacking[0]} is not installed" if lacking else ""

    def start(self) -> None:
        programs = {name: need(name) for name in ("ceph", "ceph-mon", "ceph-osd", "monmaptool")}
        self._env = {"CEPH_CONF": str(self.folder / "ceph.conf"), "CEPH_ARGS": "", **_KEEPING_MEMORY}
        self._processes: list[Process] = []
        monitor = f"[v2:127.0.0.1:{free_port()}]"
        cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("log", "mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        (self.folder / "ceph.conf").write_text(self._configuration(cluster, monitor))
        monmap = str(self.folder / "monmap")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=rgw")
        files = ("-keyout", str(self.certificate), "-out", str(self.folder / "tls.crt"))
        self._run(need("openssl"), "req", "-x509", *key, "-addext", "subjectAltName=IP:127.0.0.1", *files)
        with self.certificate.open("a") as file:
            file.write((self.folder / "tls.crt").read_text())
        try:
            self._run(programs["monmaptool"], "--create", "--fsid", cluster, "--addv", "a", monitor, monmap)
            self._run(programs["ceph-mon"], "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", os.devnull)
            self._begin(programs["ceph-mon"], "-i", "a", "-f")
            self._run(programs["ceph"], "osd", "new", disk)
            self._run(programs["ceph-osd"], "-i", "0", "--mkfs", "--osd-uuid", disk)
            self._begin(programs["ceph-osd"], "-i", "0", "-f")
            eventually(lambda: "1 up" in self._run(programs["ceph"], "osd", "stat"), timeout=60, what="an OSD")
            self._serve()
        except BaseException:
            self.stop()
            raise

    def _serve(self) -> None:
        """Begin with what the cluster is for."""
        self._begin(need("radosgw"), "-n", "client.rgw.a", "-f")
        eventually(lambda: _answers(self.endpoint), timeout=60, what="radosgw answering")
        user = ("--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret-key={SECRET}")
        self._run(need("radosgw-admin"), "user", "create", *user)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()

    def collect_garbage(self) -> None:
        """Let go of the bytes of objects that were deleted: of itself Ceph does so some seconds later."""
        self._run(need("radosgw-admin"), "gc", "process", "--include-all")

    def _begin(self, program: str, *arguments: str) -> None:
        log = self.folder / "log" / f"{Path(program).name}.out"
        self._processes.append(Process([program, *arguments], log, self._env))

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self._env}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def _configuration(self, cluster: str, monitor: str) -> str:
        folder = self.folder
        return f"""
[global]
fsid = {cluster}
mon host = {monitor}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind msgr1 = false
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 1
mon data avail warn = 2
run dir = {folder}
log file = {folder}/log/$name.log
admin socket = {folder}/$name.asok
crash dir = {folder}/log
log to stderr = false
mon cluster log to file = false
[mon]
mon data = {folder}/mon
paxos propose interval = 0.02
paxos min wait = 0.01
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 6442450944
osd class load list = *
osd class default list = *
[client]
ms mon client mode = crc
rgw frontends = beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1 ssl_endpoint=127.0.0.1:{self._tls_port} \
ssl_certificate={self.certificate}
rgw data = {folder}/rgw
rgw enable usage log = false
rgw enable ops log = false
rgw gc obj min wait = 5
rgw gc processor period = 10
"""


def _answers(url: str) -> bool:
    try:
        return bool(requests.get(url, timeout=5).status_code)
    except requests.ConnectionError:
        return False
