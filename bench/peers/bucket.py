"""boto3's own parallel multipart upload, as whoever has no server in between would do it, in a process of its own.

``python -m bench.peers.bucket ENDPOINT BUCKET PATH [PART_SIZE CONCURRENCY]`` prints the seconds that it took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from tests.support.processes import ROOT
from tests.support.s3_server import CREDENTIALS, S3Server

_KEY = "by-boto3"


def upload(server: S3Server, bucket: str, path: Path, *, part_size: int = 0, concurrency: int = 0) -> float:
    """Seconds; without sizes as boto3 comes."""
    sizes = [str(part_size), str(concurrency)] if part_size else []
    command = [sys.executable, "-m", "bench.peers.bucket", server.endpoint, bucket, str(path), *sizes]
    environment = {**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def _main(endpoint: str, bucket: str, path: str, *sizes: str) -> None:
    config = TransferConfig()
    if sizes:
        part_size, concurrency = map(int, sizes)
        config = TransferConfig(
            multipart_threshold=part_size, multipart_chunksize=part_size, max_concurrency=concurrency
        )
    checksums = Config(
        request_checksum_calculation="when_required",  # Ceph 16 answers 411 to the others
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
    )
    client = boto3.client("s3", endpoint_url=endpoint, config=checksums)
    client.head_bucket(Bucket=bucket)  # connected, as a server is that has been at it for a while
    began = time.monotonic()
    client.upload_file(path, bucket, _KEY, Config=config)
    print(json.dumps(time.monotonic() - began))
    client.delete_object(Bucket=bucket, Key=_KEY)


if __name__ == "__main__":
    _main(*sys.argv[1:])
