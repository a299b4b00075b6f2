"""Asks the vmd of a VM's host to make the VM reachable, and hands the answer to the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from jitsu_dns.rules.events import SummonRefused, VmSummoned
from jitsu_protocol.messages import Summon, Summoned
from jitsu_protocol.model.errors import JitsuError, Unavailable

if TYPE_CHECKING:
    from jitsu_dns.rules.events import SummonVm
    from jitsu_dns.rules.table import Table
    from jitsu_runtime.world import World


class HandlesSummons(Protocol):
    """What drives the rules."""

    def handle(self, event: VmSummoned | SummonRefused) -> None:
        """Handle the outcome of a summon."""


class VmdCalls:
    """The calls to all vmds that are under way."""

    def __init__(self, world: World, table: Table, rules: HandlesSummons) -> None:
        self.vmds = world.vmds()
        """Host -> its vmd."""
        self._world, self._table, self._rules = world, table, rules

    def begin(self, action: SummonVm) -> None:
        """Call vmd, now or after a delay; the rules are given the answer."""
        if action.delay:
            self._world.clock.call_in(action.delay, lambda: self._spawn(action))
        else:
            self._spawn(action)

    def _spawn(self, action: SummonVm) -> None:
        self._world.spawn(self._call(action), "summon")

    async def _call(self, action: SummonVm) -> None:
        vm, held = action.vm, self._table.held_by(action.vm)
        host = held[0].vm.host if held else ""
        try:
            if host not in self.vmds:
                raise Unavailable(f"its host {host} is not listed in bus.hosts")
            ttl = max((each.vm.ttl for each in held), default=None)
            summon = Summon(vm=vm, waited_s=action.waited_s, ttl=ttl, by=action.by)
            summoned = await self.vmds[host].call(summon, Summoned, action.timeout - action.delay)
        except JitsuError as error:
            self._rules.handle(SummonRefused(vm, error))
        else:
            self._rules.handle(VmSummoned(vm, summoned.armed, summoned.addresses))
