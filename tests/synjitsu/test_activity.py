"""What shows that a VM that runs is in use: connections and packets."""

from __future__ import annotations

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import MAX_BLIND_S, Activity
from jitsu_synjitsu.rules.running import MAX_CONNECTIONS, MAX_REPLIES
from jitsu_synjitsu.rules.unreported import MAX_USES
from tests.support.frames import CLIENT_MAC, RST, SYN, V4, V6, VM_MAC, arp, tcp, udp
from tests.support.vms import make_vm

VM = make_vm(ttl="10", max_idle_connection="1000")  # idle after 20 s: not looked at for 2 s after a packet
ACK, FIN = 16, 1
BLIND_S = 2.0


class Bridge:
    """A bridge on which one VM runs."""

    def __init__(self, *, unknown: bool = False) -> None:
        self.activity = Activity()
        self.activity.runs(VM, VM_MAC, "", 0.0, unknown=unknown)
        self.told(0.0)

    def to_vm(self, frame: bytes, now: float) -> str:
        self.activity.tick(now)
        return self.activity.frame(frames.read(frame), now)

    def connects(self, port: int, now: float, addresses: tuple[bytes, bytes] = V4) -> None:
        self.to_vm(tcp(port, 80, addresses=addresses), now)
        self.to_vm(self.answer(port, SYN | ACK, addresses), now)

    @staticmethod
    def answer(port: int, flags: int, addresses: tuple[bytes, bytes] = V4) -> bytes:
        return tcp(80, port, flags, addresses=addresses[::-1], to=CLIENT_MAC, source=VM_MAC)

    def told(self, now: float) -> list[float]:
        """Report to the reaper; returns the ages of use."""
        self.activity.tick(now)
        uses = self.activity.unreported.uses(now)
        for use, up_to in uses:
            self.activity.unreported.acknowledged(use.vm, up_to)
        return [round(use.age_s, 3) for use, _ in uses]


@pytest.mark.parametrize("addresses", [V4, V6])
def test_g3_a_silent_connection_is_use_until_both_sides_have_ended_it(addresses: tuple[bytes, bytes]) -> None:
    made = Bridge()
    made.connects(1, 1.0, addresses)
    assert [made.told(now) for now in (2.0, 100.0, 500.0)] == [[0.0]] * 3
    made.to_vm(tcp(1, 80, FIN | ACK, addresses=addresses), 600.0)
    assert made.told(650.0) == [0.0], "half closed: the VM may still send"
    made.to_vm(made.answer(1, FIN | ACK, addresses), 700.0)
    assert made.activity.totals.connections == 0
    assert made.told(900.0) == [900.0 - 700.0]
    assert made.told(901.0) == []


@pytest.mark.parametrize("addresses", [V4, V6])
def test_replies_on_a_connection_that_the_vm_opened_are_no_use(addresses: tuple[bytes, bytes]) -> None:
    made = Bridge()
    for n in range(10):
        now = 10.0 + 2 * n
        made.to_vm(made.answer(443 + n, SYN, addresses), now)
        for flags in (SYN | ACK, ACK, FIN | ACK):
            made.to_vm(tcp(443 + n, 80, flags, addresses=addresses), now)
        assert made.told(now + 0.1) == []
    assert made.activity.attention.awaited() == {VM_MAC}, "the next packet of anybody else is still seen"
    made.to_vm(tcp(9, 80, ACK, addresses=addresses), 40.0)
    assert made.told(40.0) == [0.0]


def test_a_client_that_opens_a_connection_with_the_ports_of_an_old_one_is_use() -> None:
    made = Bridge()
    made.to_vm(made.answer(443, SYN), 10.0)
    made.to_vm(tcp(443, 80, RST), 10.1)
    made.to_vm(tcp(443, 80, SYN), 20.0)
    assert made.told(20.0) == [0.0]


