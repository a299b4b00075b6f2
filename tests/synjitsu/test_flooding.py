"""The ports of one bridge are shut and opened as rules/ports.py decides; what the kernel refuses becomes a note."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from jitsu_synjitsu.wires.flooding import TWICE, BridgePorts
from jitsu_synjitsu.wires.ledger import Ledger, read_ports
from tests.support.clock import VirtualClock
from tests.support.memory_lan import MemoryFeed, MemoryLan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.memory_lan import Station

MAC = b"\x02\0\x5e\0\x53\x01"


class RefusingLan(MemoryLan):
    """A kernel that may refuse to follow ports, or to change whether a port is flooded to."""

    refused_feed = refused_flood = 0

    def ports(self, bridge: str, appeared: Callable[..., None], gone: Callable[[int], None]) -> MemoryFeed:
        if self.refused_feed:
            raise OSError(self.refused_feed, os.strerror(self.refused_feed))
        return super().ports(bridge, appeared, gone)

    def set_flood(self, index: int, floods: bool) -> None:
        if self.refused_flood:
            raise OSError(self.refused_flood, os.strerror(self.refused_flood))
        super().set_flood(index, floods)


class Host:
    """The bridge br0 with its uplink eth0, and whatever taps a test plugs in."""

    def __init__(self, directory: Path) -> None:
        self.lan = RefusingLan(VirtualClock())
        self.bridge = self.lan.add("br0")
        self.uplink = self.bridge.plug("eth0", lambda _: None)
        self.file = directory / "ports"
        self.ports = BridgePorts("br0", self.lan, Ledger(self.file, self.lan))

    def tap(self, name: str = "vnet0", mac: bytes = MAC) -> Station:
        """Plug in the tap of a guest, as libvirt makes it."""
        return self.bridge.plug(name, lambda _: None, b"\xfe" + mac[1:])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.ports.attach()
    return made


def test_a_port_is_shut_while_its_vm_boots_and_the_file_says_so_in_the_meantime(host: Host) -> None:
    host.ports.boots("v", MAC)
    tap = host.tap()
    assert (tap.floods, host.uplink.floods) == (False, True)
    assert read_ports(host.file) == {"vnet0": tap.index}
    assert host.bridge.table[MAC] == host.uplink.index, "what is sent to the guest goes where nobody accepts it"
    host.ports.settled("v")
    assert tap.floods
    assert read_ports(host.file) == {}
    assert MAC not in host.bridge.table


def test_a_tap_that_goes_is_no_longer_in_the_file(host: Host) -> None:
    host.ports.boots("v", MAC)
    tap, other = host.tap(), host.tap("vnet1", b"\x02\0\x5e\0\x53\x02")
    host.ports.named("w", "vnet1")
    host.bridge.unplug(tap)
    assert set(read_ports(host.file)) <= {other.name}
    host.ports.settled("v")
    assert host.ports.notes() == []


def test_the_diversion_of_a_guest_moves_when_its_port_goes(host: Host) -> None:
    second = host.bridge.plug("eth1", lambda _: None)
    host.ports.boots("v", MAC)
    assert host.bridge.table[MAC] == host.uplink.index
    host.bridge.unplug(host.uplink)
    assert host.bridge.table[MAC] == second.index


def test_a_guest_that_is_paused_is_forgotten_by_the_bridge_unless_an_operator_has_entered_it(host: Host) -> None:
    tap = host.tap()
    for is_static in (False, True):
        host.bridge.table[MAC] = tap.index
        host.bridge.static = {MAC} if is_static else set()
        host.ports.is_paused("v", MAC)
        assert not tap.floods
        assert (MAC in host.bridge.table) is is_static
        host.ports.is_not_paused("v")
        assert tap.floods


def test_a_vm_that_was_not_paused_is_not_settled_by_its_running(host: Host) -> None:
    host.ports.boots("v", MAC)
    tap = host.tap()
    host.ports.is_not_paused("v")
    assert not tap.floods, "it boots"


def test_an_entry_of_an_operator_is_noted_until_the_vm_boots_without_it(host: Host) -> None:
    host.bridge.static, host.bridge.table[MAC] = {MAC}, host.uplink.index
    host.ports.boots("v", MAC)
    assert host.ports.notes() == [f"br0 has a static entry for 02:00:5e:00:53:01: {TWICE}; see bridge fdb show"]
    host.bridge.static = set()
    host.ports.boots("v", MAC)
    assert host.ports.notes() == []


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_port_that_went_at_this_moment_is_no_obstacle(host: Host, error: int) -> None:
    host.ports.boots("v", MAC)
    host.tap()
    host.lan.refused_flood = error
    host.ports.settled("v")
    assert host.ports.notes() == []
    assert read_ports(host.file) == {}


def test_what_the_kernel_refuses_is_noted_with_the_right_that_is_missing(host: Host) -> None:
    host.lan.refused_flood = errno.EPERM
    host.ports.boots("v", MAC)
    host.tap()
    reason = "flooding to vnet0 cannot be turned {} (Operation not permitted; Synjitsu needs CAP_NET_ADMIN)"
    assert host.ports.notes() == [f"{reason.format('off')}: {TWICE}"]
    host.lan.refused_flood = errno.EIO
    host.ports.settled("v")
    assert host.ports.notes() == [f"flooding to vnet0 cannot be turned on (Input/output error): {TWICE}"]


def test_what_is_no_linux_bridge_and_one_whose_ports_are_not_known_are_noted(tmp_path: Path) -> None:
    made = Host(tmp_path)
    made.ports = BridgePorts("ovs0", made.lan, Ledger(made.file, made.lan))
    made.ports.attach()
    assert made.ports.notes() == [f"ovs0 is not a Linux bridge: {TWICE}"]
    made.ports.boots("v", MAC)
    made.ports.detach()
    made.ports = BridgePorts("br0", made.lan, Ledger(made.file, made.lan))
    made.lan.refused_feed = errno.EMFILE
    made.ports.attach()
    assert made.ports.notes() == [f"the ports of br0 are not known (Too many open files): {TWICE}"]
    made.lan.refused_feed = 0
    made.ports.attach()
    assert made.ports.notes() == []


def test_no_port_stays_shut_when_the_bridge_goes_or_synjitsu_ends(host: Host) -> None:
    host.ports.boots("v", MAC)
    tap = host.tap()
    host.ports.open_all()
    assert tap.floods
    assert read_ports(host.file) == {}
    tap.floods = False
    host.ports.detach()
    assert tap.floods
    assert host.bridge.feeds == []


def test_g4_ports_of_guests_that_boot_or_are_paused_are_shut_again_after_a_socket_broke(host: Host) -> None:
    """A socket that breaks is made again while the VMs stay as they are, and nobody repeats what they are."""
    paused = b"\x02\0\x5e\0\x53\x02"
    booting, other = host.tap("tap7", b"\0\0\0\0\0\0"), host.tap("vnet1", paused)
    host.ports.named("v", "tap7")
    host.ports.boots("v", MAC)
    host.ports.is_paused("w", paused)
    assert (booting.floods, other.floods) == (False, False)
    host.ports.detach()
    assert (booting.floods, other.floods, host.uplink.floods) == (True, True, True)
    host.ports.attach()
    assert (booting.floods, other.floods, host.uplink.floods) == (False, False, True)
    host.ports.settled("v")
    host.ports.is_not_paused("w")
    host.ports.detach()
    host.ports.attach()
    assert (booting.floods, other.floods, host.uplink.floods) == (True, True, True)
