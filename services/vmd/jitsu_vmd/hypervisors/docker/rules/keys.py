"""Keys of a VM with docker: what its container is called and made of, and which keys count for nothing."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.hypervisors.shared.rules.unused_keys import refuse_each, refuse_keys, refuse_mock_keys

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

_NO_KERNEL = "a container has no kernel of its own; name its image, or remove it and use a container that is there"
_IMPOSSIBLE = {
    "kernel": _NO_KERNEL,
    "initrd": _NO_KERNEL,
    "domain_xml": "it is for libvirt only; name an image",
    "guest_type": "it is for Xen only; remove it",
    "rumprun_config": "it is for libxl only; remove it",
    "script": "the engine joins a container to its bridge without a script; remove it",
    "wait_for_key": "containers have no Xenstore; use wait_for_port or use_synjitsu",
}
_ONLY_MADE = ("cmdline", "vcpus", "disk", "publish")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""What Docker accepts as the name of a container (daemon/names)."""
_PUBLISH = re.compile(r"(?:([0-9]{1,5}):)?([0-9]{1,5})(?:/(tcp|udp))?")


def is_made(vm: VM) -> bool:
    """Say whether a VM's container is made for it; else it is one that the engine has already."""
    return "image" in vm.config


def container_name(vm: VM) -> str:
    """Return the name of a VM's container; raises Refused."""
    key = "container" if "container" in vm.config else "name"
    name = vm.config.get("container", (vm.name,))[0]
    if not _NAME.fullmatch(name):
        raise Refused(
            f"{key}: {name[:100]!r} cannot be the name of a container, which has two or more letters, digits and . _ "
            "-, and begins with a letter or a digit; name the container with the key container"
        )
    return name


def check(vm: VM) -> None:
    """Raise Refused if no container can do what a VM's keys ask for."""
    refuse_each(vm, _IMPOSSIBLE)
    if vm.stop_mode is StopMode.SUSPEND:
        raise Refused(
            "stop_mode: suspend would need CRIU, with which engines save few containers; "
            "use pause, which keeps the memory, or shutdown"
        )
    container_name(vm)
    if not is_made(vm):
        return
    command(vm)
    mounts(vm)
    if published(vm):
        for key, is_set in (("use_synjitsu", vm.use_synjitsu), ("wake_on_traffic", vm.wake_on_traffic)):
            if is_set:
                raise Refused(
                    f"{key}: with publish the VM's address is one of the host's own, for which Synjitsu cannot answer; "
                    "remove publish, and give the VM an address in the subnet of one of the engine's networks"
                )


def check_unused(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with docker."""
    refuse_mock_keys(vm, "docker")
    if not is_made(vm):
        why = f"counts only for a container that is made of an image; {container_name(vm)} is not, so set it there"
        refuse_keys(vm, _ONLY_MADE, why)


def command(vm: VM) -> list[str]:
    """Return the arguments that a VM's container is started with, none for those of its image; raises Refused."""
    try:
        return shlex.split(vm.key("cmdline"))
    except ValueError as error:
        raise Refused(f"cmdline: {error}; quote it as for a shell") from None


def mounts(vm: VM) -> list[tuple[str, str]]:
    """Return (directory of the host or volume, path in the container) for each `disk`; raises Refused."""
    found = []
    for disk in domain_spec(vm, "").disks:
        if not disk.source or not (disk.target or "").startswith("/"):
            raise Refused(
                f"disk: {disk.text!r} is not DIRECTORY-OR-VOLUME@PATH; expected something like /srv/www@/var/www"
            )
        found.append((disk.source, str(disk.target)))
    return found


def published(vm: VM) -> list[tuple[int, str]]:
    """Return (port of the host, `PORT/PROTOCOL` of the container) for each `publish`; raises Refused."""
    found = []
    for text in vm.config.get("publish", ()):
        match = _PUBLISH.fullmatch(text)
        ports = [int(port) for port in match.group(1, 2) if port] if match else []
        if match is None or not all(0 < port < 65536 for port in ports):
            raise Refused(f"publish: {text[:100]!r} is not a port; expected something like 80, 8080:80 or 53/udp")
        found.append((ports[0], f"{ports[-1]}/{match[3] or 'tcp'}"))
    return found
