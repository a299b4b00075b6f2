"""Real QEMU processes: one outlives vmd, one that cannot boot says why, and a save that may have been used stays."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from jitsu_protocol.model.errors import BootFailed, Unavailable
from jitsu_protocol.model.vm import from_config
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_vmd.hypervisors.qemu.backend import Qemu
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import Running, running
from tests.support.lan import BRIDGE
from tests.support.suite import http_get

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(200), pytest.mark.usefixtures("bridge_here")]
KIND = "qemu microvm"


def processes_of(directory: Path, made: Running) -> list[Path]:
    """Return the directories in /proc of a VM's processes."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            words = (each / "cmdline").read_bytes().split(b"\0")
            if made.vm.uuid.encode() in words and (each / "cwd").resolve().is_relative_to(directory):
                found.append(each)
        except OSError:
            continue
    return found


def process_of(directory: Path, made: Running) -> Path:
    """Return the directory in /proc of a VM's process."""
    (found,) = processes_of(directory, made)
    return found


async def served_after() -> float:
    """Return how long it takes until the guest serves its page, in seconds."""
    begun = SYSTEM_CLOCK.now()
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                if "This is the VM" in await asyncio.to_thread(http_get, "10.77.0.9", 80):
                    return SYSTEM_CLOCK.now() - begun
            await asyncio.sleep(0.02)


def ip_json(*arguments: str) -> str:
    return subprocess.run(["ip", "-j", *arguments], check=True, capture_output=True, text=True).stdout


def vmd_of(made: Running) -> Qemu:
    assert isinstance(made.hypervisor, Qemu)
    return made.hypervisor


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the first vmd leaves its child
async def test_a_process_outlives_vmd_and_the_next_one_finds_it_again(tmp_path: Path) -> None:
    async with running(KIND, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        process = process_of(tmp_path, made)
        await vmd_of(made).close()
        assert process.exists()
        await made.hypervisor.open()
        assert await made.state() is GuestState.RUNNING
        assert process_of(tmp_path, made) == process
        await made.hypervisor.stop(made.vm, StopMode.PAUSE)
        await vmd_of(made).close()
        await made.hypervisor.open()
        assert await made.state() is GuestState.PAUSED
        with pytest.raises(Unavailable, match="paused"):
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)


