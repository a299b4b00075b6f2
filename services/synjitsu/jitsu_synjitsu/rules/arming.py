"""Which VMs are armed, and whose address is whose: every event finds its machine here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.handover import FailureTold, Handover, HandoverState, PacketSeen, ReadyTold, WhoHasSeen

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from typing import Literal

    from jitsu_synjitsu.rules.handover import Action
    from jitsu_synjitsu.rules.kept import Kept


@dataclass
class Arming:
    """All armed VMs."""

    kept: Kept
    _vms: dict[str, Handover] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)

    def addresses(self) -> list[str]:
        """Return every address that is held."""
        return sorted(self._owners)

    def arm(self, vm: str, addresses: Sequence[str], deadline: float) -> list[Action]:
        """Hold a VM's addresses; asked again, only the deadline moves, and they are announced again."""
        if vm in self._vms:
            self._vms[vm].deadline = deadline
        else:
            self._vms[vm] = Handover(vm, tuple(addresses), deadline, self.kept)
            self._owners.update(dict.fromkeys(addresses, vm))
        return self._vms[vm].armed()

    def disarm(self, vm: str, outcome: Literal["ready", "failed"]) -> list[Action]:
        """Let go of a VM; nothing if it is not armed."""
        machine = self._vms.get(vm)
        if machine is None:
            return []
        return self._after(machine, machine.handle(ReadyTold() if outcome == "ready" else FailureTold()))

    def who_has(self, address: str, asker: str) -> list[Action]:
        """Take a question for an address."""
        machine = self._vms.get(self._owners.get(address, ""))
        return [] if machine is None else machine.handle(WhoHasSeen(address, asker))

    def packet(self, address: str, flow: Hashable, frame: bytes) -> list[Action]:
        """Take a packet for an address."""
        machine = self._vms.get(self._owners.get(address, ""))
        return [] if machine is None else machine.handle(PacketSeen(flow, frame))

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        return min((machine.deadline for machine in self._vms.values()), default=None)

    def passed(self, now: float) -> list[Action]:
        """Give up the boots that took too long."""
        actions: list[Action] = []
        for machine in list(self._vms.values()):
            actions += self._after(machine, machine.passed(now))
        return actions

    def _after(self, machine: Handover, actions: list[Action]) -> list[Action]:
        if machine.state is HandoverState.RELEASED:
            del self._vms[machine.vm]
            for address in machine.addresses:
                if self._owners.get(address) == machine.vm:
                    del self._owners[address]
        return actions
