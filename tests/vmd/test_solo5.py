"""Unikernels under a tender that does nothing: how it is confined, and what is left when one of the parts dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisors.solo5.wires.consoles import MAX_FILE_BYTES
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import LIMIT_S, Running, refusal_of, running_solo5, vm_of
from tests.support.solo5 import image, open_directory, written

pytestmark = [
    pytest.mark.wires,
    pytest.mark.suite,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: each tender has a user of its own"),
]


def pid_of(directory: Path, made: Running) -> int:
    return int((directory / "solo5" / f"{made.vm.uuid}.json").read_text().split()[0])


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def reason(made: Running) -> str:
    await made.becomes(GuestState.CRASHED)
    return (await made.hypervisor.guests([made.vm]))[made.vm.uuid].reason


async def test_a_tender_has_a_user_of_its_own_and_no_rights_but_that(tmp_path: Path) -> None:
    async with running_solo5(tmp_path, {"hypervisor__uids": "1987000000-1987000009"}) as made:
        other = vm_of("solo5", name="other", dns="o.jitsu.test", ip="127.88.0.2", kernel=made.vm.key("kernel"))
        for vm in (made.vm, other):
            await made.hypervisor.start(vm)
        users = json.loads((tmp_path / "solo5" / "users").read_text())
        assert sorted(users) == sorted([made.vm.uuid, other.uuid])
        assert len(set(users.values())) == 2
        pid = pid_of(tmp_path, made)
        about, user = status(pid), str(users[made.vm.uuid])
        assert user.startswith("198700000")
        assert about["Uid"].split() == [user] * 4
        assert about["Gid"].split() == [user] * 4
        assert about["Groups"] == ""
        assert {about[f"Cap{each}"] for each in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
        assert about["NoNewPrivs"] == "1"
        assert os.getsid(pid) == pid
        limits = Path(f"/proc/{pid}/limits").read_text()
        for name, limit in {"Max address space": (16 + 64) << 20, "Max core file size": 0, "Max processes": 4}.items():
            line = next(line for line in limits.splitlines() if line.startswith(name))
            assert line.removeprefix(name).split()[:2] == [str(limit)] * 2, line
        console = str(tmp_path / "solo5" / f"{made.vm.uuid}.tty")
        files = {each.name: os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
        assert files == {"0": "/dev/null", "1": console, "2": console}, files
        assert next(iter(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))) == b"PATH=/usr/bin:/bin"
        await made.hypervisor.stop(other, StopMode.DESTROY)


async def test_a_disk_is_open_to_its_own_tender_and_to_no_other(tmp_path: Path) -> None:
    with open_directory() as public:
        kernel = written(public / "disk.spt", image(blocks=["storage"]))
        disk = written(public / "disk.img", bytes(4096))
        async with running_solo5(tmp_path, kernel=str(kernel), disk=str(disk)) as made:
            assert refusal_of(made.hypervisor, made.vm) == ""
            await made.hypervisor.start(made.vm)
            user = int(status(pid_of(tmp_path, made))["Uid"].split()[0])
            assert (disk.stat().st_uid, disk.stat().st_mode & 0o777) == (user, 0o600)
            other = vm_of("solo5", name="o", dns="o.jitsu.test", kernel=str(kernel), disk=str(disk))
            with pytest.raises(BootFailed, match=r"disk\.img is in use by another VM, jitsu-conforms"):
                await made.hypervisor.start(other)
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)
            await made.hypervisor.forget(made.vm)
            assert disk.stat().st_uid == 0


async def test_a_guest_that_fails_leaves_the_end_of_its_console_as_the_reason(tmp_path: Path) -> None:
    async with running_solo5(tmp_path, cmdline="abort") as made:
        await made.hypervisor.start(made.vm)
        assert (await reason(made)).endswith(
            "status 255: --mem=16 -- " + made.vm.key("kernel") + " abort; Solo5: ABORT: the heap is full"
        )
        await made.tells(lambda: made.vm.uuid in made.told)
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.CRASHED)


async def test_a_guest_that_ends_by_itself_is_off(tmp_path: Path) -> None:
    async with running_solo5(tmp_path, cmdline="exit") as made:
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.OFF)


async def test_a_guest_that_prints_without_end_fills_no_disk(tmp_path: Path) -> None:
    async with running_solo5(tmp_path, cmdline="chatter") as made:
        await made.hypervisor.start(made.vm)
        files = [tmp_path / "solo5" / f"{made.vm.uuid}.console{each}" for each in ("", ".1")]
        async with asyncio.timeout(LIMIT_S):
            while not files[1].exists():
                await asyncio.sleep(0.05)
        assert all(file.stat().st_size <= MAX_FILE_BYTES for file in files if file.exists())
        assert await made.state() is GuestState.RUNNING


async def test_a_tender_that_cannot_be_executed_is_a_failed_boot(tmp_path: Path) -> None:
    async with running_solo5(tmp_path) as made:
        tender = made.tender
        tender.write_text("#!/no/such/shell\n")
        with pytest.raises(BootFailed, match=r"could not be started: .*solo5-spt: No such file or directory"):
            await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.OFF
        assert not list((tmp_path / "solo5").glob("*.json"))
        tender.chmod(0o700)
        assert "its user cannot run it" in refusal_of(made.hypervisor, made.vm)


async def test_tenders_outlive_vmd_and_the_launcher_and_are_found_again(tmp_path: Path) -> None:
    async with running_solo5(tmp_path) as made:
        await made.hypervisor.start(made.vm)
        pid = pid_of(tmp_path, made)
        os.kill(int((tmp_path / "solo5" / "launcher.pid").read_text()), signal.SIGKILL)
        await made.tells(lambda: "" in made.told)
        assert await made.state() is GuestState.RUNNING, "another launcher has found it"
        await made.hypervisor.start(made.vm)
        assert pid_of(tmp_path, made) == pid, "and it is not started twice"
        await made.hypervisor.stop(made.vm, StopMode.PAUSE)
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert await made.state() is GuestState.OFF
        assert not Path(f"/proc/{pid}").exists() or status(pid)["State"].startswith("Z")


async def test_a_process_that_has_the_number_of_a_dead_tender_is_not_taken_for_it(tmp_path: Path) -> None:
    async with running_solo5(tmp_path) as made:
        await made.hypervisor.start(made.vm)
        path = tmp_path / "solo5" / f"{made.vm.uuid}.json"
        pid, rest = pid_of(tmp_path, made), path.read_text().partition(" ")[2]
        os.kill(int((tmp_path / "solo5" / "launcher.pid").read_text()), signal.SIGKILL)
        path.write_text(f"{os.getpid()} {rest}")
        await made.tells(lambda: "" in made.told)
        await made.becomes(GuestState.CRASHED)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        os.kill(pid, signal.SIGKILL)


async def test_what_cannot_be_done_is_refused_with_the_reason_before_it_is_asked_for(tmp_path: Path) -> None:
    async with running_solo5(tmp_path) as made:
        for how in ("suspend", "shutdown"):
            vm = vm_of("solo5", kernel=made.vm.key("kernel"), stop_mode=how)
            assert refusal_of(made.hypervisor, vm).startswith(f"stop_mode: {how} is not possible with solo5")
        with pytest.raises(Refused, match="cannot be suspended"):
            await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        await made.hypervisor.start(made.vm)
        # A guest that may not run on is ended (docs/reference/changes.md).
        await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
        assert await made.state() is GuestState.OFF
        with open_directory() as public:
            xen = str(written(public / "xen", image(6)))
            secret = written(public / "secret", image())
            secret.chmod(0o600)
            for keys, why in (
                ({"kernel": ""}, "kernel: is required"),
                ({"kernel": "/no/such.spt"}, "kernel: /no/such.spt: it cannot be read: No such file"),
                ({"kernel": "/proc/version"}, "it is not an ELF file"),
                ({"kernel": xen}, "is built for xen; solo5 runs images for spt and hvt"),
                ({"kernel": str(secret)}, f"kernel: a tender cannot read it: {secret} is not open to other users"),
                ({"vcpus": "2"}, "vcpus: a Solo5 unikernel has one processor"),
                ({"initrd": "/x"}, "initrd: a tender loads nothing but the image that is named by kernel; remove it"),
                ({"cmdline": "{nick}"}, "cmdline: {nick} is not known"),
                ({"disk": "/x"}, "disk: '/x' is for no block device of the image, which has none"),
                ({"nic": "br0"}, "nic: the image has no network"),
            ):
                vm = vm_of("solo5", **({"kernel": made.vm.key("kernel")} | keys))
                assert why in refusal_of(made.hypervisor, vm)
        with pytest.raises(JitsuError, match="it does not run"):
            await made.hypervisor.stop(made.vm, StopMode.PAUSE)
