"""Keys of a VM that solo5 can do nothing with: a start is refused for some, and others have no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_vmd.hypervisors.shared.rules.unused_keys import refuse_each, refuse_keys, refuse_mock_keys

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

_IMPOSSIBLE = {
    "initrd": "a tender loads nothing but the image that is named by kernel; remove it",
    "script": "a tap of solo5 is joined to its bridge without a script; remove it",
    "domain_xml": "it is for libvirt only; name the image with kernel",
    "rumprun_config": "it is for libxl only; remove it",
    "guest_type": "it is for Xen only; remove it",
    "wait_for_key": "there is no Xenstore with solo5; use wait_for_port or use_synjitsu",
}


def check_possible(vm: VM) -> None:
    """Raise Refused if a VM has a key that solo5 can never honour."""
    refuse_each(vm, _IMPOSSIBLE)


def check_unused(vm: VM) -> None:
    """Raise Refused if a VM has a key that has no effect with solo5."""
    refuse_mock_keys(vm)
    refuse_keys(vm, ("shutdown_limit",), "a tender cannot be asked to shut down; remove it")
