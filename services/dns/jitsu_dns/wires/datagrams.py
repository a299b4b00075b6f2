"""Many datagrams with one system call: recvmmsg(2) and sendmmsg(2) through ctypes.

For a warm answer, the kernel's work costs more than ours, and much of it is the system call. Batches are therefore what
makes this server fast. Where the C library does not have the calls, datagrams are read and written one at a time.

The memory for a batch is allocated once. Addresses stay as the kernel wrote them: to answer datagram n, the header only
has to point at the address of datagram n. On a socket that is bound to all addresses, the same is done with the address
that datagram n was sent to (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO), because a client accepts no answer from another.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_dns.rules.clients import plain
from jitsu_protocol.model.errors import SetupFault

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

BATCH_DATAGRAMS = 64
IN_BYTES = 1344
"""A longer query is cut off, and so malformed: none that is sound comes near. 21 cache lines: an odd number, as the
beginnings of slots that are a power of two apart push each other out of the cache."""
OUT_BYTES = 1344
"""No response over UDP is longer: see message.MAX_UDP_BYTES."""
ADDRESS_BYTES = 28  # struct sockaddr_in6
V4_ADDRESS_BYTES = 16  # struct sockaddr_in

OWN_SOCKET_ERRNOS = frozenset({errno.EBADF, errno.ENOTSOCK})
"""These mean that our own descriptor is wrong, whoever the answer is for. Every other error is about one datagram: a
client at a broadcast address (EACCES), an interface that is down (ENETDOWN) or whose queue is full (ENOBUFS)."""


class SocketLost(SetupFault):
    """The descriptor of a UDP socket is no longer that socket; the process ends, and is started again."""

    status = 1


Address = tuple[str, int, bytes]
"""Host, port, and what makes an answer come from the address that was asked: nothing, or a pktinfo."""
IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO = 8, 49, 50  # linux/in.h, linux/in6.h; not all in Python's socket
CONTROL_BYTES = 64
CMSG_HEADER_BYTES = 16
PKTINFO_BYTES, PKTINFO6_BYTES = 12, 20


class _Iovec(ctypes.Structure):
    _fields_ = [  # type: ignore[mutable-override]  # as ctypes wants it
        ("base", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
    ]


class Msghdr(ctypes.Structure):
    """struct msghdr (recvmsg(2))."""

    _fields_ = [  # type: ignore[mutable-override]  # as ctypes wants it
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = [  # type: ignore[mutable-override]  # as ctypes wants it
        ("hdr", Msghdr),
        ("len", ctypes.c_uint32),
    ]


_HEADER_BYTES = ctypes.sizeof(Mmsghdr)
_LEN_AT = Mmsghdr.len.offset // 4  # in 32-bit words from the header's start
_NAME_AT = Msghdr.name.offset // 8  # in 64-bit words
_CONTROL_AT = Msghdr.control.offset // 8
_WORDS = _HEADER_BYTES // 4
_NAME_WORDS = ADDRESS_BYTES // 4
_LONG_WORDS = _HEADER_BYTES // 8

LIBC = ctypes.CDLL(None, use_errno=True)
HAS_BATCHES = hasattr(LIBC, "recvmmsg") and hasattr(LIBC, "sendmmsg") and ctypes.sizeof(ctypes.c_void_p) == 8


class BatchRoom:
    """Memory for the datagrams of one direction, and the kernel's headers that point into it."""

    def __init__(
        self,
        slot_bytes: int,
        names: ctypes.Array[ctypes.c_char],
        name_bytes: int,
        controls: ctypes.Array[ctypes.c_char],
        control_bytes: int,
    ) -> None:
        """`names` and `controls` are shared by both directions; 0 bytes of one: it is not used."""
        self._data = ctypes.create_string_buffer(slot_bytes * BATCH_DATAGRAMS)
        self._names, self._controls = names, controls  # kept alive
        self._iovecs = (_Iovec * BATCH_DATAGRAMS)()
        self._headers = (Mmsghdr * BATCH_DATAGRAMS)()
        for n in range(BATCH_DATAGRAMS):
            self._iovecs[n].base = ctypes.addressof(self._data) + n * slot_bytes
            self._iovecs[n].len = slot_bytes
            header = self._headers[n].hdr
            header.name = ctypes.addressof(names) + n * ADDRESS_BYTES
            header.namelen = name_bytes
            header.iov = ctypes.addressof(self._iovecs[n])
            header.iovlen = 1
            if control_bytes:
                header.control = ctypes.addressof(controls) + n * CONTROL_BYTES
                header.controllen = control_bytes
        self.address = ctypes.addressof(self._headers)
        self.bytes = memoryview(self._data).cast("B")
        self.header_bytes = memoryview(self._headers).cast("B")
        self.header_words = self.header_bytes.cast("I")
        self.header_longs = self.header_bytes.cast("Q")
        self.lengths = memoryview(self._iovecs).cast("B").cast("Q")  # the second of each pair
        self.fresh = bytes(self.header_bytes)


