"""Claims on the address of a VM that boots: by the guest under an unknown MAC address, or by another machine."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.claims import CHECK_S, MAX_UNDECIDED, Claims
from jitsu_synjitsu.rules.events import SendFrame
from jitsu_synjitsu.rules.handover import Handover
from jitsu_synjitsu.rules.handover_state import REFUSE_S
from jitsu_synjitsu.rules.kept import Kept
from tests.support.frames import CLIENT_MAC, V4, V6, VM_MAC, tcp
from tests.support.synjitsu import armed, made_addresses, wake_limit

OTHER = b"\x02\0\0\0\0\x77"
BOTH = pytest.mark.parametrize("address", [V4[1], V6[1]], ids=["IPv4", "IPv6"])


class Booting:
    """A bridge on which one VM boots; `ports` says at which interface each MAC address was heard."""

    def __init__(self, address: bytes) -> None:
        self.addresses = made_addresses(Kept(10, 100), wake_limit())
        self.interface: str | None = "vnet0"
        self.ports = {CLIENT_MAC: "eth0"}
        self.asked = 0
        self.addresses.claims.heard_from = self._heard_from
        self.address = address
        self.arm(0.0)

    def _heard_from(self, vm: str) -> set[bytes] | None:
        assert vm == "v"
        self.asked += 1
        if self.interface is None:
            return None
        return {mac for mac, interface in self.ports.items() if interface == self.interface}

    def arm(self, now: float) -> list[Any]:
        return armed(self.addresses, "v", [str(ip_address(self.address))], VM_MAC, now + 60.0, now)

    def claims(self, mac: bytes, now: float) -> list[Any]:
        frame = frames.announcements(mac, self.address)[0]
        return self.addresses.frame(frame, frames.read(frame), now)

    def announced(self, now: float) -> set[bytes]:
        """Return the MAC addresses that are announced at the next boot."""
        self.addresses.disarm("v", "failed", now)
        return {action.frame[6:12] for action in self.arm(now) if isinstance(action, SendFrame)}


@BOTH
def test_a_forged_claim_changes_neither_this_boot_nor_a_later_one(address: bytes) -> None:
    made = Booting(address)
    made.addresses.frame(syn := tcp(1, 80), frames.read(syn), 0.1)
    assert made.claims(CLIENT_MAC, 0.2) == []
    assert made.addresses.macs() == {VM_MAC}, "what is for the VM is not sent to the other machine"
    assert made.addresses.claims.rivals_shown() == {str(ip_address(address)): CLIENT_MAC}
    assert made.announced(1.0) == {VM_MAC}
    assert made.addresses.moved.real("v", VM_MAC) == VM_MAC


@BOTH
def test_the_guests_own_claim_under_another_mac_is_learned(address: bytes) -> None:
    made = Booting(address)
    made.ports[OTHER] = "vnet0"
    made.claims(OTHER, 0.2)
    assert made.addresses.moved.real("v", VM_MAC) == OTHER
    assert made.announced(9.0) == {OTHER}
    assert made.addresses.claims.rivals_shown() == {}


def test_a_claim_that_comes_before_the_interface_is_known_is_decided_then() -> None:
    for port, learned in (("vnet0", OTHER), ("eth0", VM_MAC)):
        made = Booting(V4[1])
        made.interface, made.ports[OTHER] = None, port
        made.claims(OTHER, 0.2)
        assert (made.addresses.moved.real("v", VM_MAC), made.addresses.claims.rivals_shown()) == (VM_MAC, {})
        made.interface = "vnet0"
        made.addresses.decide("v", 0.3)
        assert made.addresses.moved.real("v", VM_MAC) == learned
        assert made.addresses.claims.rivals_shown() == ({} if learned == OTHER else {"10.0.0.1": OTHER})


def test_a_claim_that_could_never_be_decided_is_anothers() -> None:
    made = Booting(V4[1])
    made.interface = None
    made.claims(OTHER, 0.2)
    made.addresses.disarm("v", "failed", 1.0)
    assert made.addresses.claims.rivals_shown() == {"10.0.0.1": OTHER}
    assert made.addresses.moved.real("v", VM_MAC) == VM_MAC


def test_a_rival_is_told_of_once_until_the_next_boot() -> None:
    made = Booting(V4[1])
    for n in range(20):
        made.claims(CLIENT_MAC, 0.1 * n)
    assert made.addresses.claims.new_rivals_shown() == {"10.0.0.1": CLIENT_MAC}
    assert made.addresses.claims.new_rivals_shown() == {}
    made.announced(5.0)
    assert made.addresses.claims.rivals_shown() == {}, "the operator may have stopped it"


def test_a_flood_of_claims_costs_few_looks_and_little_memory_and_the_guests_own_is_decided() -> None:
    """In each millisecond of one second come three forged claims, each of another MAC address, and once the guest's."""
    made = Booting(V4[1])
    made.ports[OTHER] = "vnet0"
    learned_at = 0.0
    for n in range(3000):
        now = 0.2 + n / 3000
        made.claims(b"\x06\0\0\0" + n.to_bytes(2, "big"), now)
        if n == 1000:
            made.claims(OTHER, now)
        due = made.addresses.deadline()
        if due is not None and due <= now:
            made.addresses.tick(now)
        if not learned_at and made.addresses.moved.real("v", VM_MAC) == OTHER:
            learned_at = now
    assert learned_at - (0.2 + 1000 / 3000) == pytest.approx(CHECK_S, abs=CHECK_S)
    assert made.asked <= 1.0 / CHECK_S + 1
    made = Booting(V4[1])
    made.interface = None
    for n in range(MAX_UNDECIDED + 100):
        made.claims(b"\x06\0\0\1" + n.to_bytes(2, "big"), 5.0)
        made.ports[b"\x06\0\0\1" + n.to_bytes(2, "big")] = "vnet0"
    made.interface = "vnet0"
    own, _ = made.addresses.claims.decide("v", 6.0)
    assert len(own) == MAX_UNDECIDED


