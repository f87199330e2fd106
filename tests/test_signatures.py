"""Signatures: an independent implementation of Standard Webhooks accepts ours, and we accept its."""

from __future__ import annotations

import base64
import time
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from incoming_wsgi.signatures import BadSignature, key_of, sign, verify

KEY = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()
BODY = b"id=1&filename=%2Fsrv%2Fa.bin&cancelled=no"


def signed(*keys: str, body: bytes = BODY, age: float = 0) -> dict[str, str]:
    return sign([key_of(key) for key in keys], "msg_1", body, time.time() - age)


def test_another_implementation_accepts_ours() -> None:
    text = '{"a": 1}'
    Webhook(KEY).verify(text, signed(KEY, body=text.encode()))
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(text, signed(KEY, body=text.encode()))


def test_we_accept_another_implementations() -> None:
    now = datetime.now(tz=timezone.utc)
    headers = {
        "webhook-id": "msg_2",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(KEY).sign("msg_2", now, "text"),
    }
    assert verify([KEY], headers, b"text") == "msg_2"


@given(body=st.binary(max_size=200))
def test_any_body(body: bytes) -> None:
    assert verify([KEY], signed(KEY, body=body), body) == "msg_1"
    with pytest.raises(BadSignature):
        verify([KEY], signed(KEY, body=body), body + b"x")


@pytest.mark.parametrize("keys", [[KEY], [OTHER], [KEY, OTHER], [OTHER, KEY]])
def test_one_key_replaces_another(keys: list[str]) -> None:
    assert verify(keys, signed(KEY, OTHER), BODY) == "msg_1"


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,ä"},
        {"webhook-signature": "v2," + "A" * 44},
    ],
    ids=str,
)
def test_what_was_changed_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        verify([KEY], {**signed(KEY), **change}, BODY)


def test_another_time_is_refused() -> None:
    with pytest.raises(BadSignature):
        verify([KEY], {**signed(KEY), "webhook-timestamp": str(int(time.time()) + 7)}, BODY)


@pytest.mark.parametrize(("age", "accepted"), [(0, True), (290, True), (310, False), (-290, True), (-310, False)])
def test_an_old_call_is_refused(age: float, accepted: bool) -> None:
    if accepted:
        assert verify([KEY], signed(KEY, age=age), BODY) == "msg_1"
    else:
        with pytest.raises(BadSignature, match="old"):
            verify([KEY], signed(KEY, age=age), BODY)


def test_without_headers() -> None:
    with pytest.raises(BadSignature):
        verify([KEY], {}, BODY)


@pytest.mark.parametrize("key", ["", "whsec_", "whsec_!!!!", "secret", KEY.removeprefix("whsec_"), "whsec_" + "A" * 28])
def test_a_malformed_key(key: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        key_of(key)
