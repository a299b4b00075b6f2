"""VMs that labels of machines describe (docs/explanation/labels.md): the commands that change VMs leave them to vmd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import BranchList, Leaves, List, ListBranches
from jitsu_protocol.model.labels import is_label_branch
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.rows import below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu.link import Link

READ_TIMEOUT_S = 60.0
NAMES_SHOWN = 10


async def labelled(link: Link) -> dict[str, str]:
    """Return the leaves of all VMs that labels describe, as labels say it: path -> value."""
    found: dict[str, str] = {}
    listed = await link.call("store", ListBranches(), BranchList, READ_TIMEOUT_S)
    for branch in listed.branches:
        if is_label_branch(branch.name):
            asked = List(prefix=VM_ROOT, branch=branch.name)
            found |= (await link.call("store", asked, Leaves, READ_TIMEOUT_S)).leaves
    return found


def untouched(leaves: Mapping[str, str], of_labels: Mapping[str, str]) -> set[str]:
    """Return the UUIDs of the VMs that are just as labels say."""
    there = below(leaves, VM_ROOT)
    return {uuid for uuid, own in below(of_labels, VM_ROOT).items() if there.get(uuid) == own}


def comes_back(uuids: Iterable[str], of_labels: Mapping[str, str]) -> list[str]:
    """Return a line about VMs that somebody removes and that labels describe."""
    described = below(of_labels, VM_ROOT)
    names = sorted(described[uuid].get("config/name/0", uuid) for uuid in uuids if uuid in described)
    if not names:
        return []
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return [f"note: labels describe {', '.join(names[:NAMES_SHOWN])}{more}; as long as they do, vmd adds that again"]
