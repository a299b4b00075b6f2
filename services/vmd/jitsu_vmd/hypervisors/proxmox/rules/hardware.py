"""Interfaces, addresses and keys that the configuration of a machine tells (qm.conf(5), pct.conf(5))."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Any

from jitsu_vmd.hypervisor import Nic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_vmd.hypervisors.proxmox.rules.machines import PveMachine

MAX_NICS = 32
"""net0 to net31."""
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_LINE = re.compile(r"\s*(?:[-*]\s+)?`?jitsu\.([a-z_]{1,40})\s*[=:]\s*(.{1,500}?)`?\s*")


def nics_of(machine: PveMachine, config: Mapping[str, Any], *, is_here: bool) -> tuple[Nic, ...]:
    """Return the interfaces of a machine; with the host's end of each if its node is this host.

    With the firewall on, what is on the bridge is one end of a further pair (PVE::Network::tap_plug).
    """
    nics = []
    for number in range(MAX_NICS):
        options = _options(config.get(f"net{number}"))
        mac = next((value for value in options.values() if _MAC.fullmatch(value)), "")
        if not mac:
            continue
        end = "fwpr{}p{}" if options.get("firewall") == "1" else ("tap{}i{}" if machine.type == "qemu" else "veth{}i{}")
        interface = end.format(machine.vmid, number) if is_here else ""
        nics.append(Nic(mac.lower(), options.get("bridge", ""), interface))
    return tuple(nics)


def fixed_addresses(config: Mapping[str, Any]) -> list[str]:
    """Return the addresses that the configuration fixes: of a container, or of cloud-init."""
    found = []
    for key in (f"{prefix}{number}" for prefix in ("net", "ipconfig") for number in range(MAX_NICS)):
        options = _options(config.get(key))
        for text in (options.get("ip", ""), options.get("ip6", "")):
            with suppress(ValueError):
                found.append(str(ip_interface(text).ip))
    return found


def reported_addresses(answer: object) -> list[str]:
    """Return the addresses that the guest agent, or a container's node, reports; none that only the guest can use."""
    interfaces = answer.get("result") if isinstance(answer, dict) else answer
    texts = []
    for each in interfaces if isinstance(interfaces, list) else []:
        if isinstance(each, dict):
            texts += [str(each[key]) for key in ("inet", "inet6") if key in each]
            entries = each.get("ip-addresses")
            texts += [str(one.get("ip-address")) for one in entries or [] if isinstance(one, dict)]
    found = []
    for text in texts:
        with suppress(ValueError):
            address = ip_address(text.partition("/")[0])
            if not (address.is_loopback or address.is_link_local):
                found.append(str(address))
    return found


def keys_of(tags: str, description: object) -> dict[str, str]:
    """Return the keys of a VM that its owner has written: tags `jitsu.KEY.VALUE`, or lines of the notes.

    A tag can have neither a blank nor `=`. A line is `jitsu.KEY: VALUE` or `jitsu.KEY = VALUE`. A key that stands there
    several times has its values joined by commas.
    """
    found: dict[str, list[str]] = {}
    for tag in re.split(r"[;,\s]+", tags):
        head, _, rest = tag.partition(".")
        key, _, value = rest.partition(".")
        if head == "jitsu" and key and value:
            found.setdefault(key, []).append(value)
    for line in str(description or "").splitlines():
        if match := _LINE.fullmatch(line):
            found.setdefault(match[1], []).append(match[2])
    return {key: ",".join(values) for key, values in found.items()}


def _options(text: object) -> dict[str, str]:
    """Read `virtio=BC:24:11:00:00:01,bridge=vmbr0`."""
    pairs = (part.partition("=") for part in str(text or "").split(","))
    return {key: value for key, _, value in pairs}
