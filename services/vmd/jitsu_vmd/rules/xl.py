"""What xl(1) reads and prints: the configuration of a domain (xl.cfg(5)), and the list of domains."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_vmd.rules.domain import nth_mac
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.image import GuestType

_ROW = re.compile(
    r"(?P<name>\S+)\s+(?P<id>\d+)\s+\d+\s+\d+\s+(?P<state>[rbpscd-]{6})\s+[\d.]+\s+(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"(?:\s+(?P<reason>\S+))?"
)
_SUSPENDED = "2"
"""SHUTDOWN_suspend (xen/include/public/sched.h)."""


class XlFault(ValueError):
    """A domain cannot be described; says which key is wrong."""


@dataclass(frozen=True)
class Listed:
    """One row of `xl list -v`."""

    name: str
    id: int
    uuid: str
    state: GuestState
    is_saving: bool = False
    """It has stopped in order to be saved; that is under way, or was cut short."""


def listed(text: str) -> list[Listed]:
    """Return the domains in what `xl list -v` prints, without domain 0."""
    rows = [row for line in text.splitlines() if (row := _ROW.match(line)) is not None]
    return [
        Listed(
            row["name"],
            int(row["id"]),
            row["uuid"],
            _state(row["state"]),
            "s" in row["state"] and row["reason"] == _SUSPENDED,
        )
        for row in rows
        if int(row["id"])
    ]


def _state(letters: str) -> GuestState:
    """Return what the letters for running, blocked, paused, shut down, crashed and dying say."""
    if "c" in letters:
        return GuestState.CRASHED
    if "s" in letters or "d" in letters:
        return GuestState.OFF
    return GuestState.PAUSED if "p" in letters else GuestState.RUNNING


def reason(text: str) -> str:
    """Return why xl failed, from what it printed: its first error has led to the others."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "")


def config(vm: VM, bridge: str, guest_type: GuestType) -> str:
    """Return the configuration of a VM's domain; raises XlFault. `bridge` is that of a VM without a `nic`."""
    lines = [
        f"name = {_quoted(vm.name)}",
        f"uuid = {_quoted(vm.uuid)}",
        f"type = {_quoted(guest_type)}",
        f"kernel = {_quoted(vm.key('kernel'))}",
        f"memory = {max(1, int(vm.key('memory')) // 1024)}",
        f"vcpus = {vm.key('vcpus')}",
        'on_poweroff = "destroy"',
        'on_reboot = "restart"',
        'on_crash = "destroy"',
    ]
    if vm.key("initrd"):
        lines.append(f"ramdisk = {_quoted(vm.key('initrd'))}")
    if vm.key("cmdline"):
        lines.append(f"cmdline = {_quoted(vm.key('cmdline'))}")
    lines.append(f"vif = [{', '.join(map(_quoted, _vifs(vm, bridge)))}]")
    lines.append(f"disk = [{', '.join(map(_quoted, _disks(vm)))}]")
    return "\n".join(lines) + "\n"


def _vifs(vm: VM, bridge: str) -> list[str]:
    scripts = vm.config.get("script", ())
    vifs = []
    for n, name in enumerate(vm.config.get("nic", (bridge,) if bridge else ())):
        script = f",script={scripts[n % len(scripts)]}" if scripts else ""
        vifs.append(f"mac={nth_mac(vm.mac, n)},bridge={name}{script}")
    return vifs


def _disks(vm: VM) -> list[str]:
    disks = []
    for text in vm.config.get("disk", ()):
        source, at, target = text.rpartition("@")
        if not at or not source or not target:
            raise XlFault(f"disk: {text!r} is not DEVICE-OR-FILE@TARGET; expected something like /images/www.img@xvda")
        disks.append(f"{source},{'qcow2' if source.endswith('.qcow2') else 'raw'},{target},rw")
    return disks


def rumprun(text: str) -> str:
    """Return the content of a `rumprun_config` file as it is written into Xenstore; raises XlFault."""
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except ValueError as error:
        raise XlFault(f"rumprun_config: it is not valid JSON: {error}") from None


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise XlFault(
            f"{text!r} cannot be written into a configuration of xl, because it contains a quote or a line break"
        )
    return f'"{text}"'
