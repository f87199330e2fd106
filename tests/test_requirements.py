"""Every requirement of the protocols of others has a test, or a reason; and the page says so."""

from __future__ import annotations

import pytest

from docs.requirements import PAGE, PROTOCOLS, Protocol, not_followed, page, protocols, requirements
from docs.requirements import tests_by_number as held_by

each = pytest.mark.parametrize("protocol", protocols(), ids=lambda protocol: protocol.prefix)


@each
def test_every_requirement_is_held_by_a_test_or_has_a_reason_not_to_be(protocol: Protocol) -> None:
    numbers = [one.number for one in requirements(protocol)]
    held, reasons = held_by(), not_followed(protocol)
    assert [number for number in numbers if not held.get(number) and not reasons.get(number)] == []


@each
def test_the_numbers_are_in_order_and_none_is_missing(protocol: Protocol) -> None:
    numbers = [int(one.number.rpartition("-")[2]) for one in requirements(protocol)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_no_test_names_a_requirement_that_is_none() -> None:
    known = {one.number for protocol in protocols() for one in requirements(protocol)}
    here = {protocol.prefix for protocol in protocols()}
    assert {number for number in held_by() if number.partition("-")[0] in here} <= known
    assert {number.partition("-")[0] for number in held_by()} <= {protocol.prefix for protocol in PROTOCOLS}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "write it anew: python -m docs.requirements"