def test_a_claim_is_decided_though_no_other_frame_follows() -> None:
    made = Booting(V4[1])
    made.ports[OTHER] = "vnet0"
    made.claims(CLIENT_MAC, 0.2)
    made.claims(OTHER, 0.21)
    assert made.addresses.moved.real("v", VM_MAC) == VM_MAC, "the table was read just now"
    assert (due := made.addresses.deadline()) is not None
    assert due <= 0.2 + CHECK_S
    made.addresses.tick(0.2 + CHECK_S)
    assert made.addresses.moved.real("v", VM_MAC) == OTHER


def test_who_knows_no_interface_believes_no_claim() -> None:
    claims = Claims()
    claims.add("v", frames.read(frames.announcements(OTHER, V4[1])[0]))
    assert claims.decide("v", 0.0) == ([], None)


def test_a_frame_does_not_look_at_all_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, real = 0, Handover.deadline

    def counted(machine: Handover) -> float | None:
        nonlocal looks
        looks += 1
        return real(machine)

    monkeypatch.setattr(Handover, "deadline", counted)
    addresses = made_addresses(Kept(10, 100_000), wake_limit())
    for n in range(2000):
        armed(addresses, f"v{n}", [f"10.0.{n // 250}.{n % 250}"], b"\x02\0\0\1" + n.to_bytes(2, "big"), 60.0, 0.0)
    looks = 0
    for n in range(100):
        frame = tcp(1000 + n, 80)
        addresses.frame(frame, frames.read(frame), 0.1)
        addresses.deadline()
    assert looks < 1000, "machines looked at for 100 frames"
    assert addresses.deadline() == min(at for machine in addresses.held.all() if (at := real(machine)) is not None)


def test_each_machine_is_called_when_it_wants_to_be() -> None:
    addresses = made_addresses(Kept(10, 100), wake_limit())
    for n, limit in enumerate((30.0, 10.0, 20.0)):
        armed(addresses, f"v{n}", [f"10.0.1.{n}"], b"\x02\0\0\1\0" + bytes((n,)), limit, 0.0)
    held = []
    for now in (5.0, 10.0, 15.0, 20.0, 25.0, 30.0):
        addresses.tick(now)
        held.append(len(addresses.addresses()))
    assert held == [3, 3, 2, 2, 1, 1], "each is refused for a while after its limit"
    addresses.tick(30.0 + REFUSE_S)
    assert (addresses.addresses(), addresses.deadline()) == ([], None)
