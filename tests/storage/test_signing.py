"""Signatures that are made beside the event loop; what servers think of them is in the contract of storages."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import Any

import boto3
import botocore
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from urllib3 import HTTPResponse

from incoming_wsgi import offload
from incoming_wsgi.storage.signing import sign_bodies_as_needed

PART = bytearray(b"a part " * 1000)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was computed beside the loop."""
    results: list[Any] = []

    def noted(work: Callable[..., Any], *args: Any) -> Any:
        results.append(work(*args))
        return results[-1]

    monkeypatch.setattr(offload, "run", noted)
    return results


def sent_with(scheme: str = "http", **config: Any) -> Any:
    """The headers of a part that is sent by a client of this configuration; it never leaves."""
    session = boto3.session.Session(aws_access_key_id="key", aws_secret_access_key="secret")
    client = session.client(
        "s3",
        endpoint_url=f"{scheme}://127.0.0.1:9",
        region_name="here",
        config=Config(request_checksum_calculation="when_required", **config),
    )
    requests: list[AWSPreparedRequest] = []

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        requests.append(request)
        return AWSResponse(request.url, 200, HTTPHeaders(), HTTPResponse(BytesIO()))

    client.meta.events.register("before-send.s3.UploadPart", answer)
    sign_bodies_as_needed(client)
    client.upload_part(Bucket="bucket", Key="key", UploadId="upload", PartNumber=1, Body=PART)
    (request,) = requests
    return request.headers


def test_the_digest_of_a_part_is_computed_beside_the_loop(elsewhere: list[Any]) -> None:
    headers = sent_with()
    digest = sha256(PART).hexdigest()
    assert headers["X-Amz-Content-SHA256"] == digest.encode()
    assert headers["Authorization"].startswith(b"AWS4-HMAC-SHA256 ")
    assert elsewhere == [digest]


def test_tls_keeps_bytes_from_being_changed(elsewhere: list[Any]) -> None:
    """Their digest would cost as much as sending them."""
    headers = sent_with("https")
    assert headers["X-Amz-Content-SHA256"] == b"UNSIGNED-PAYLOAD"
    assert headers["Authorization"].startswith(b"AWS4-HMAC-SHA256 ")
    assert elsewhere == []


def test_who_does_not_sign_is_not_made_to(elsewhere: list[Any]) -> None:
    assert "Authorization" not in sent_with(signature_version=botocore.UNSIGNED)
    assert elsewhere == []
