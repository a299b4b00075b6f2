"""The kernel's neighbour entries (rtnetlink(7)) of addresses that nobody has answered for.

Linux asks for such an address again only after one second (neigh/*/retrans_time_ms). A guest that does not announce
itself, and that has its address shortly after the kernel asked, would be noticed up to a second late. Without the
entry, the next packet asks at once.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

DELETE_NEIGHBOUR, GET_NEIGHBOUR, NEW_NEIGHBOUR, GET_ROUTE, NEW_ROUTE = 29, 30, 28, 26, 24
REQUEST, ACKNOWLEDGE = 0x1, 0x4
INCOMPLETE, FAILED = 0x01, 0x20
NEIGHBOUR_ADDRESS, ROUTE_TO, ROUTE_INTERFACE = 1, 1, 4
LIMIT_S = 0.2
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_NEIGHBOUR, _ROUTE = struct.Struct("=BxHiHBB"), struct.Struct("=BBBBBBBBI")


def forget_unanswered(address: IPv4Address | IPv6Address) -> bool:
    """Remove the entry of an address that nobody has answered for; say whether there was one.

    The kernel is asked for this one entry, because a host may have ten thousand. That takes Linux 5.0. On an older one,
    and without CAP_NET_ADMIN, nothing is removed.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(LIMIT_S)
            interface = _interface(kernel, family, address.packed)
            entry = _NEIGHBOUR.pack(family, 0, interface, 0, 0, 0) + _attribute(NEIGHBOUR_ADDRESS, address.packed)
            found = _asked(kernel, GET_NEIGHBOUR, REQUEST, entry, NEW_NEIGHBOUR)
            state: int = _NEIGHBOUR.unpack_from(found)[3]
            if not state & (INCOMPLETE | FAILED):
                return False
            _asked(kernel, DELETE_NEIGHBOUR, REQUEST | ACKNOWLEDGE, entry, 0)
    except OSError:
        return False
    return True


def _interface(kernel: socket.socket, family: int, address: bytes) -> int:
    """Return the index of the interface that leads to an address; raises OSError."""
    body = _ROUTE.pack(family, 8 * len(address), 0, 0, 0, 0, 0, 0, 0) + _attribute(ROUTE_TO, address)
    found = _asked(kernel, GET_ROUTE, REQUEST, body, NEW_ROUTE)
    at = _ROUTE.size
    while at + _ATTRIBUTE.size <= len(found):
        length, kind = _ATTRIBUTE.unpack_from(found, at)
        if kind == ROUTE_INTERFACE:
            (index,) = struct.unpack_from("=i", found, at + _ATTRIBUTE.size)
            return int(index)
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
    raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


def _asked(kernel: socket.socket, kind: int, flags: int, body: bytes, answer: int) -> bytes:
    """Send a request and return the kernel's reply without its header; raises OSError if the kernel refuses.

    `answer` is the kind of reply that is expected, 0 for an acknowledgement.
    """
    kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
    data = kernel.recv(1 << 16)
    length, kind_of_reply, *_ = _HEADER.unpack_from(data)
    if kind_of_reply != answer:  # NLMSG_ERROR, which acknowledges with 0
        (error,) = struct.unpack_from("=i", data, _HEADER.size)
        if error or answer:
            raise OSError(-error, os.strerror(-error))
    return data[_HEADER.size : length]


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
