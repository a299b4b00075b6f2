"""What is held and what is watched, decided from what the store and vmd report (rules/watchlist.py)."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_synjitsu.rules.watchlist import (
    Armed,
    AwaitMagic,
    BridgeAttached,
    EndHold,
    Forget,
    HoldAddresses,
    HostStatesListed,
    HostVmsConfigured,
    IgnoreMagic,
    LeaveOut,
    LetGo,
    NameInterface,
    Pause,
    ReportSoon,
    StateReported,
    SummonArmed,
    Unpause,
    Unwatch,
    WantBridge,
    WatchBoot,
    Watchlist,
    WatchlistAction,
    WatchUse,
    may_be_connected,
)
from tests.support.vms import make_vm

VM = make_vm("www", "10.0.0.1", mac="02:00:00:00:00:01", nic="br0", use_synjitsu="true")
WAKES = make_vm("www", "10.0.0.1", mac="02:00:00:00:00:01", nic="br0", wake_on_traffic="true")
MAC = b"\x02\0\0\0\0\1"


def status(state: VmState, **more: object) -> VmStatus:
    return VmStatus.model_validate({"uuid": VM.uuid, "name": "www", "state": state} | more)


def made(vm: object = VM) -> Watchlist:
    watchlist = Watchlist(watches_activity=True, resolve=lambda name: name)
    watchlist.handle(HostVmsConfigured([VmChanged(None, vm)]), 0.0)  # type: ignore[arg-type]
    return watchlist


def after(watchlist: Watchlist, state: VmState, **more: object) -> list[WatchlistAction]:
    """Return what follows from a state, without the interface, which is named every time."""
    actions = list(watchlist.handle(StateReported(status(state, **more)), 0.0))
    assert actions[0] == NameInterface(VM.uuid, str(more.get("interface", "")))
    return actions[1:]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (VmState.OFF, [Unpause("br0", VM.uuid), LetGo("br0", VM.uuid, runs=False), Unwatch("br0", VM.uuid)]),
        (VmState.FAILED, [Unpause("br0", VM.uuid), LetGo("br0", VM.uuid, runs=False), Unwatch("br0", VM.uuid)]),
        (VmState.PAUSED, [Pause("br0", VM.uuid, MAC), LetGo("br0", VM.uuid, runs=False), Unwatch("br0", VM.uuid)]),
        (VmState.STARTING, [EndHold("br0", VM.uuid)]),
        (VmState.BOOTING, [EndHold("br0", VM.uuid), WatchUse("br0", VM, MAC, "", 0.0, is_late=False)]),
        (
            VmState.READY,
            [
                Unpause("br0", VM.uuid),
                LetGo("br0", VM.uuid, runs=True),
                WatchUse("br0", VM, MAC, "", 0.0, is_late=False),
            ],
        ),
        (VmState.STOPPING, [Unpause("br0", VM.uuid)]),
    ],
)
def test_each_state_has_its_consequences(state: VmState, expected: list[WatchlistAction]) -> None:
    assert after(made(), state) == expected
    assert after(made(), state) == expected, "and the same ones when it is reported twice"


def test_a_vm_that_traffic_may_wake_is_held_while_it_is_off() -> None:
    assert HoldAddresses("br0", VM.uuid, ("10.0.0.1",), MAC) in after(made(WAKES), VmState.OFF)


def test_a_magic_packet_is_awaited_while_a_vm_that_it_wakes_is_at_rest() -> None:
    vm = make_vm("www", "10.0.0.1", mac="02:00:00:00:00:01", nic="br0", wake_on_lan="true")
    watchlist = made(vm)
    for state in (VmState.OFF, VmState.FAILED, VmState.PAUSED, VmState.SUSPENDED):
        assert AwaitMagic("br0", VM.uuid, MAC) in after(watchlist, state)
    for state in (VmState.STARTING, VmState.BOOTING):
        assert (IgnoreMagic("br0", VM.uuid) in after(watchlist, state)) is (state is VmState.STARTING), "once"
    after(watchlist, VmState.OFF)
    plain = make_vm("www", "10.0.0.1", mac="02:00:00:00:00:01", nic="br0")
    assert IgnoreMagic("br0", VM.uuid) in watchlist.handle(HostVmsConfigured([VmChanged(vm, plain)]), 0.0)
    assert not any(isinstance(each, AwaitMagic) for each in after(made(), VmState.OFF)), "only if it is configured so"


@pytest.mark.parametrize(("before", "is_fresh"), [(VmState.OFF, True), (VmState.PAUSED, False)])
def test_a_vm_that_starts_has_sent_nothing_yet_unless_it_was_only_paused(before: VmState, is_fresh: bool) -> None:
    watchlist = made()
    after(watchlist, before)
    assert watchlist.handle(Armed(VM.uuid, "br0", MAC), 0.0) == [WatchBoot("br0", VM, MAC, is_fresh)]
    assert (WatchBoot("br0", VM, MAC, is_fresh=True) in after(watchlist, VmState.STARTING)) is is_fresh


def test_a_bridge_that_vmd_names_is_wanted_and_counts_more_than_the_configured_one() -> None:
    assert after(made(), VmState.OFF, bridge="br7")[:2] == [WantBridge("br7"), Unpause("br7", VM.uuid)]


def test_of_a_vm_that_is_not_configured_only_its_bridge_and_interface_are_noted() -> None:
    watchlist = Watchlist(watches_activity=True, resolve=lambda name: name)
    assert after(watchlist, VmState.READY, bridge="br0", interface="tap1") == [WantBridge("br0")]


def test_a_vm_that_is_gone_or_no_longer_configured_or_on_another_bridge_is_forgotten() -> None:
    watchlist = made()
    after(watchlist, VmState.READY, drain="d")
    moved = make_vm("www", "10.0.0.1", mac="02:00:00:00:00:01", nic="br1")
    assert watchlist.handle(HostVmsConfigured([VmChanged(VM, moved)]), 0.0)[0] == Forget(VM.uuid)
    gone = watchlist.handle(StateReported(status(VmState.OFF), gone=True), 0.0)
    assert gone == [NameInterface(VM.uuid, ""), Forget(VM.uuid)]
    assert (watchlist.states, watchlist.draining) == ({}, {})
    assert watchlist.handle(HostVmsConfigured([VmChanged(moved, None)]), 0.0) == [Forget(VM.uuid)]
    assert watchlist.vms == {}


def test_a_list_of_all_states_forgets_who_is_not_in_it_and_summons_again_who_is_off() -> None:
    watchlist = made()
    after(watchlist, VmState.READY)
    other = VmStatus(uuid=make_vm("other", "10.0.0.2").uuid, name="other", state=VmState.OFF)
    actions = watchlist.handle(HostStatesListed([other]), 0.0)
    assert (actions[0], actions[-1]) == (Forget(VM.uuid), SummonArmed(other.uuid))


def test_a_vm_that_drains_is_reported_at_once_and_only_those_are_looked_at_for_drains() -> None:
    watchlist = made()
    assert ReportSoon() in after(watchlist, VmState.DRAINING, drain="d")
    assert watchlist.draining == {VM.uuid: "d"}
    assert ReportSoon() not in after(watchlist, VmState.READY)
    assert watchlist.draining == {}


def test_a_vm_of_which_vmd_reports_nonsense_is_left_out_and_logged_once_until_it_is_right() -> None:
    watchlist = made()
    assert [type(action) for action in after(watchlist, VmState.READY, mac="02:0")] == [Forget, LeaveOut]
    assert after(watchlist, VmState.READY, mac="02:0") == [Forget(VM.uuid)]
    assert VM.uuid in watchlist.left_out
    assert WatchUse("br0", VM, MAC, "", 0.0, is_late=False) in after(watchlist, VmState.READY)
    assert watchlist.left_out == {}


def test_of_a_bridge_that_comes_later_nobody_knows_who_was_connected_before() -> None:
    watchlist = made()
    after(watchlist, VmState.READY)
    assert watchlist.handle(BridgeAttached("br1"), 0.0) == []
    assert WatchUse("br0", VM, MAC, "", 0.0, is_late=True) in watchlist.handle(BridgeAttached("br0"), 0.0)


def test_without_watch_activity_nobodys_use_is_watched() -> None:
    watchlist = made()
    watchlist.watches_activity = False
    assert after(watchlist, VmState.READY) == [Unpause("br0", VM.uuid), LetGo("br0", VM.uuid, runs=True)]
    assert watchlist.handle(Armed(VM.uuid, "br0", MAC), 0.0) == []
    assert watchlist.running() == []


def test_it_has_no_deadline() -> None:
    assert made().deadline() is None
    assert made().tick(1.0) == []


@pytest.mark.parametrize(
    ("up_s", "listens_since", "is_late", "expected"),
    [(1.0, 0.0, False, False), (2.5, 0.0, False, True), (1.0, 99.5, False, True), (1.0, 0.0, True, True)],
    ids=["seen from its start", "up for long", "up before Synjitsu listened", "on a bridge that came later"],
)
def test_a_vm_may_be_connected_unless_it_was_seen_from_its_start(
    up_s: float, listens_since: float, is_late: bool, expected: bool
) -> None:
    assert may_be_connected(up_s, 100.0, listens_since, is_late=is_late) is expected
