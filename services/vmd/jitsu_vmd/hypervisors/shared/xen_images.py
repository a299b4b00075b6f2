"""Kernel images on disk: what they say about how Xen can boot them, read again when the file has changed."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.xen_image import ImageFault, guest_type

if TYPE_CHECKING:
    from jitsu_protocol.model.vm_keys import GuestType
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

MAX_KNOWN = 10_000
MAX_READ_BYTES = 64 << 20
"""Of a file that cannot be mapped, as one of /proc."""
_Key = tuple[str, int, int, int]


class XenImages:
    """The images that were looked into."""

    def __init__(self) -> None:
        self._known: dict[_Key, GuestType | ImageFault] = {}
        """File, and what tells whether it has changed -> how it boots, or what is wrong with it."""

    def guest_type(self, spec: DomainSpec) -> GuestType:
        """Return how a domain boots: as the key `guest_type` says, else as its kernel's image does; raises Refused."""
        if spec.guest_type is not None:
            return spec.guest_type
        try:
            found = self._look(spec.kernel)
        except OSError as error:
            raise Refused(f"kernel: {spec.kernel} cannot be read: {error.strerror}") from None
        if isinstance(found, ImageFault):
            raise Refused(f"kernel: {spec.kernel}: {found}; if Xen can boot it, set guest_type")
        return found

    def _look(self, path: str) -> GuestType | ImageFault:
        about = os.stat(path)
        key = (path, about.st_ino, about.st_size, about.st_mtime_ns)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = _read(path, about.st_size)
        return self._known[key]


def _read(path: str, size: int) -> GuestType | ImageFault:
    try:
        with open(path, "rb") as file:
            if not size:
                return guest_type(file.read(MAX_READ_BYTES))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
                return guest_type(image[:])
    except ImageFault as fault:
        return fault
