"""Datagrams where the C library has no calls for batches: one at a time, on a socket that the test plays."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_dns.wires import datagrams
from jitsu_dns.wires.datagrams import BATCH_DATAGRAMS, IN_BYTES, DatagramSocket, SocketLost

if TYPE_CHECKING:
    from collections.abc import Iterator

V4, V6 = ("192.0.2.9", 4000), ("fe80::9%3", 4001, 0, 3)


class PlayedSocket:
    """A UDP socket that is bound to one address."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.comes: list[tuple[bytes, Any] | OSError] = []
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.refuses: list[int] = []
        """The errors of the next sends."""
        self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def fileno(self) -> int:
        return self._descriptor

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.1" if self.family == socket.AF_INET else "2001:db8::1"), 53

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        item = self.comes.pop(0) if self.comes else BlockingIOError(errno.EAGAIN, "nothing to read")
        if isinstance(item, OSError):
            raise item
        return item[0][:size], item[1]

    def sendmsg(self, data: list[bytes], control: list[object], flags: int, address: tuple[str, int]) -> None:
        assert (control, flags) == ([], 0)
        if self.refuses:
            number = self.refuses.pop(0)
            raise OSError(number, os.strerror(number))
        self.sent.append((data[0], address))

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture(autouse=True)
def singly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "HAS_BATCHES", False)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def played(request: pytest.FixtureRequest) -> Iterator[PlayedSocket]:
    made = PlayedSocket(request.param)
    yield made
    made.close()


def served_by(played: PlayedSocket) -> DatagramSocket:
    bound: Any = played
    return DatagramSocket(bound)


def test_each_answer_goes_to_who_asked_and_nothing_where_there_is_no_answer(played: PlayedSocket) -> None:
    served = served_by(played)
    sender, raw = (V4, b"\xc0\0\2\x09") if played.family == socket.AF_INET else (V6, b"\xfe\x80" + bytes(13) + b"\x09")
    played.comes = [(b"q0", sender), (b"q1", sender), (b"q2", sender)]
    assert served.receive() == [b"q0", b"q1", b"q2"]
    assert served.client(1) == (*sender[:2], b"")
    assert [served.address(n) for n in range(3)] == list(served.keys()) == [raw] * 3
    served.answer([b"a0", None, b"a2"])
    assert played.sent == [(b"a0", sender[:2]), (b"a2", sender[:2])]


def test_a_client_of_ipv4_on_a_socket_of_ipv6_is_known_by_its_own_address() -> None:
    played = PlayedSocket(socket.AF_INET6)
    served = served_by(played)
    played.comes = [(b"q", ("::ffff:192.0.2.9", 4000, 0, 0))]
    assert served.receive() == [b"q"]
    assert served.address(0) == b"\xc0\0\2\x09"
    played.close()


def test_a_full_batch_is_taken_the_rest_next_time_and_a_long_one_is_cut_off(played: PlayedSocket) -> None:
    served = served_by(played)
    played.comes = [(b"x" * (IN_BYTES + 1), V4)] * (BATCH_DATAGRAMS + 3)
    assert [len(each) for each in served.receive()] == [IN_BYTES] * BATCH_DATAGRAMS
    assert len(served.receive()) == 3
    assert served.receive() == []
    assert served.unread == {}


def test_errors_are_counted_and_end_the_process_only_if_the_socket_is_gone(played: PlayedSocket) -> None:
    served = served_by(played)
    played.comes = [OSError(errno.ENETDOWN, "Network is down"), (b"q", V4)]
    assert (served.receive(), served.receive()) == ([], [b"q"])
    played.refuses = [errno.EACCES, errno.ENOTSOCK]
    for _ in range(3):
        served.send(b"a", served.client(0))
    assert played.sent == [(b"a", V4)], "and the descriptor is still the socket"
    assert served.unread == {errno.ENETDOWN: 1}
    assert served.unsent == {errno.EACCES: 1, errno.ENOTSOCK: 1}
    read_end, write_end = os.pipe()
    os.dup2(read_end, played.fileno())
    played.refuses = [errno.ENOTSOCK]
    with pytest.raises(SocketLost, match="closed behind this server's back"):
        served.send(b"a", served.client(0))
    os.close(read_end)
    os.close(write_end)
