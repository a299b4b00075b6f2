"""Taps on a bridge, by system calls: no process is spawned for one (tun(4), netdevice(7), rtnetlink(7)).

A tap is persistent: it stays when nobody has it open. While a tender has it open it has a carrier, and the bridge
forwards to it. When the tender ends, the kernel drops what is queued in it; a tap that nobody has open queues nothing.
What the bridge has learned stays for up to a second after that, because the kernel handles a lost carrier late, and it
stays for good if another tender opens the tap in that second. So `flush` is called when a tender has ended.

This module is imported by programs that are to stay small: it uses the standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

TUN = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFF_UP = 0x1
_RTM_SETLINK = 19
_NLM_REQUEST, _NLM_ACK = 0x1, 0x4
_IFLA_MASTER, _IFLA_PROTINFO, _NLA_NESTED, _IFLA_BRPORT_FLUSH, _AF_BRIDGE = 10, 12, 0x8000, 24, 7
_HEADER, _LINK = struct.Struct("=IHHII"), struct.Struct("=BxHiII")
_ANSWER_S = 1.0


def make(name: str, user: int) -> None:
    """Make a tap that the user may open; raises OSError. One that is there already gets that user."""
    with _opened(name) as tap:
        fcntl.ioctl(tap, _TUNSETOWNER, user)
        fcntl.ioctl(tap, _TUNSETPERSIST, 1)


def attach(name: str) -> int:
    """Return a descriptor of a new tap, which is gone when all copies of the descriptor are closed; raises OSError.

    Frames have a header for offloads (IFF_VNET_HDR), as virtio-net has it. Raises OSError (EBUSY) if somebody has it.
    """
    return _descriptor(name, _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)


def set_up(name: str, is_up: bool) -> None:
    """Set an interface up, so that its bridge forwards to it, or down; raises OSError."""
    _change_link(_LINK.pack(0, 0, socket.if_nametoindex(name), _IFF_UP if is_up else 0, _IFF_UP), name)


def give(name: str, user: int) -> None:
    """Let another user open a tap that nobody has open; raises OSError (EBUSY) if somebody has."""
    if not exists(name):
        raise FileNotFoundError(errno.ENOENT, "there is no such tap", name)
    with _opened(name) as tap:
        fcntl.ioctl(tap, _TUNSETOWNER, user)


def remove(name: str) -> None:
    """Remove a tap that nobody has open; this takes 15-20 ms. No error if there is none."""
    if exists(name):
        with _opened(name) as tap:
            fcntl.ioctl(tap, _TUNSETPERSIST, 0)


def join(name: str, bridge: str) -> None:
    """Make a tap a port of this bridge, and of no other, and set it up; raises OSError."""
    body = _LINK.pack(0, 0, socket.if_nametoindex(name), _IFF_UP, _IFF_UP)
    body += struct.pack("=HHI", 8, _IFLA_MASTER, socket.if_nametoindex(bridge))
    _change_link(body, name)


def flush(name: str) -> None:
    """Have the bridge forget which addresses it has learned behind a tap; raises OSError."""
    body = _LINK.pack(_AF_BRIDGE, 0, socket.if_nametoindex(name), 0, 0)
    body += struct.pack("=HHHH", 8, _IFLA_PROTINFO | _NLA_NESTED, 4, _IFLA_BRPORT_FLUSH)
    _change_link(body, name)


def exists(name: str) -> bool:
    """Say whether there is an interface of that name in this network namespace."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def names(prefix: str) -> list[str]:
    """Return the interfaces whose name begins so."""
    return [name for _, name in socket.if_nameindex() if name.startswith(prefix)]


class _opened:
    """A descriptor of the tap, made if there is none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> int:
        self._descriptor = _descriptor(self._name, _IFF_TAP | _IFF_NO_PI)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _descriptor(name: str, flags: int) -> int:
    """Return a descriptor of the tap, which is made if there is none; raises OSError."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _change_link(body: bytes, name: str) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_S)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _RTM_SETLINK, _NLM_REQUEST | _NLM_ACK, 1, 0) + body)
        (error,) = struct.unpack_from("=i", kernel.recv(1 << 16), _HEADER.size)
    if error:
        raise OSError(-error, os.strerror(-error), name)
