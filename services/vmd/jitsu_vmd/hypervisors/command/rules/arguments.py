"""What a command is given: its arguments and its environment.

Of a VM, nothing but its name, its UUID and its first address gets into an argument. None of them can begin with a
hyphen or hold a character that means something to a shell, and still a shell finds them in its environment only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.model.vm import VM

_BRACES = re.compile(r"\{\{(\w+)\}\}|\{(name|uuid|address)\}")
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "CREDENTIALS_DIRECTORY")
"""What commands have of vmd's own environment: nothing that holds a secret. The last is where systemd keeps files."""


def argv(words: Sequence[str], vm: VM | None, *, shell: bool) -> list[str]:
    """Return the arguments of a command; `vm` is None for one that is about all VMs."""
    if shell:
        return ["/bin/sh", "-c", words[0]]
    if vm is None:
        return list(words)
    values = {"name": vm.name, "uuid": vm.uuid, "address": str(vm.addresses[0])}
    return [_BRACES.sub(lambda found: f"{{{found[1]}}}" if found[1] else values[found[2]], word) for word in words]


def environment(
    own: Mapping[str, str], section: str, configured: Mapping[str, str], action: str, vm: VM | None
) -> dict[str, str]:
    """Return the environment of a command; `own` is that of vmd."""
    found = {key: own[key] for key in INHERITED if key in own} | dict(configured)
    found |= {"JITSU_COMMAND": section, "JITSU_ACTION": action}
    if vm is not None:
        found |= {
            "JITSU_NAME": vm.name,
            "JITSU_UUID": vm.uuid,
            "JITSU_ADDRESS": str(vm.addresses[0]),
            "JITSU_ADDRESSES": " ".join(map(str, vm.addresses)),
            "JITSU_MAC": vm.mac if vm.config.get("mac") else "",
        }
    return found
