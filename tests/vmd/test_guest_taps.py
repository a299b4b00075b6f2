"""The taps of guests: reserved for a start, kept for it for a moment, and given back if it does not come."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.solo5.wires.guest_taps import RESERVED_S, GuestTaps
from tests.support.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_vmd.hypervisors.solo5.wires.tap_pool import TapPool


class Pool:
    """Has as many taps as are wanted, except on the bridge `none`."""

    def __init__(self) -> None:
        self.made = 0
        self.taken: set[str] = set()

    async def take(self, user: int, bridge: str) -> str:
        if bridge == "none":
            raise BootFailed("this host has no bridge none")
        self.made += 1
        self.taken.add(f"tap{self.made}")
        return f"tap{self.made}"

    async def release(self, taps: Sequence[str], user: int, bridges: Sequence[str]) -> None:
        assert len(taps) == len(bridges)
        self.taken -= set(taps)


def made() -> tuple[GuestTaps, Pool, VirtualClock]:
    pool, clock = Pool(), VirtualClock()
    return GuestTaps(cast("TapPool", pool), clock), pool, clock


async def test_a_start_gets_the_taps_that_were_reserved_for_it() -> None:
    taps, pool, _ = made()
    assert await taps.reserve("www", 7, ["br0"]) == ["tap1"]
    assert await taps.reserve("www", 7, ["br0"]) == ["tap1"], "it is asked for again"
    assert await taps.take("www", 7, ["br0"]) == ["tap1"]
    assert await taps.take("db", 8, ["br0"]) == ["tap2"]
    assert pool.taken == {"tap1", "tap2"}


async def test_a_start_that_is_configured_otherwise_gets_other_taps() -> None:
    taps, pool, _ = made()
    await taps.reserve("www", 7, ["br0"])
    assert await taps.take("www", 7, ["br1"]) == ["tap2"]
    assert pool.taken == {"tap2"}


async def test_the_taps_of_a_start_that_does_not_come_are_given_back_after_a_while() -> None:
    taps, pool, clock = made()
    await taps.reserve("www", 7, ["br0"])
    clock.advance(RESERVED_S)
    await taps.release_unused()
    assert pool.taken == {"tap1"}
    clock.advance(0.1)
    await taps.release_unused()
    assert pool.taken == set()


async def test_of_a_start_that_fails_halfway_no_tap_is_left() -> None:
    taps, pool, _ = made()
    with pytest.raises(BootFailed, match="no bridge none"):
        await taps.take("www", 7, ["br0", "none"])
    assert pool.taken == set()
