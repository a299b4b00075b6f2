"""The VMs of a pool as XAPI has them: which of them belongs to a VM of ours, and what its record says.

All of it runs on a thread, with that thread's own session.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jitsu_vmd.hypervisor import Guest, Nic
from jitsu_vmd.hypervisors.xapi import rules
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.xapi.sessions import Sessions

FEW = 16
"""Up to this many VMs are asked for one by one; beyond that the records of all cost less."""
_STATES = {
    "Halted": GuestState.OFF,
    "Running": GuestState.RUNNING,
    "Suspended": GuestState.SUSPENDED,
    "Paused": GuestState.PAUSED,
}


class Pool:
    """The VMs of one pool, and what was seen of them."""

    def __init__(self, sessions: Sessions) -> None:
        self.refs: dict[str, str] = {}
        """XAPI's reference -> uuid of the VM."""
        self._sessions = sessions
        self._nics: dict[str, tuple[Nic, ...]] = {}
        """By reference; `interface` is the number of the device only, as each start gives a VM another domain id."""

    def changed(self, ref: str) -> None:
        """Note that something has happened to a VM."""
        self._nics.pop(ref, None)

    def ref(self, vm: VM) -> str:
        """Return XAPI's reference of a VM; raises NotFound, or Unavailable if its name is ambiguous."""
        found = self.find(vm)
        rules.check_one(vm, len(found))
        return found[0][0]

    def find(self, vm: VM) -> list[tuple[str, dict[str, Any]]]:
        """Return reference and record of each VM that may be meant."""
        calls = self._sessions.mine().xenapi.VM
        if "uuid" not in vm.config:
            refs = calls.get_by_name_label(vm.name)
        else:
            try:
                refs = [calls.get_by_uuid(vm.uuid)]
            except self._sessions.library.Failure as failure:
                if failure.details[0] != "UUID_INVALID":
                    raise
                refs = []
        records = [(str(ref), calls.get_record(ref)) for ref in refs]
        return [(ref, record) for ref, record in records if is_vm(record)]

    def writes_to_disk(self, record: dict[str, Any]) -> bool:
        """Say whether a VM has a disk that it writes to."""
        calls = self._sessions.mine().xenapi.VBD
        disks = (calls.get_record(each) for each in record["VBDs"])
        return any(disk["type"] == "Disk" and disk["mode"] == "RW" for disk in disks)

    def guests(self, vms: list[VM]) -> dict[str, Guest]:
        """Return the guests of these VMs by uuid, for those that the pool has exactly once."""
        found = {}
        for vm, ref, record in self._few(vms) if len(vms) <= FEW else self._many(vms):
            self.refs[ref] = vm.uuid
            found[vm.uuid] = self._guest(ref, record)
        return found

    def _few(self, vms: list[VM]) -> list[tuple[VM, str, dict[str, Any]]]:
        each = [(vm, self.find(vm)) for vm in vms]
        return [(vm, *found[0]) for vm, found in each if len(found) == 1]

    def _many(self, vms: list[VM]) -> list[tuple[VM, str, dict[str, Any]]]:
        """Return the same from one list of all records."""
        all_records = self._sessions.mine().xenapi.VM.get_all_records()
        records = {ref: record for ref, record in all_records.items() if is_vm(record)}
        by_uuid = {record["uuid"]: ref for ref, record in records.items()}
        by_name: dict[str, list[str]] = {}
        for ref, record in records.items():
            by_name.setdefault(record["name_label"], []).append(ref)
        found = []
        for vm in vms:
            refs = [by_uuid[vm.uuid]] if vm.uuid in by_uuid else by_name.get(vm.name, [])
            if "uuid" in vm.config:
                refs = refs if vm.uuid in by_uuid else []
            if len(refs) == 1:
                found.append((vm, refs[0], records[refs[0]]))
        return found

    def _guest(self, ref: str, record: dict[str, Any]) -> Guest:
        nics = self._nics.get(ref)
        if nics is None:
            calls = self._sessions.mine().xenapi
            vifs = [calls.VIF.get_record(each) for each in record["VIFs"]]
            nics = tuple(
                Nic(vif["MAC"].lower(), calls.network.get_bridge(vif["network"]), vif["device"])
                for vif in sorted(vifs, key=lambda vif: int(vif["device"]))
            )
            self._nics[ref] = nics
        domain = int(record.get("domid", -1))  # -1 while it does not run
        nics = tuple(replace(nic, interface=f"vif{domain}.{nic.interface}" if domain > 0 else "") for nic in nics)
        return Guest(_STATES.get(record["power_state"], GuestState.OFF), nics=nics)


def is_vm(record: dict[str, Any]) -> bool:
    """Say whether a record is one of a VM: XAPI keeps templates, snapshots and domain 0 in the same place."""
    return not (record["is_a_template"] or record["is_a_snapshot"] or record["is_control_domain"])
