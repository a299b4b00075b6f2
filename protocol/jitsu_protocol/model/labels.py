"""Labels: keys of a VM that a machine carries with it, and the branch of the tree that has the VMs made of them.

docs/explanation/labels.md says how a label becomes a VM. What is here is what vmd, the store and `jitsu` must agree on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.vm_keys import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

LABEL_KEYS = frozenset(
    {
        "dns",
        "alias",
        "ip",
        "ttl",
        "name_ttl",
        "stop_mode",
        "response_delay",
        "wait_for_port",
        "wait_for_key",
        "ready",
        "use_synjitsu",
        "answer",
        "handover",
        "wake_on_traffic",
        "max_idle_connection",
        "idle_timeout",
        "max_wait",
        "on_timeout",
        "boot_limit",
        "shutdown_limit",
        "evict",
    }
)
"""The keys that a label may set: those that affect nobody but the machine itself.

Names must lie below the label zones, and addresses must be the machine's own. Keys that name something of the host
(files, disks, commands, bridges), that others pay for (memory, priority), or with which a machine could take a share of
another VM's name (summon) are for operators only.
"""
FOUND_KEYS = frozenset({"name", "hypervisor", "host"})
"""The keys of a VM made of labels that no label sets: they come from its hypervisor and from vmd."""

BRANCH = "labels"
"""The label branch of a vmd that has no host's name."""
MAX_LABELLED = 5_000
"""VMs that labels of one vmd may describe. Each needs some kilobytes of the store's tree."""

MAX_KEPT = 20_000
"""Machines with labels that cannot be used, of which one message may speak."""


def branch_of(host: str) -> str:
    """Return the label branch of a host's vmd."""
    return f"{BRANCH}-{host}" if host else BRANCH


def is_label_branch(branch: str) -> bool:
    """Say whether a branch is one of those that vmds write."""
    return branch == BRANCH or branch.startswith(f"{BRANCH}-")


def values_of(key: str, text: str) -> list[str]:
    """Return the values that the text of a label stands for: a key that may repeat has them divided by commas."""
    if key in KEYS and KEYS[key].repeats:
        return [value for each in text.split(",") if (value := each.strip())]
    return [text.strip()]


def is_below(name: str, zones: Iterable[str]) -> bool:
    """Say whether a DNS name lies below one of these zones: the zone's own name does not."""
    return any(name.endswith(f".{zone}") for zone in zones)
