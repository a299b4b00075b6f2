"""What LXD cannot do for a VM, and which keys have no effect with it.

A VM with `image` has an instance that is made for it; any other VM is an instance that the server has already, of the
VM's name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.unused_keys import (
    MADE_KEYS,
    XEN_KEYS,
    refuse_each,
    refuse_keys,
    refuse_mock_keys,
)

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

_IMAGE = r"[A-Za-z0-9][A-Za-z0-9_.+/-]{0,127}"
_NAME = r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
"""Of an instance: it is a host name too."""


def is_made(vm: VM) -> bool:
    """Say whether a VM's instance is made for it."""
    return "image" in vm.config


def check(vm: VM) -> None:
    """Raise Refused if LXD cannot do what a VM's keys ask for."""
    if vm.wait_for_key:
        raise Refused("wait_for_key: LXD has no Xenstore; use wait_for_port or use_synjitsu")
    for key in ("kernel", "domain_xml"):
        if key in vm.config:
            raise Refused(f"{key}: LXD boots no kernel that it is given; use image, or name an instance that it has")
    if not re.fullmatch(_NAME, vm.name):
        raise Refused(
            f"name: {vm.name!r} cannot be the name of an instance of LXD: letters, digits and inner hyphens, 63 at "
            "most; name the instance with the key name"
        )
    image = vm.key("image")
    if is_made(vm) and not re.fullmatch(_IMAGE, image):
        raise Refused(
            f"image: {image[:100]!r} is neither an alias nor a fingerprint of an image that the server has; "
            "`lxc image copy REMOTE:IMAGE local: --alias NAME` gets one, and then use image = NAME"
        )


def check_unused(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with LXD."""
    refuse_mock_keys(vm, "lxd")
    refuse_each(vm, dict.fromkeys(XEN_KEYS, "only Xen needs it; remove it"))
    if not is_made(vm):
        refuse_keys(vm, MADE_KEYS, f"{vm.name} is an instance that LXD has; set it there")
        return
    why = "an instance that is made from an image has no such part; set it there, with `lxc config`"
    refuse_keys(vm, (key for key in MADE_KEYS if key != "vcpus"), why)
