"""Engines that are killed and started again, that hang, and that others use behind our back; and 20 guests at once.

To add a kind: a fixture in conftest.py that returns a `RealEngine`, and a line in ENGINES and in LOOK_LIMITS. Kinds of
which each machine is a process of its own have no engine: that a process is killed, hangs, or is used by others is in
test_qemu.py, test_proxmox_qemu.py and test_command.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import pytest

from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import GuestState
from tests.support.dockerd import PREFIX
from tests.support.hypervisors import LIMIT_S, NEEDS, running, vm_of, with_what_it_needs
from tests.support.proxmox_qemu import QemuBody

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_protocol.model.vm import VM

pytestmark = pytest.mark.wires

docker = [pytest.mark.docker, pytest.mark.timeout(300)]
ENGINES = [pytest.param("docker", marks=docker), pytest.param("docker podman", marks=docker)]
qemu = [pytest.mark.qemu, pytest.mark.timeout(300)]
MANY = [
    *ENGINES,
    pytest.param("command", marks=pytest.mark.suite),
    pytest.param("qemu microvm", marks=qemu),
    pytest.param("proxmox qemu", marks=qemu),
]
AT_ONCE = 20
LOOK_LIMITS = dict.fromkeys(("docker", "docker podman"), "jitsu_vmd.hypervisors.docker.wires.engine.LOOK_LIMIT_S")
"""Kind -> the constant that limits a look."""
ADDRESSES = dict.fromkeys(("docker", "docker podman"), PREFIX + ".{}")
"""Of guests that run at the same time, by number from 20 on; elsewhere 10.77.0.{}."""
SHORT_S = 0.5


class RealEngine(Protocol):
    """An engine of a test."""

    def kill(self) -> None:
        """End it without a warning. Its guests run on."""

    def start(self) -> None:
        """Start it again; returns when it answers."""

    def hang(self) -> None:
        """Keep it from doing anything."""

    def go_on(self) -> None:
        """End what `hang` did."""

    def start_behind_our_back(self, name: str) -> None:
        """Start a guest that is off, as its operator does."""

    def stop_behind_our_back(self, name: str) -> None:
        """Stop a guest at once."""

    def remove_behind_our_back(self, name: str) -> None:
        """Remove a guest, whatever it does."""


@dataclass
class UnderTest:
    """The kind of a test, and its engine."""

    kind: str
    engine: RealEngine


@pytest.fixture(params=ENGINES)
def tested(request: pytest.FixtureRequest) -> UnderTest:
    return UnderTest(request.param, request.getfixturevalue(NEEDS[request.param]))


async def test_guests_outlive_an_engine_that_is_killed_and_are_found_again(tested: UnderTest, tmp_path: Path) -> None:
    async with running(tested.kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await asyncio.to_thread(tested.engine.kill)
        try:
            with pytest.raises(Unavailable):
                await made.hypervisor.guests([made.vm])
            with pytest.raises(JitsuError):
                await made.hypervisor.stop(made.vm, StopMode.PAUSE)
            made.told.clear()
        finally:
            await asyncio.to_thread(tested.engine.start)
        await made.tells(lambda: "" in made.told)
        assert await made.state() is GuestState.RUNNING
        made.told.clear()
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        await made.tells(lambda: {made.vm.uuid, ""} & set(made.told))
        assert await made.state() is GuestState.OFF


async def test_an_engine_that_hangs_is_unavailable_and_a_start_goes_on_with_it(
    tested: UnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tested.kind, tmp_path) as made:
        tested.engine.hang()
        try:
            monkeypatch.setattr(LOOK_LIMITS[tested.kind], SHORT_S)
            begun = monotonic()
            with pytest.raises(Unavailable):
                await made.hypervisor.guests([made.vm])
            assert monotonic() - begun < SHORT_S + 1
            monkeypatch.undo()
            starts = asyncio.ensure_future(made.hypervisor.start(made.vm))
            await asyncio.sleep(SHORT_S)
            assert not starts.done()
        finally:
            tested.engine.go_on()
        async with asyncio.timeout(LIMIT_S):
            await starts
        assert await made.state() is GuestState.RUNNING


async def test_what_others_do_with_a_guest_is_told_and_seen(tested: UnderTest, tmp_path: Path) -> None:
    async with running(tested.kind, tmp_path) as made:
        engine, vm = tested.engine, made.vm
        await made.hypervisor.start(vm)
        for act, state in (
            (engine.stop_behind_our_back, GuestState.OFF),
            (engine.start_behind_our_back, GuestState.RUNNING),
            (engine.remove_behind_our_back, GuestState.OFF),
        ):
            made.told.clear()
            await asyncio.to_thread(act, vm.name)
            await made.tells(lambda: {vm.uuid, ""} & set(made.told))
            await made.becomes(state)
        await made.hypervisor.start(vm)
        assert await made.state() is GuestState.RUNNING, "one that is made for its VM is made again"


@pytest.fixture(params=MANY)
def kind_of_many(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


async def test_twenty_guests_start_and_stop_at_once(kind_of_many: str, tmp_path: Path) -> None:
    async with running(kind_of_many, tmp_path) as made:
        vms = [_one_of_many(kind_of_many, number) for number in range(AT_ONCE)]
        if made.pve is not None:
            for vm in vms:
                made.pve.add(vm.name, body=QemuBody(tmp_path / vm.name))
        try:
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(*map(made.hypervisor.start, vms))
            guests = await made.hypervisor.guests(vms)
            assert [guests[vm.uuid].state for vm in vms] == [GuestState.RUNNING] * AT_ONCE
            async with asyncio.timeout(LIMIT_S):
                await asyncio.gather(*(made.hypervisor.stop(vm, StopMode.DESTROY) for vm in vms))
            guests = await made.hypervisor.guests(vms)
            states = [guests[vm.uuid].state if vm.uuid in guests else GuestState.OFF for vm in vms]
            assert states == [GuestState.OFF] * AT_ONCE
        finally:
            for vm in vms:
                await made.hypervisor.stop(vm, StopMode.DESTROY)
                await made.hypervisor.forget(vm)


def _one_of_many(kind: str, number: int) -> VM:
    keys = {"name": f"jitsu-many{number}", "dns": f"m{number}.jitsu.test"}
    keys["ip"] = ADDRESSES.get(kind, "10.77.0.{}").format(20 + number)
    return vm_of(kind, **keys)
