"""The signatures of boto3's requests, where they need the SHA-256 of a body, which takes as long as sending it.

Over TLS they don't: it keeps bytes from being changed on their way, and S3 takes a signature that leaves them out.
Where bytes travel openly their digest is signed, and computed beside the event loop.
"""

from __future__ import annotations

from typing import Any

from .. import offload

_NAME = "incoming-s3v4"

#: What S3 signs with where nothing else was asked for, as versions of botocore call it before the service is known.
_USUAL = ("v4", "s3v4")

#: Requests with a body that is worth it.
_OPERATIONS = ("UploadPart", "PutObject")


def sign_bodies_as_needed(client: Any) -> None:
    """Of a client for S3, whose other ways to sign stay as they are."""
    from botocore.auth import AUTH_TYPE_MAPS, UNSIGNED_PAYLOAD, S3SigV4Auth

    class SigningAsNeeded(S3SigV4Auth):  # type: ignore[misc, unused-ignore]  # (botocore has no types of its own)
        def payload(self, request: Any) -> str:
            if request.url.startswith("https://"):
                return str(UNSIGNED_PAYLOAD)
            digest: str = offload.run(super().payload, request)
            return digest

    AUTH_TYPE_MAPS[_NAME] = SigningAsNeeded
    for operation in _OPERATIONS:
        client.meta.events.register(f"choose-signer.s3.{operation}", _chosen)


def _chosen(signature_version: object, **_: object) -> str | None:
    return _NAME if signature_version in _USUAL else None
