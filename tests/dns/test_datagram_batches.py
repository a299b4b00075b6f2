"""Datagrams in batches, with a kernel that the test plays: it fills and reads the memory as recvmmsg(2) does."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_dns.wires import datagrams
from jitsu_dns.wires.datagrams import (
    BATCH_DATAGRAMS,
    CMSG_HEADER_BYTES,
    IP_PKTINFO,
    IPV6_RECVPKTINFO,
    DatagramSocket,
    Mmsghdr,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Sender = tuple[str, int]


def sockaddr(family: int, sender: Sender, scope: int = 0) -> bytes:
    """Return an address as the kernel writes it (ip(7), ipv6(7))."""
    packed = socket.inet_pton(family, sender[0])
    head = struct.pack("=H", family) + struct.pack("!H", sender[1])
    return head + (packed.ljust(12, b"\0") if len(packed) == 4 else bytes(4) + packed + struct.pack("=I", scope))


class PlayedKernel:
    """A UDP socket, and the calls for batches on it."""

    def __init__(self, family: int, bound: str) -> None:
        self.family, self.bound = family, bound
        self.comes: list[tuple[bytes, bytes, bytes]] = []
        """What there is to read: data, sender, and the address that it was sent to as the kernel tells it."""
        self.sent: list[tuple[bytes, bytes, bytes]] = []
        self.refuses: dict[int, int] = {}
        """Number of a datagram that is sent -> the error for it."""
        self.options: list[tuple[int, int, int]] = []
        self._tried = 0
        self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def fileno(self) -> int:
        return self._descriptor

    def getsockname(self) -> Sender:
        return self.bound, 53

    def setsockopt(self, *option: int) -> None:
        self.options.append(option)  # type: ignore[arg-type]

    def close(self) -> None:
        os.close(self._descriptor)

    def recvmmsg(self, _: int, headers: ctypes.c_void_p, count: int, flags: int, __: None) -> int:
        assert flags == socket.MSG_DONTWAIT
        if not self.comes:
            ctypes.set_errno(errno.EAGAIN)
            return -1
        taken, self.comes = self.comes[:count], self.comes[count:]
        for header, (data, sender, own) in zip(self._headers(headers), taken, strict=False):
            base, size = self._memory(header)
            ctypes.memmove(base, data, min(size, len(data)))
            header.len = min(size, len(data))
            ctypes.memmove(header.hdr.name, sender, len(sender))
            if header.hdr.control:
                ctypes.memmove(header.hdr.control + CMSG_HEADER_BYTES, own, len(own))
        return len(taken)

    def sendmmsg(self, _: int, headers: ctypes.c_void_p, count: int, __: int) -> int:
        sent = 0
        for header in self._headers(headers)[:count]:
            if number := self.refuses.get(self._tried):
                if not sent:
                    self._tried += 1
                    ctypes.set_errno(number)
                    return -1
                return sent
            base, size = self._memory(header)
            name = ctypes.string_at(header.hdr.name, header.hdr.namelen) if header.hdr.namelen else b""
            control = ctypes.string_at(header.hdr.control, header.hdr.controllen) if header.hdr.controllen else b""
            self.sent.append((ctypes.string_at(base, size), name, control[CMSG_HEADER_BYTES:]))
            self._tried, sent = self._tried + 1, sent + 1
        return sent

    def _headers(self, at: ctypes.c_void_p) -> Any:
        return (Mmsghdr * BATCH_DATAGRAMS).from_address(at.value or 0)

    def _memory(self, header: Mmsghdr) -> tuple[int, int]:
        base, size = (ctypes.c_uint64 * 2).from_address(header.hdr.iov)
        return base, size


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: list[PlayedKernel] = []

    def make(family: int, bound: str, *, connected: bool = False) -> tuple[PlayedKernel, DatagramSocket]:
        kernel: Any = PlayedKernel(family, bound)
        made.append(kernel)
        monkeypatch.setattr(datagrams, "LIBC", kernel)
        return kernel, DatagramSocket(kernel, connected=connected)

    yield make
    for kernel in made:
        kernel.close()


V4 = [("192.0.2.9", 4000), ("192.0.2.10", 4001), ("192.0.2.9", 4002)]
INTERFACE = struct.pack("=I", 7)
OWN_V4, OWN_V6 = 2 * bytes((10, 0, 0, 1)), b"\xfd".ljust(16, b"\1")
"""The address that was asked (struct in_pktinfo has it twice), and the interface that it was asked at."""
V6 = [("2001:db8::9", 4000), ("2001:db8::10", 4001), ("2001:db8::9", 4002)]


@pytest.mark.parametrize(
    ("family", "bound", "senders"), [(socket.AF_INET, "192.0.2.1", V4), (socket.AF_INET6, "2001:db8::1", V6)]
)
def test_each_answer_goes_to_who_asked_also_after_a_batch_in_which_some_got_none(
    kernels: Any, family: int, bound: str, senders: list[Sender]
) -> None:
    kernel, served = kernels(family, bound)
    raw = [sockaddr(family, sender) for sender in senders]
    assert kernel.options == []
    for answers in ([b"a0", b"a1", b"a2"], [None, b"b1", None], [b"c0", b"c1", b"c2"], [None] * 3):
        kernel.comes = [(b"q%d" % n, address, b"") for n, address in enumerate(raw)]
        assert served.receive() == [b"q0", b"q1", b"q2"]
        assert [served.client(n) for n in range(3)] == [(*sender, b"") for sender in senders]
        assert [served.address(n) for n in range(3)] == [socket.inet_pton(family, host) for host, _ in senders]
        keys = served.keys()
        assert keys[0] == keys[2] != keys[1]
        served.answer(answers)
        sent, kernel.sent = kernel.sent, []
        expected = [(answer, raw[n], b"") for n, answer in enumerate(answers) if answer]
        assert [(data, name[: len(raw[0])], own) for data, name, own in sent] == expected
    assert served.receive() == []


def test_a_link_local_client_is_known_with_its_interface_and_one_of_ipv4_by_its_own_address(kernels: Any) -> None:
    kernel, served = kernels(socket.AF_INET6, "2001:db8::1")
    link_local = sockaddr(socket.AF_INET6, ("fe80::9", 4000), scope=3)
    mapped = sockaddr(socket.AF_INET6, ("::ffff:192.0.2.9", 4000))
    kernel.comes = [(b"q", link_local, b""), (b"q", mapped, b"")]
    served.receive()
    assert served.client(0) == ("fe80::9%3", 4000, b"")
    assert served.address(1) == bytes((192, 0, 2, 9))


@pytest.mark.parametrize(
    ("family", "bound", "sender", "option", "told", "answers_from"),
    [
        (socket.AF_INET, "0.0.0.0", V4[0], (0, IP_PKTINFO, 1), INTERFACE + OWN_V4, bytes(4) + OWN_V4),
        (socket.AF_INET6, "::", V6[0], (41, IPV6_RECVPKTINFO, 1), OWN_V6 + INTERFACE, OWN_V6 + bytes(4)),
    ],
    ids=["IPv4", "IPv6"],
)
def test_a_socket_of_all_addresses_answers_from_the_one_that_was_asked_by_whatever_route_there_is(
    kernels: Any,
    family: int,
    bound: str,
    sender: Sender,
    option: tuple[int, int, int],
    told: bytes,
    answers_from: bytes,
) -> None:
    kernel, served = kernels(family, bound)
    assert kernel.options == [option]
    kernel.comes = [(b"q0", sockaddr(family, sender), told), (b"q1", sockaddr(family, sender), told)]
    served.receive()
    assert served.client(1) == (*sender, answers_from)
    served.answer([None, b"a1"])
    ((data, _, control),) = kernel.sent
    assert (data, control[: len(told)]) == (b"a1", answers_from)


def test_an_answer_that_the_kernel_refuses_costs_no_other_client_its_own(kernels: Any) -> None:
    kernel, served = kernels(socket.AF_INET, "192.0.2.1")
    raw = [sockaddr(socket.AF_INET, sender) for sender in V4]
    kernel.comes = [(b"q", address, b"") for address in raw]
    served.receive()
    kernel.refuses = {1: errno.EACCES}
    served.answer([b"a0", b"a1", b"a2"])
    assert [data for data, _, _ in kernel.sent] == [b"a0", b"a2"]
    assert served.unsent == {errno.EACCES: 1}


def test_a_connected_socket_names_no_client(kernels: Any) -> None:
    kernel, served = kernels(socket.AF_INET, "0.0.0.0", connected=True)
    kernel.comes = [(b"q", sockaddr(socket.AF_INET, V4[0]), b"")]
    served.receive()
    served.answer([b"a"])
    assert (kernel.sent, kernel.options) == ([(b"a", b"", b"")], [])
