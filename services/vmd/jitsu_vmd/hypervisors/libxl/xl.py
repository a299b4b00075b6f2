"""xl(1): the domains that it lists, and calls of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import NotFound, Unavailable
from jitsu_vmd.hypervisors.libxl import rules
from jitsu_vmd.hypervisors.shared import commands
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.clock import Clock

GONE_S = 5.0
"""After a failed `xl destroy`, the domain may still disappear within this time."""
GONE_LOOK_S = 0.25
LOOK_LIMIT_S = 10.0


async def xl(*arguments: str, is_look: bool = False) -> str:
    """Run xl and return what it prints; raises Unavailable with its reason. vmd limits how long that may take."""
    status, out, err = await commands.run("xl", *arguments, is_look=is_look)
    if status:
        raise Unavailable(f"xl {arguments[0]}: {rules.reason(err) or f'status {status}'}")
    return out


async def domains() -> list[rules.Listed]:
    """Return all domains but domain 0; raises Unavailable."""
    try:
        async with asyncio.timeout(LOOK_LIMIT_S):
            return rules.listed(await xl("list", "-v", is_look=True))
    except TimeoutError:
        raise Unavailable("xl does not answer") from None


async def find(vm: VM) -> rules.Listed | None:
    """Return a VM's domain, if it has one."""
    return next((each for each in await domains() if each.uuid == vm.uuid), None)


async def existing(vm: VM) -> rules.Listed:
    """Return a VM's domain; raises NotFound."""
    domain = await find(vm)
    if domain is None:
        raise NotFound(f"Xen has no domain {vm.name}")
    return domain


def runs(domain: rules.Listed | None) -> bool:
    """Say whether a domain is there and runs."""
    return domain is not None and domain.state is GuestState.RUNNING


async def destroy(domain: rules.Listed, clock: Clock) -> None:
    """Destroy a domain.

    If it has ended by itself, the xl that created it may be removing it at the same moment. Both then take its network
    interface away, and one of them fails: that is an error only if the domain stays.
    """
    try:
        await xl("destroy", str(domain.id))
    except Unavailable:
        ends = clock.now() + GONE_S
        while any(each.id == domain.id for each in await domains()):
            if clock.now() >= ends:
                raise
            await asyncio.sleep(GONE_LOOK_S)
