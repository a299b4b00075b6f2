"""What is kept of suspended guests: a directory for each VM, in which the name of one file says what may be done.

    state.saving    being written, or cut short: never restored
    state.saved     complete, and the guest has not run since: the only one that is restored
    state.used      the guest may have run since: never restored

Beside it are `ram`, the guest's memory, if that is in a file, and `launch`, the machine that the guest belongs to.
`variables` are those of its UEFI firmware, which stay when a save is discarded, as a disk does.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.qemu.rules.launch import MadeFiles, launch_from_json
from jitsu_vmd.hypervisors.qemu.rules.life import SaveState

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch


class GuestSaves:
    """The directories of all VMs. Only root may read the memory of guests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self, vm: str) -> None:
        """Make a VM's directory."""
        (self.directory / vm).mkdir(mode=0o700, parents=True, exist_ok=True)

    def ram(self, vm: str) -> Path:
        """Return where the memory of a VM is, if it is in a file."""
        return self.directory / vm / "ram"

    def files(self, vm: str) -> MadeFiles:
        """Return where the files of a VM are that are made for it."""
        return MadeFiles(str(self.ram(vm)), str(self.variables(vm)))

    def variables(self, vm: str) -> Path:
        """Return where the variables of a VM's firmware are."""
        return self.directory / vm / "variables"

    def make_ram(self, vm: str) -> None:
        """Make an empty file for the memory of a guest that boots; raises OSError."""
        self.make(vm)
        self.ram(vm).unlink(missing_ok=True)
        self.ram(vm).touch(mode=0o600)

    def path(self, vm: str, save: SaveState) -> Path:
        """Return where the state of a VM's devices is, or would be."""
        return self.directory / vm / f"state.{save}"

    def of(self, vm: str) -> SaveState:
        """Return what there is of a VM's save; a used one counts before all others."""
        found = (save for save in (SaveState.USED, SaveState.SAVED, SaveState.SAVING) if self.path(vm, save).exists())
        return next(found, SaveState.NONE)

    def all(self) -> set[str]:
        """Return the VMs of which anything may be kept."""
        try:
            return set(os.listdir(self.directory))
        except FileNotFoundError:
            return set()

    def named(self, name: str) -> list[str]:
        """Return the VMs of that name of which a whole save is kept."""
        found = []
        for vm in sorted(self.all()):
            with suppress(OSError, ValueError):
                if self.of(vm) is not SaveState.NONE and self.launch(vm).name == name:
                    found.append(vm)
        return found

    def launch(self, vm: str) -> Launch:
        """Return the machine that a saved guest belongs to; raises OSError or ValueError."""
        try:
            return launch_from_json(json.loads((self.directory / vm / "launch").read_text()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is not complete: {error}") from None

    def begin(self, vm: str) -> BinaryIO:
        """Return the file that the state of a guest is to be written to; raises OSError."""
        self.make(vm)
        path = self.path(vm, SaveState.SAVING)
        path.unlink(missing_ok=True)
        return path.open("xb")

    def complete(self, vm: str, launch: Launch) -> None:
        """Have a save on the disk that has been written, and call it whole; raises OSError."""
        described = self.directory / vm / "launch"
        described.write_text(json.dumps(launch.to_json()))
        _sync(described)
        if launch.shares_memory:
            _sync(self.ram(vm))
        _sync(self.path(vm, SaveState.SAVING))
        self.becomes(vm, SaveState.SAVING, SaveState.SAVED)

    def becomes(self, vm: str, old: SaveState, new: SaveState) -> None:
        """Rename a save, and return when that is on the disk."""
        self.path(vm, old).replace(self.path(vm, new))
        _sync(self.directory / vm)

    def drop_state(self, vm: str) -> None:
        """Delete the state of the devices of a guest that has been seen to run since, or was never saved."""
        for save in (SaveState.SAVING, SaveState.SAVED, SaveState.USED):
            self.path(vm, save).unlink(missing_ok=True)

    def discard(self, vm: str) -> None:
        """Delete the memory of a VM, and the state of its devices."""
        self.drop_state(vm)
        for path in (self.ram(vm), self.directory / vm / "launch"):
            path.unlink(missing_ok=True)

    def delete(self, vm: str) -> None:
        """Delete all that is kept of a VM."""
        shutil.rmtree(self.directory / vm, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
