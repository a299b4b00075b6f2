"""What vmd may expect of every hypervisor, asked of each that there is."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import LIMIT_S, XEN, domain_id, libvirt, refusal_of, running, with_what_it_needs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires

SOLO5 = pytest.param("solo5", marks=pytest.mark.suite)
"""It can neither suspend a guest nor ask it to shut down."""
LXD = pytest.param("lxd", marks=[pytest.mark.lxd, pytest.mark.timeout(300)])
"""It needs CRIU to suspend a container, which does not work with every kernel."""
DOCKER = pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.timeout(300)])
PODMAN = pytest.param("docker podman", marks=[pytest.mark.docker, pytest.mark.timeout(300)])
"""Containers are not suspended."""
MICROVM = pytest.param("qemu microvm", marks=[pytest.mark.qemu, pytest.mark.timeout(200)])
Q35 = pytest.param("qemu q35", marks=[pytest.mark.qemu, pytest.mark.timeout(200)])
BACKENDS = [
    MICROVM,
    Q35,
    pytest.param("mock", marks=pytest.mark.suite),
    SOLO5,
    pytest.param("command", marks=pytest.mark.suite),
    "xapi",
    "proxmox",
    pytest.param("proxmox qemu", marks=[pytest.mark.qemu, pytest.mark.timeout(200)]),
    pytest.param("libxl", marks=pytest.mark.suite),
    pytest.param("libvirt test", marks=libvirt),
    pytest.param("libvirt qemu", marks=[libvirt, pytest.mark.timeout(300)]),
    pytest.param("libxl xen", marks=XEN),
    LXD,
    DOCKER,
    PODMAN,
]


SUSPENDING = [backend for backend in BACKENDS if backend not in (SOLO5, LXD, DOCKER, PODMAN)]
ASKED = [backend for backend in BACKENDS if backend is not SOLO5]
SAVING = [
    pytest.param(getattr(backend, "values", (backend,))[0], how, marks=getattr(backend, "marks", ()))
    for backend in BACKENDS
    for how in ("pause", "suspend")
    if backend in SUSPENDING or how == "pause"
]


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


async def test_a_vm_is_started_and_destroyed_and_that_is_told(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        assert await made.state() is GuestState.OFF
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING, "one that runs is left alone"
        made.told.clear()
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert await made.state() is GuestState.OFF
        await made.tells(lambda: {made.vm.uuid, ""} & set(made.told))
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING, "and again"


async def test_a_connection_that_is_opened_again_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.opened_again()
        assert await made.state() is GuestState.RUNNING
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert await made.state() is GuestState.OFF
        await made.tells(lambda: {made.vm.uuid, ""} & set(made.told))


async def test_a_vm_is_paused_and_runs_on(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.PAUSE)
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING


@pytest.mark.parametrize("kind", SUSPENDING, indirect=True)
async def test_a_vm_is_suspended_to_disk_and_resumed(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.saved(kind, "suspend")
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING


@pytest.mark.parametrize(("kind", "how"), SAVING, indirect=["kind"])
async def test_a_start_that_fails_leaves_saved_state_and_the_next_one_uses_it(
    kind: str, how: str, tmp_path: Path
) -> None:
    async with running(kind, tmp_path) as made:
        await made.saved(kind, how)
        saved = GuestState.PAUSED if how == "pause" else GuestState.SUSPENDED
        await made.start_fails(kind)
        assert await made.state() is saved
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        await made.becomes(GuestState.OFF)  # the save was used: nothing can be restored once more


@pytest.mark.parametrize(("kind", "how"), SAVING, indirect=["kind"])
async def test_saved_state_goes_only_when_it_is_discarded(kind: str, how: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.saved(kind, how)
        saved = GuestState.PAUSED if how == "pause" else GuestState.SUSPENDED
        with suppress(Unavailable):  # it says that a paused VM is not destroyed
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert await made.state() is saved
        if kind.partition(" ")[0] not in ("xapi", "lxd", "proxmox"):  # where nothing is made for a VM
            with pytest.raises(Unavailable, match="kept"):
                await made.hypervisor.forget(made.vm)
        assert await made.state() is saved
        await made.hypervisor.discard(made.vm)
        assert await made.state() is GuestState.OFF
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING
        with pytest.raises(Refused, match="runs"):
            await made.hypervisor.discard(made.vm)
        assert await made.state() is GuestState.RUNNING


@pytest.mark.parametrize("kind", ASKED, indirect=True)
async def test_a_guest_is_asked_to_shut_down(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        async with asyncio.timeout(LIMIT_S):  # it is not destroyed meanwhile: shutdown_limit is longer
            await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
        assert await made.state() is GuestState.OFF


async def test_a_vm_that_it_can_run_is_not_refused(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        assert refusal_of(made.hypervisor, made.vm) == (
            "" if kind != "libvirt test" else "kernel: there is no file /none/kernel"
        )
        assert await domain_id(made.hypervisor, made.vm) is None, "it is off"
