"""The addresses of this host's interfaces, from the kernel (rtnetlink(7), RTM_GETADDR)."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_interface
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Interface, IPv6Interface

NETLINK_ROUTE = 0
RTM_NEWADDR, RTM_GETADDR = 20, 22
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40
NOT_LASTING = IFA_F_TEMPORARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE
"""Addresses that other hosts cannot, or soon can no longer, be given."""
ANSWER_BYTES = 65536
ANSWER_LIMIT_S = 1.0
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


def own_interfaces() -> list[IPv4Interface | IPv6Interface]:
    """Return the lasting addresses of this host with their prefix lengths; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as asking:
        asking.settimeout(ANSWER_LIMIT_S)
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        asking.send(_HEADER.pack(_HEADER.size + len(body), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        found: list[IPv4Interface | IPv6Interface] = []
        while True:
            for kind, message in _messages(asking.recv(ANSWER_BYTES)):
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "the kernel does not list the addresses")
                if kind == RTM_NEWADDR:
                    found += _interface(message)


def reachable_addresses() -> list[str]:
    """Return the addresses at which others may reach this host: those that hold beyond one link; raises OSError."""
    found = [each.ip for each in own_interfaces()]
    return [str(ip) for ip in found if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified)]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _interface(message: bytes) -> list[IPv4Interface | IPv6Interface]:
    """Return the address that a message is about; nothing if it is not lasting, or of another family."""
    family, prefix, flags, _, _ = _ADDRESS.unpack_from(message)
    if family not in (socket.AF_INET, socket.AF_INET6) or flags & NOT_LASTING:
        return []
    attributes: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        attributes[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    # On a point-to-point link IFA_ADDRESS is the other end's, and IFA_LOCAL ours.
    packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
    return [] if packed is None else [ip_interface((packed, prefix))]
