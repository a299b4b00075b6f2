"""G3, G8: what Synjitsu did not see of a VM that runs counts as use of it."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.attention import FLOOD_FRAMES
from jitsu_synjitsu.rules.datagrams import FLOW_S
from jitsu_synjitsu.rules.filter import SAMPLE, Interest
from jitsu_synjitsu.rules.floods import FLOOD_PACKETS
from tests.support.frames import ACK, CLIENT_MAC, RST, SYN, V4, V6, VM_MAC, tcp, udp
from tests.support.synjitsu import armed, made_bridge
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_synjitsu.wires.bridge import WatchedBridge

VM = make_vm(ttl="10", max_idle_connection="1000")
OTHER, OTHER_MAC = make_vm("other", "10.0.0.2", ttl="10", max_idle_connection="1000"), b"\x02\0\0\0\0\x07"


@pytest.fixture
def activity() -> Activity:
    """Return two VMs that run, and about which everything is known."""
    made = Activity()
    for vm, mac in ((VM, VM_MAC), (OTHER, OTHER_MAC)):
        made.runs(vm, mac, "", 0.0, unknown=False, boots=True)
    return made


def floods(activity: Activity, now: float, count: int = FLOOD_FRAMES + 1) -> None:
    """Have that many SYNs seen for a VM, each with its answer and its end."""
    for n in range(count):
        activity.frame(frames.read(tcp(n % 60_000, 80, SYN)), now)
        activity.frame(frames.read(tcp(n % 60_000, 80, RST)), now)


def test_after_frames_were_lost_any_vm_may_be_connected_for_as_long_as_a_connection_may_be_silent(
    activity: Activity,
) -> None:
    for vm in (VM, OTHER):
        assert activity.honours(vm.uuid, "")
    activity.missed(5000.0)
    activity.tick(5999.0)
    for vm in (VM, OTHER):
        assert not activity.honours(vm.uuid, "")
    activity.tick(6000.0)
    for vm in (VM, OTHER):
        assert activity.honours(vm.uuid, "")


def test_a_vm_that_is_flooded_is_sampled_and_may_be_connected_and_no_other(activity: Activity) -> None:
    floods(activity, 10.0)
    assert activity.attention.sampled() == {VM_MAC}
    assert activity.attention.urgent, "the others lose frames for as long as all of the flood is seen"
    assert not activity.honours(VM.uuid, "")
    assert activity.honours(OTHER.uuid, "")
    assert activity.attention.floods == 1
    activity.tick(10.25)
    floods(activity, 10.3, FLOOD_FRAMES // SAMPLE)
    activity.tick(10.5)
    assert activity.attention.sampled() == {VM_MAC}, "what is seen is a sample"
    activity.tick(10.75)
    assert activity.attention.sampled() == frozenset()
    assert not activity.honours(VM.uuid, ""), "a connection that was opened in between was not seen"
    activity.tick(1011.75)
    assert not activity.honours(VM.uuid, "")
    activity.tick(1012.0)
    assert activity.honours(VM.uuid, ""), "1,000 s after 12.0, up to which a packet may have come unseen"


def test_a_busy_vm_is_not_flooded(activity: Activity) -> None:
    for n in range(20):
        floods(activity, 10.0 + n / 4, FLOOD_FRAMES // 2 - 1)
        activity.tick(10.25 + n / 4)
    assert activity.attention.sampled() == frozenset()
    assert activity.attention.floods == 0


def test_what_a_flooded_vm_answers_is_counted_too(activity: Activity) -> None:
    for n in range(FLOOD_FRAMES + 1):
        answer = tcp(80, n, SYN | ACK, addresses=V4[::-1], to=CLIENT_MAC, source=VM_MAC)
        activity.frame(frames.read(answer), 10.0)
    assert activity.attention.sampled() == {VM_MAC}


class Wire:
    """A socket on a bridge for which the kernel reports that frames were lost."""

    is_broken = False
    lost = False

    def __init__(self) -> None:
        self.unsent: Counter[str] = Counter()
        self.interest = Interest()

    def has_lost(self) -> bool:
        return self.lost

    def warning(self) -> str:
        return ""

    def watch(self, interest: Interest) -> None:
        self.interest = interest

    def look(self) -> None:
        """Nothing has come."""


@pytest.fixture
def bridge(activity: Activity, tmp_path: Path) -> tuple[WatchedBridge, Wire]:
    made = made_bridge(tmp_path, activity)
    made.wire = Wire()  # type: ignore[assignment]
    return made, made.wire  # type: ignore[return-value]


def test_a_bridge_that_has_lost_frames_says_so(
    bridge: tuple[WatchedBridge, Wire], capfd: pytest.CaptureFixture[str]
) -> None:
    made, wire = bridge
    made.look()
    assert made.activity.honours(VM.uuid, "")
    assert made.notes() == []
    wire.lost = True
    for _ in range(5):
        made.look()
    assert not made.activity.honours(VM.uuid, "")
    (note,) = made.notes()
    assert note.startswith("frames on br0 were lost 0 s ago: its VMs that ran then count as connected")
    assert note.endswith("(1000 s at most)")
    assert capfd.readouterr().out.count("frames were not read in time") == 1


def test_a_flood_makes_the_filter_at_once(bridge: tuple[WatchedBridge, Wire]) -> None:
    made, wire = bridge
    made.look_now()
    floods(made.activity, 10.0)
    made.focus()  # no event loop runs here, so that nothing can be put off
    assert wire.interest.sampled == {VM_MAC}


def test_a_vm_that_is_held_and_flooded_may_be_connected_too(bridge: tuple[WatchedBridge, Wire]) -> None:
    made, wire = bridge
    armed(made.addresses, VM.uuid, ["10.0.0.1"], VM_MAC, 1e9, 0.0)
    made.focus()
    for n in range(FLOOD_PACKETS + 1):
        made.addresses.frame(frame := tcp(n, 80), frames.read(frame), 0.1)
    assert made.activity.honours(VM.uuid, "")
    made.focus()
    assert wire.interest.flooded == {VM_MAC}
    assert not made.activity.honours(VM.uuid, "")
    assert made.activity.honours(OTHER.uuid, "")


def test_after_a_packet_that_is_not_understood_no_new_flow_becomes_the_vms(activity: Activity) -> None:
    """A datagram may stand behind more extension headers than are read; the VM answers it without any."""
    headers = b"".join(bytes([60, 0, 1, 4, 0, 0, 0, 0]) for _ in range(5)) + bytes([17, 0, 1, 4, 0, 0, 0, 0])
    whole = udp(5000, 40_000, b"?", V6)
    size = struct.pack("!H", len(headers) + len(whole) - 54)
    strange = whole[:18] + size + bytes([60]) + whole[21:54] + headers + whole[54:]
    assert frames.read(strange).kind is frames.Kind.OTHER
    answer = udp(40_000, 5000, b"!", V6[::-1], to=CLIENT_MAC, source=VM_MAC)

    def is_use(frame: bytes, now: float) -> bool:
        activity.tick(now)
        for use, up_to in activity.unreported.uses(now):
            activity.unreported.acknowledged(use.vm, up_to)
        activity.frame(frames.read(frame), now)
        return VM.uuid in {use.vm for use, _ in activity.unreported.uses(now)}

    assert is_use(strange, 10.0)
    activity.frame(frames.read(answer), 10.1)
    assert is_use(whole, 20.0)
    assert is_use(whole, 20.0 + FLOW_S)
