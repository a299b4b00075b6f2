"""Many VMs that run: a frame, a look at the clock, a report and a save cost what they concern."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Never

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.attention import FLOOD_FRAMES, MAX_LISTENED
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.rules.ports import Open, Port, PortAction, Ports, Shut
from jitsu_synjitsu.rules.running import Running
from tests.support.frames import ACK, CLIENT_MAC, SYN, V4, tcp, udp
from tests.support.synjitsu import armed, made_addresses, made_bridge, wake_limit
from tests.support.vms import make_vm
from tests.support.work import instructions

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from jitsu_synjitsu.rules.filter import Interest

MANY = 2_000


class NeverAll(dict[Any, Any]):
    """A dict of all VMs: going over it is what must not happen."""

    def __iter__(self) -> Never:
        raise AssertionError("all VMs are looked at")

    keys = values = items = __iter__


def mac(n: int) -> bytes:
    return b"\x02\1" + n.to_bytes(4, "big")


class Host:
    """A bridge on which many VMs run, none of them in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, vms: int = MANY) -> None:
        self.activity = Activity()
        vm = make_vm(ttl="10", max_idle_connection="1000")
        self.names = [f"v{n}" for n in range(vms)]
        for n, name in enumerate(self.names):
            self.activity.runs(vm.model_copy(update={"uuid": name}), mac(n), "", 0.0, unknown=False)
        while self.report(0.0):
            pass
        self.activity.tick(1.0)
        self.activity.unsaved()
        self.activity.vms = NeverAll(self.activity.vms)
        self.looks: Counter[str] = Counter()
        real = Running.is_connected

        def is_connected(vm: Running) -> bool:
            self.looks[vm.vm] += 1
            return real(vm)

        monkeypatch.setattr(Running, "is_connected", is_connected)

    def report(self, now: float) -> list[str]:
        uses = self.activity.unreported.uses(now)
        for use, up_to in uses:
            self.activity.unreported.acknowledged(use.vm, up_to)
        return [use.vm for use, _ in uses]

    def connects(self, n: int, now: float) -> None:
        to, source = CLIENT_MAC, mac(n)
        self.activity.frame(frames.read(tcp(1, 80, SYN, to=source)), now)
        self.activity.frame(frames.read(tcp(80, 1, SYN | ACK, addresses=V4[::-1], to=to, source=source)), now)


def test_a_frame_and_a_report_cost_what_they_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.connects(7, 10.0)
    host.activity.frame(frames.read(udp(1, 2, b"x", to=mac(8))), 10.0)
    for n in range(40):
        host.activity.tick(10.0 + n / 4)
        assert set(host.report(10.0 + n / 4)) <= {"v7", "v8"}
        assert host.activity.totals.connections == 1
        assert host.activity.longest_idle() == 1000.0
        assert host.activity.honours("v9", "")
    assert host.report(20.0) == ["v7"], "v8 was used at 12.0 last, which is known"
    assert set(host.activity.unsaved()) == {"v7"}
    assert set(host.looks) == {"v7", "v8", "v9"}
    assert sum(host.looks.values()) < 500


def test_each_vm_is_looked_at_again_in_its_time_and_no_other_then(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    for n in range(100):
        host.activity.frame(frames.read(udp(1, 2, b"x", to=mac(n))), 10.0 + n)
    looked = []
    for n in range(100):
        before = host.activity.attention.awaited()
        host.activity.tick(12.0 + n)
        looked.append(host.activity.attention.awaited() - before)
    assert looked == [{mac(n)} for n in range(100)]


def test_connections_end_in_their_time_and_only_those_that_are_open_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch)
    for n in range(10):
        host.connects(n, 10.0 + n)
    host.activity.frame(frames.read(udp(1, 2, b"x", to=mac(3))), 500.0)
    ended = []
    for second in range(2000):
        host.activity.tick(float(second))
        ended.append(host.activity.totals.connections)
    assert [ended[1011 + n] for n in range(10)] == [10, 9, 8, 7, 7, 6, 5, 4, 3, 2]
    assert ended.index(0) == 1502
    assert host.looks.keys() <= {f"v{n}" for n in range(10)}


def test_who_waits_for_a_place_among_those_whose_datagrams_are_seen_gets_it_when_one_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch)
    host.activity.rests("v5")
    host.activity.tick(20.0)
    assert host.activity.attention.listened() == {mac(n) for n in range(MAX_LISTENED + 1)} - {mac(5)}
    assert "v5" not in host.activity.unsaved() or "v5" not in host.activity.vms


def test_a_vm_that_is_gone_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, vms=2)
    host.connects(0, 10.0)
    for _ in range(FLOOD_FRAMES + 1):
        host.activity.frame(frames.read(udp(1, 2, b"x", to=mac(0))), 10.0)
    for name in ("v0", "v1"):
        host.activity.rests(name)
    host.activity.tick(5000.0)
    assert host.report(5000.0) == []
    assert (host.activity.totals.connections, host.activity.longest_idle()) == (0, 0.0)
    attention = host.activity.attention
    assert host.activity.running() | attention.awaited() | attention.listened() == frozenset()
    assert attention.sampled() == frozenset()
    assert host.activity.unsaved() == {"v0": None, "v1": None}


def test_a_bridge_makes_no_filter_when_nothing_has_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Wire:
        watched = 0

        def watch(self, _: Interest) -> None:
            self.watched += 1

        def look(self) -> None:
            """Nothing has come."""

    bridge = made_bridge(tmp_path, Host(monkeypatch, vms=10).activity)
    bridge.wire = wire = Wire()  # type: ignore[assignment]
    bridge.look_now()
    assert wire.watched == 1
    for _ in range(10):
        bridge.look_now()
        bridge.focus()
    assert wire.watched == 1
    bridge.activity.rests("v1")
    bridge.look_now()
    assert wire.watched == 2


def test_who_is_flooded_is_found_without_a_look_at_all_that_are_held() -> None:
    def work(vms: int) -> int:
        addresses = made_addresses(Kept(10, 1000), wake_limit())
        for n in range(vms):
            armed(addresses, f"v{n}", [f"10.0.0.{n}"], mac(n), 60.0, 0.0)
        addresses.floods.flooded = {"v7"}
        assert addresses.flooded() == {mac(7)}
        return instructions(addresses.flooded)

    assert work(100) == work(10)


def test_a_port_that_appears_is_not_compared_with_all_vms() -> None:
    named, by_mac = (Port(n, f"vnet{n}", b"\xfe" + mac(n)[1:], is_up=True, floods=True) for n in (7, 8))

    def work(vms: int) -> list[int]:
        ports = Ports()
        for n in range(vms):
            ports.arm(f"v{n}", mac(n))
            ports.named(f"v{n}", f"vnet{n}")
        ports.named("v8", "")
        counts = []
        for vm, port in (("v7", named), ("v8", by_mac)):
            actions: list[PortAction] = []
            counts.append(instructions(lambda port=port, actions=actions: actions.extend(ports.appeared(port))))  # type: ignore[misc]
            assert actions == [Shut(port)]
            assert ports.settled(vm) == [Open(port)]
        return counts

    assert work(1000) == work(10)
