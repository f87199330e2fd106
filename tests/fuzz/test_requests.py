from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..helpers import Engine
from .requests import SEEDS, Fuzzed


@pytest.fixture
def fuzzed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Fuzzed:
    monkeypatch.setattr("incoming_wsgi.intake._WAIT_FOR_END", 0.001)
    return Fuzzed(engine)


def test_where_it_begins(fuzzed: Fuzzed) -> None:
    assert [fuzzed.ask(seed) for seed in SEEDS] == [201, 201, 204, 400, 200, 204, 201, 400, 204]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SEEDS), st.integers(0, 200), st.binary(max_size=10), st.integers(0, 10))
def test_changed_requests(fuzzed: Fuzzed, seed: bytes, position: int, new: bytes, gone: int) -> None:
    assert fuzzed.ask(seed[:position] + new + seed[position + gone :])
