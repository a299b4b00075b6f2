"""Which ports of a bridge are shut, for which VM, and until when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jitsu_synjitsu.rules.ports import Divert, EndDivert, Open, Port, Ports, Shut, Unlearn
from jitsu_synjitsu.wires import flooding
from jitsu_synjitsu.wires import ledger as ledger_module
from jitsu_synjitsu.wires.ledger import Ledger, read_ports
from tests.support.clock import VirtualClock
from tests.support.memory_lan import MemoryLan

ROOT = Path(__file__).parents[2]
MAC, OTHER = bytes.fromhex("02005e005301"), bytes.fromhex("02005e005302")
TAP = Port(7, "vnet0", bytes.fromhex("86aabbccddee"), is_up=True, floods=True)
LIBVIRT_TAP = replace(TAP, mac=b"\xfe" + MAC[1:])


def test_a_port_that_comes_while_a_vm_boots_is_shut_until_its_guest_is_there() -> None:
    ports = Ports()
    ports.arm("v", MAC)
    assert ports.appeared(TAP) == [Shut(TAP)]
    assert ports.appeared(replace(TAP, floods=False)) == [], "as the kernel reports it afterwards"
    assert ports.settled("v") == [Open(TAP)]
    assert ports.settled("v") == []
    assert ports.shut() == []


def test_a_port_that_was_there_before_and_one_that_comes_while_nobody_boots_are_left_alone() -> None:
    ports = Ports()
    assert ports.appeared(TAP) == []
    ports.arm("v", MAC)
    assert ports.appeared(TAP) == []
    assert ports.appeared(replace(TAP, is_up=False)) == []
    assert ports.appeared(TAP) == [Shut(TAP)], "a tap that the operator has made, and a hypervisor opens now"


def test_a_port_that_vmd_names_is_shut_before_the_hypervisor_opens_it() -> None:
    ports = Ports()
    idle = replace(TAP, is_up=False)
    ports.appeared(idle)
    ports.named("v", TAP.name)
    assert ports.arm("v", MAC) == [Shut(idle)]
    assert ports.appeared(replace(TAP, floods=False)) == [], "its carrier comes, and it is shut already"
    assert ports.settled("v") == [Open(replace(TAP, floods=True))]


def test_what_is_sent_to_a_vm_that_boots_goes_to_a_port_that_is_not_its_own() -> None:
    ports = Ports()
    assert ports.arm("v", MAC) == [], "there is no port yet"
    ports.settled("v")
    uplink, taken = replace(TAP, index=3, name="eth0"), replace(TAP, index=4, name="vnet9")
    for port in (replace(TAP, is_up=False), replace(LIBVIRT_TAP, index=8), taken, uplink):
        ports.appeared(port)
    ports.named("w", taken.name)
    assert ports.arm("v", MAC) == [Divert(uplink, MAC)], "neither one that is down, nor its own, nor another VM's"
    assert ports.arm("v", MAC) == [], "it was told before"
    assert ports.gone(uplink.index) == [Divert(taken, MAC)], "better another VM's than none"
    assert ports.appeared(replace(taken, is_up=False)) == [], "no other is up"
    ports.settled("v")
    ports.appeared(uplink)
    assert ports.arm("v", MAC) == [Divert(uplink, MAC)]
    assert ports.settled("v") == [EndDivert(uplink, MAC)]


def test_a_port_without_flooding_of_the_operators_own_stays_as_it_is() -> None:
    ports = Ports()
    ports.arm("v", MAC)
    assert ports.appeared(replace(TAP, floods=False)) == []
    assert ports.settled("v") == []


def test_an_unknown_port_is_shut_for_all_that_boot_and_a_known_one_only_for_its_vm() -> None:
    ports = Ports()
    ports.arm("v", MAC)
    ports.arm("w", OTHER)
    assert ports.appeared(TAP) == [Shut(TAP)]
    assert ports.settled("v") == []
    assert ports.settled("w") == [Open(TAP)]
    ports.arm("v", MAC)
    ports.arm("w", OTHER)
    known = replace(LIBVIRT_TAP, index=8)
    assert ports.appeared(known) == [Shut(known)]
    assert ports.settled("w") == [EndDivert(TAP, OTHER)]
    assert ports.settled("v") == [EndDivert(TAP, MAC), Open(known)]


def test_the_name_that_vmd_gives_tells_whose_port_it_is() -> None:
    ports = Ports()
    ports.arm("v", MAC)
    ports.arm("w", OTHER)
    second = replace(TAP, index=8, name="vnet1")
    assert ports.appeared(TAP) == [Shut(TAP)]
    assert ports.appeared(second) == [Shut(second)]
    assert ports.named("v", "vnet0") == []
    assert ports.settled("w") == [Open(second)]
    assert ports.settled("v") == [Open(TAP)]
    ports.arm("w", OTHER)
    ports.gone(7)
    assert ports.appeared(TAP) == [], "vmd says that it is another VM's, which does not boot"


def test_a_port_that_turns_out_to_be_anothers_is_opened_at_once() -> None:
    ports = Ports()
    ports.arm("v", MAC)
    ports.appeared(TAP)
    assert ports.named("w", "vnet0") == [Open(TAP)]


def test_a_vm_that_is_paused_has_its_port_shut_and_its_mac_address_forgotten() -> None:
    for port in (TAP, LIBVIRT_TAP):
        ports = Ports()
        ports.appeared(port)
        if port is TAP:
            ports.named("v", "vnet0")
        assert ports.arm("v", MAC, is_paused=True) == [Shut(port), Unlearn(port, MAC)]
        assert ports.arm("v", MAC) == [], "it is resumed"
        assert ports.settled("v") == [Open(port)]


def test_a_port_that_is_gone_is_forgotten() -> None:
    ports = Ports()
    ports.arm("v", MAC)
    ports.appeared(TAP)
    ports.gone(TAP.index)
    assert ports.settled("v") == []


class NotedLan(MemoryLan):
    """Has the interfaces that the test names, and notes which are opened and shut."""

    def __init__(self) -> None:
        super().__init__(VirtualClock())
        self.indices: dict[str, int] = {}
        self.floods: list[tuple[int, bool]] = []

    def index(self, bridge: str) -> int:
        return self.indices.get(bridge, 0)

    def set_flood(self, index: int, floods: bool) -> None:
        self.floods.append((index, floods))


def test_ports_that_were_left_shut_are_opened_at_the_next_start_if_they_are_the_same(tmp_path: Path) -> None:
    lan = NotedLan()
    lan.indices = {"vnet0": 7, "vnet1": 99}
    path = tmp_path / "run" / "synjitsu.ports"
    killed = Ledger(path, lan)
    for port in (TAP, replace(TAP, index=8, name="vnet1"), replace(TAP, index=9, name="vnet2")):
        killed.add(port)
    killed.remove(replace(TAP, index=9, name="vnet2"))
    with path.open("a") as file:
        file.write("- 7 vnet")  # it was killed while it wrote: the port is still shut
    Ledger(path, lan).restore()
    assert lan.floods == [(7, True)]
    assert not path.exists()


def test_the_file_of_ports_that_are_shut_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "synjitsu.ports"
    ledger = Ledger(path, NotedLan())
    ledger.add(TAP)
    for _ in range(10_000):
        other = replace(TAP, index=8, name="vnet1")
        ledger.add(other)
        ledger.remove(other)
    assert path.stat().st_size < 2 * ledger_module.MAX_FILE_BYTES
    assert read_ports(path) == {"vnet0": 7}
    ledger.remove(TAP)
    assert path.stat().st_size == 0
    ledger.close()
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "[]\n", "+\n", "+ x vnet0\n", "\0\n"])
def test_a_file_of_ports_that_cannot_be_read_costs_a_warning(tmp_path: Path, text: str) -> None:
    path = tmp_path / "synjitsu.ports"
    path.write_text(text)
    Ledger(path, NotedLan()).restore()


def test_the_packaged_unit_may_do_what_synjitsu_does() -> None:
    unit = (ROOT / "deploy/systemd/jitsu-synjitsu.service").read_text()
    allowed = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert {"CAP_NET_RAW", "CAP_NET_ADMIN"} == set(allowed[key].split())
    assert {"AF_PACKET", "AF_NETLINK"} <= set(allowed["RestrictAddressFamilies"].split())


def test_no_port_stays_shut_when_the_socket_of_a_bridge_that_is_there_breaks(tmp_path: Path) -> None:
    lan = NotedLan()
    bridge = lan.add("br0")
    ports = flooding.BridgePorts("br0", lan, Ledger(tmp_path / "ports", lan))
    ports.attach()
    ports.boots("v", b"\x02\0\0\0\0\1")
    tap = bridge.plug("vnet7", lambda _: None, b"\xfe\0\0\0\0\1")
    ports.detach()
    assert lan.floods == [(tap.index, False), (tap.index, True)]
