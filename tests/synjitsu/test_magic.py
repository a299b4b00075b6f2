"""Magic packets: what is one, whom it wakes, how often, and which frames the kernel passes on for that."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.filter import ALL_BYTES, Interest, program
from jitsu_synjitsu.rules.magic import MagicPackets
from tests.support.bpf import taken_by
from tests.support.frames import CLIENT_MAC, V4, V6, VM_MAC, arp, ethernet, tcp, udp
from tests.support.synjitsu import wake_limit

ALL = b"\xff" * 6
MAGIC = ALL + VM_MAC * 16
OTHER = bytes.fromhex("020000000099")
PASSWORD = b"secret"

ETHERWAKE = ethernet(0x0842, MAGIC)
"""etherwake MAC: to the computer alone. With -b it is to all."""
TOOLS = {
    "etherwake": ETHERWAKE,
    "etherwake -b": ethernet(0x0842, MAGIC, to=ALL),
    "etherwake -p": ethernet(0x0842, MAGIC + PASSWORD, to=ALL),
    "wakeonlan": udp(40_000, 9, MAGIC, to=ALL),
    "wakeonlan -p 7": udp(40_000, 7, MAGIC, to=ALL),
    "behind other bytes": udp(40_000, 9, b"\0\xff\xff" + MAGIC + b"more", to=ALL),
    "behind more ones": udp(40_000, 9, b"\xff" * 9 + MAGIC, to=ALL),
    "IPv6": udp(40_000, 9, MAGIC, V6, to=bytes.fromhex("333300000001")),
    "in a VLAN": udp(40_000, 9, MAGIC, to=ALL, vlan=5),
}
OTHERS = {
    "another computer": udp(40_000, 9, ALL + OTHER * 16, to=ALL),
    "fifteen times": udp(40_000, 9, ALL + VM_MAC * 15, to=ALL),
    "cut short": udp(40_000, 9, MAGIC[:-1], to=ALL),
    "no ones": udp(40_000, 9, VM_MAC * 17, to=ALL),
    "another port": udp(40_000, 53, MAGIC, to=ALL),
    "to one computer": udp(40_000, 9, MAGIC),
    "TCP": tcp(target_port=9, to=ALL) + MAGIC,
    "nothing but ones": udp(40_000, 9, b"\xff" * 1400, to=ALL),
    "nothing": b"",
    "ARP": arp(1, CLIENT_MAC, *V4),
}


def made(**limits: float) -> MagicPackets:
    magic = MagicPackets(wake_limit(**limits))
    magic.listen("v", VM_MAC)
    return magic


def woken(magic: MagicPackets, frame: bytes, now: float = 0.0) -> list[str]:
    return magic.frame(frame, frames.read(frame), now)


@pytest.mark.parametrize("name", TOOLS)
def test_what_the_tools_send_wakes_the_vm_and_passes_the_filter(name: str) -> None:
    assert woken(made(), TOOLS[name]) == ["v"]
    if name != "in a VLAN":  # the kernel takes the tag off before the filter (packet(7), PACKET_AUXDATA)
        assert taken_by(program(Interest(magic=True)), TOOLS[name]) == ALL_BYTES


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_else_is_sent_wakes_nobody(name: str) -> None:
    assert woken(made(), OTHERS[name]) == []


def test_the_filter_passes_neither_other_ports_nor_datagrams_to_one_nor_anything_if_nobody_sleeps() -> None:
    code = program(Interest(magic=True))
    to_one = udp(40_000, 9, MAGIC)
    for frame in (OTHERS["another port"], OTHERS["TCP"], OTHERS["ARP"], to_one, udp(9, 40_000, MAGIC, V6, to=ALL)):
        assert taken_by(code, frame) == 0
    assert taken_by(program(Interest()), ETHERWAKE) == 0
    held = program(Interest(held=frozenset({OTHER}), magic=True))
    assert taken_by(held, OTHERS["ARP"]) == ALL_BYTES, "what else is of interest is passed too"
    fragment = bytearray(TOOLS["wakeonlan"])
    fragment[20:22] = b"\x00\x10"
    assert taken_by(code, bytes(fragment)) == 0


def test_a_vm_that_runs_is_not_woken_and_others_with_its_address_still_are() -> None:
    magic = made()
    magic.listen("w", VM_MAC)
    assert woken(magic, ETHERWAKE) == ["v", "w"]
    magic.end("v")
    magic.end("v")
    assert woken(magic, ETHERWAKE, 9.0) == ["w"]
    magic.end("w")
    assert woken(magic, ETHERWAKE, 18.0) == []
    assert not magic


def test_a_vm_with_a_new_address_is_woken_by_that() -> None:
    magic = made()
    magic.listen("v", OTHER)
    assert woken(magic, ETHERWAKE) == []
    assert woken(magic, OTHERS["another computer"]) == ["v"]


def test_that_there_are_any_changes_the_filter_and_more_of_them_do_not() -> None:
    magic = made()
    assert magic.changed
    magic.changed = False
    magic.listen("v", VM_MAC)
    magic.listen("w", OTHER)
    magic.end("v")
    assert not magic.changed
    magic.end("w")
    assert magic.changed


def test_packets_that_are_sent_again_at_once_wake_once() -> None:
    magic = made()
    assert [woken(magic, ETHERWAKE, now) for now in (0.0, 0.1, 0.9, 1.0)] == [["v"], [], [], ["v"]]


def test_of_vms_that_have_one_address_each_counts() -> None:
    magic = made(rate=0.001, burst=2.0)
    for vm in ("w", "x", "y"):
        magic.listen(vm, VM_MAC)
    assert woken(magic, ETHERWAKE) == ["v", "w"]
    assert woken(magic, ETHERWAKE, 10.0) == []


def test_one_sender_and_all_together_wake_only_so_many() -> None:
    magic = made(rate=0.001, burst=2.0)
    found = [woken(magic, ETHERWAKE, float(10 * n)) for n in range(4)]
    assert found == [["v"], ["v"], [], []]
    other = ethernet(0x0842, MAGIC, source=OTHER)
    assert woken(magic, other, 50.0) == ["v"], "another sender"
    assert woken(magic, TOOLS["wakeonlan"], 60.0) == ["v"], "and one that is known by its IP address"
    together = made(rate=0.0, burst=1.0, of_all=0.001)
    together.limit.of_all.burst = 1.0
    assert [woken(together, ETHERWAKE, 0.0), woken(together, other, 5.0)] == [["v"], []]


def test_only_those_networks_that_may_wake_vms_do_and_frames_without_an_ip_address_are_of_none() -> None:
    magic = MagicPackets(wake_limit("192.0.2.0/24"))
    magic.listen("v", VM_MAC)
    assert woken(magic, TOOLS["wakeonlan"]) == []
    assert woken(magic, ETHERWAKE) == []
    inside = udp(40_000, 9, MAGIC, (bytes([192, 0, 2, 1]), V4[1]), to=ALL)
    assert woken(magic, inside) == ["v"]


def test_a_frame_that_is_cut_short_anywhere_wakes_nobody_and_fails_nowhere() -> None:
    magic = made()
    for name, frame in TOOLS.items():
        if name in ("behind other bytes", "etherwake -p"):
            continue
        for length in range(len(frame)):
            assert woken(magic, frame[:length]) == []
    assert woken(magic, CLIENT_MAC) == []
