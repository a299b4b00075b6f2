"""A real LXD: instances that are made from an image, and what happens to them behind our back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import JitsuError, NotFound, Refused, Unavailable
from jitsu_protocol.model.vm import from_config
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisors.lxd.backend import Lxd
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import running_in_lxd
from tests.support.lan import inside
from tests.support.lxd import BRIDGE, IMAGE, remove, running_lxd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Guest, Hypervisor
    from tests.support.lxd import LxdServer

pytestmark = [pytest.mark.wires, pytest.mark.lxd, pytest.mark.timeout(300)]

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def lxd() -> Iterator[LxdServer]:
    """Run LXD in a network namespace."""
    with running_lxd() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LXD_DIR", str(server.home))
        yield server


def made_vm(name: str, number: int = 20, **keys: str) -> VM:
    """Return a VM whose instance is made from the image, at 10.79.0.NUMBER."""
    config = {"name": name, "dns": f"{name}.jitsu.test", "ip": f"10.79.0.{number}", "image": IMAGE} | keys
    return from_config({key: [value] for key, value in config.items()}, {})


async def guest_of(hypervisor: Hypervisor, vm: VM) -> Guest | None:
    return (await hypervisor.guests([vm])).get(vm.uuid)


async def until(hypervisor: Hypervisor, vm: VM, state: GuestState) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (guest := await guest_of(hypervisor, vm)) is None or guest.state is not state:
            await asyncio.sleep(0.05)


async def serves(server: LxdServer, address: str) -> str:
    """Return what an instance serves, as a client in the namespace sees it."""
    command = ["ip", "netns", "exec", server.namespace, "wget", "-q", "-O", "-", "-T", "1", f"http://{address}/"]
    async with asyncio.timeout(LIMIT_S):
        while True:
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, text=True)
            if done.returncode == 0:
                return done.stdout
            await asyncio.sleep(0.05)


async def test_an_instance_is_made_when_its_vm_is_configured_and_has_its_address(
    lxd: LxdServer, tmp_path: Path
) -> None:
    vm = made_vm("made", memory="131072")
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await until(made.hypervisor, vm, GuestState.OFF)
        assert lxd.lxc("config", "get", "made", "limits.memory").strip() == "131072KiB"
        await made.hypervisor.start(vm)
        assert await serves(lxd, "10.79.0.20") == "here\n"
        guest = await guest_of(made.hypervisor, vm)
        assert guest is not None
        (nic,) = guest.nics
        assert (nic.mac, nic.bridge) == (vm.mac, BRIDGE)
        command = ["ip", "-n", lxd.namespace, "-br", "link", "show", "master", BRIDGE]
        listed = await asyncio.to_thread(subprocess.check_output, command, text=True)
        assert nic.interface in listed, "it is the host's end on the bridge"
        with pytest.raises(Unavailable, match="its instance is kept"):
            await made.hypervisor.forget(vm)
        await made.hypervisor.stop(vm, StopMode.DESTROY)
        with pytest.raises(Unavailable, match=r"because of what is on its disk \(lxc delete made\)"):
            await made.hypervisor.forget(vm)
        changed = made_vm("made", 21, memory="262144", nic=BRIDGE)
        await made.hypervisor.guests([changed])
        await made.hypervisor.start(changed)
        assert lxd.lxc("config", "get", "made", "limits.memory").strip() == "262144KiB"
        assert await serves(lxd, "10.79.0.21") == "here\n"
        with pytest.raises(Refused, match=f"was made from {IMAGE}"):
            await made.hypervisor.start(made_vm("made", image="other"))


async def test_an_instance_that_has_never_run_goes_with_its_vm(lxd: LxdServer, tmp_path: Path) -> None:
    vm = made_vm("fresh")
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await until(made.hypervisor, vm, GuestState.OFF)
        assert "fresh" in lxd.lxc("list", "-c", "n", "-f", "csv")
        await made.hypervisor.forget(vm)
        assert "fresh" not in lxd.lxc("list", "-c", "n", "-f", "csv")


async def test_what_is_not_there_is_named_before_it_is_configured(lxd: LxdServer, tmp_path: Path) -> None:
    nobody, imageless = made_vm("nobody", image=""), made_vm("imageless", image="none")
    nobody = from_config({key: list(values) for key, values in nobody.config.items() if key != "image"}, {})
    async with running_in_lxd(made_vm("seen"), tmp_path) as made:
        other = made_vm("seen")
        found = await made.hypervisor.examine([nobody, imageless, other])
        assert "LXD has no instance nobody (`lxc list`" in found[nobody.uuid].mistake
        assert "the server has no image none" in found[imageless.uuid].mistake
        assert "was not made for this VM" in found[other.uuid].mistake
        assert found[other.uuid].writes_to_disk
        with pytest.raises(JitsuError, match="has no image none"):
            await made.hypervisor.start(imageless)
        with pytest.raises(NotFound, match="LXD has no instance nobody"):
            await made.hypervisor.start(nobody)


async def test_a_container_that_cannot_be_suspended_is_refused_with_what_to_do(lxd: LxdServer, tmp_path: Path) -> None:
    vm = made_vm("conscious", stop_mode="suspend")
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await made.hypervisor.start(vm)
        with pytest.raises(Refused, match=r"CRIU.*\(use pause or shutdown\)"):
            await made.hypervisor.stop(vm, StopMode.SUSPEND)
        await until(made.hypervisor, vm, GuestState.RUNNING)
        assert "cannot suspend" in (await made.hypervisor.examine([vm]))[vm.uuid].mistake


async def test_a_start_that_fails_says_why(lxd: LxdServer, tmp_path: Path) -> None:
    vm = made_vm("broken")
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await until(made.hypervisor, vm, GuestState.OFF)
        lxd.lxc("config", "set", "broken", "raw.lxc", "lxc.init.cmd = /none")
        with pytest.raises(JitsuError, match=r'No such file or directory - Failed to exec "/none"'):
            await made.hypervisor.start(vm)


async def test_what_others_do_is_seen_and_told_within_a_second(lxd: LxdServer, tmp_path: Path) -> None:
    vm = made_vm("theirs")
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await until(made.hypervisor, vm, GuestState.OFF)
        for command, state in (
            (("start",), GuestState.RUNNING),
            (("pause",), GuestState.PAUSED),
            (("start",), GuestState.RUNNING),
            (("stop", "--force"), GuestState.OFF),
        ):
            made.told.clear()
            lxd.lxc(command[0], "theirs", *command[1:])
            async with asyncio.timeout(1):
                while vm.uuid not in made.told:
                    await asyncio.sleep(0.02)
            await until(made.hypervisor, vm, state)
        await made.hypervisor.start(vm)
        made.told.clear()
        os.kill(lxd.pid("theirs"), signal.SIGKILL)
        await made.tells(lambda: vm.uuid in made.told)
        await until(made.hypervisor, vm, GuestState.OFF)
        remove("theirs")
        assert await guest_of(made.hypervisor, vm) is None
        await made.hypervisor.start(vm)
        await until(made.hypervisor, vm, GuestState.RUNNING)


async def test_lxd_may_be_killed_and_started_again(lxd: LxdServer, tmp_path: Path) -> None:
    vm, other = made_vm("steady"), made_vm("later", 22)
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await made.hypervisor.start(vm)
        await made.hypervisor.guests([vm, other])
        await until(made.hypervisor, other, GuestState.OFF)
        pid = lxd.pid("steady")
        lxd.kill()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await made.state()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await made.hypervisor.start(other)
        lxd.start()
        made.told.clear()
        await until(made.hypervisor, vm, GuestState.RUNNING)
        assert lxd.pid("steady") == pid, "it ran on"
        await made.tells(lambda: "" in made.told)
        made.told.clear()
        await made.hypervisor.start(other)
        await made.tells(lambda: other.uuid in made.told)
        remove("later")


async def test_an_lxd_that_hangs_is_waited_for_no_longer_than_a_look_may_take(
    lxd: LxdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jitsu_vmd.hypervisors.lxd.wires import cluster

    monkeypatch.setattr(cluster, "LOOK_LIMIT_S", 0.5)
    vm = made_vm("patient")
    async with running_in_lxd(vm, tmp_path, makes=False) as made:
        await made.hypervisor.start(vm)
        lxd.kill(signal.SIGSTOP)
        try:
            async with asyncio.timeout(3):
                with pytest.raises(Unavailable, match=r"has not answered within 0\.5 s"):
                    await made.hypervisor.guests([vm])
        finally:
            lxd.kill(signal.SIGCONT)
        await until(made.hypervisor, vm, GuestState.RUNNING)


async def test_twenty_start_at_once_and_each_once(lxd: LxdServer, tmp_path: Path) -> None:
    vms = [made_vm(f"many{n}", 30 + n) for n in range(20)]
    async with running_in_lxd(vms[0], tmp_path, makes=False) as made:
        try:
            await made.hypervisor.guests(vms)
            async with asyncio.timeout(60):
                while len(await made.hypervisor.guests(vms)) < 20:
                    await asyncio.sleep(0.2)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.gather(*(made.hypervisor.start(vm) for vm in vms for _ in range(2)))
            print(f"twenty starts took {loop.time() - began:.2f} s")
            guests = await made.hypervisor.guests(vms)
            assert {guest.state for guest in guests.values()} == {GuestState.RUNNING}
            await asyncio.gather(*(made.hypervisor.stop(vm, StopMode.DESTROY) for vm in vms))
        finally:
            for vm in vms[1:]:
                remove(vm.name)


async def test_instances_are_discovered(lxd: LxdServer, tmp_path: Path) -> None:
    vm = made_vm("found")
    async with running_in_lxd(vm, tmp_path) as made:
        lxd.lxc("config", "set", "found", "user.jitsu.dns", "found.test")
        lxd.lxc("start", "found")
        assert isinstance(made.hypervisor, Lxd)
        async with asyncio.timeout(LIMIT_S):
            while not (
                found := next(each for each in await made.hypervisor.discover() if each.name == "found")
            ).addresses:
                await asyncio.sleep(0.1)
        assert found.is_running
        assert found.keys == {"dns": "found.test"}
        assert found.addresses[0].startswith("10.79.0.")
        assert found.nics[0].bridge == BRIDGE
        assert found.uuid


def test_a_server_elsewhere_is_reached_with_a_certificate_and_only_if_it_is_the_one_that_is_pinned(
    lxd: LxdServer, tmp_path: Path
) -> None:
    lxd.lxc("config", "set", "core.https_address", "127.0.0.1:8443")
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(lxd.home / "server.crt")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    asked = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-subj", "/CN=jitsu")
    files = ("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"))
    subprocess.run(["openssl", *asked, *files], check=True, capture_output=True)
    (tmp_path / "key.pem").chmod(0o600)
    vm = made_vm("far")
    settings = {
        "hypervisor__connect": "https://127.0.0.1",
        "hypervisor__certificate_file": str(tmp_path / "cert.pem"),
        "hypervisor__key_file": str(tmp_path / "key.pem"),
        "hypervisor__fingerprint": shown.strip().partition("=")[2],
    }

    async def use(more: dict[str, str], *, starts: bool) -> list[str]:
        async with running_in_lxd(vm, tmp_path, makes=False, **(settings | more)) as made:
            if starts:
                await made.hypervisor.start(vm)
                await made.becomes(GuestState.RUNNING)
                guest = await guest_of(made.hypervisor, vm)
                assert guest is not None
                assert [nic.interface for nic in guest.nics] == [""], "it is on another host, as far as is known"
                await made.tells(lambda: vm.uuid in made.told)
            return made.told

    def within(more: dict[str, str], *, starts: bool = False) -> None:
        inside(lxd.namespace, lambda: asyncio.run(use(more, starts=starts)))

    with pytest.raises(BaseExceptionGroup) as refused:
        within({})
    assert "does not know our certificate" in str(refused.value.exceptions[0])
    lxd.lxc("config", "trust", "add", str(tmp_path / "cert.pem"))
    with pytest.raises(BaseExceptionGroup) as refused:
        within({"hypervisor__fingerprint": "00" * 32})
    assert "cannot be reached" in str(refused.value.exceptions[0])
    within({}, starts=True)
