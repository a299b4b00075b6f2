"""What xl(1) reads and prints: the configuration of a domain (xl.cfg(5)), and the list of domains."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.unused_keys import refuse_keys, refuse_mock_keys
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import GuestType
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

_ROW = re.compile(
    r"(?P<name>\S+)\s+(?P<id>\d+)\s+\d+\s+\d+\s+(?P<state>[rbpscd-]{6})\s+[\d.]+\s+(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"(?:\s+(?P<reason>\S+))?"
)
_SUSPENDED = "2"
"""SHUTDOWN_suspend (xen/include/public/sched.h)."""


def check_keys(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with libxl."""
    refuse_mock_keys(vm)
    refuse_keys(vm, ("domain_xml",), "it is for libvirt only; remove it")


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
    """Return the state that xl shows as letters: r(unning), b(locked), p(aused), s(hut down), c(rashed), d(ying)."""
    if "c" in letters:
        return GuestState.CRASHED
    if "s" in letters or "d" in letters:
        return GuestState.OFF
    return GuestState.PAUSED if "p" in letters else GuestState.RUNNING


def reason(text: str) -> str:
    """Return why xl failed, from what it printed: the first error is the cause of those that follow."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "")


def config(spec: DomainSpec, guest_type: GuestType) -> str:
    """Return the configuration of a domain (xl.cfg(5)); raises Refused if a key cannot be used."""
    lines = [
        f"name = {_quoted(spec.name)}",
        f"uuid = {_quoted(spec.uuid)}",
        f"type = {_quoted(guest_type)}",
        f"kernel = {_quoted(spec.kernel)}",
        f"memory = {max(1, spec.memory_kib // 1024)}",
        f"vcpus = {spec.vcpus}",
        'on_poweroff = "destroy"',
        'on_reboot = "restart"',
        'on_crash = "destroy"',
    ]
    if spec.initrd:
        lines.append(f"ramdisk = {_quoted(spec.initrd)}")
    if spec.cmdline:
        lines.append(f"cmdline = {_quoted(spec.cmdline)}")
    lines.append(f"vif = [{', '.join(map(_quoted, _vifs(spec)))}]")
    lines.append(f"disk = [{', '.join(map(_quoted, _disks(spec)))}]")
    return "\n".join(lines) + "\n"


def _vifs(spec: DomainSpec) -> list[str]:
    return [f"mac={nic.mac},bridge={nic.bridge}{f',script={nic.script}' if nic.script else ''}" for nic in spec.nics]


def _disks(spec: DomainSpec) -> list[str]:
    disks = []
    for disk in spec.disks:
        if not disk.source or not disk.target:
            raise Refused(
                f"disk: {disk.text!r} is not DEVICE-OR-FILE@TARGET; expected something like /images/www.img@xvda"
            )
        disks.append(f"{disk.source},{disk.format},{disk.target},rw")
    return disks


def rumprun(text: str) -> str:
    """Return the content of a `rumprun_config` file as it is written into Xenstore; raises Refused."""
    try:
        return json.dumps(json.loads(text), separators=(",", ":"))
    except ValueError as error:
        raise Refused(f"rumprun_config: it is not valid JSON: {error}") from None


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise Refused(
            f"{text!r} cannot be written into a configuration of xl, because it contains a quote or a line break"
        )
    return f'"{text}"'
