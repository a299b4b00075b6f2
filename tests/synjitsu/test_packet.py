"""A raw socket whose calls fail: every errno is survived and counted, and a broken socket is opened again."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_synjitsu.rules.filter import Interest
from jitsu_synjitsu.wires.packet import OWN_SOCKET_ERRNOS, BridgeSocket
from tests.support.clock import VirtualClock
from tests.support.frames import VM_MAC, tcp
from tests.support.memory_lan import MemoryLan
from tests.support.synjitsu import made_bridge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jitsu_synjitsu.wires.lan import Taken

pytestmark = pytest.mark.wires

EVERY_ERRNO = sorted(errno.errorcode)


class FailingSocket:
    """A packet socket on a pair of datagram sockets, each of whose calls fails as a test asks."""

    def __init__(self, *_: int) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)
        self.send_errno = self.receive_errno = self.option_errno = 0
        self.detached = False

    def setsockopt(self, *_: Any) -> None:
        if self.option_errno:
            raise OSError(self.option_errno, "setsockopt")

    def getsockopt(self, *_: Any) -> bytes:
        return bytes(8)

    def bind(self, _: Any) -> None:
        """Be bound already."""

    def fileno(self) -> int:
        return self._ours.fileno()

    def send(self, frame: bytes) -> int:
        if self.send_errno:
            raise OSError(self.send_errno, "send")
        return self._ours.send(frame)

    def recvmsg(self, size: int, more: int) -> Any:
        if self.receive_errno:
            raise OSError(self.receive_errno, "recvmsg")
        return self._ours.recvmsg(size, more)

    def detach(self) -> int:
        self.detached = True
        return self._ours.detach()

    def close(self) -> None:
        self._ours.close()
        self.theirs.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[BridgeSocket, FailingSocket]]:
    monkeypatch.setattr(socket, "if_nametoindex", lambda _: 7)

    def make() -> tuple[BridgeSocket, FailingSocket]:
        sockets: list[FailingSocket] = []

        def make_socket(*_: int) -> Any:
            sockets.append(FailingSocket())
            return sockets[-1]

        return BridgeSocket("br0", lambda *_: None, make_socket), sockets[0]

    return make


def test_every_errno_of_a_send_is_survived_and_counted(
    made: Callable[[], tuple[BridgeSocket, FailingSocket]],
) -> None:
    for number in EVERY_ERRNO:
        wire, below = made()
        below.send_errno = number
        wire.send(tcp())
        wire.send(tcp())
        assert wire.unsent == {errno.errorcode[number]: 2}
        assert wire.is_broken is (number in OWN_SOCKET_ERRNOS)
        below.send_errno = 0
        wire.send(tcp())
        assert below.theirs.recv(100) == tcp(), "and what is sent next is sent"
        wire.close()
        below.close()


def test_every_errno_of_a_filter_or_a_promiscuous_mode_is_survived(
    made: Callable[[], tuple[BridgeSocket, FailingSocket]],
) -> None:
    for number in EVERY_ERRNO:
        wire, below = made()
        below.option_errno = number
        wire.watch(Interest(held=frozenset({VM_MAC})))
        assert wire.is_broken is (number in OWN_SOCKET_ERRNOS)
        wire.close()
        below.close()


def test_every_errno_of_a_read_is_survived_and_a_broken_socket_is_not_read_for_ever(
    made: Callable[[], tuple[BridgeSocket, FailingSocket]],
) -> None:
    async def read(number: int) -> None:
        wire, below = made()
        wire.open()
        reads = 0

        def failing(*_: int) -> Any:
            nonlocal reads
            reads += 1
            if reads > 1:
                below.receive_errno = errno.EAGAIN
                raise BlockingIOError(errno.EAGAIN, "nothing to read")
            raise OSError(number, "recvmsg")

        below.recvmsg = failing  # type: ignore[method-assign,assignment]
        below.theirs.send(tcp())  # it stays readable
        for _ in range(5):
            await asyncio.sleep(0)
        if number in OWN_SOCKET_ERRNOS:
            assert (reads, wire.is_broken) == (1, True)
        wire.close()
        assert below.detached is wire.is_broken, "its number may be another descriptor's by now"
        below.close()

    for number in EVERY_ERRNO:
        asyncio.run(read(number))


def test_a_bridge_opens_a_broken_socket_again_and_still_counts_what_it_did_not_send(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[FailingSocket] = []

    def make_socket(*_: int) -> Any:
        opened.append(FailingSocket())
        return opened[-1]

    monkeypatch.setattr(socket, "if_nametoindex", lambda _: 7)

    class FailingLan(MemoryLan):
        def wire(self, bridge: str, taken: Taken) -> Any:
            return BridgeSocket(bridge, taken, make_socket)

    async def look() -> None:
        lan = FailingLan(clock := VirtualClock())
        lan.add("br0")
        bridge = made_bridge(tmp_path, lan=lan, clock=clock)
        bridge.look()
        opened[0].send_errno = errno.EBADF
        bridge.send(tcp(), "replay")
        assert len(opened) == 1
        bridge.look()
        bridge.send(tcp(), "replay")
        assert opened[1].theirs.recv(100) == tcp()
        assert bridge.unsent() == {"EBADF": 1}
        bridge.look()
        assert len(opened) == 2
        assert bridge.wire is not None
        bridge.wire.close()

    asyncio.run(look())
    for each in opened:
        each.close()
