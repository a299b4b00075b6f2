"""KVM: whether guests of QEMU can use it. It can exist and still hang, so a probe tries it within a time limit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding, note
from jitsu.kinds import kind_of
from jitsu.program import run_module

if TYPE_CHECKING:
    from jitsu.doctor.finding import Suite

TOPIC = "kvm"
DEVICE = Path("/dev/kvm")
LIMIT_S = 10.0
"""The probe itself gives up after 1.5 s; this is for a probe that hangs."""


@dataclass(frozen=True)
class KvmFacts:
    """KvmFacts about this machine."""

    is_wanted: bool = False
    """A VM is made for QEMU, and hypervisor.accelerate is auto or kvm."""
    is_demanded: bool = False
    """hypervisor.accelerate is kvm."""
    has_cpu_flag: bool = False
    is_there: bool = False
    may_open: bool = False
    works: bool | None = None
    """None if it was not tried, or jitsu-vmd is not installed here."""


async def gather(suite: Suite, device: Path = DEVICE) -> KvmFacts:
    """Look at the device, and have vmd's probe try it."""
    settings = suite.settings.hypervisor
    on_qemu = any(
        kind_of(vm, suite.settings) == "libvirt" and vm.key("kernel") and vm.host == settings.host for vm in suite.vms
    ) and not settings.connect.startswith(("xen:", "test:"))
    is_wanted = on_qemu and settings.accelerate != "tcg"
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    may_open = os.access(device, os.R_OK | os.W_OK)
    return KvmFacts(
        is_wanted,
        is_wanted and settings.accelerate == "kvm",
        " vmx " in flags or " svm " in flags,
        device.exists(),
        may_open,
        await _works() if is_wanted and may_open else None,
    )


async def _works() -> bool | None:
    finished = await run_module("jitsu_vmd.hypervisors.shared.kvm", limit_s=LIMIT_S)
    if finished is None:
        return False
    return finished.out.strip() == "works" if finished.status == 0 else None


def judge(facts: KvmFacts) -> list[Finding]:
    """Find why guests would run without KVM."""
    if not facts.is_wanted:
        return []
    slow = "guests run ten times slower"
    if not facts.is_there:
        where = "Load kvm_intel or kvm_amd" if facts.has_cpu_flag else "Switch virtualization on in the firmware, or"
        advice = f"{where}{'' if facts.has_cpu_flag else ' allow nested virtualization for this machine'}."
        what = f"there is no {DEVICE}: {slow}"
    elif not facts.may_open:
        what, advice = f"this user may not open {DEVICE}: {slow}", "Add the user of QEMU to the group kvm."
    elif facts.works is False:
        what = f"a guest with KVM does not run to its end here: {slow}"
        advice = 'Set hypervisor.accelerate = "tcg" to run without it, or ask whoever runs the host of this machine.'
    else:
        return []
    return [Finding(TOPIC, what, advice) if facts.is_demanded else note(TOPIC, what, advice)]
