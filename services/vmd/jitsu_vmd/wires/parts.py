"""What a VM needs of this host, its bridges and files: whether they are there."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM

SIOCETHTOOL, GET_DRIVER_INFO, DRIVER_INFO_BYTES = 0x8946, 0x3, 196
"""include/uapi/linux/sockios.h, ethtool.h: struct ethtool_drvinfo; its second field is the driver's name."""
BRIDGES = ("bridge", "openvswitch")


def is_absent(path: str) -> bool:
    """Say whether there is no such file; not so where this user may not know."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def absent_part(vm: VM) -> str:
    """Return which disk or bridge of a VM is not on this host, or nothing."""
    for disk in vm.config.get("disk", ()):
        source = disk.rpartition("@")[0]
        if source.startswith("/") and is_absent(source):
            return f"disk: there is no file {source}"
    if vm.config.get("script"):
        return ""  # it decides what its interface is joined to
    faults = (bridge_fault(name) for name in vm.config.get("nic", ()))
    return next((f"nic: {fault}" for fault in faults if fault), "")


def bridge_fault(name: str) -> str:
    """Return why an interface cannot be a guest's bridge, or nothing."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return f"this host has no bridge {name}; `ip link show type bridge` lists the bridges of this host"
    driver = _driver(name)
    if driver and driver not in BRIDGES:
        return f"{name} is not a bridge; `ip link show type bridge` lists the bridges of this host"
    return ""


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