def test_in_doubt_a_packet_is_use_and_what_is_kept_is_bounded() -> None:
    made = Bridge()
    for port in range(MAX_CONNECTIONS + 1):
        made.to_vm(made.answer(1 + port, SYN), 10.0)
    made.to_vm(tcp(2, 80, ACK), 11.0)
    assert made.told(11.0) == [], "it is among those that are kept"
    made.to_vm(tcp(1, 80, ACK), 12.0)
    assert made.told(12.0) == [0.0], "this one was forgotten"
    busy = Bridge()
    busy.to_vm(busy.answer(443, SYN), 10.0)
    busy.activity.tick(11.0)
    for _ in range(MAX_REPLIES + 1):
        busy.activity.frame(frames.read(tcp(443, 80, ACK)), 11.0)
    assert busy.activity.attention.awaited() == frozenset(), "a busy VM is not looked at packet by packet"


@pytest.mark.parametrize("who", ["client", "vm"])
def test_a_reset_ends_a_connection(who: str) -> None:
    made = Bridge()
    made.connects(1, 1.0)
    made.to_vm(tcp(1, 80, RST) if who == "client" else made.answer(1, RST), 2.0)
    assert made.activity.totals.connections == 0


def test_a_client_that_vanished_keeps_it_up_no_longer_than_max_idle_connection() -> None:
    made = Bridge()
    made.connects(1, 1.0)
    made.to_vm(tcp(1, 80, ACK), 500.0)
    assert made.told(1400.0) == [0.0]
    assert made.told(1499.0 + BLIND_S) == [0.0]
    assert made.told(1501.0 + BLIND_S) == [], "told up to 1501 already"
    assert (made.activity.totals.connections, made.activity.totals.expired) == (0, 1)


def test_a_packet_is_use_and_counts_until_the_vm_is_looked_at_again() -> None:
    made = Bridge()
    assert made.told(5.0) == []
    made.to_vm(udp(1, 2, b"x"), 10.0)
    assert made.activity.attention.awaited() == frozenset()
    assert made.told(11.0) == [0.0], "others may come that nobody sees"
    assert made.told(15.0) == [3.0]
    assert made.activity.attention.awaited() == {VM_MAC}
    assert made.told(16.0) == []


@pytest.mark.parametrize(
    "frame",
    [
        arp(1, CLIENT_MAC, *V4),
        arp(2, CLIENT_MAC, *V4, to=VM_MAC),
        udp(1, 2, b"x", to=b"\xff" * 6),
        udp(1, 2, b"x", to=CLIENT_MAC, source=VM_MAC),
        tcp(1, 443, to=CLIENT_MAC, source=VM_MAC),
    ],
    ids=["ARP", "ARP to it", "a broadcast", "what it sends", "a connection that it opens"],
)
def test_what_is_no_use_is_none(frame: bytes) -> None:
    made = Bridge()
    made.to_vm(frame, 10.0)
    assert made.told(20.0) == []
    assert made.activity.totals.connections == 0


def test_a_probe_of_synjitsu_leaves_no_connection() -> None:
    made = Bridge()
    made.to_vm(made.answer(61_000, SYN | ACK), 1.0)
    assert made.activity.totals.connections == 1
    made.activity.sent(frames.read(tcp(61_000, 80, RST)), 1.1)
    assert made.activity.totals.connections == 0


def test_g3_a_vm_that_ran_before_anybody_looked_may_have_connections() -> None:
    made = Bridge(unknown=True)
    assert made.told(500.0) == [0.0]
    assert made.told(1001.0) == []


def test_what_an_earlier_synjitsu_knew_is_taken_up() -> None:
    old, new = Bridge(), Bridge(unknown=True)
    old.connects(1, 1.0)
    known = old.activity.vms[VM.uuid].known()
    assert known is not None
    new.activity.restore(VM.uuid, known)
    assert new.told(10.0) == [0.0]
    new.to_vm(tcp(1, 80, RST), 20.0)
    assert (new.activity.totals.connections, new.told(40.0)) == (0, [20.0 - BLIND_S])


