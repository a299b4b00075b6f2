"""Proxmox VE whose machines are real QEMU processes: one that is killed, that hangs, and that others start and stop."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import running
from tests.support.proxmox_qemu import QemuBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.hypervisors import Running
    from tests.support.proxmox import FakePve, PveMachine

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(200), pytest.mark.usefixtures("bridge_here")]
VMID = 100


@asynccontextmanager
async def one(directory: Path) -> AsyncIterator[tuple[Running, FakePve, PveMachine, QemuBody]]:
    async with running("proxmox qemu", directory) as made:
        pve = made.pve
        assert pve is not None
        body = pve.machines[VMID].body
        assert isinstance(body, QemuBody)
        yield made, pve, pve.machines[VMID], body


async def test_a_machine_whose_process_is_killed_is_off_and_starts_again(tmp_path: Path) -> None:
    async with one(tmp_path) as (made, _, _, body):
        await made.hypervisor.start(made.vm)
        os.kill(body.pid, signal.SIGKILL)
        await made.becomes(GuestState.OFF)
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING


async def test_what_others_do_with_a_machine_is_told_and_seen(tmp_path: Path) -> None:
    async with one(tmp_path) as (made, pve, machine, body):
        await asyncio.sleep(1.2)  # the tasks before are known

        async def boots() -> None:
            await body.boot(restored=False)

        for kind, work, state in (("qmstart", boots, GuestState.RUNNING), ("qmstop", body.quit, GuestState.OFF)):
            made.told.clear()
            pve.task(kind, machine, work)
            await made.tells(lambda: made.vm.uuid in made.told)
            await made.becomes(state)


async def test_what_a_suspended_machine_had_in_memory_is_there_again(tmp_path: Path) -> None:
    async with one(tmp_path) as (made, pve, machine, body):
        await made.hypervisor.start(made.vm)
        async with asyncio.timeout(60):
            while not body.has_booted():
                await asyncio.sleep(0.05)
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        assert (machine.lock, await body.qmp_status()) == ("suspended", "")
        await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
        assert pve.starts == [VMID, VMID]
        assert body.boots() == 1, "it was not booted again, and its guest has heard the power button"
