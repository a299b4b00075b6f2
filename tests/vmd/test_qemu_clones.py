"""Clones of a real guest: each has its own identity, and its template may run again while they do."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed, Refused
from jitsu_protocol.model.vm import from_config
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import running, vm_of
from tests.support.lan import BRIDGE
from tests.support.qemu import template_image
from tests.vmd.test_qemu import ip_json, processes_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jitsu_protocol.model.vm import VM
    from tests.support.hypervisors import Running

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(200), pytest.mark.usefixtures("bridge_here")]


def clone(number: int, **keys: str) -> VM:
    """Return a VM that is a clone."""
    config = {"name": f"clone{number}", "dns": f"clone{number}.jitsu.test", "ip": f"10.77.0.{20 + number}"}
    config |= {"template": "jitsu-conforms", "nic": BRIDGE, "stop_mode": "destroy"}
    return from_config({key: [value] for key, value in (config | keys).items()}, {})


async def page(address: str, path: str = "/") -> str:
    """Return a page of a guest, as soon as it serves."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(address, 80)
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                said = (await reader.read()).decode()
                writer.close()
                if " 200 OK" in said:
                    return said.partition("\r\n\r\n")[2]
            await asyncio.sleep(0.02)


@asynccontextmanager
async def template(kind: str, directory: Path, **keys: str) -> AsyncIterator[Running]:
    """Have a guest that was booted, and is suspended."""
    image = template_image()
    keys = {"kernel": f"{image}/kernel", "initrd": f"{image}/initrd", "memory": "131072"} | keys
    async with running(kind, directory, **({"guest_agent": "true", "stop_mode": "suspend"} | keys)) as made:
        await made.hypervisor.start(made.vm)
        await page("10.77.0.9")
        await asyncio.sleep(1.0)  # its agent starts
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        yield made


@asynccontextmanager
async def ended(made: Running, *vms: VM) -> AsyncIterator[None]:
    """Leave nothing of clones."""
    try:
        yield
    finally:
        for vm in vms:
            await made.hypervisor.stop(vm, StopMode.DESTROY)
            await made.hypervisor.forget(vm)


@pytest.mark.parametrize("kind", ["qemu microvm", "qemu q35"])
async def test_clones_have_identities_of_their_own_and_their_template_runs_beside_them(
    kind: str, tmp_path: Path
) -> None:
    disk = tmp_path / "root.img"
    disk.write_bytes(b"of the template" + bytes(1 << 20))
    vms = [clone(number) for number in range(2)]
    async with template(kind, tmp_path, disk=str(disk)) as made, ended(made, *vms):
        begun = SYSTEM_CLOCK.now()
        await asyncio.gather(*map(made.hypervisor.start, vms))
        told = [(await page(str(vm.addresses[0]), "/identity")).split() for vm in vms]
        print(f"{kind}: two clones serve after {SYSTEM_CLOCK.now() - begun:.2f} s")
        assert [each[0] for each in told] == [vm.uuid.replace("-", "") for vm in vms]
        assert told[0][1] != told[1][1], "they do not draw the same random numbers"
        assert [each[3] for each in told] == [vm.mac for vm in vms]
        assert all(abs(float(each[4]) - SYSTEM_CLOCK.wall()) < 60 for each in told)
        neighbours = ip_json("neigh")
        assert all(vm.mac in neighbours for vm in vms)
        assert made.vm.mac not in neighbours
        with pytest.raises(BootFailed, match=r"disk: .*root.img is in use by another VM, clone"):
            await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(vms[0], StopMode.PAUSE)
        await made.hypervisor.start(vms[0])
        await page(str(vms[0].addresses[0]))
        for vm in vms:
            await made.hypervisor.stop(vm, StopMode.DESTROY)
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.start(made.vm)
        await page("10.77.0.9")
        with pytest.raises(BootFailed, match="it has a process, so its memory may change"):
            await made.hypervisor.start(vms[0])


async def test_a_template_without_a_disk_runs_again_beside_its_clones_and_changes_none(
    tmp_path: Path,
) -> None:
    vm = clone(0)
    async with template("qemu microvm", tmp_path) as made, ended(made, vm):
        await made.hypervisor.start(vm)
        with pytest.raises(Refused, match="is a clone: it cannot be suspended"):
            await made.hypervisor.stop(vm, StopMode.SUSPEND)
        await made.hypervisor.start(made.vm)
        await page("10.77.0.9")
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        assert (await page(str(vm.addresses[0]), "/identity")).split()[0] == vm.uuid.replace("-", "")


async def test_a_clone_that_keeps_the_identity_of_its_template_is_refused_unless_that_is_shared(
    tmp_path: Path,
) -> None:
    vm, shares = clone(0), clone(1, shared_identity="true")
    words = f"{vm_of('qemu microvm').key('cmdline')} jitsu.shares"
    async with template("qemu microvm", tmp_path, cmdline=words) as made, ended(made, vm, shares):
        with pytest.raises(BootFailed, match="does not say that it has changed: machine-id, host-keys"):
            await made.hypervisor.start(vm)
        assert processes_of(tmp_path, made) == []
        await made.hypervisor.start(shares)
        await page(str(shares.addresses[0]))


async def test_a_clone_without_an_identity_is_off_when_vmd_returns_and_is_made_again(tmp_path: Path) -> None:
    vm = clone(0)
    async with template("qemu microvm", tmp_path) as made, ended(made, vm):
        await made.hypervisor.start(vm)
        mark = next(tmp_path.glob(f"**/{vm.uuid}/identified"))
        mark.unlink()
        assert (await made.hypervisor.guests([vm]))[vm.uuid].state is GuestState.OFF
        await made.hypervisor.start(vm)
        assert (await made.hypervisor.guests([vm]))[vm.uuid].state is GuestState.RUNNING
        assert mark.exists()