class KernelAddresses:
    """The sender of each datagram of a batch, and to which of our addresses, as the kernel wrote it."""

    def __init__(self, bound: socket.socket, *, connected: bool) -> None:
        self.is_v6 = bound.family == socket.AF_INET6
        self.is_everywhere = not connected and ip_address(bound.getsockname()[0]).is_unspecified
        """The socket is bound to all addresses."""
        if self.is_everywhere and self.is_v6:
            bound.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        elif self.is_everywhere:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.names = ctypes.create_string_buffer(ADDRESS_BYTES * BATCH_DATAGRAMS)
        self.controls = ctypes.create_string_buffer(CONTROL_BYTES * BATCH_DATAGRAMS)
        self._name_bytes = memoryview(self.names).cast("B")
        self._name_words = self._name_bytes.cast("I")
        self._control_bytes = memoryview(self.controls).cast("B")
        self._control_words = self._control_bytes.cast("I")
        self.pktinfo_bytes = PKTINFO6_BYTES if self.is_v6 else PKTINFO_BYTES
        self._interface_at = (CMSG_HEADER_BYTES + (16 if self.is_v6 else 0)) // 4  # in 32-bit words

    def forget_interfaces(self, count: int) -> None:
        """Let the routes decide which interface the answers to a batch leave from."""
        for at in range(self._interface_at, count * (CONTROL_BYTES // 4), CONTROL_BYTES // 4):
            self._control_words[at] = 0

    def client(self, n: int) -> Address:
        """Return who sent datagram n: host, port, and the pktinfo for an answer."""
        raw = self._name_bytes[n * ADDRESS_BYTES : (n + 1) * ADDRESS_BYTES]
        port = int.from_bytes(raw[2:4], "big")
        own = b""
        if self.is_everywhere:
            at = n * CONTROL_BYTES + CMSG_HEADER_BYTES
            own = bytes(self._control_bytes[at : at + self.pktinfo_bytes])
        if self.is_v6:
            scope = int.from_bytes(raw[24:28], "little")
            host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
            return (f"{host}%{scope}" if scope else host), port, own
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port, own

    def address(self, n: int) -> bytes:
        """Return the address of who sent datagram n: 4 or 16 bytes."""
        at = n * ADDRESS_BYTES
        if self.is_v6:
            return plain(bytes(self._name_bytes[at + 8 : at + 24]))
        return bytes(self._name_bytes[at + 4 : at + 8])

    def v4_keys(self, count: int) -> list[int]:
        """Return the IPv4 addresses of those who sent the first datagrams, as numbers."""
        return self._name_words[1 : count * _NAME_WORDS : _NAME_WORDS].tolist()


class DatagramSocket:
    """A UDP socket, read and written in batches."""

    def __init__(self, bound: socket.socket, *, connected: bool = False) -> None:
        """A `connected` socket sends everything to its one peer."""
        self._socket = bound
        self._fd = bound.fileno()
        self._identity = _identity(self._fd)
        self._addresses = kernel = KernelAddresses(bound, connected=connected)
        self._count = 0
        own = 0 if connected else ADDRESS_BYTES if kernel.is_v6 else V4_ADDRESS_BYTES
        control = CMSG_HEADER_BYTES + -(-kernel.pktinfo_bytes // 8) * 8 if kernel.is_everywhere else 0
        held = CONTROL_BYTES if kernel.is_everywhere else 0
        self._in = BatchRoom(IN_BYTES, kernel.names, ADDRESS_BYTES, kernel.controls, held)
        self._out = BatchRoom(OUT_BYTES, kernel.names, own, kernel.controls, control)
        self._senders: list[Address] = []  # where there are no batches
        self.unsent: Counter[int] = Counter()
        """errno -> responses that the kernel refused to send."""
        self.unread: Counter[int] = Counter()
        """errno -> reads that failed although the socket was readable."""

    def receive(self) -> list[bytes]:
        """Return the datagrams that are there, at most BATCH_DATAGRAMS, without waiting."""
        if not HAS_BATCHES:
            return self._receive_singly()
        room = self._in
        room.header_bytes[:] = room.fresh
        count = LIBC.recvmmsg(self._fd, ctypes.c_void_p(room.address), BATCH_DATAGRAMS, socket.MSG_DONTWAIT, None)
        if count < 0:
            self._note_unread(ctypes.get_errno())
            return []
        self._count = count
        if self._addresses.is_everywhere:
            self._addresses.forget_interfaces(count)
        data, words = room.bytes, room.header_words
        lengths = words[_LEN_AT : count * _WORDS : _WORDS].tolist()
        return [
            bytes(data[at : at + length])
            for at, length in zip(range(0, count * IN_BYTES, IN_BYTES), lengths, strict=True)
        ]

    def client(self, n: int) -> Address:
        """Return who sent datagram n of the last batch."""
        return self._addresses.client(n) if HAS_BATCHES else self._senders[n]

    def address(self, n: int) -> bytes:
        """Return the address of who sent datagram n of the last batch: 4 or 16 bytes."""
        if HAS_BATCHES:
            return self._addresses.address(n)
        return plain(socket.inet_pton(self._socket.family, self._senders[n][0].partition("%")[0]))

    def keys(self) -> Sequence[Hashable]:
        """Return something for each datagram of the last batch that is the same for the same address."""
        if HAS_BATCHES and not self._addresses.is_v6:
            return self._addresses.v4_keys(self._count)
        return [self.address(n) for n in range(self._count)]

    def answer(self, answers: Sequence[bytes | None]) -> None:
        """Answer the datagrams of the last batch, each in its place; one with nothing there is not answered."""
        if not HAS_BATCHES:
            for response, sender in zip(answers, self._senders, strict=True):
                if response:
                    self.send(response, sender)
            return
        room = self._out
        if all(answers):  # then each header points at the right address already
            data, lengths = room.bytes, room.lengths
            count = at = 0
            for response in answers:
                size = len(response)  # type: ignore[arg-type]  # all are there
                data[at : at + size] = response  # type: ignore[assignment]
                count += 1
                lengths[count + count - 1] = size
                at += OUT_BYTES
            self._send(count)
            return
        try:
            self._send(self._point_at_clients(answers))
        finally:  # else every later batch would send its answers to the clients of this one
            room.header_bytes[:] = room.fresh

    def _point_at_clients(self, answers: Sequence[bytes | None]) -> int:
        """Put the answers that are there side by side, each with its client's address; return how many there are."""
        room = self._out
        data, lengths, longs = room.bytes, room.lengths, room.header_longs
        kernel = self._addresses
        name, control = ctypes.addressof(kernel.names), ctypes.addressof(kernel.controls)
        count = at = 0
        for response in answers:
            if response:
                size = len(response)
                data[at : at + size] = response
                lengths[2 * count + 1] = size
                longs[count * _LONG_WORDS + _NAME_AT] = name
                if kernel.is_everywhere:
                    longs[count * _LONG_WORDS + _CONTROL_AT] = control
                at += OUT_BYTES
                count += 1
            name += ADDRESS_BYTES
            control += CONTROL_BYTES
        return count

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram. That a client cannot be reached is counted; raises SocketLost."""
        host, port, own = address
        level, kind = (socket.IPPROTO_IPV6, IPV6_PKTINFO) if self._addresses.is_v6 else (socket.IPPROTO_IP, IP_PKTINFO)
        try:
            self._socket.sendmsg([data], [(level, kind, own)] if own else [], 0, (host, port))
        except OSError as error:
            self._note_unsent(error.errno or 0)

    def _note_unsent(self, number: int) -> None:
        self.unsent[number] += 1
        self._check_socket(number)

    def _note_unread(self, number: int) -> None:
        if number != errno.EAGAIN:
            self.unread[number] += 1
            self._check_socket(number)

    def _check_socket(self, number: int) -> None:
        """Raise SocketLost if an error means that the descriptor is no longer our socket."""
        if number in OWN_SOCKET_ERRNOS and _identity(self._fd) != self._identity:
            raise SocketLost(f"the UDP socket has been closed behind this server's back ({os.strerror(number)})")

    def _receive_singly(self) -> list[bytes]:
        found: list[bytes] = []
        self._senders.clear()
        while len(found) < BATCH_DATAGRAMS:
            try:
                data, sender = self._socket.recvfrom(IN_BYTES)
            except OSError as error:
                self._note_unread(error.errno or 0)
                break
            found.append(data)
            self._senders.append((str(sender[0]), int(sender[1]), b""))
        self._count = len(found)
        return found

    def _send(self, count: int) -> None:
        done = 0
        while done < count:
            where = ctypes.c_void_p(self._out.address + done * _HEADER_BYTES)
            sent = LIBC.sendmmsg(self._fd, where, count - done, socket.MSG_DONTWAIT)
            if sent > 0:
                done += sent
                continue
            # The kernel stops at the first datagram that it cannot send: the others have other clients.
            self._note_unsent(ctypes.get_errno())
            done += 1


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return what tells an open socket from every other; None if the descriptor is not open."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino
