"""What `jitsu up` runs when it is given no VMs: three names under jitsu.test on mock guests that need nothing, and
as root a fourth, the guest in C on a bridge of its own, which boots in milliseconds."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.kinds import kind_of
from jitsu.reach import unreachable, unreachable_lines
from jitsu_runtime.native_guest import native_guest
from jitsu_runtime.settings.load import VmText

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings

PRESETS = {"defaults.ttl": "10", "dns.port": "5300", "dns.zones": "jitsu.test"}
FAST = "spark"
"""The VM that boots in milliseconds."""
BRIDGES = ("jitsu-demo", "jitsu-demo2", "jitsu-demo3")
"""One of them the mock hypervisor makes for it and removes again; several demonstrations may run at once."""
NETWORKS = tuple(IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))
"""Those for documentation (RFC 5737): nothing that is real is hidden behind them."""
MAIN_ROUTES = Path("/proc/net/route")
TUN = Path("/dev/net/tun")


@dataclass(frozen=True)
class FastPlace:
    """Where the guest in C is demonstrated."""

    bridge: str
    network: IPv4Network


def fast_place(say: Callable[[str], None]) -> FastPlace | None:
    """Return where a guest in C can be demonstrated; None if it cannot be done here. It prints to root why."""
    if os.geteuid():
        return None
    if not native_guest() or not TUN.exists():
        missing = f"there is no {TUN}" if native_guest() else "it has not been built: `make guests` does that, with gcc"
        say(f"note: the guest that boots in milliseconds is left out, because {missing}")
        return None
    network = free_network(MAIN_ROUTES.read_text())
    bridge = next((name for name in BRIDGES if not Path(f"/sys/class/net/{name}").exists()), None)
    return None if network is None or bridge is None else FastPlace(bridge, network)


def free_network(routes: str) -> IPv4Network | None:
    """Return one of NETWORKS to which no route leads, given what /proc/net/route says; a default route is none."""
    used = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        target, mask = (IPv4Address(struct.pack("=I", int(fields[n], 16))) for n in (1, 7))
        used.append(IPv4Network(f"{target}/{mask}"))
    taken = [network for network in used if network.prefixlen]
    return next((each for each in NETWORKS if not any(each.overlaps(network) for network in taken)), None)


def presets(place: FastPlace | None) -> dict[str, str]:
    """Return the settings of the demonstration, with or without the guest in C."""
    if place is None:
        return PRESETS
    return PRESETS | {
        "hypervisor.connections": f"{FAST} bridge",
        "hypervisor.bridge": place.bridge,
        "hypervisor.bridge_addresses": f"{place.network[1]}/{place.network.prefixlen}",
    }


def texts(place: FastPlace | None = None) -> list[VmText]:
    """Return the VMs of the demonstration, with or without the guest in C."""
    guests = {
        "www": {"boot_time": "0.3", "wait_for_port": "8080"},
        "api": {"boot_time": "0.1", "wait_for_port": "8080", "stop_mode": "suspend"},
        "blog": {"boot_time": "0.4", "response_delay": "0.5", "stop_mode": "shutdown"},
    }
    if place is not None:
        # Its tap keeps what comes before it has booted, so nothing needs to wait for it.
        fast = {"hypervisor": FAST, "ip": str(place.network[2]), "tap": "true", "boot_time": "0", "port": "80"}
        guests[FAST] = fast | {"stop_mode": "destroy"}
    found = []
    for number, (name, keys) in enumerate(guests.items(), start=1):
        config = {"name": name, "dns": f"{name}.jitsu.test", "ip": f"127.0.1.{number}", "response_delay": "0"} | keys
        found.append(VmText(config={key: [value] for key, value in config.items()}, where=f"demonstration: {name}"))
    return found


def fast_steps(settings: Settings) -> list[str]:
    """Return lines about the guest in C, if it is part of the demonstration."""
    vm = next((vm for vm in settings.vms if vm.config.get("hypervisor") == (FAST,)), None)
    if vm is None:
        return []
    name = next(iter(vm.names))
    return [
        "",
        f"{FAST} is a process with a network stack and a tap of its own, as a unikernel is. It boots in milliseconds:",
        "",
        f"    time curl http://$(dig @{settings.dns.bind} -p {settings.dns.port} {name} +short)/",
        "",
        f"Its bridge {settings.hypervisor.bridge} was made for it, and is removed at the end.",
    ]


def next_steps(settings: Settings, jitsu: str) -> Sequence[str]:
    """Return what a newcomer may type now; `jitsu` is how this very tool is called."""
    vm = min(settings.vms, key=lambda vm: (bool(unreachable(vm, settings)), _by_first_address(vm)), default=None)
    if vm is None and settings.hypervisor.all_label_zones:
        zones = " or ".join(settings.hypervisor.all_label_zones)
        return [
            "",
            f"Machines with a label dns below {zones} are VMs: {jitsu} status shows them, and what is refused.",
            _at_the_end(settings),
        ]
    if vm is None:
        return ["", f"Serving what the store holds: {jitsu} status shows it. {_at_the_end(settings)}"]
    name, address = next(iter(vm.names)), vm.addresses[0]
    host = f"[{address}]" if address.version == 6 else str(address)
    is_mock = kind_of(vm, settings).about.is_mock
    port = vm.config.get("port", ("8080" if is_mock else "",))[0]
    if unreachable(vm, settings):
        port = ""
    return [
        *unreachable_lines(settings.vms, settings),
        "",
        f"{len(settings.vms)} VM{'s are' if len(settings.vms) > 1 else ' is'} off until somebody asks for"
        f" {'them' if len(settings.vms) > 1 else 'it'}. In another terminal:",
        "",
        f"    dig @{settings.dns.bind} -p {settings.dns.port} {name} +short",
        *([f"    curl http://{host}:{port}/"] if port else []),
        f"    {jitsu} status      # what runs, and since when",
        f"    {jitsu} trace       # where the milliseconds went",
        f"    {jitsu} tree        # the state, as Git keeps it",
        *fast_steps(settings),
        "",
        f"A VM stops when it has been idle for {vm.idle_timeout:g} s. {_at_the_end(settings)}",
    ]


def _at_the_end(settings: Settings) -> str:
    """Return what Ctrl-C does: real hypervisors go on without Jitsu, and so do their guests."""
    if all(each.kind.about.ends_with_suite for each in settings.hypervisor.all_connections):
        return "Ctrl-C stops everything."
    return "Ctrl-C stops Jitsu; a VM that runs then stays up."


def _by_first_address(vm: VM) -> tuple[int, int]:
    """Sort IPv4 before IPv6: addresses of different families cannot be compared."""
    address = vm.addresses[0]
    return address.version, int(address)
