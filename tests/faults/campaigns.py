"""Which campaigns there are."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from .laboratory import Campaign

#: Modules of this folder, each with a ``CAMPAIGN``; in the order in which they run.
_MODULES: tuple[str, ...] = (
    "engine_kill",
    "redis_kill",
    "recovery_kill",
    "power_cut",
    "failing_calls",
    "foreign_files",
    "server_kill",
    "handing_over",
    "load",
    "black_hole",
    "sigterm",
    "clock_jumps",
    "race",
    "takeover",
    "slow_senders",
    "every_call",
    "cluster",
)


def all_campaigns() -> Mapping[str, Campaign]:
    """The campaigns by name."""
    found = [importlib.import_module(f"{__package__}.{name}").CAMPAIGN for name in _MODULES]
    return {campaign.name: campaign for campaign in found}