async def test_a_process_has_a_user_of_its_own_and_no_rights_of_root(tmp_path: Path) -> None:
    async with running(KIND, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        said = dict(
            line.split(":\t", 1)
            for line in (process_of(tmp_path, made) / "status").read_text().splitlines()
            if ":\t" in line
        )
        users = set(said["Uid"].split())
        assert len(users) == 1
        assert int(users.pop()) >= 1_900_000_000
        assert int(said["CapEff"], 16) == 0
        assert said["Seccomp"] == "2"
        ram = tmp_path / "saved" / "qemu" / made.vm.uuid / "ram"
        assert stat.S_IMODE(ram.stat().st_mode) == 0o600
        assert stat.S_IMODE(ram.parent.stat().st_mode) == 0o700


async def test_a_process_that_was_killed_is_a_crash_with_a_reason(tmp_path: Path) -> None:
    async with running(KIND, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        os.kill(int(process_of(tmp_path, made).name), 9)
        await made.becomes(GuestState.CRASHED)
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert guest.reason.startswith("QEMU was ended by SIGKILL; its serial port")
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING


async def test_how_a_process_has_ended_is_known_after_its_connection_was_opened_again(tmp_path: Path) -> None:
    async with running(KIND, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.opened_again()
        os.kill(int(process_of(tmp_path, made).name), 9)
        await made.becomes(GuestState.CRASHED)
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert guest.reason.startswith("QEMU was ended by SIGKILL")


async def test_a_kernel_that_qemu_cannot_load_is_the_reason_of_the_failed_boot(tmp_path: Path) -> None:
    kernel = Path("/proc/version")
    async with running(KIND, tmp_path, kernel=str(kernel)) as made:
        with pytest.raises(BootFailed, match=r"QEMU has ended with status 1: .*kernel"):
            await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.OFF


async def test_a_save_that_may_have_been_used_is_kept_and_never_restored(tmp_path: Path) -> None:
    async with running(KIND, tmp_path) as made:
        await made.saved(KIND, "suspend")
        kept = tmp_path / "saved" / "qemu" / made.vm.uuid
        (kept / "state.saved").rename(kept / "state.used")
        with pytest.raises(BootFailed, match="may have been used"):
            await made.hypervisor.start(made.vm)
        with pytest.raises(Unavailable, match="kept"):
            await made.hypervisor.forget(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert (kept / "state.used").exists()
        await made.hypervisor.discard(made.vm)
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING


@pytest.mark.parametrize("kind", [KIND, "qemu q35"])
async def test_a_guest_has_all_its_disks_and_interfaces_and_no_other_vm_gets_its_disk(
    kind: str, tmp_path: Path
) -> None:
    disks = [tmp_path / "a, b.img", tmp_path / "data.img"]
    for disk in disks:
        disk.write_bytes(bytes(1 << 20))
        disk.chmod(0o600)
    async with running(kind, tmp_path) as made:
        keys = {**made.vm.config, "disk": [f"{disks[0]}@root", str(disks[1])], "nic": [BRIDGE, BRIDGE]}
        made.vm = from_config({key: list(values) for key, values in keys.items()}, {})
        await made.hypervisor.start(made.vm)
        ports = json.loads(ip_json("link", "show", "master", BRIDGE))
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert {nic.interface for nic in guest.nics} == {port["ifname"] for port in ports}
        assert len(guest.nics) == 2
        (found,) = await vmd_of(made).discover()
        assert (found.name, found.uuid, found.nics) == (made.vm.name, made.vm.uuid, guest.nics)
        await served_after()
        other = from_config({**{key: list(values) for key, values in keys.items()}, "name": ["other"], "uuid": []}, {})
        with pytest.raises(BootFailed, match=r"disk: .*a, b.img is in use by another VM, jitsu-conforms"):
            await made.hypervisor.start(other)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert json.loads(ip_json("link", "show", "master", BRIDGE)) == []


@pytest.mark.parametrize("kind", [KIND, "qemu q35"])
async def test_a_guest_that_was_suspended_serves_again_without_a_boot(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        booted = await served_after()
        for _ in range(2):
            await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
            assert not processes_of(tmp_path, made)
            await made.hypervisor.start(made.vm)
            assert await served_after() < booted / 2


async def test_a_tap_is_a_port_of_its_bridge_before_the_start_that_it_is_for(tmp_path: Path) -> None:
    async with running(KIND, tmp_path) as made:
        qemu = vmd_of(made)
        tap = await qemu.reserve(made.vm)
        assert [port["ifname"] for port in json.loads(ip_json("link", "show", "master", BRIDGE))] == [tap]
        await qemu.start(made.vm)
        (nic,) = (await qemu.guests([made.vm]))[made.vm.uuid].nics
        assert nic.interface == tap
        await served_after()
        assert await qemu.reserve(made.vm) == tap, "of the process that is there"
        await qemu.stop(made.vm, StopMode.SUSPEND)
        assert await qemu.reserve(made.vm) == tap, "of the machine that was saved"
        await qemu.start(made.vm)
        await served_after()


async def test_a_disk_is_given_to_one_of_two_vms_that_start_at_the_same_moment(tmp_path: Path) -> None:
    disk = tmp_path / "data.img"
    disk.write_bytes(bytes(1 << 20))
    async with running(KIND, tmp_path, disk=str(disk)) as made:
        keys = {key: list(values) for key, values in made.vm.config.items()}
        other = from_config({**keys, "name": ["other"], "uuid": []}, {})
        starts = await asyncio.gather(*map(made.hypervisor.start, (made.vm, other)), return_exceptions=True)
        assert [str(each).partition("data.img ")[2] for each in starts if each is not None] == [
            "is in use by another VM, jitsu-conforms"
        ]
        await made.hypervisor.forget(other)


async def test_a_machine_with_uefi_firmware_boots_and_keeps_variables_of_its_own(tmp_path: Path) -> None:
    async with running("qemu q35", tmp_path, firmware="uefi", memory="262144", stop_mode="suspend") as made:
        await made.hypervisor.start(made.vm)
        await served_after()
        variables = tmp_path / "saved" / "qemu" / made.vm.uuid / "variables"
        assert stat.S_IMODE(variables.stat().st_mode) == 0o600
        written = variables.read_bytes()
        assert written != Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes(), "the firmware has written them"
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        await made.hypervisor.start(made.vm)
        assert await served_after() < 5
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        await made.hypervisor.discard(made.vm)
        assert variables.read_bytes() == written, "as a disk, they are no saved state"


async def test_a_guest_on_standby_keeps_its_process_and_is_saved_too(tmp_path: Path) -> None:
    async with running(KIND, tmp_path, standby="true") as made:
        await made.hypervisor.start(made.vm)
        await served_after()
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        assert await made.state() is GuestState.SUSPENDED
        (waiting,) = processes_of(tmp_path, made)
        await made.hypervisor.start(made.vm)
        assert processes_of(tmp_path, made) == [waiting]
        await served_after()
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        os.kill(int(waiting.name), 9)
        async with asyncio.timeout(5):
            while processes_of(tmp_path, made):
                await asyncio.sleep(0.02)
        assert await made.state() is GuestState.SUSPENDED, "it is on the disk as well"
        await made.hypervisor.start(made.vm)
        await served_after()


@pytest.mark.parametrize("kind", [KIND, "qemu q35"])
async def test_a_kernel_that_panics_is_a_failed_boot_and_its_last_lines_are_the_reason(
    kind: str, tmp_path: Path
) -> None:
    async with running(kind, tmp_path, cmdline="console=ttyS0 rdinit=/none root=/none") as made:
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.CRASHED)
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert guest.reason.startswith("the guest has panicked; its serial port: ")
        assert "Kernel panic - not syncing" in guest.reason


async def test_a_guest_that_only_resets_is_a_failed_boot(tmp_path: Path) -> None:
    async with running(KIND, tmp_path, memory="49152") as made:
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.CRASHED)
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert guest.reason.startswith("the guest has reset 5 times within 20 s, for example because its memory is")


async def test_a_process_that_hangs_is_not_taken_for_one_that_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitsu_vmd.hypervisors.qemu.wires.machines.LOOK_LIMIT_S", 0.3)
    async with running(KIND, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        pid = int(process_of(tmp_path, made).name)
        os.kill(pid, 19)
        try:
            guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
            assert "does not answer" in guest.unseen
        finally:
            os.kill(pid, 18)
        assert await made.state() is GuestState.RUNNING
