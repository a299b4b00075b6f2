"""What `jitsu up` runs when nobody says what to run: three names under jitsu.test on mock guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.settings import VmText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.settings import Settings
    from jitsu_protocol.vm import VM

PRESETS = {"defaults.ttl": "10", "dns.port": "5300", "dns.zones": "jitsu.test"}


def texts() -> list[VmText]:
    """Return the VMs of the demonstration."""
    guests = {
        "www": {"boot_time": "0.3", "wait_for_port": "8080"},
        "api": {"boot_time": "0.1", "wait_for_port": "8080", "stop_mode": "suspend"},
        "blog": {"boot_time": "0.4", "response_delay": "0.5", "stop_mode": "shutdown"},
    }
    found = []
    for number, (name, keys) in enumerate(guests.items(), start=1):
        config = {"name": name, "dns": f"{name}.jitsu.test", "ip": f"127.0.1.{number}", "response_delay": "0"} | keys
        found.append(VmText(config={key: [value] for key, value in config.items()}, where=f"demonstration: {name}"))
    return found


def next_steps(settings: Settings, jitsu: str) -> Sequence[str]:
    """Return what a newcomer may type now; `jitsu` is how this very tool is called."""
    vm = min(settings.vms, key=_by_first_address, default=None)
    if vm is None:
        return ["", f"Serving what the store holds: {jitsu} status shows it. Ctrl-C stops everything."]
    name, address = next(iter(vm.names)), vm.addresses[0]
    host = f"[{address}]" if address.version == 6 else str(address)
    is_mock = settings.hypervisor.kind in ("mock", "loopback", "bridge")
    port = vm.config.get("port", ("8080" if is_mock else "",))[0]
    return [
        "",
        f"{len(settings.vms)} VM{'s are' if len(settings.vms) > 1 else ' is'} off until somebody asks for"
        f" {'them' if len(settings.vms) > 1 else 'it'}. In another terminal:",
        "",
        f"    dig @{settings.dns.bind} -p {settings.dns.port} {name} +short",
        *([f"    curl http://{host}:{port}/"] if port else []),
        f"    {jitsu} status      # what runs, and since when",
        f"    {jitsu} trace       # where the milliseconds went",
        f"    {jitsu} tree        # the state, as Git keeps it",
        "",
        f"A VM stops when it has been idle for {vm.idle_timeout:g} s. Ctrl-C stops everything.",
    ]


def _by_first_address(vm: VM) -> tuple[int, int]:
    """Sort IPv4 before IPv6: addresses of different families cannot be compared."""
    address = vm.addresses[0]
    return address.version, int(address)
