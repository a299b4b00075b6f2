"""vmd that is asked to stop lets calls that change domains end first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jitsu_vmd.wires import hypervisors
from jitsu_vmd.wires.hypervisors import Hypervisors
from tests.support.vms import make_vm

if TYPE_CHECKING:
    import pytest


class Slow:
    """A backend whose calls last until they may end."""

    name = "slow"

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.ended = False

    async def start(self, _: Any) -> None:
        await self.go_on.wait()
        self.ended = True

    wait_for_key = start

    async def domain_id(self, _: Any) -> int | None:
        return None


def one_of(backend: Any) -> Hypervisors:
    return Hypervisors({"": backend}, asyncio.ensure_future)


async def test_a_start_under_way_ends_first() -> None:
    backend = Slow()
    made = one_of(backend)
    call = asyncio.ensure_future(made.start(make_vm()))
    await asyncio.sleep(0)
    settled = asyncio.ensure_future(made.settle())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not settled.done()
    backend.go_on.set()
    await settled
    assert backend.ended
    await call


async def test_what_waits_for_a_guest_is_not_waited_for() -> None:
    made = one_of(Slow())
    call = asyncio.ensure_future(made.wait_for_key(make_vm()))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await made.settle()
    call.cancel()


async def test_a_call_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisors, "SETTLE_S", 0.01)
    made = one_of(Slow())
    call = asyncio.ensure_future(made.start(make_vm()))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await made.settle()
    assert not call.done()
    call.cancel()
