"""The addresses of this host's interfaces, from the kernel (rtnetlink(7), RTM_GETADDR), and when they change."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, NamedTuple

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from ipaddress import IPv4Interface, IPv6Interface

NETLINK_ROUTE = 0
RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x10, 0x100
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40
NOT_LASTING = IFA_F_TEMPORARY | IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE
"""Flags of addresses that other hosts cannot use, or will soon not be able to use."""
ANSWER_BYTES = 65536
ANSWER_LIMIT_S = 1.0
SETTLE_S = 0.5
"""Changes within this time count as one: an interface that comes up causes several."""
LOOK_S = 60.0
"""Look this often even if the kernel reports nothing, because a report may have been lost."""
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


log = structlog.get_logger("dns")


class OwnAddress(NamedTuple):
    """One address of this host."""

    interface: IPv4Interface | IPv6Interface
    """The address with the length of its prefix."""
    is_lasting: bool = True
    """Other hosts may use it: it is neither temporary nor about to go away."""


def own_interfaces() -> list[OwnAddress]:
    """Return all addresses of this host; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as asking:
        asking.settimeout(ANSWER_LIMIT_S)
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        asking.send(_HEADER.pack(_HEADER.size + len(body), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        found: list[OwnAddress] = []
        while True:
            for kind, message in _messages(asking.recv(ANSWER_BYTES)):
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "the kernel does not answer")
                if kind == RTM_NEWADDR:
                    found += _address(message)


def reachable_addresses(own: list[OwnAddress]) -> list[str]:
    """Return those of this host's addresses at which others may reach it: the ones that hold beyond one link."""
    found = [each.interface.ip for each in own if each.is_lasting]
    return [str(ip) for ip in found if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified)]


def served_addresses(bind: str, interfaces: Callable[[], list[OwnAddress]]) -> tuple[str, ...] | None:
    """Return where a server bound to `bind` is reached: there, or at this host's addresses if it is bound to all.

    None if the kernel does not list them.
    """
    bound = ip_address(bind)
    if not bound.is_unspecified:
        return (bind,)
    try:
        found = reachable_addresses(interfaces())
    except OSError as error:
        log.warning("cannot read the addresses of this host", reason=str(error))
        return None
    return tuple(each for each in found if bound.version == 6 or ip_address(each).version == 4)


async def address_changes() -> AsyncIterator[None]:
    """Yield soon after the addresses of this host have changed, and at least every LOOK_S.

    The link-local addresses of taps come and go with each VM, and are passed over.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_ROUTE) as reports:
        try:
            reports.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            loop.add_reader(reports, lambda: changed.set() if _reports_a_change(reports) else None)
        except OSError as error:
            log.warning("changes of this host's addresses will be noticed late", every_s=LOOK_S, reason=str(error))
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await changed.wait()
                        await asyncio.sleep(SETTLE_S)
                changed.clear()
                yield
        finally:
            loop.remove_reader(reports)


def _reports_a_change(reports: socket.socket) -> bool:
    """Read the reports that have come; return whether one is about an address that holds beyond its link."""
    found = False
    while True:
        try:
            data = reports.recv(ANSWER_BYTES)
        except BlockingIOError:
            return found
        except OSError:  # ENOBUFS: reports were lost (netlink(7))
            return True
        for kind, message in _messages(data):
            addresses = _address(message) if kind in (RTM_NEWADDR, RTM_DELADDR) else []
            found = found or any(not each.interface.ip.is_link_local for each in addresses)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _address(message: bytes) -> list[OwnAddress]:
    """Return the address that a message is about; nothing if it is of another family."""
    family, prefix, flags, _, _ = _ADDRESS.unpack_from(message)
    if family not in (socket.AF_INET, socket.AF_INET6):
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
    return [] if packed is None else [OwnAddress(ip_interface((packed, prefix)), not flags & NOT_LASTING)]
