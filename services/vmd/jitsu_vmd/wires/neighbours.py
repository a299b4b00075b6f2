"""The kernel's neighbour entries (rtnetlink(7)): who has an address was asked, and has not been answered.

Linux asks again after one second (neigh/*/retrans_time_ms). A guest that does not announce itself and has its address
shortly after the question would be noticed up to a second late; without the entry the next packet asks at once.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

DELETE, ASK, DONE = 29, 30, 3
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300
INCOMPLETE, FAILED = 0x01, 0x20
DESTINATION = 1
LIMIT_S = 0.2
_HEADER, _ENTRY = struct.Struct("=IHHII"), struct.Struct("=BxHiHBB")


def forget_unanswered(address: IPv4Address | IPv6Address) -> bool:
    """Remove the entries of an address that nobody has answered for; say whether there was one.

    Without CAP_NET_ADMIN nothing is removed.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(LIMIT_S)
            interfaces = list(_unanswered(kernel, family, address.packed))
            removed = [_removed(kernel, family, interface, address.packed) for interface in interfaces]
    except OSError:
        return False
    return any(removed)


def _unanswered(kernel: socket.socket, family: int, address: bytes) -> Iterator[int]:
    """Yield the interfaces on which an address was asked for in vain."""
    kernel.send(
        _HEADER.pack(_HEADER.size + _ENTRY.size, ASK, REQUEST | DUMP, 1, 0) + _ENTRY.pack(family, 0, 0, 0, 0, 0)
    )
    while True:
        data, at = kernel.recv(1 << 16), 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == DONE or length < _HEADER.size + _ENTRY.size:
                return
            _, _, interface, state, _, _ = _ENTRY.unpack_from(data, at + _HEADER.size)
            attributes = data[at + _HEADER.size + _ENTRY.size : at + length]
            if state & (INCOMPLETE | FAILED) and _attribute(address) in attributes:
                yield interface
            at += length + 3 & ~3


def _removed(kernel: socket.socket, family: int, interface: int, address: bytes) -> bool:
    body = _ENTRY.pack(family, 0, interface, 0, 0, 0) + _attribute(address)
    kernel.send(_HEADER.pack(_HEADER.size + len(body), DELETE, REQUEST | ACKNOWLEDGE, 2, 0) + body)
    error: int = struct.unpack_from("=i", kernel.recv(1 << 16), _HEADER.size)[0]
    return error == 0


def _attribute(address: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(address), DESTINATION) + address
