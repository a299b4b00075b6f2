"""How many VMs are in each state and what they use, kept up to date so that nothing has to look at all VMs for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from jitsu_protocol.model.states import AT_REST, VmState

BOOTING = frozenset({VmState.STARTING, VmState.BOOTING})
RUNNING = BOOTING | {VmState.READY, VmState.DRAINING, VmState.STOPPING}
IN_MEMORY = RUNNING | {VmState.PAUSED}
SAVES_MEMORY = AT_REST - {VmState.PAUSED}
"""The states in which a VM has no guest that holds memory; of an unknown one nobody can say."""


@dataclass
class Tally:
    """All VMs of one host; memory is in KiB."""

    states: Counter[VmState] = field(default_factory=Counter)
    booting: int = 0
    running: int = 0
    memory: int = 0
    saved_memory: int = 0
    """What the VMs without a guest would hold."""
    _known: dict[str, tuple[VmState, int]] = field(default_factory=dict)

    def note(self, vm: str, state: VmState, memory: int) -> None:
        """Note the state that a VM is in, and how much memory it has while it is there."""
        if self._known.get(vm) == (state, memory):
            return
        self.forget(vm)
        self._known[vm] = (state, memory)
        self._add(state, memory, 1)

    def forget(self, vm: str) -> None:
        """Forget a VM."""
        if (known := self._known.pop(vm, None)) is not None:
            self._add(*known, -1)

    def count(self, state: VmState) -> float:
        """Return how many VMs are in a state."""
        return float(self.states[state])

    def _add(self, state: VmState, memory: int, sign: int) -> None:
        self.states[state] += sign
        self.booting += sign * (state in BOOTING)
        self.running += sign * (state in RUNNING)
        self.memory += sign * memory * (state in IN_MEMORY)
        self.saved_memory += sign * memory * (state in SAVES_MEMORY)
