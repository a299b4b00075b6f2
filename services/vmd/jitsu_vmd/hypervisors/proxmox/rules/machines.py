"""What Proxmox VE reports of its machines, and what follows from it for a VM.

`cluster/resources` has every VM and container with the node that its configuration is on, which is always right, and
with a status that each node publishes about every 10 s. So a machine that may have changed lately is looked at by
itself (`status/current`), which its node answers as it is now.

A node is offline when the others do not hear it. Nobody can tell from outside whether it has lost its power or only
its network, so nothing is concluded: its machines may run on, and a second one would have the same address (G1). A
machine is started elsewhere only when the cluster itself has given it another node: its HA manager has fenced the
node, or an operator has moved the configuration.

    status    qmpstatus                     lock        what the VM is
    running   running, save-vm, none        any         running
    running   prelaunch, shutdown           backup      off: QEMU runs for a backup only
    running   shutdown                      other       off: the guest has shut down, and QEMU has not ended
    running   paused, prelaunch, suspended, any         paused
              postmigrate, io-error,
              inmigrate, finish-migrate
    running   internal-error,               any         crashed
              guest-panicked
    running   anything else                 any         running
    stopped   -                             suspended   suspended
    stopped   -                             other       off
    other     -                             any         not known: it is looked at by itself, or its node is offline
    the machine is not there                            off; a start says that there is none
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jitsu_protocol.model.errors import NotFound, Refused, Unavailable
from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Nic

Type = Literal["qemu", "lxc"]
PAUSED = frozenset(
    {"paused", "prelaunch", "suspended", "postmigrate", "io-error", "inmigrate", "finish-migrate", "shutdown"}
)
CRASHED = frozenset({"internal-error", "guest-panicked"})
SUSPENDED = "suspended"
"""The lock that a machine has while its memory is saved on disk."""


@dataclass(frozen=True)
class PveMachine:
    """A VM or a container."""

    vmid: int
    type: Type
    node: str
    name: str = ""
    status: str = ""
    lock: str = ""
    up_s: float | None = None
    tags: str = ""

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/nodes/{self.node}/{self.type}/{self.vmid}"


@dataclass(frozen=True)
class PveCluster:
    """What `cluster/resources` reports."""

    machines: Mapping[int, PveMachine] = field(default_factory=dict)
    named: Mapping[str, list[PveMachine]] = field(default_factory=dict)
    offline: frozenset[str] = frozenset()
    """The nodes that the others do not hear."""

    def meant(self, vm: VM) -> list[PveMachine]:
        """Return the machines that may be meant: a name of digits is a VMID."""
        if vm.name.isascii() and vm.name.isdecimal():
            return [self.machines[int(vm.name)]] if int(vm.name) in self.machines else []
        return self.named.get(vm.name, [])

    def machine(self, vm: VM) -> PveMachine:
        """Return the machine of a VM; raises NotFound, or Unavailable if several have its name."""
        found = self.meant(vm)
        if not found:
            raise NotFound(
                f"Proxmox VE has no VM or container {vm.name}",
                hint="it must have this name, or the VM must be named by its VMID; the token needs VM.Audit for it",
            )
        if len(found) > 1:
            ids = ", ".join(str(each.vmid) for each in found[:10])
            raise Unavailable(f"{len(found)} machines are called {vm.name}", hint=f"name the VM by its VMID: {ids}")
        return found[0]

    def why_unseen(self, machine: PveMachine) -> str:
        """Return why nothing can be known of a machine now, "" if it can be looked at."""
        if machine.node not in self.offline:
            return ""
        return (
            f"its node {machine.node} is offline, and the machine may still run there: it is started elsewhere only if "
            "the cluster moves it"
        )


def cluster_of(records: object) -> PveCluster:
    """Read an answer of `cluster/resources`; what is not a machine or a node is left out."""
    machines: dict[int, PveMachine] = {}
    named: dict[str, list[PveMachine]] = defaultdict(list)
    offline = set()
    for record in records if isinstance(records, list) else []:
        if not isinstance(record, dict):
            continue
        if record.get("type") == "node" and record.get("status") == "offline":
            offline.add(str(record.get("node", "")))
        machine = _machine(record)
        if machine is not None:
            machines[machine.vmid] = machine
            named[machine.name].append(machine)
    return PveCluster(machines, named, frozenset(offline))


def _machine(record: Mapping[str, Any]) -> PveMachine | None:
    kind, vmid, node = record.get("type"), record.get("vmid"), record.get("node")
    if kind not in ("qemu", "lxc") or not isinstance(vmid, int) or not is_node_name(node) or record.get("template"):
        return None
    up = record.get("uptime")
    return PveMachine(
        vmid,
        "qemu" if kind == "qemu" else "lxc",
        str(node),
        str(record.get("name") or ""),
        str(record.get("status") or ""),
        str(record.get("lock") or ""),
        float(up) if isinstance(up, int | float) and up else None,
        str(record.get("tags") or ""),
    )


def is_node_name(node: object) -> bool:
    """Say whether this is the name of a node, which becomes a part of a path."""
    return isinstance(node, str) and node.replace("-", "").isalnum() and node.isascii()


def state_of(status: str, qmpstatus: str, lock: str) -> GuestState | None:
    """Return what a machine is, None if that cannot be told; `qmpstatus` is "" for a container, and in resources."""
    if status == "stopped":
        return GuestState.SUSPENDED if lock == SUSPENDED else GuestState.OFF
    if status != "running":
        return None
    if qmpstatus == "shutdown" or (qmpstatus == "prelaunch" and lock == "backup"):
        return GuestState.OFF
    if qmpstatus in CRASHED:
        return GuestState.CRASHED
    return GuestState.PAUSED if qmpstatus in PAUSED else GuestState.RUNNING


def is_certain(machine: PveMachine, vm: VM) -> bool:
    """Say whether resources tell enough of a machine that has not changed lately.

    They do not tell whether a VM is paused, so one that Jitsu pauses is looked at by itself while it runs.
    """
    state = state_of(machine.status, "", machine.lock)
    return state is not None and not (state is GuestState.RUNNING and vm.value("stop_mode") == "pause")


def guest_of(machine: PveMachine, nics: tuple[Nic, ...]) -> Guest:
    """Return what resources tell of a machine."""
    state = state_of(machine.status, "", machine.lock) or GuestState.OFF
    return Guest(state, up_s=machine.up_s if state is GuestState.RUNNING else None, nics=nics)


def check_mode(machine: PveMachine, mode: str) -> None:
    """Raise Refused if a machine cannot be stopped like that."""
    if machine.type == "lxc" and mode in ("suspend", "pause"):
        raise Refused(
            f"stop_mode: a container of Proxmox VE can neither be suspended nor paused; use shutdown, not {mode}"
        )
