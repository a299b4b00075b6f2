"""When a VM that boots may be told to clients: its masking rule.

    wait_for_port, wait_for_key    when the port answers or the key is there, plus response_delay
    Synjitsu is armed              when it has handed over
    else                           response_delay after the start

An armed VM is told to clients earlier (summon.py); the rule here then says when it is ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM


@dataclass
class Masking:
    """The rule of one VM during one boot."""

    vm: VM
    started_at: float
    watches_keys: bool
    """Whether the hypervisor can watch `wait_for_key`; where it cannot, the key counts for nothing."""
    armed: bool = False
    """Synjitsu holds its addresses."""
    signalled_at: float | None = None
    handed_over_at: float | None = None

    def waits_for_signal(self) -> bool:
        """Say whether the guest itself must be seen to be there."""
        return self.armed or self._watches()

    def _watches(self) -> bool:
        return self.vm.wait_for_port is not None or (self.watches_keys and self.vm.wait_for_key != "")

    def signalled(self, now: float) -> None:
        """Note that the port answers, or that the key is there."""
        if self.signalled_at is None:
            self.signalled_at = now

    def handed_over(self, now: float) -> None:
        """Note that Synjitsu has handed over."""
        self.handed_over_at = now

    def met_at(self) -> float | None:
        """Return when the rule is met; None while that is not known."""
        if not self.waits_for_signal():
            return self.started_at + self.vm.response_delay
        if self.handed_over_at is not None and not self._watches():
            return self.handed_over_at
        return None if self.signalled_at is None else self.signalled_at + self.vm.response_delay
