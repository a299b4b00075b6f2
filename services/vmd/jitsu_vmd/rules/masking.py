"""When a VM that boots may be told to clients: its masking rule.

    wait_for_port, wait_for_key    when the port answers or the key is there, plus response_delay
    else                           response_delay after the start

`use_synjitsu` answers earlier, when Synjitsu is armed (summon.py); the rule here then says when the VM is ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.vm import VM


@dataclass
class Masking:
    """The rule of one VM during one boot."""

    vm: VM
    started_at: float
    watches_keys: bool
    """Whether the hypervisor can watch `wait_for_key`; where it cannot, the key counts for nothing."""
    signalled_at: float | None = None

    def waits_for_signal(self) -> bool:
        """Say whether the guest itself must be seen to be there."""
        return self.vm.wait_for_port is not None or (self.watches_keys and self.vm.wait_for_key != "")

    def signalled(self, now: float) -> None:
        """Note that the port answers, or that the key is there."""
        if self.signalled_at is None:
            self.signalled_at = now

    def met_at(self) -> float | None:
        """Return when the rule is met; None while that is not known."""
        if not self.waits_for_signal():
            return self.started_at + self.vm.response_delay
        return None if self.signalled_at is None else self.signalled_at + self.vm.response_delay
