"""How much may boot and run at once."""

from __future__ import annotations

import pytest

from jitsu_protocol.states import VmState
from jitsu_vmd.rules import room as module
from jitsu_vmd.rules.events import SummonRequested
from jitsu_vmd.rules.room import PATIENCE_S, Room
from jitsu_vmd.rules.summon import VmMachine
from tests.support.vms import make_vm

EVENT = SummonRequested("dns")


def machines(**states: str) -> dict[str, VmMachine]:
    """Return VMs of 64 MiB in these states, by name."""
    made = {}
    for n, (name, state) in enumerate(states.items()):
        machine = VmMachine(make_vm(name, f"127.0.3.{n + 1}"))
        machine.state = VmState(state)
        made[name] = machine
    return made


@pytest.mark.parametrize(
    ("room", "states", "lack"),
    [
        (Room(), {"a": "booting", "b": "ready"}, ""),
        (Room(max_booting=2), {"a": "booting", "b": "ready"}, ""),
        (Room(max_booting=2), {"a": "booting", "b": "starting"}, "2 VMs are booting (hypervisor.max_booting)"),
        (Room(max_running=2), {"a": "booting", "b": "off", "c": "paused"}, ""),
        (Room(max_running=2), {"a": "draining", "b": "stopping"}, "2 VMs are running (hypervisor.max_running)"),
        (Room(max_memory=3 * 65536), {"a": "ready", "b": "paused", "c": "off"}, ""),
        (
            Room(max_memory=2 * 65536),
            {"a": "ready", "b": "paused"},
            "131072 KiB of 131072 are in use (hypervisor.max_memory)",
        ),
    ],
)
def test_what_keeps_a_vm_from_starting(room: Room, states: dict[str, str], lack: str) -> None:
    assert room.lack(make_vm("new", "127.0.3.99"), machines(**states).values()) == lack


def test_a_vm_that_never_fits_is_refused() -> None:
    assert Room(max_memory=65535).never(make_vm()).startswith("memory: 65536 KiB are more than")
    assert not Room(max_memory=65536).never(make_vm())
    assert not Room().never(make_vm(memory="99999999"))


def test_those_that_wait_start_in_turn_as_room_comes() -> None:
    vms = machines(a="booting", b="off", c="off")
    room = Room(max_booting=1)
    assert room.queue("b", EVENT, 0.0)
    assert room.queue("c", EVENT, 0.1)
    assert room.queue("b", EVENT, 0.2), "asked for twice it waits once"
    assert len(room) == 2
    assert room.next(vms, 0.3) is None
    vms["a"].state = VmState.READY
    assert room.next(vms, 0.4) == ("b", EVENT)
    vms["b"].state = VmState.STARTING
    assert room.next(vms, 0.5) is None
    vms["b"].state = VmState.FAILED
    assert room.next(vms, 0.6) == ("c", EVENT)
    assert room.next(vms, 0.7) is None


def test_who_has_waited_for_too_long_or_is_gone_is_given_up() -> None:
    room = Room(max_booting=1)
    room.queue("gone", EVENT, 0.0)
    room.queue("b", EVENT, 0.0)
    assert room.next(machines(b="off"), PATIENCE_S + 1) is None
    assert len(room) == 0


def test_g9_so_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 1)
    room = Room(max_booting=1)
    assert room.queue("a", EVENT, 0.0)
    assert not room.queue("b", EVENT, 0.0)
    assert room.queue("a", EVENT, 0.0)