def test_g9_of_connections_so_many_are_known_and_then_there_may_be_more() -> None:
    made = Bridge()
    for n in range(MAX_CONNECTIONS + 10):
        made.connects(n + 1, 1.0)
    assert made.activity.totals.connections == MAX_CONNECTIONS
    for n in range(MAX_CONNECTIONS + 10):
        made.to_vm(tcp(n + 1, 80, RST), 2.0)
    assert made.activity.totals.connections == 0
    assert made.told(500.0) == [0.0], "ten of them were not known any more"


def test_g3_a_packet_saves_a_vm_that_drains_and_takes_its_honour_back() -> None:
    made = Bridge()
    made.activity.runs(VM, VM_MAC, "d1", 50.0, unknown=False)
    assert made.activity.honours(VM.uuid, "d1")
    assert made.to_vm(udp(1, 2, b"x"), 50.1) == VM.uuid
    assert not made.activity.honours(VM.uuid, "d1")
    assert made.to_vm(udp(1, 2, b"x"), 50.2) == "", "said once"
    assert made.activity.honours("another, that nobody looks at", "d2")


def test_a_vm_that_rests_is_forgotten_and_one_with_another_mac_is_not() -> None:
    made, other = Bridge(), b"\x02\0\0\0\0\x55"
    made.connects(1, 1.0)
    made.activity.has_mac(VM.uuid, other, 1.0)
    assert made.activity.running() == made.activity.attention.awaited() == {other}
    assert made.activity.totals.connections == 1
    made.activity.rests(VM.uuid)
    assert made.activity.running() == made.activity.attention.awaited() == frozenset()
    assert VM.uuid not in made.activity.vms


def test_a_report_has_an_end_and_the_next_one_goes_on() -> None:
    activity = Activity()
    for n in range(MAX_USES + 5):
        activity.runs(VM.model_copy(update={"uuid": f"v{n}"}), n.to_bytes(6, "big"), "", 0.0, unknown=False)
    first = activity.unreported.uses(1.0)
    for use, up_to in first:
        activity.unreported.acknowledged(use.vm, up_to)
    assert (len(first), len(activity.unreported.uses(1.0))) == (MAX_USES, 5)


def test_a_vm_with_a_long_timeout_is_looked_at_every_few_seconds_all_the_same() -> None:
    activity = Activity()
    activity.runs(make_vm(ttl="86400"), VM_MAC, "", 0.0, unknown=False)
    activity.frame(frames.read(udp(1, 2, b"x")), 10.0)
    activity.tick(10.0 + MAX_BLIND_S)
    assert activity.attention.awaited() == {VM_MAC}


def test_g3_of_more_connected_vms_than_a_report_has_room_for_each_is_reported_in_turn() -> None:
    activity = Activity()
    for n in range(MAX_USES + 50):
        vm = VM.model_copy(update={"uuid": f"v{n}"})
        activity.runs(vm, b"\x02\0" + n.to_bytes(4, "big"), "", 0.0, unknown=True)
    told = set()
    for now in (1.0, 2.0):
        uses = activity.unreported.uses(now)
        assert len(uses) == MAX_USES
        for use, up_to in uses:
            activity.unreported.acknowledged(use.vm, up_to)
            told.add(use.vm)
    assert len(told) == MAX_USES + 50


def test_g3_the_drain_of_a_connected_vm_is_not_honoured() -> None:
    made = Bridge()
    made.connects(1, 1.0)
    made.activity.runs(VM, VM_MAC, "d1", 2.0, unknown=False)
    assert not made.activity.honours(VM.uuid, "d1")
    made.to_vm(tcp(1, 80, RST), 3.0)
    made.activity.runs(VM, VM_MAC, "d1", 3.1, unknown=False)
    assert made.activity.honours(VM.uuid, "d1")


def test_g3_a_vm_whose_bridge_came_late_may_be_connected() -> None:
    made = Bridge()
    made.activity.may_be_connected(VM.uuid, 5000.0)
    assert not made.activity.honours(VM.uuid, "")
    assert [made.told(now) for now in (5001.0, 5999.0)] == [[0.0], [0.0]], "since then, not since it was used last"
    assert made.told(6000.0) == []
    made.activity.may_be_connected("nobody", 1.0)
