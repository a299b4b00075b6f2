"""States of a boot, which are published with a short delay. One that is over by then is not published at all.

A unikernel is up in a few milliseconds. dns, Synjitsu, the reaper and the store would each wake up for every state on
the way, while the client's answer and the guest need the processors. Nobody needs these states that soon. A caller that
summons the VM joins the boot or is answered at once, whatever dns believes; Synjitsu holds the VM's addresses because
of a request, and has itself reported that they are handed over.

    starting, booting, ready       published after PASSING_S, as the VM is then
    any other state, or it is gone published at once; what was to be published is dropped
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.clock import Clock, Timer

PASSING_S = 0.01
"""Too short for people to notice in the states of VMs; `jitsu trace` shows what happened in the meantime."""
PASSED_THROUGH = frozenset({VmState.STARTING, VmState.BOOTING, VmState.READY})


class Passing:
    """The VMs whose state will be published within PASSING_S."""

    def __init__(self, publish: Callable[[str], None], clock: Clock) -> None:
        """`publish` is called with the UUID of each VM that is still to be published."""
        self._publish = publish
        self._clock = clock
        self._vms: dict[str, None] = {}
        self._timer: Timer | None = None

    def add(self, vm: str) -> None:
        """Publish a VM's state after PASSING_S."""
        self._vms[vm] = None
        if self._timer is None:
            self._timer = self._clock.call_in(PASSING_S, self._flush)

    def drop(self, vm: str) -> None:
        """Do not publish a VM: its present state has been published already."""
        self._vms.pop(vm, None)

    def _flush(self) -> None:
        self._timer = None
        vms, self._vms = self._vms, {}
        for vm in vms:
            self._publish(vm)
