"""What the start of a guest needs: its image, a tender that runs it, its disks, and its command line.

`plan` raises Refused if solo5 cannot do what a VM's keys ask for. It is called before each start, and costs no more
than a look at files that have not changed since.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm_keys import HandoverKind, StopMode
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec, nth_mac
from jitsu_vmd.hypervisors.shared.this_host import closed_to_others
from jitsu_vmd.hypervisors.solo5.rules import command_line, keys
from jitsu_vmd.hypervisors.solo5.rules.manifest import ManifestFault
from jitsu_vmd.hypervisors.solo5.wires.addresses import BridgeAddresses
from jitsu_vmd.hypervisors.solo5.wires.images import SoloImages
from jitsu_vmd.hypervisors.solo5.wires.kvm import DEVICE, LIMIT_S, kvm_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.schema import HypervisorSettings
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec
    from jitsu_vmd.hypervisors.solo5.rules.manifest import Manifest

STOP_MODES = {
    StopMode.SHUTDOWN: "a tender has no button that the guest could be asked with",
    StopMode.SUSPEND: "a tender cannot save a guest",
}
"""What solo5 cannot do -> why."""

log = structlog.get_logger("solo5")


@dataclass(frozen=True)
class Plan:
    """How a guest is to be started."""

    spec: DomainSpec
    manifest: Manifest
    tender: str
    bridges: list[str]
    """One for each network of the image."""
    disks: list[str]
    """Their files."""
    arguments: list[str]
    """Of the unikernel."""

    @property
    def macs(self) -> list[str]:
        """The MAC address of each interface."""
        return [nth_mac(self.spec.mac, n) for n in range(len(self.bridges))]

    def command(self, user: int, taps: Sequence[str]) -> dict[str, object]:
        """Return what the launcher is to run, and as whom."""
        return {
            "argv": command_line.tender_command(self.tender, self.spec, self.manifest, taps, self.arguments),
            "user": user,
            "memory_bytes": command_line.memory_mb(self.spec) << 20,
            "groups": _groups_of_kvm() if self.manifest.target == "hvt" else [],
        }


class Preparation:
    """Looks at images, tenders and bridges of this host."""

    def __init__(self, settings: HypervisorSettings) -> None:
        self._settings = settings
        self._images = SoloImages()
        self._addresses = BridgeAddresses()
        self._has_kvm: bool | None = None
        """None: it has not been tried."""

    async def try_kvm(self) -> None:
        """Find out whether KVM works, if there is a tender that needs it."""
        self._has_kvm = bool(shutil.which("solo5-hvt")) and await kvm_runs()
        if shutil.which("solo5-hvt") and not self._has_kvm:
            log.warning("KVM does not work here: images for hvt cannot be run", device=DEVICE, limit_s=LIMIT_S)

    def plan(self, vm: VM) -> Plan:
        """Return how a VM is started; raises Refused."""
        spec, manifest = self._image(vm)
        tender = self._tender(spec, manifest)
        return Plan(
            spec,
            manifest,
            tender,
            command_line.bridges(spec, manifest, self._settings.bridge),
            list(command_line.disks(spec, manifest).values()),
            command_line.arguments(vm, self._networks(vm)),
        )

    def bridges(self, vm: VM) -> list[str]:
        """Return the bridges of a VM's interfaces; raises Refused."""
        return command_line.bridges(*self._image(vm), self._settings.bridge)

    def check(self, vm: VM) -> None:
        """Raise Refused if a VM cannot be started, also for reasons that its tender would meet only later."""
        plan = self.plan(vm)
        for path in plan.disks:
            if not os.path.exists(path):
                raise Refused(f"disk: there is no file {path}")
            if closed := closed_to_others(os.path.dirname(path), stat.S_IXOTH):
                raise Refused(f"disk: a tender cannot open {path}: {closed}")
        if closed := closed_to_others(plan.spec.kernel, stat.S_IROTH):
            raise Refused(f"kernel: a tender cannot read it: {closed}")
        if closed := closed_to_others(plan.tender, stat.S_IROTH | stat.S_IXOTH):
            raise Refused(f"hypervisor.tender: its user cannot run it: {closed}")

    def _image(self, vm: VM) -> tuple[DomainSpec, Manifest]:
        """Return what a VM is made of, and what its image says about itself."""
        if why := STOP_MODES.get(vm.stop_mode, ""):
            raise Refused(f"stop_mode: {vm.stop_mode} is not possible with solo5: {why}; use destroy or pause")
        keys.check_possible(vm)
        spec = domain_spec(vm, "")
        if spec.vcpus != 1:
            raise Refused("vcpus: a Solo5 unikernel has one processor")
        if vm.handover is not HandoverKind.REPLAY:
            raise Refused("handover: there is no Xenstore with solo5; use replay")
        if not spec.kernel:
            raise Refused("kernel: is required with solo5: the image of the unikernel")
        if not os.path.isabs(spec.kernel):
            raise Refused(f"kernel: {spec.kernel} must be an absolute path")
        try:
            return spec, self._images.manifest(spec.kernel, self._tool())
        except ManifestFault as fault:
            raise Refused(f"kernel: {spec.kernel}: {fault}") from None

    def _tool(self) -> str:
        """Return the solo5-elftool that is beside the tender, or on PATH; "" if there is none."""
        beside = Path(self._settings.tender).parent / "solo5-elftool"
        if self._settings.tender and os.access(beside, os.X_OK):
            return str(beside)
        return shutil.which("solo5-elftool") or ""

    def _tender(self, spec: DomainSpec, manifest: Manifest) -> str:
        """Return the program that runs an image."""
        built = f"kernel: {spec.kernel} is built for {manifest.target}"
        if manifest.target not in ("spt", "hvt"):
            raise Refused(f"{built}; solo5 runs images for spt and hvt")
        name = self._settings.tender or f"solo5-{manifest.target}"
        found = shutil.which(name)
        if found is None:
            raise Refused(
                f"{built}, and there is no program {name}; install it, or say where it is with hypervisor.tender"
            )
        if manifest.target == "hvt" and not self._settings.tender and self._has_kvm is False:
            raise Refused(f"{built}, and KVM does not work here; build it for spt")
        return os.path.abspath(found)

    def _networks(self, vm: VM) -> list[command_line.Interface]:
        if not command_line.needs_networks(vm):
            return []
        return list(self._settings.gateways) or self._addresses.of(vm.bridge or self._settings.bridge)


def _groups_of_kvm() -> list[int]:
    """Return the group that may open /dev/kvm."""
    with suppress(OSError):
        about = os.stat(DEVICE)
        return [] if about.st_mode & 0o006 == 0o006 else [about.st_gid]
    return []
