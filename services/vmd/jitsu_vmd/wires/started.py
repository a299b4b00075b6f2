"""What each guest was started as, kept in files for a vmd that returns, and which guest has an address.

A file is written before the start call and removed once the guest is seen to be off. So a vmd that was down while the
configuration changed still finds the guests of before, and stops those that may not run on.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from jitsu_protocol.model.guests import difference
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM
from jitsu_vmd.rules.room import Lack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from jitsu_vmd.rules.summon import VmMachine

Address = IPv4Address | IPv6Address

log = structlog.get_logger("vmd")


class Started:
    """The guests that were started, by the UUID of their VM."""

    def __init__(self, directory: Path, freed: Callable[[], None] = lambda: None) -> None:
        """`freed` is called when a guest no longer has its addresses."""
        self._freed = freed
        self._directory = directory
        self._kept: dict[str, VM] = {}
        self._holders: dict[Address, str] = {}
        """Address -> the VM whose guest was started with it."""
        self._unread: set[str] = set()
        self._fails = False
        try:
            self._unread = {name for name in os.listdir(directory) if not name.endswith(".new")}
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn(error)

    def unread(self) -> list[str]:
        """Return the VMs whose file was found and not asked for since."""
        return sorted(self._unread)

    def recall(self, vm: str) -> VM | None:
        """Return what a VM's guest was started as, by this vmd or the one before; None if it was not, or is off."""
        if vm in self._unread:
            self._unread.discard(vm)
            try:
                started = VM.model_validate_json((self._directory / vm).read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("cannot read how its guest was started", vm=vm[:64], reason=str(error)[:200])
            else:
                if started.uuid == vm:
                    self._keep(started)
        return self._kept.get(vm)

    def note(self, machine: VmMachine) -> None:
        """Keep what a VM's guest was started as, or that it is off."""
        vm, started = machine.vm.uuid, machine.terms.started
        before = self._kept.get(vm)
        if before is started:
            return
        if before is not None:
            del self._kept[vm]
            for address in before.addresses:
                if self._holders.get(address) == vm:
                    del self._holders[address]
        if started is not None:
            self._keep(started)
        if started != before:
            self._write(vm, started)
        if before is not None:
            self._freed()

    def holder(self, vm: VM) -> tuple[str, Address] | None:
        """Return another VM whose guest was started with an address of this one, and the address."""
        for address in vm.addresses:
            other = self._holders.get(address)
            if other is not None and other != vm.uuid:
                return other, address
        return None

    def _keep(self, started: VM) -> None:
        self._kept[started.uuid] = started
        self._holders |= dict.fromkeys(started.addresses, started.uuid)

    def _write(self, vm: str, started: VM | None) -> None:
        path = self._directory / vm
        try:
            if started is None:
                path.unlink(missing_ok=True)
            else:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                new = path.with_name(f"{vm}.new")
                new.write_text(started.model_dump_json())
                new.replace(path)  # a reader never finds half of it
        except OSError as error:
            self._warn(error)
        else:
            self._fails = False

    def _warn(self, error: OSError) -> None:
        if not self._fails:
            log.warning(
                "cannot save how guests were started: vmd may not know them after its next start", reason=str(error)
            )
        self._fails = True


def address_held(started: Started, machines: Mapping[str, VmMachine], vm: VM) -> Lack | None:
    """Return what keeps a VM from starting whose address the guest of another may still have."""
    found = started.holder(vm)
    other = None if found is None else machines.get(found[0])
    if found is None or other is None or other.state in (VmState.PAUSED, VmState.SUSPENDED):
        return None
    was = "no longer configured, still runs" if other.terms.removed else "still runs"
    return Lack(f"{other.vm.name}, {was} with the address {found[1]}", of_room=False)


def log_difference(machine: VmMachine, configured: VM) -> None:
    """Log what becomes of a guest that was started otherwise than its VM is configured now."""
    if machine.terms.started is None or not (why := difference(machine.terms.started, configured)):
        return
    if machine.state in (VmState.SUSPENDED, VmState.PAUSED):
        log.warning(
            "its saved state is not used, because the VM is configured otherwise now",
            vm=configured.name,
            reason=why,
            hint=f"jitsu start {configured.name} --discard-saved-state boots it as it is configured now",
        )
    else:
        log.warning("is stopped, because it is configured otherwise", vm=configured.name, reason=why)
