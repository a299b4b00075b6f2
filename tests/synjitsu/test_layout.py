"""The original's entries in Xenstore, byte for byte."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_synjitsu.rules import frames, layout
from jitsu_synjitsu.rules.events import ClearEntries, ReportHandover, SendFrame, ShutPort, WriteEntry
from jitsu_synjitsu.rules.handover_state import CLEAR_AFTER_S
from jitsu_synjitsu.rules.kept import Kept
from tests.support.frames import SYN, V4, V6, VM_MAC, arp, packet, tcp, udp
from tests.support.synjitsu import armed, made_addresses, wake_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

LINUX = bytes.fromhex("020405b4 0402 080a 00000001 00000000 01 030307".replace(" ", ""))


def syn(options: bytes = LINUX, sequence: int = 0x9000_0001, window: int = 64_240) -> bytes:
    head = struct.pack("!HHIIBBHHH", 43_210, 80, sequence, 0, (5 + len(options) // 4) << 4, SYN, window, 0, 0)
    return packet(6, head + options)


def test_a_syn_is_written_as_the_original_writes_it() -> None:
    frame = syn()
    base = "/ip/10-0-0-1/80/10-0-0-9/43210/syn"
    assert layout.entry(frame, frames.read(frame), 4_000_000_000) == {
        f"{base}/tx_wnd": "64240",
        f"{base}/sequence": "-1879048191",
        f"{base}/options": "((MSS 1460)SACK_ok(Timestamp 1 0)Noop(Window_size_shift 7))",
        f"{base}/tx_isn": "4000000000",
        f"{base}/rx_wnd": "65535",
        f"{base}/rx_wnd_scaleoffer": "2",
    }


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("", "()"),
        ("01 01 0402", "(Noop Noop SACK_ok)"),
        ("020405b4 00 010101", "((MSS 1460))"),
        ("080a ffffffff 80000000", "((Timestamp -1 -2147483648))"),
        ("050a 00000001 00000002", "((SACK((1 2))))"),
        ("fe04 6162", "((Unknown 254 ab))"),
        ("fe06 0022 0a28", '((Unknown 254"\\000\\"\\n("))'),
        ("fe02", '((Unknown 254""))'),
        ("030307 02", "((Window_size_shift 7))"),
        ("0300 0101", "()"),
    ],
)
def test_options_are_printed_as_sexplib_does(data: str, shown: str) -> None:
    assert layout.options(bytes.fromhex(data.replace(" ", ""))) == shown


@given(st.binary(max_size=40))
def test_g9_no_options_make_it_fail_and_all_is_ascii(data: bytes) -> None:
    assert layout.options(data).isascii()


class ByXenstore:
    """A bridge with one VM whose guest has the original's stack."""

    def __init__(self) -> None:
        self.addresses = made_addresses(Kept(10, 100), wake_limit())
        armed(self.addresses, "v", ["10.0.0.1", "fd00::1"], VM_MAC, 60.0, 0.0, by_xenstore=True)

    def takes(self, frame: bytes, now: float) -> list[str]:
        return self.whats(self.addresses.frame(frame, frames.read(frame), now))

    @staticmethod
    def whats(actions: Sequence[object]) -> list[str]:
        return [each.what if isinstance(each, SendFrame) else type(each).__name__ for each in actions]


def test_a_connection_is_written_and_left_to_the_guest_once_it_manages_its_address() -> None:
    made = ByXenstore()
    assert made.takes(syn(), 1.0) == ["WriteEntry"]
    assert made.takes(udp(1, 2, b"x"), 1.1) == []
    assert made.takes(tcp(1, 80, addresses=V6), 1.2) == [], "the original knows IPv4 only"
    assert made.takes(arp(1, VM_MAC, V4[1], V4[1]), 1.5) == [], "its stack may not have looked yet"
    assert made.takes(syn(sequence=7), 1.6) == ["WriteEntry"]
    managed = made.addresses.managed("v", 2.0)
    assert made.whats(managed) == ["ClearEntries", "OpenPort", "probe"], "what it does not know comes as for others"
    assert isinstance(managed[0], ClearEntries)
    assert managed[0].after_s == CLEAR_AFTER_S
    assert made.addresses.managed("v", 2.1) == []
    there = frames.announcements(VM_MAC, V6[1])[0]
    assert made.takes(there, 2.2) == ["OpenPort", "probe"], "what it manages is IPv4"


def test_with_connections_only_it_is_handed_over_at_once() -> None:
    made = ByXenstore()
    made.takes(syn(), 1.0)
    assert made.addresses.managed("v", 2.0)[-1] == ReportHandover("v", VM_MAC)


@pytest.mark.parametrize("outcome", ["ready", "failed"])
def test_the_entries_are_gone_when_the_boot_is_over_in_another_way(outcome: str) -> None:
    made = ByXenstore()
    made.takes(syn(), 1.0)
    how = "ready" if outcome == "ready" else "failed"
    actions = made.addresses.disarm("v", how, 2.0)  # type: ignore[arg-type]
    if outcome == "ready":
        assert made.whats(actions) == ["ClearEntries", "question", "question"]
        assert made.takes(arp(2, VM_MAC, V4[1], V4[0]), 2.1) == ["OpenPort", "probe"]
    else:
        assert made.whats(actions) == ["OpenPort", "ClearEntries", "rejection"]


def test_one_that_traffic_has_woken_has_its_first_packet_written_when_it_is_armed() -> None:
    addresses = made_addresses(Kept(10, 100), wake_limit())
    addresses.watch("v", ["10.0.0.1"], VM_MAC, 0.0)
    addresses.frame(syn(), frames.read(syn()), 1.0)
    actions = armed(addresses, "v", ["10.0.0.1"], VM_MAC, 60.0, 1.1, by_xenstore=True)
    assert isinstance(actions[0], ShutPort)
    assert isinstance(actions[1], WriteEntry)
    assert actions[1].values["/ip/10-0-0-1/80/10-0-0-9/43210/syn/tx_wnd"] == "64240"
