"""The ports of one bridge, by rtnetlink(7): which there are, whether the bridge floods to them, what it has learned.

Nothing waits for the kernel here: it carries out a request and has its answer ready while the request is sent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from jitsu_synjitsu.rules.ports import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUTE = 0  # NETLINK_ROUTE
_GROUP_LINK = 1  # RTMGRP_LINK
_NEWLINK, _DELLINK, _GETLINK, _SETLINK, _NEWNEIGH, _DELNEIGH, _GETNEIGH = 16, 17, 18, 19, 28, 29, 30
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _EXCLUSIVELY, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_HEADER = struct.Struct("IHHII")  # struct nlmsghdr
_LINK = struct.Struct("BxHiII")  # struct ifinfomsg
_NEIGHBOUR = struct.Struct("BxxxiHBB")  # struct ndmsg
_ADDRESS, _NAME, _MASTER, _PROTINFO, _LINKINFO, _INFO_SLAVE_DATA = 1, 3, 10, 12, 18, 5  # IFLA_...
_UNICAST_FLOOD = 9  # IFLA_BRPORT_UNICAST_FLOOD
_ATTRIBUTE = struct.Struct("HH")  # struct rtattr
_OF_LINK, _OF_INFO = frozenset({_ADDRESS, _NAME, _MASTER, _LINKINFO}), frozenset({_INFO_SLAVE_DATA})
_OF_PORT = frozenset({_UNICAST_FLOOD})
"""What is read of a port."""
_NEIGHBOUR_MAC, _NEIGHBOUR_MASTER = 2, 9  # NDA_LLADDR, NDA_MASTER
_REACHABLE = 0x02  # NUD_REACHABLE
_PERMANENT, _NO_ARP = 0x80, 0x40  # NUD_...: entries that an operator has made
_OF_MASTER = 0x04  # NTF_MASTER
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_UP, _LOWER_UP = 0x1, 0x10000  # IFF_...
ANSWER_LIMIT_S = 1.0
RECEIVE_BUFFER_BYTES = 1024 * 1024
RETRY_S = 0.5
"""After a list of all ports that the kernel did not give."""

log = structlog.get_logger("synjitsu")


class Links:
    """The ports of one bridge."""

    def __init__(self, bridge: str, appeared: Callable[[Port], None], gone: Callable[[int], None]) -> None:
        """`appeared` is called with each port, and again when it changes. Raises OSError."""
        self._index = socket.if_nametoindex(bridge)
        self._appeared, self._gone = appeared, gone
        self._ports: set[int] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _ROUTE)
        self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._events.bind((0, _GROUP_LINK))

    def open(self) -> None:
        """Begin to follow; all ports that are there are reported at once. Raises OSError."""
        asyncio.get_running_loop().add_reader(self._events, self._read)
        self._list()

    def close(self) -> None:
        """End it."""
        if self._retry is not None:
            self._retry.cancel()
        asyncio.get_running_loop().remove_reader(self._events)
        self._events.close()

    def is_static(self, mac: bytes) -> bool:
        """Say whether the bridge has an entry for a MAC address that an operator has made; it is never changed."""
        body = _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, 0, _OF_MASTER, 0)
        body += _attribute(_NEIGHBOUR_MAC, mac) + _attribute(_NEIGHBOUR_MASTER, struct.pack("I", self._index))
        try:
            (_, answer), *_ = request(_GETNEIGH, 0, body)
        except OSError:
            return False
        return bool(_NEIGHBOUR.unpack_from(answer)[2] & (_PERMANENT | _NO_ARP))

    def _read(self) -> None:
        while True:
            try:
                data = self._events.recv(65_536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._read_all_again()
                else:
                    self._give_up(error)
                return
            for kind, body in _messages(data):
                self._take(kind, body)

    def _read_all_again(self) -> None:
        """List all ports, because the kernel had more to report than fits into the socket's buffer (netlink(7)).

        The kernel reports that loss first, and hands out what is still in the buffer afterwards. All of that is older
        than the list, so it is thrown away: taken after the list, it would bring back ports as they were before.
        """
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            while True:
                try:
                    self._events.recv(65_536)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
            self._list()
        except OSError as error:
            log.warning("the ports of the bridge cannot be listed; it is tried again", reason=str(error))
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._read_all_again)

    def _give_up(self, error: OSError) -> None:
        log.error("cannot follow changes of the bridge's ports", reason=error.strerror)
        with suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(self._events)

    def _list(self) -> None:
        listed = request(_GETLINK, _DUMP, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        before, self._ports = self._ports, set()
        for kind, body in listed:
            self._take(kind, body)
        for index in before - self._ports:
            self._gone(index)

    def _take(self, kind: int, body: bytes) -> None:
        if kind not in (_NEWLINK, _DELLINK):
            return
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family != socket.AF_UNSPEC:
            return  # the bridge's own messages say less
        found = _attributes(body, _LINK.size, _OF_LINK)
        is_port = kind == _NEWLINK and found.get(_MASTER) == struct.pack("I", self._index)
        if is_port:
            info = _attributes(found.get(_LINKINFO, b""), 0, _OF_INFO)
            slave = _attributes(info.get(_INFO_SLAVE_DATA, b""), 0, _OF_PORT)
            self._ports.add(index)
            name = found.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
            is_up = flags & (_UP | _LOWER_UP) == _UP | _LOWER_UP
            floods = slave.get(_UNICAST_FLOOD, b"\1") != b"\0"
            self._appeared(Port(index, name, found.get(_ADDRESS, b""), is_up, floods))
        elif index in self._ports:
            self._ports.discard(index)
            self._gone(index)


def set_flood(index: int, floods: bool) -> None:
    """Let a bridge flood to one of its ports, or not; raises OSError."""
    inner = _attribute(_UNICAST_FLOOD, bytes([floods]))
    body = _LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0) + _attribute(_PROTINFO | _NESTED, inner)
    request(_SETLINK, _ACK, body)


def learn(index: int, mac: bytes) -> None:
    """Have a bridge take a MAC address to be at a port that is up; raises OSError, EEXIST if it knows where it is.

    Like what it learns by itself, that ages, and a frame from another port corrects it (bridge(8), dynamic).
    """
    entry = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, _REACHABLE, _OF_MASTER, 0)
    request(_NEWNEIGH, _ACK | _CREATE | _EXCLUSIVELY, entry + _attribute(_NEIGHBOUR_MAC, mac))


def unlearn(index: int, mac: bytes) -> None:
    """Have a bridge forget that a MAC address is at a port; raises OSError, ENOENT if it does not know it."""
    request(
        _DELNEIGH, _ACK, _NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, _OF_MASTER, 0) + _attribute(_NEIGHBOUR_MAC, mac)
    )


def request(kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
    """Ask the kernel; returns the messages of its answer. Raises OSError."""
    answers: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE) as asker:
        asker.settimeout(ANSWER_LIMIT_S)
        asker.bind((0, 0))
        asker.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body)
        while True:
            for answered, answer in _messages(asker.recv(65_536)):
                if answered == _DONE:
                    return answers
                if answered == _ERROR:
                    (negative,) = struct.unpack_from("i", answer)
                    if negative:
                        raise OSError(-negative, os.strerror(-negative))
                    return answers
                answers.append((answered, answer))
            if not flags & (_DUMP | _ACK):
                return answers


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes, at: int, wanted: frozenset[int]) -> dict[int, bytes]:
    """Return those attributes that are wanted; a message about one port has sixty, and each boot makes ten of them."""
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        if kind & _TYPE_MASK in wanted:
            found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
