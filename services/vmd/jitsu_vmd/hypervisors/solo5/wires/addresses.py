"""The addresses of this host's bridges, from which a unikernel's prefix and gateway follow (rtnetlink(7)).

Every start asks for them, and a question to the kernel costs half a millisecond. So they are kept until the kernel
reports that an address of this host has changed.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_interface
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Interface, IPv6Interface

    Interface = IPv4Interface | IPv6Interface

_RTM_NEWADDR, _RTM_GETADDR, _NLMSG_ERROR, _NLMSG_DONE = 20, 22, 2, 3
_NLM_REQUEST, _NLM_DUMP = 0x1, 0x300
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER, _ADDRESS = struct.Struct("=IHHII"), struct.Struct("=BBBBI")
ANSWER_S = 1.0
READ_BYTES = 1 << 16


class BridgeAddresses:
    """The addresses of bridges, as they are when they are asked for."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Interface]] = {}
        """By the index of the interface: one that is renamed, or made again, has nothing of another."""
        self._reports: socket.socket | None = None

    def of(self, bridge: str) -> list[Interface]:
        """Return the addresses of an interface with their prefixes; none if there is no such interface."""
        try:
            index = socket.if_nametoindex(bridge)
            if self._have_changed():
                self._kept.clear()
            if index not in self._kept:
                self._kept[index] = _asked(index)
            return self._kept[index]
        except OSError:
            return []

    def _have_changed(self) -> bool:
        """Say whether an address may have changed since this was asked last; raises OSError."""
        if self._reports is None:
            self._reports = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
            self._reports.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
            return True
        changed = False
        while True:
            try:
                self._reports.recv(READ_BYTES)
            except BlockingIOError:
                return changed
            except OSError:  # ENOBUFS: more was reported than the socket holds
                self.close()
                return True
            changed = True

    def close(self) -> None:
        """Follow the kernel's reports no longer."""
        if self._reports is not None:
            self._reports.close()
            self._reports = None


def _asked(index: int) -> list[Interface]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(ANSWER_S)
        size = _HEADER.size + _ADDRESS.size
        kernel.send(_HEADER.pack(size, _RTM_GETADDR, _NLM_REQUEST | _NLM_DUMP, 1, 0) + _ADDRESS.pack(0, 0, 0, 0, 0))
        return list(_addresses(kernel, index))


def _addresses(kernel: socket.socket, wanted: int) -> Iterator[Interface]:
    while True:
        data, at = kernel.recv(READ_BYTES), 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _HEADER.size:
                return
            _, prefix, _, _, index = _ADDRESS.unpack_from(data, at + _HEADER.size)
            if kind == _RTM_NEWADDR and index == wanted:
                found = dict(_attributes(data[at + _HEADER.size + _ADDRESS.size : at + length]))
                packed = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
                text = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
                yield ip_interface(f"{text}/{prefix}")
            at += length + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind, data[at + 4 : at + length]
        at += length + 3 & ~3
