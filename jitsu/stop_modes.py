"""How a VM with a disk that it writes to is stopped where nobody says so: `stop_mode = "shutdown"` is written for it.

To be destroyed is like a power cut: what the guest has not written yet is lost. It stays the default of VMs without
such a disk, of the original's strings on the command line of `jitsu up` (its -m), and of VMs that are in the tree
already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu.apply import check
from jitsu.kinds import kind_of
from jitsu_protocol.changes import changes_for
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu.link import Link
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings

NAMES_SHOWN = 10


async def stop_modes_at_up(
    link: Link, settings: Settings, strings: int, leaves: Mapping[str, str]
) -> tuple[list[VM], list[str]]:
    """Return the VMs that `jitsu up` was given as it commits them, and what an operator should know about that.

    The last of them, as many as `strings`, were given as the original's strings: they are destroyed as there.
    """
    of_file = settings.vms[: len(settings.vms) - strings]
    unknown = [vm for vm in of_file if kind_of(vm, settings).about.has_own_vms and "disk" not in vm.config]
    writes_to_disk = await check(link, changes_for(unknown, leaves), leaves, force=True) if unknown else {}
    vms, notes = with_stop_modes(of_file, settings, leaves, writes_to_disk)
    return [*vms, *settings.vms[len(of_file) :]], notes


def with_stop_modes(
    vms: Iterable[VM], settings: Settings, leaves: Mapping[str, str], writes_to_disk: Mapping[str, bool]
) -> tuple[list[VM], list[str]]:
    """Return VMs with the stop modes that they get, and what an operator should know about that.

    `leaves` are those below jitsu/vm; `writes_to_disk` has, by uuid, whether a
    VM writes to a disk, as far as vmd knows.
    """
    if "stop_mode" in settings.defaults.model_fields_set:
        return list(vms), []
    found, names = [], []
    for vm in vms:
        if "stop_mode" in vm.config:
            found.append(vm)
            continue
        before = _mode_in_the_tree(vm, leaves)
        mode = _mode(vm, settings, before, writes_to_disk.get(vm.uuid), leaves)
        found.append(vm if vm.stop_mode is mode else vm.model_copy(update={"stop_mode": mode}))
        if mode is StopMode.SHUTDOWN and before != StopMode.SHUTDOWN:
            names.append(vm.name)
    return found, _lines(names)


def _mode(vm: VM, settings: Settings, before: str, writes_to_disk: bool | None, leaves: Mapping[str, str]) -> StopMode:
    has_disk = bool(vm.config.get("disk"))
    is_first_disk = has_disk and f"{VM_ROOT}/{vm.uuid}/config/disk/0" not in leaves
    if before == StopMode.DESTROY and not is_first_disk:
        return StopMode.DESTROY
    if writes_to_disk is None and before == StopMode.SHUTDOWN:
        return StopMode.SHUTDOWN  # vmd, which does not answer now, may have said earlier that it has a disk
    writes = has_disk and kind_of(vm, settings).about.can_shut_down if writes_to_disk is None else writes_to_disk
    return StopMode.SHUTDOWN if writes else StopMode.DESTROY


def _mode_in_the_tree(vm: VM, leaves: Mapping[str, str]) -> str:
    """Return how a VM is stopped as it stands in the tree, "" if it does not."""
    start = f"{VM_ROOT}/{vm.uuid}"
    if f"{start}/ip" not in leaves and f"{start}/config/ip/0" not in leaves:
        return ""
    return leaves.get(f"{start}/stop_mode") or leaves.get(f"{start}/config/stop_mode/0") or StopMode.DESTROY


def _lines(names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    have = "has a disk that it writes to" if len(names) == 1 else "have disks that they write to"
    shown = ", ".join(names[:NAMES_SHOWN])
    return [f'note: {shown}{more} {have} and no stop_mode; stop_mode = "shutdown" is written, so that no data is lost']
