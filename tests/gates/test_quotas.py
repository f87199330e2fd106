from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incoming_wsgi.errors import OverQuota
from incoming_wsgi.gates.quotas import Allowance, Quota, Rate, Scope, Use, rate_of
from incoming_wsgi.upload import State, Upload

UPLOAD = Upload(app="app", owner="me", client="192.0.2.7", state=State.RECEIVING, length=1000)


@pytest.mark.parametrize(
    ("changes", "use"),
    [
        ({}, Use(1, 1000)),
        ({"length": None}, Use(1, 0)),
        ({"state": State.COMPLETING}, Use(0, 0)),
        ({"app": "another"}, Use(0, 0)),
        ({"owner": "you"}, Use(0, 0)),
        ({"part_of": "x"}, Use(0, 1000)),
    ],
)
def test_what_an_upload_takes_up(changes: dict[str, object], use: Use) -> None:
    quota = Quota(Scope.OWNER, "app", "me", 1, 1)
    assert quota.use_of(replace(UPLOAD, **changes)) == use  # type: ignore[arg-type]


counts = st.integers(0, 10)


@given(st.builds(Use, counts, counts), st.builds(Use, counts, counts), st.builds(Use, counts, counts), counts, counts)
def test_only_growth_beyond_the_quota_is_refused(others: Use, before: Use, after: Use, uploads: int, size: int) -> None:
    """What is taken up afterwards is within the quota, or no more than before."""
    quota = Quota(Scope.APP, "app", "", uploads, size)
    used = Use(others.uploads, others.bytes + before.bytes)
    after = replace(after, uploads=min(1, after.uploads))
    before = replace(before, uploads=0)
    refused = False
    try:
        quota.refuse_growth(used, before, after)
    except OverQuota:
        refused = True
    too_many = uploads and after.uploads and used.uploads + after.uploads > uploads
    too_much = size and after.bytes > before.bytes and others.bytes + after.bytes > size
    assert refused == bool(too_many or too_much)


@given(st.integers(1, 50), st.floats(0.01, 100), st.lists(st.floats(0, 50), max_size=200))
def test_a_bucket_gives_no_more_than_it_holds(burst: int, interval: float, pauses: list[float]) -> None:
    rate, now, full_at, given_at = Rate("r", burst, interval), 1e9, 0.0, []
    for pause in pauses:
        now += pause
        wait = seconds_to_wait(rate, full_at, now)
        if wait:
            assert wait <= interval + 1e-6
            rate.full_at(full_at, now + wait + 1e-5)
        else:
            full_at = rate.full_at(full_at, now)
            given_at.append(now)
    for first, since in enumerate(given_at):
        for count, until in enumerate(given_at[first:], 1):
            assert count <= burst + (until - since) / interval + 1e-3


def seconds_to_wait(rate: Rate, full_at: float, now: float) -> float:
    try:
        rate.full_at(full_at, now)
    except OverQuota as error:
        return error.retry_after or float("inf")
    return 0.0


def test_rates_as_text() -> None:
    assert rate_of("r", "600/m") == Rate("r", 600, 0.1)
    assert rate_of("r", "2/d").interval == 43200


@pytest.mark.parametrize("text", ["", "5", "0/m", "-1/m", "5/w", "5 / m", "1.5/s", "5/min", "9999999999/s"])
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        rate_of("r", text)


def test_only_limits_that_there_are_cost_something() -> None:
    assert Allowance().quotas(UPLOAD) == ()
    assert Allowance().rates(UPLOAD, by_backend=True) == ()
    allowance = Allowance(owner_uploads=1, address_bytes=2, total_bytes=3, owner_tickets="1/s", backend_tickets="2/s")
    assert [quota.scope for quota in allowance.quotas(UPLOAD)] == [Scope.OWNER, Scope.CLIENT, Scope.APP]
    assert [quota.scope for quota in allowance.quotas(replace(UPLOAD, owner="", client=""))] == [Scope.APP]
    assert [rate.name for rate in allowance.rates(UPLOAD, by_backend=False)] == ["owner app me"]
    assert len(allowance.rates(UPLOAD, by_backend=True)) == 2
