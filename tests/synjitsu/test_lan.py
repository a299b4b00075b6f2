"""The seam to the network (wires/lan.py): the kernel's bridges and those in memory behave alike."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import SetupFault
from jitsu_synjitsu.rules.filter import Interest
from jitsu_synjitsu.wires.kernel import KernelLan
from tests.support.clock import VirtualClock
from tests.support.frames import CLIENT_MAC, V4, VM_MAC, arp, ethernet
from tests.support.memory_lan import MemoryLan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jitsu_synjitsu.rules.ports import Port
    from jitsu_synjitsu.wires.lan import Lan

_OUTGOING = 4  # PACKET_OUTGOING of packet(7)
OTHER_MAC = b"\x02\0\0\0\0\x09"
HELD = Interest(held=frozenset({VM_MAC}))


def plain(to: bytes = VM_MAC, source: bytes = CLIENT_MAC) -> bytes:
    """Return a frame that is not IP, which iptables on this host may drop on bridges (IEEE 802's type for tests)."""
    return ethernet(0x88B5, bytes(46), to=to, source=source)


class Ground:
    """A bridge `br` with two ports, `one` and `two`, and what arrives there."""

    lan: Lan
    bridge: str
    got: dict[str, list[bytes]]

    def send(self, port: str, frame: bytes) -> None:
        """Send a frame into a port from outside."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Let all frames arrive that are on their way."""
        raise NotImplementedError


class MemoryGround(Ground):
    def __init__(self) -> None:
        self._clock = VirtualClock()
        self.lan = lan = MemoryLan(self._clock)
        self.bridge = "br"
        self.got = {"one": [], "two": []}
        bridge = lan.add("br")
        self.stations = {name: bridge.plug(name, self.got[name].append) for name in self.got}

    def send(self, port: str, frame: bytes) -> None:
        self.stations[port].send(frame)

    async def settle(self) -> None:
        self._clock.advance(1.0)


class KernelGround(Ground):
    """The same in a bridge of the kernel, whose ports are ends of veth pairs."""

    def __init__(self) -> None:
        tag = uuid.uuid4().hex[:6]
        self.lan, self.bridge = KernelLan(), f"jb{tag}"
        self.names = {name: f"j{name}{tag}" for name in ("one", "two")}
        self._ip("link", "add", self.bridge, "type", "bridge")
        self._raw: dict[str, socket.socket] = {}
        for name, port in self.names.items():
            self._ip("link", "add", port, "type", "veth", "peer", "name", f"{port}p")
            self._ip("link", "set", port, "master", self.bridge)
            for each in (port, f"{port}p"):
                self._up(each)
            self._raw[name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
            self._raw[name].bind((f"{port}p", 0))
        self._up(self.bridge)
        self.got = {"one": [], "two": []}

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    def _up(self, name: str) -> None:
        self._ip("link", "set", name, "addrgenmode", "none")  # else the kernel itself sends frames of IPv6
        self._ip("link", "set", name, "up")

    def send(self, port: str, frame: bytes) -> None:
        self._raw[port].send(frame)

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0.005)
            for name, raw in self._raw.items():
                while True:
                    try:
                        frame, address = raw.recvfrom(2048)
                    except BlockingIOError:
                        break
                    if address[2] != _OUTGOING and frame[6:11] == VM_MAC[:5]:  # else the kernel itself has sent it
                        self.got[name].append(frame)

    def close(self) -> None:
        for raw in self._raw.values():
            raw.close()
        for name in (*self.names.values(), self.bridge):
            self._ip("link", "delete", name)


@contextmanager
def ground(kind: str) -> Iterator[Ground]:
    if kind == "memory":
        yield MemoryGround()
        return
    made = KernelGround()
    try:
        yield made
    finally:
        made.close()


KINDS = pytest.mark.parametrize(
    "kind",
    [
        "memory",
        pytest.param(
            "kernel",
            marks=[
                pytest.mark.net,
                pytest.mark.skipif(os.geteuid() != 0, reason="needs root: bridges and raw sockets"),
            ],
        ),
    ],
)


def check_learning(ports: dict[str, Port], made: Ground) -> None:
    lan, one, two = made.lan, ports["one"], ports["two"]
    assert VM_MAC in lan.heard_at(made.bridge, one.name)
    assert lan.knows_elsewhere(made.bridge, VM_MAC)
    with pytest.raises(OSError, match="File exists"):
        lan.learn(two.index, VM_MAC)
    with pytest.raises(OSError, match="No such file"):
        lan.unlearn(two.index, VM_MAC)
    lan.unlearn(one.index, VM_MAC)
    assert not lan.knows_elsewhere(made.bridge, VM_MAC)
    lan.learn(two.index, VM_MAC)


@KINDS
async def test_a_bridge_learns_forwards_and_floods_unless_a_port_is_shut(kind: str) -> None:
    with ground(kind) as made:
        found: dict[str, Port] = {}
        gone: list[int] = []
        with closing(made.lan.ports(made.bridge, lambda port: found.update({port.name: port}), gone.append)) as feed:
            feed.open()
            ports = {name: next(port for each, port in found.items() if name in each) for name in ("one", "two")}
            assert all(port.floods for port in ports.values())
            await made.settle()
            made.send("one", arp(1, VM_MAC, V4[1], V4[1]))
            await made.settle()
            assert made.got["two"] == [arp(1, VM_MAC, V4[1], V4[1])], "a broadcast"
            check_learning(ports, made)
            made.lan.set_flood(ports["one"].index, False)
            made.got["one"].clear()
            made.send("two", plain(to=CLIENT_MAC, source=OTHER_MAC))
            await made.settle()
            assert made.got["one"] == [], "an address that nobody has, and the port is shut"
            made.lan.set_flood(ports["one"].index, True)
            made.send("two", plain(to=CLIENT_MAC, source=OTHER_MAC))
            await made.settle()
            assert made.got["one"] == [plain(to=CLIENT_MAC, source=OTHER_MAC)]
            assert not feed.is_static(VM_MAC)


@KINDS
async def test_a_wire_takes_what_is_of_interest_and_sends_to_all_but_itself(kind: str) -> None:
    with ground(kind) as made:
        taken: list[bytes] = []
        receive: Callable[[bytes, bool], None] = lambda frame, _: taken.append(frame)  # noqa: E731
        with closing(made.lan.wire(made.bridge, receive)) as wire:
            wire.open()
            await made.settle()
            made.send("two", plain())
            await made.settle()
            assert taken == [], "nothing is of interest yet"
            wire.watch(HELD)
            made.send("two", plain())
            made.send("two", plain(to=OTHER_MAC))
            await made.settle()
            assert taken == [plain()]
            for port in made.got.values():
                port.clear()
            taken.clear()
            wire.send(plain(to=b"\xff" * 6, source=VM_MAC))
            await made.settle()
            assert [len(each) for each in made.got.values()] == [1, 1]
            assert plain(to=b"\xff" * 6, source=VM_MAC) not in taken
            assert not made.lan.knows_elsewhere(made.bridge, VM_MAC), "what Synjitsu sends teaches the bridge no port"
            assert not wire.has_lost()


@KINDS
def test_what_is_not_there_has_no_index_and_no_wire(kind: str) -> None:
    with ground(kind) as made:
        assert made.lan.index(made.bridge) > 0
        assert made.lan.is_bridge(made.bridge)
        assert made.lan.index("br-none") == 0
        assert not made.lan.is_bridge("br-none")
        assert made.lan.heard_at("br-none", "tap0") == frozenset()
        with pytest.raises(SetupFault, match="br-none"):
            made.lan.wire("br-none", lambda *_: None)
        with pytest.raises(OSError, match=r"No such device|no interface"):
            made.lan.ports("br-none", lambda _: None, lambda _: None)
