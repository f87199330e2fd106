"""Signatures of hand-over calls over HTTP, as Standard Webhooks 1.0.0 has them, and the check of one at a back end.

A back end in Python need not have the rest of this package at work::

    from incoming_wsgi.signatures import verify

    verify(["whsec_…"], request.headers, request.get_data())
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256

#: How a key is written: this, and base64.
KEY_PREFIX = "whsec_"

_SHORTEST_KEY, _LONGEST_KEY = 24, 64  # bytes, by the specification
_TOLERANCE = 300.0  # seconds that a call may be old, or ahead of our clock


class BadSignature(Exception):
    """The call is not from who it should be, has been changed, or is too old."""


def key_of(text: str) -> bytes:
    """The bytes of a key.

    :raises ValueError: it is not ``whsec_`` and the base64 of 24 to 64 bytes.
    """
    try:
        key = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(KEY_PREFIX) or not _SHORTEST_KEY <= len(key) <= _LONGEST_KEY:
        raise ValueError(f"a signing key is {KEY_PREFIX} and the base64 of {_SHORTEST_KEY} to {_LONGEST_KEY} bytes")
    return key


def sign(keys: Iterable[bytes], event_id: str, body: bytes, now: float) -> dict[str, str]:
    """The headers of a call: one signature for each key, so that a key can be replaced by and by.

    :param now: seconds since 1970.
    """
    timestamp = str(int(now))
    signatures = (f"v1,{_signature(key, event_id, timestamp, body)}" for key in keys)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(signatures),
    }


def verify(keys: Iterable[str], headers: Mapping[str, str], body: bytes) -> str:
    """Check that a call is from our server, whole and fresh.

    :param keys: the keys that count, as text; two while one replaces the other.
    :param headers: of the request; any mapping that does not care about case, or has lower-case names.
    :param body: of the request, byte for byte.
    :returns: the event id: the same in each attempt to make this call, for dropping repetitions.
    :raises BadSignature: it is not.
    :raises ValueError: a key is malformed.
    """
    event_id, timestamp, shown = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not (timestamp.isascii() and timestamp.isdecimal()) or abs(time.time() - int(timestamp[:12])) > _TOLERANCE:
        raise BadSignature("the call is too old, or has no time")
    given = [text.removeprefix("v1,") for text in shown.split(" ") if text.startswith("v1,")]
    for key in keys:
        expected = _signature(key_of(key), event_id, timestamp, body)
        if any(hmac.compare_digest(expected.encode(), text.encode()) for text in given):
            return event_id
    raise BadSignature("no signature is right")


def _signature(key: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{event_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
