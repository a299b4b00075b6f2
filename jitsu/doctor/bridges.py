"""Bridges: whether those that VMs are on are there and forward, and whether a packet filter sees what crosses them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding, note
from jitsu.kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu.doctor.finding import Suite

TOPIC = "bridges"
NETFILTER = Path("/proc/sys/net/bridge")
"""There if the module br_netfilter is loaded (Documentation/networking/ip-sysctl.rst, "bridge")."""
MAX_FORWARD_DELAY_S = 2.0
"""Longer than that, and the first packets to a guest that has just started are dropped."""


@dataclass(frozen=True)
class Interface:
    """A network interface of this machine."""

    is_bridge: bool
    is_up: bool
    forward_delay_s: float = 0.0
    """With the spanning tree protocol: how long a new port does not forward; 0 without it."""


@dataclass(frozen=True)
class BridgeFacts:
    """BridgeFacts about this machine."""

    wanted: Mapping[str, str] = field(default_factory=dict)
    """Bridge -> who names it."""
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    filtered: frozenset[str] = frozenset()
    """For which of iptables, ip6tables and arptables what crosses a bridge is filtered."""
    has_docker: bool = False


def wanted(suite: Suite) -> dict[str, str]:
    """Return the bridges that must be there, and who names each."""
    settings = suite.settings
    found: dict[str, str] = {}
    for name in settings.synjitsu.bridges:
        if name != "none":
            found.setdefault(name, "synjitsu.bridges")
    for vm in suite.vms:
        about = kind_of(vm, settings).about
        if vm.host != settings.hypervisor.host or not about.needs_bridges:
            continue
        for name in vm.config.get("nic", ()):
            found.setdefault(name, f"nic of {vm.name}")
        if about.needs_default_bridge and not vm.bridge:
            found.setdefault(settings.hypervisor.bridge, "hypervisor.bridge")
    return found


def gather(suite: Suite, root: Path = Path("/sys/class/net"), netfilter: Path = NETFILTER) -> BridgeFacts:
    """Read what the kernel says of its interfaces."""
    names = wanted(suite)
    filtered = set()
    for table in ("iptables", "ip6tables", "arptables"):
        with suppress(OSError):
            if (netfilter / f"bridge-nf-call-{table}").read_text().strip() == "1":
                filtered.add(table)
    return BridgeFacts(
        names,
        {name: _interface(root / name) for name in names if (root / name).exists()},
        frozenset(filtered),
        has_docker=(root / "docker0").exists(),
    )


def _interface(path: Path) -> Interface:
    bridge = path / "bridge"
    delay = 0.0
    with suppress(OSError, ValueError):
        if int((bridge / "stp_state").read_text()):
            delay = int((bridge / "forward_delay").read_text()) / 100
    is_up = True
    with suppress(OSError, ValueError):
        is_up = bool(int((path / "flags").read_text(), 16) & 1)  # IFF_UP, netdevice(7)
    return Interface(bridge.is_dir() or not path.exists(), is_up, delay)


def judge(facts: BridgeFacts) -> list[Finding]:
    """Find bridges on which guests cannot be reached."""
    found = []
    for name, who in sorted(facts.wanted.items()):
        interface = facts.interfaces.get(name)
        if interface is None:
            what, advice = "there is no bridge", f"Make it: `ip link add {name} type bridge && ip link set {name} up`."
        elif not interface.is_bridge:
            what, advice = "this is not a bridge:", "Name a bridge; `ip link show type bridge` lists them."
        elif not interface.is_up:
            what, advice = "the bridge is down:", f"`ip link set {name} up`"
        elif interface.forward_delay_s > MAX_FORWARD_DELAY_S:
            what = f"a guest that starts is not reachable for {2 * interface.forward_delay_s:g} s, because of STP, on"
            advice = f"`ip link set {name} type bridge stp_state 0`, or a forward_delay of {MAX_FORWARD_DELAY_S:g} s."
        else:
            continue
        found.append(Finding(TOPIC, f"{what} {name} ({who})", advice))
    if facts.filtered and facts.wanted:
        what = f"what crosses a bridge is filtered by {', '.join(sorted(facts.filtered))} (br_netfilter)"
        advice = (
            "Guests are cut off where FORWARD drops: `sysctl net.bridge.bridge-nf-call-iptables=0`, or let it pass."
        )
        if facts.has_docker:
            found.append(Finding(TOPIC, f"{what}, and Docker lets FORWARD drop what it does not know", advice))
        else:
            found.append(note(TOPIC, what, advice))
    return found
