"""The suite: whether each service and each dns replica answers, and what hypervisors report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu.dig import is_on_all_addresses
from jitsu.doctor.finding import Finding, note

if TYPE_CHECKING:
    from jitsu.doctor.finding import Suite

TOPIC = "services"
OPTIONAL = "synjitsu"
"""A machine without bridges does not need them."""


def judge(suite: Suite) -> list[Finding]:
    """Find what does not answer. There is nothing to gather, because the command has asked every service already."""
    directory = suite.settings.bus.directory
    if not suite.is_running:
        advice = suite.silences.get("store") or "start the suite with `jitsu up`"
        what = f"no suite runs in {directory}, so only the machine was looked at"
        return [note(TOPIC, what, f"{advice[:1].upper()}{advice[1:]}.")]
    found = []
    for name, pong in suite.pongs.items():
        if pong is None and name == OPTIONAL and not any(vm.is_armed for vm in suite.vms):
            continue
        if pong is None:
            what = f"{name} does not answer"
            found.append(Finding(TOPIC, what, f"{suite.silences.get(name) or 'Look at its log.'}"))
            continue
        found += [
            Finding(TOPIC, f"{name}: {line}", "Look at that hypervisor and its log; VMs on others go on.")
            for line in pong.notes
            if line.startswith("hypervisor ") and "does not answer" in line
        ]
        found += [
            note(TOPIC, f"{name}: {line}", "`jitsu hold --release` ends that.")
            for line in pong.notes
            if line.startswith("all VMs are held")
        ]
        found += [
            Finding(TOPIC, f"{name}: {line}", "docs/how-to/events-out.md says what each target needs.")
            for line in pong.notes
            if line.startswith("events ")
        ]
    if not suite.replicas and suite.pongs.get("store") is not None:
        found.append(Finding(TOPIC, "the store knows of no dns replica", "Start jitsu-dns, or look at its log."))
    for address, replicas in suite.replicas.items():
        silent = sorted(replicas - suite.answering.get(address, frozenset()))
        if silent and not (is_on_all_addresses(address) and _is_elsewhere(suite)):
            what = f"{', '.join(silent)} does not answer at {address}"
            found.append(Finding(TOPIC, what, "Look at its log; a firewall may stand between, or it may be gone."))
    return found


def _is_elsewhere(suite: Suite) -> bool:
    """Return whether services may be on other machines, where "all addresses" is not an address of this one."""
    return any(not endpoint.path for _, endpoint in suite.settings.bus.endpoints())
