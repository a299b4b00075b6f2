"""What a VM needs of this host: whether its files and bridges are there. The checks raise Refused."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec

SIOCETHTOOL, GET_DRIVER_INFO, DRIVER_INFO_BYTES = 0x8946, 0x3, 196
"""include/uapi/linux/sockios.h, ethtool.h: struct ethtool_drvinfo; its second field is the driver's name."""
BRIDGES = ("bridge", "openvswitch")


def is_absent(path: str) -> bool:
    """Say whether there is certainly no such file; where this user may not look, there may be one."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def closed_to_others(path: str, wanted: int) -> str:
    """Return what keeps a user who is nobody in particular from a file, "" if nothing does.

    `wanted` are bits of the file's mode: S_IROTH, S_IXOTH. Each boot asks, so there is no pathlib in it.
    """
    letters = ("r" if wanted & stat.S_IROTH else "") + ("x" if wanted & stat.S_IXOTH else "")
    try:
        real = os.path.realpath(path, strict=True)
        if os.stat(real).st_mode & wanted != wanted:
            return f"{real} is not open to other users (chmod o+{letters} {real})"
        above = real
        while above != "/":
            above = os.path.dirname(above)
            if not os.stat(above).st_mode & stat.S_IXOTH:
                return f"the directory {above} is not open to other users (chmod o+x {above})"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def check_boot_files(spec: DomainSpec) -> None:
    """Refuse a kernel or an initial RAM disk that is not there: no start could succeed."""
    for key, path in (("kernel", spec.kernel), ("initrd", spec.initrd)):
        if path and is_absent(path):
            raise Refused(f"{key}: there is no file {path}")


def check_parts(vm: VM) -> None:
    """Refuse a disk or a bridge that is not there: what is missing may still come before the VM starts."""
    spec = domain_spec(vm, "")
    for disk in spec.disks:
        if disk.source.startswith("/") and is_absent(disk.source):
            raise Refused(f"disk: there is no file {disk.source}")
    if not any(nic.script for nic in spec.nics):  # a script decides what its interface is joined to
        check_bridges(nic.bridge for nic in spec.nics)


def check_bridges(names: Iterable[str]) -> None:
    """Refuse an interface that cannot be a guest's bridge."""
    for name in names:
        try:
            socket.if_nametoindex(name)
        except OSError:
            raise Refused(
                f"nic: this host has no bridge {name}; `ip link show type bridge` lists the bridges of this host"
            ) from None
        driver = _driver(name)
        if driver and driver not in BRIDGES:
            raise Refused(f"nic: {name} is not a bridge; `ip link show type bridge` lists the bridges of this host")


def _driver(name: str) -> str:
    """Return the name of an interface's driver, "" if the kernel does not tell it."""
    info = array.array("B", struct.pack("=I", GET_DRIVER_INFO).ljust(DRIVER_INFO_BYTES, b"\0"))
    request = struct.pack("16sP", name.encode(), info.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
            fcntl.ioctl(asks, SIOCETHTOOL, request)
    except OSError:
        return ""
    return info.tobytes()[4:36].rstrip(b"\0").decode("ascii", "replace")
