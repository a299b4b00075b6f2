"""Reading which UEFI firmware this host has, and giving a VM variables of its own."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.qemu.rules.firmware import DIRECTORIES, Firmware, firmware_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def host_firmware(directories: Sequence[str] = DIRECTORIES) -> Firmware:
    """Return the firmware for VMs with `firmware = uefi`; raises BootFailed if the host has none."""
    described: dict[str, Any] = {}
    for directory in directories:
        with suppress(OSError):
            for path in Path(directory).glob("*.json"):
                if path.name not in described:
                    described[path.name] = _read(path)
    if (found := firmware_of(described)) is None:
        raise BootFailed("firmware: this host has no UEFI firmware for QEMU", hint="install ovmf")
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def give_variables(firmware: Firmware, own: Path) -> None:
    """Give a VM a copy of the firmware's variables, unless it has one; raises BootFailed."""
    if own.exists():
        return
    new = own.with_name(f"{own.name}.new")
    try:
        with open(firmware.variables, "rb") as source, open(os.open(new, _NEW, 0o600), "wb") as copy:
            shutil.copyfileobj(source, copy)
        new.rename(own)
    except OSError as error:
        raise BootFailed(f"firmware: {error.filename or firmware.variables}: {error.strerror}") from None


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
