"""A guest is asked to shut down until it is off; one that is not in time is destroyed. On virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from jitsu_protocol.model.errors import JitsuError, NotFound, Refused, Unavailable
from jitsu_vmd.hypervisors.shared.shutdown import ASK_AGAIN_S, WATCH_S, shut_down
from tests.support.clock import VirtualClock
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

WWW = make_vm(shutdown_limit="12")


class Guest:
    """A guest that is off some time after it was first asked and could hear it."""

    def __init__(self, clock: VirtualClock, *, off_at: float = 1e9, hears_from: float = 0.0) -> None:
        self._clock, self._off_at, self._hears_from = clock, off_at, hears_from
        self.asked_at: list[float] = []
        self.destroyed_at: float | None = None
        self.error: JitsuError | None = None

    async def is_off(self, vm: VM) -> bool:
        if isinstance(self.error, NotFound):
            raise self.error
        return self.destroyed_at is not None or self._clock.now() >= self._off_at

    async def press(self, vm: VM) -> None:
        self.asked_at.append(self._clock.now())
        if self.error is not None:
            raise self.error
        if self._clock.now() < self._hears_from:
            raise Unavailable("it still boots")

    async def destroy(self, vm: VM) -> None:
        self.destroyed_at = self._clock.now()


async def ends(guest: Guest, clock: VirtualClock) -> float:
    """Shut a guest down, and return when that has ended."""
    call = asyncio.ensure_future(shut_down(WWW, guest, clock))
    while not call.done():
        for _ in range(5):
            await asyncio.sleep(0)
        if not call.done():
            clock.advance(WATCH_S)
    await call
    return clock.now()


async def test_a_guest_that_shuts_down_is_asked_once_and_not_destroyed() -> None:
    guest = Guest(clock := VirtualClock(), off_at=3.0)
    assert await ends(guest, clock) == 3.0
    assert guest.asked_at == [0.0]
    assert guest.destroyed_at is None


async def test_a_guest_that_is_off_already_is_not_asked() -> None:
    guest = Guest(clock := VirtualClock(), off_at=0.0)
    assert await ends(guest, clock) == 0.0
    assert guest.asked_at == []


async def test_a_guest_that_still_boots_is_asked_again() -> None:
    guest = Guest(clock := VirtualClock(), off_at=11.0, hears_from=6.0)
    assert await ends(guest, clock) == 11.0
    assert guest.asked_at == [0.0, ASK_AGAIN_S, 2 * ASK_AGAIN_S]


async def test_a_guest_that_does_not_shut_down_is_destroyed_when_its_time_is_over() -> None:
    guest = Guest(clock := VirtualClock())
    with capture_logs() as logged:
        assert await ends(guest, clock) == 12.0
    assert guest.destroyed_at == 12.0
    assert [each["event"] for each in logged] == ["the guest did not shut down in time and was destroyed"]


async def test_a_guest_that_can_never_be_asked_is_destroyed_at_once() -> None:
    guest = Guest(clock := VirtualClock())
    guest.error = Refused("VM_LACKS_FEATURE")
    with capture_logs() as logged:
        assert await ends(guest, clock) == 0.0
    assert guest.destroyed_at == 0.0
    assert logged[0]["reason"] == "VM_LACKS_FEATURE"


async def test_a_vm_that_is_not_there_is_reported() -> None:
    guest = Guest(clock := VirtualClock())
    guest.error = NotFound("no domain www")
    with pytest.raises(NotFound):
        await ends(guest, clock)
