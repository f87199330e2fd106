"""The signatures of boto3's requests, made beside the event loop: the SHA-256 of a part takes as long as sending it."""

from __future__ import annotations

from typing import Any

from .. import offload

_NAME = "incoming-s3v4"

#: What S3 signs with where nothing else was asked for, as versions of botocore call it before the service is known.
_USUAL = ("v4", "s3v4")

#: Requests with a body that is worth it.
_OPERATIONS = ("UploadPart", "PutObject")


def sign_beside_the_loop(client: Any) -> None:
    """Of a client for S3, whose other ways to sign stay as they are."""
    from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth

    class SigningBesideTheLoop(S3SigV4Auth):  # type: ignore[misc, unused-ignore]  # (botocore has no types of its own)
        def payload(self, request: Any) -> str:
            digest: str = offload.run(super().payload, request)
            return digest

    AUTH_TYPE_MAPS[_NAME] = SigningBesideTheLoop
    for operation in _OPERATIONS:
        client.meta.events.register(f"choose-signer.s3.{operation}", _chosen)


def _chosen(signature_version: object, **_: object) -> str | None:
    return _NAME if signature_version in _USUAL else None
