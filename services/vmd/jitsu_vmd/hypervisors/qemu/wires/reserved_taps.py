"""Taps that are there before the start that they are for: Synjitsu watches one from the moment at which it is armed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.shared import taps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_vmd.hypervisors.qemu.rules.launch import LaunchNic

RESERVED_S = 5.0
"""A start comes once Synjitsu has answered, within a second."""


def opened_tap(nic: LaunchNic) -> int:
    """Return the descriptor of a new tap on its bridge, which is there for as long as it is open; raises OSError."""
    descriptor = taps.attach(nic.tap)
    try:
        if nic.bridge:
            taps.join(nic.tap, nic.bridge)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@dataclass(frozen=True)
class _Reserved:
    """The taps of one VM."""

    nics: tuple[LaunchNic, ...]
    descriptors: tuple[int, ...]
    since: float


class ReservedTaps:
    """The taps of VMs that are about to start."""

    def __init__(self, now: Callable[[], float], open_tap: Callable[[LaunchNic], int] = opened_tap) -> None:
        self._now = now
        self._open = open_tap
        self._reserved: dict[str, _Reserved] = {}

    def reserve(self, vm: str, nics: Sequence[LaunchNic]) -> str:
        """Make the taps of a VM's next start, and return the name of the first; raises BootFailed."""
        self.release(vm)
        self._reserved[vm] = _Reserved(tuple(nics), tuple(self._made(nics)), self._now())
        return nics[0].tap if nics else ""

    def take(self, vm: str, nics: Sequence[LaunchNic]) -> list[int]:
        """Return the taps that were reserved for a start, or others; the caller closes them. Raises BootFailed."""
        reserved = self._reserved.pop(vm, None)
        if reserved is not None and reserved.nics == tuple(nics):
            return list(reserved.descriptors)
        if reserved is not None:
            _close(reserved.descriptors)
        return self._made(nics)

    def release(self, vm: str) -> None:
        """Remove the taps of a start that does not come."""
        if (reserved := self._reserved.pop(vm, None)) is not None:
            _close(reserved.descriptors)

    def release_unused(self) -> None:
        """Remove the taps of starts that have not come in time."""
        until = self._now() - RESERVED_S
        for vm in [vm for vm, each in self._reserved.items() if each.since < until]:
            self.release(vm)

    def close(self) -> None:
        """Remove all."""
        for vm in list(self._reserved):
            self.release(vm)

    def _made(self, nics: Sequence[LaunchNic]) -> list[int]:
        made: list[int] = []
        try:
            for nic in nics:
                made.append(self._open(nic))
        except OSError as error:
            _close(made)
            raise BootFailed(f"tap {nic.tap} on {nic.bridge}: {error.strerror}") from None
        return made


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
