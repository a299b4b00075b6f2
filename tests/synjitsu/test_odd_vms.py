"""G9: whatever one VM is configured to be, and whatever vmd says of it, the others are held and watched."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, Never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_protocol.messages import Arm, VmStatus
from jitsu_protocol.model.errors import BadRequest
from jitsu_protocol.model.states import VmState
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.filter import packed, program
from jitsu_synjitsu.rules.macs import Macs
from jitsu_synjitsu.rules.values import check
from jitsu_synjitsu.wires import follow as wires
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.server import SynjitsuServer
from tests.support.examples import examples
from tests.support.frames import CLIENT_MAC, SYN, V4, tcp, udp
from tests.support.memory_lan import MemoryLan
from tests.support.odd_vms import GOOD, LAST, odd_statuses, odd_vms, told_of
from tests.support.process import running_process
from tests.support.synjitsu import notes_of
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.model.vm import VM
    from jitsu_synjitsu.rules.filter import Interest

GOOD_MAC, ACK = bytes.fromhex("020000000001"), 16


class FilteringWire:
    """A socket on a bridge that is not there, up to the filter program that the kernel would get."""

    is_broken = False

    def __init__(self) -> None:
        self.unsent: Counter[str] = Counter()
        self.program = b""

    def watch(self, interest: Interest) -> None:
        self.program = packed(program(interest))

    def send(self, _: bytes) -> None:
        pass

    def look(self) -> None:
        pass

    def warning(self) -> str:
        return ""


async def _followed(directory: Path, odd: VM, status: VmStatus) -> None:
    async with running_process("synjitsu", directory, synjitsu__bridges="br-none") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        (bridge,) = server.bridges
        bridge.wire = wire = FilteringWire()  # type: ignore[assignment]
        inventory, changes = told_of(partial(check, ""), GOOD, odd)
        follower.configured(changes)

        def says(state: VmState) -> None:
            good = VmStatus(uuid=GOOD.uuid, name="good", state=state)
            follower.all_states([status, good, status], "")
            bridge.look_now()

        says(VmState.OFF)
        assert "10.0.0.1" in bridge.addresses.addresses()
        says(VmState.READY)
        assert GOOD_MAC in bridge.activity.running()
        assert wire.program
        answer = tcp(80, 1, SYN | ACK, addresses=V4[::-1], to=CLIENT_MAC, source=GOOD_MAC)
        bridge.activity.frame(frames.read(answer), monotonic())
        if odd.config.get("mac") != (GOOD.mac,) and status.mac != GOOD.mac:
            assert not bridge.activity.honours(GOOD.uuid, "")
        assert math.isfinite(bridge.activity.longest_idle())
        due = bridge.addresses.deadline()
        assert due is None or math.isfinite(due)
        is_refused = odd.uuid in inventory.refused
        assert len(inventory.notes(inventory.refused)) == is_refused
        assert notes_of(server)


@settings(max_examples=examples(100), deadline=None)
@given(odd_vms())
def test_g9_whatever_one_vm_is_the_others_are_held_and_watched(odd: VM) -> None:
    with TemporaryDirectory() as directory:
        asyncio.run(_followed(Path(directory), odd, VmStatus(uuid=odd.uuid, name="odd", state=VmState.READY)))


@settings(max_examples=examples(40), deadline=None)
@given(odd_statuses(LAST))
def test_g9_whatever_vmd_says_of_one_vm_the_others_are_held_and_watched(status: VmStatus) -> None:
    with TemporaryDirectory() as directory:
        asyncio.run(_followed(Path(directory), make_vm("odd", "10.0.0.2", uuid=LAST), status))


async def test_a_vm_of_which_vmd_gives_no_mac_address_is_left_out_until_that_is_right(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br-none") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        (bridge,) = server.bridges
        bridge.wire = FilteringWire()  # type: ignore[assignment]
        follower.configured(told_of(partial(check, ""), GOOD)[1])

        def says(mac: str) -> list[str]:
            status = VmStatus(uuid=GOOD.uuid, name="good", state=VmState.READY, mac=mac)
            follower.state(status, gone=False)
            return [note for note in notes_of(server) if "left out" in note]

        assert says("02:00:00:00:00:05") == []
        assert bridge.activity.running() == {bytes.fromhex("020000000005")}
        for _ in range(3):
            (note,) = says("02:0")
            assert note.startswith("VM good is left out: '02:0' is not the MAC address of an interface")
        assert bridge.activity.running() == set()
        assert capfd.readouterr().out.count("VM left out") == 1
        assert says("02:00:00:00:00:05") == []
        assert bridge.activity.running() == {bytes.fromhex("020000000005")}


async def test_status_names_vms_that_have_the_same_mac_address(tmp_path: Path) -> None:
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br-none") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        follower = Follower(process, server.bridges, server.watcher)
        (bridge,) = server.bridges
        bridge.wire = FilteringWire()  # type: ignore[assignment]
        vms = [make_vm(name, f"10.0.0.{n}", mac=GOOD.mac) for n, name in enumerate(("a", "b"))]
        follower.configured(told_of(partial(check, ""), *vms)[1])
        for vm in vms:
            follower.state(VmStatus(uuid=vm.uuid, name=vm.name, state=VmState.READY), gone=False)
        (note,) = [note for note in notes_of(server) if "same MAC" in note]
        assert note == "the VMs a and b have the same MAC address 02:00:00:00:00:01: give one another (its key mac)"
        follower.state(VmStatus(uuid=vms[1].uuid, name="b", state=VmState.OFF), gone=False)
        assert not any("same MAC" in note for note in notes_of(server))


@pytest.mark.parametrize(
    "wrong", [{"mac": "02:00"}, {"mac": "zz"}, {"addresses": ["10.0.0.1", "x"]}, {"limit_s": -1.0}]
)
@pytest.mark.parametrize("handover", ["replay", "xenstore"])
async def test_an_arm_with_a_wrong_value_is_refused_and_holds_nothing(
    tmp_path: Path, wrong: dict[str, object], handover: str
) -> None:
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br-none") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        (bridge,) = server.bridges
        bridge.wire = FilteringWire()  # type: ignore[assignment]
        right = {"vm": "v", "addresses": ["10.0.0.1"], "mac": GOOD.mac, "limit_s": 9.0, "handover": handover}
        with pytest.raises(BadRequest, match="cannot hold the addresses of the VM v: "):
            server.arm(Arm.model_validate(right | wrong))
        assert bridge.addresses.addresses() == []


class Followed(Exception):
    """What the test asks for has been seen."""


async def test_synjitsu_leaves_out_a_vm_of_its_own_host_with_which_it_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Callable[[VM], object]] = []

    async def follow(*_: object, check: Callable[[VM], object], **__: object) -> Never:
        checks.append(check)
        raise Followed

    monkeypatch.setattr(wires, "follow_vms", follow)
    async with running_process("synjitsu", tmp_path, synjitsu__bridges="br-none") as process:
        server = SynjitsuServer(process, MemoryLan(process.clock))
        with pytest.raises(Followed):
            await Follower(process, server.bridges, server.watcher).run()
    odd = GOOD.model_copy(update={"config": {"mac": ("zz",)}})
    inventory, _ = told_of(checks[0], odd)
    assert "is left out: 'zz' is not the MAC address of an interface" in inventory.notes(inventory.refused)[0]
    inventory, _ = told_of(checks[0], odd.model_copy(update={"host": "elsewhere"}))
    assert inventory.refused == {}


# --- two VMs with one MAC address ---


class Shared:
    """Two VMs that run and have the same MAC address, which counts for the second."""

    def __init__(self) -> None:
        self.one, self.other = (
            make_vm(f"v{n}", f"10.0.0.{n}", mac=GOOD.mac, max_idle_connection="1000") for n in (1, 2)
        )
        self.activity = Activity()
        self.activity.runs(self.one, GOOD_MAC, "", 0.0, unknown=False, boots=True)
        self.activity.runs(self.other, GOOD_MAC, "", 1000.0, unknown=False, boots=True)

    def used(self, frame: bytes, now: float) -> set[str]:
        self.activity.tick(now)
        for use, up_to in self.activity.unreported.uses(now):
            self.activity.unreported.acknowledged(use.vm, up_to)
        self.activity.frame(frames.read(frame), now)
        return {use.vm for use, _ in self.activity.unreported.uses(now)}


def test_g3_a_vm_with_the_mac_address_of_another_makes_that_one_not_unseen() -> None:
    made = Shared()
    assert not made.activity.honours(made.one.uuid, ""), "its connections are no longer seen, so there may be some"
    made.activity.tick(1999.0)
    assert not made.activity.honours(made.one.uuid, "")
    made.activity.tick(2000.0)
    assert made.activity.honours(made.one.uuid, ""), "for as long as a connection may be silent"
    made.activity.rests(made.other.uuid)
    assert GOOD_MAC in made.activity.running() & made.activity.attention.awaited()
    made.activity.tick(3000.0)
    assert not made.activity.honours(made.one.uuid, ""), "one may have been opened until now"
    assert made.used(tcp(1, 80, SYN, to=GOOD_MAC), 5000.0) == {made.one.uuid}


def test_g3_a_flow_that_began_while_another_vm_had_the_mac_address_is_not_the_vms() -> None:
    made = Shared()
    made.activity.rests(made.other.uuid)
    asks = udp(40_000, 53, b"?", V4[::-1], to=CLIENT_MAC, source=GOOD_MAC)
    made.used(asks, 3000.0)
    assert made.activity.attention.listened() == {GOOD_MAC}
    made.activity.restore(made.one.uuid, ([], False, []))
    assert made.used(udp(53, 40_000, b"!", V4, to=GOOD_MAC), 3000.1) == {made.one.uuid}


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"))))
def test_the_one_that_came_last_has_the_address_and_nobody_has_it_when_all_are_gone(
    steps: list[tuple[bool, str]],
) -> None:
    macs, have = Macs[str](), list[str]()
    for puts, who in steps:
        have = [each for each in have if each != who]
        if puts:
            have.append(who)
            macs.put(GOOD_MAC, who)
        else:
            assert macs.drop(GOOD_MAC, who) is not bool(have)
        assert macs.get(GOOD_MAC) == (have[-1] if have else None)
        assert (GOOD_MAC in macs) is bool(have)
