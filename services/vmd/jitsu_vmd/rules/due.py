"""When the machine of a VM (summon.py) wants to look at the clock, and how long each of its states may last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from jitsu_vmd.rules.masking import Masking

DRAIN_LIMIT_S = 15.0
"""A reaper that asked for a drain and died must not keep the VM off the warm path."""
STOP_LIMIT_S = 120.0
"""A stop call that takes longer is given up; a suspend to disk writes all memory."""


def deadline(
    state: VmState, since: float, boot_limit: float, stops_at: float | None, masking: Masking | None
) -> float | None:
    """Return when a machine has to look at the clock, None if only an event changes anything.

    `since` is when the state was entered; `stops_at` is when a guest that may not run on is to be stopped.
    """
    limits = {
        VmState.STARTING: since + boot_limit,
        VmState.BOOTING: since + boot_limit,
        VmState.DRAINING: since + DRAIN_LIMIT_S,
        VmState.STOPPING: since + STOP_LIMIT_S,
    }
    limit = limits.get(state)
    if stops_at is not None:
        limit = stops_at if limit is None else min(limit, stops_at)
    met = None if masking is None else masking.met_at()
    if limit is None or masking is None or met is None:
        return limit
    return met if masking.waits_for_signal() else min(limit, met)  # a guest that was seen in time is there
