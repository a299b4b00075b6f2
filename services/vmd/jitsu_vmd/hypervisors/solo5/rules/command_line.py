"""The command line of a tender: solo5-spt and solo5-hvt take the same one.

TENDER --mem=MB --net:NAME=TAP --net-mac:NAME=MAC --block:NAME=FILE -- IMAGE ARGUMENTS
"""

from __future__ import annotations

import re
import shlex
from functools import lru_cache
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.spec import nth_mac

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from ipaddress import IPv4Interface, IPv6Interface

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec
    from jitsu_vmd.hypervisors.solo5.rules.manifest import Manifest

    Interface = IPv4Interface | IPv6Interface

MAX_ARGUMENTS_BYTES = 8192
"""The tenders give a unikernel at most that long a command line."""
_PLACEHOLDER = re.compile(r"\{([a-z0-9_]+)\}")


def tender_command(
    tender: str, spec: DomainSpec, manifest: Manifest, taps: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """Return the words of the command line; one tap for each network of the manifest."""
    words = [tender, f"--mem={memory_mb(spec)}"]
    for n, (name, tap) in enumerate(zip(manifest.networks, taps, strict=True)):
        words += [f"--net:{name}={tap}", f"--net-mac:{name}={nth_mac(spec.mac, n)}"]
    words += [f"--block:{name}={path}" for name, path in disks(spec, manifest).items()]
    return [*words, "--", spec.kernel, *arguments]


def memory_mb(spec: DomainSpec) -> int:
    """Return the memory that a tender gives its unikernel, in MB, rounded up."""
    return -(-spec.memory_kib // 1024)


def bridges(spec: DomainSpec, manifest: Manifest, default: str) -> list[str]:
    """Return the bridge of each network of the manifest; raises Refused if the VM has another number of them."""
    given = [nic.bridge for nic in spec.nics]
    wanted = len(manifest.networks)
    if not given and default:
        given = [default] * wanted
    if len(given) != wanted:
        have = f"the image has {_counted(wanted, 'network')}{_named(manifest.networks)}"
        raise Refused(f"nic: {have}, and the VM says `nic` {len(given)} times; it must be given once for each")
    return given


def disks(spec: DomainSpec, manifest: Manifest) -> dict[str, str]:
    """Return the file of each block device of the manifest; raises Refused.

    A `disk` is FILE@NAME; one without a name is for the device at its place in the manifest.
    """
    found: dict[str, str] = {}
    for n, disk in enumerate(spec.disks):
        name = disk.target
        if name is None:
            name = manifest.blocks[n] if n < len(manifest.blocks) else ""
        if name not in manifest.blocks:
            have = f"has {', '.join(manifest.blocks)}" if manifest.blocks else "has none"
            raise Refused(f"disk: {disk.text!r} is for no block device of the image, which {have}")
        if name in found:
            raise Refused(f"disk: the block device {name} is given twice")
        if any(character.isspace() for character in disk.source) or not disk.source.startswith("/"):
            raise Refused(f"disk: {disk.source!r} must be an absolute path without blanks, as a tender can read it")
        found[name] = disk.source
    if missing := [name for name in manifest.blocks if name not in found]:
        raise Refused(f"disk: the image needs a file for its block device {missing[0]}: disk = FILE@{missing[0]}")
    return {name: found[name] for name in manifest.blocks}


def arguments(vm: VM, networks: Iterable[Interface]) -> list[str]:
    """Return the words of the VM's `cmdline`, with what stands in braces filled in; raises Refused.

    `networks` are the host's own addresses on the bridge with their prefixes. The one in whose network the VM's address
    is, is the VM's gateway.
    """
    known = _values(vm, networks)

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in known:
            raise Refused(f"cmdline: {{{name}}} is not known; use one of {{{'}, {'.join(_MEANINGS)}}}")
        if not known[name]:
            raise Refused(f"cmdline: {{{name}}}: {_MEANINGS[name]}")
        return known[name]

    try:
        words = _words(vm.key("cmdline"))
    except ValueError as error:
        raise Refused(f"cmdline: it cannot be split into words: {error}") from None
    filled = [_PLACEHOLDER.sub(value, word) for word in words]
    if len(" ".join(filled).encode()) >= MAX_ARGUMENTS_BYTES:
        raise Refused(f"cmdline: it is longer than the {MAX_ARGUMENTS_BYTES - 1} bytes that a tender accepts")
    return filled


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    """Split a command line; each boot asks three times. Raises ValueError."""
    return tuple(shlex.split(text))


def needs_networks(vm: VM) -> bool:
    """Say whether a VM's `cmdline` asks for what only the bridge's addresses tell."""
    return any(name.startswith(("prefix", "gateway")) for name in _PLACEHOLDER.findall(vm.key("cmdline")))


_NO_NETWORK = "the bridge has no address in the network of the VM's own; give it one, or say hypervisor.gateways"
_MEANINGS = {
    "name": "the VM has no name",
    "ip": "the VM has no IPv4 address",
    "prefix": _NO_NETWORK,
    "gateway": _NO_NETWORK,
    "ip6": "the VM has no IPv6 address",
    "prefix6": _NO_NETWORK,
    "gateway6": _NO_NETWORK,
}
"""What may stand in braces -> why it may have no value."""


def _values(vm: VM, networks: Iterable[Interface]) -> Mapping[str, str]:
    values = dict.fromkeys(_MEANINGS, "") | {"name": vm.name}
    known = list(networks)
    for address in vm.addresses:
        suffix = "6" if address.version == 6 else ""
        if values[f"ip{suffix}"]:
            continue
        values[f"ip{suffix}"] = str(address)
        for own in known:
            if address in own.network and address != own.ip:
                values[f"prefix{suffix}"] = str(own.network.prefixlen)
                values[f"gateway{suffix}"] = str(own.ip)
                break
    return values


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}" if number else f"no {what}"


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
