"""libxl: with an xl that plays Xen, and in a dom0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed, JitsuError, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisors.libxl.backend import Libxl
from jitsu_vmd.hypervisors.libxl.xl import existing
from jitsu_vmd.hypervisors.shared import commands
from jitsu_vmd.rules.events import GuestState
from tests.support.elf import SAYS, pvh_guest
from tests.support.hypervisors import (
    XEN,
    domain_id,
    key_comes,
    refusal_of,
    running,
    running_libxl,
    vm_of,
    with_what_it_needs,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jitsu_vmd.hypervisors.libxl.saves import Saves
    from tests.support.hypervisors import Running

STRANGER = "0d0f4f2a-6a69-5473-8175-76302e320001"
LIBXL = [pytest.param("libxl", marks=pytest.mark.suite), pytest.param("libxl xen", marks=XEN)]


@pytest.fixture(params=LIBXL)
def libxl(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


async def test_libxl_a_guest_finds_its_rumprun_configuration_before_it_runs(
    libxl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rumprun.json").write_text('{\n "cmdline": "nginx",\n "net": {"if": "xenif0"}\n}\n')
    vm = vm_of(libxl, rumprun_config=str(tmp_path / "rumprun.json"))
    async with running_libxl(libxl, vm, tmp_path) as made:
        assert isinstance(made.hypervisor, Libxl)
        xenstore = made.hypervisor.xenstore
        seen: list[GuestState] = []
        real_change = xenstore.change

        async def change(values: Mapping[str, str | None], permissions: Mapping[str, str] | None = None) -> None:
            seen.append((await existing(vm)).state)
            await real_change(values, permissions)

        monkeypatch.setattr(xenstore, "change", change)
        await made.hypervisor.start(vm)
        assert seen == [GuestState.PAUSED]
        assert await made.state() is GuestState.RUNNING
        domain = await domain_id(made.hypervisor, vm)
        written = await xenstore.read(f"/local/domain/{domain}/rumprun/cfg")
        assert written == '{"cmdline":"nginx","net":{"if":"xenif0"}}'


async def test_libxl_names_the_hosts_end_of_each_interface_after_each_start(libxl: str, tmp_path: Path) -> None:
    vm = vm_of(libxl)
    async with running_libxl(libxl, vm, tmp_path) as made:

        async def interfaces() -> list[str]:
            return [nic.interface for nic in (await made.hypervisor.guests([vm]))[vm.uuid].nics]

        assert await interfaces() == [""], "it is off"
        for _ in range(2):
            await made.hypervisor.start(vm)
            assert await interfaces() == [f"vif{await domain_id(made.hypervisor, vm)}.0"]
            await made.hypervisor.stop(vm, StopMode.DESTROY)


@pytest.mark.suite
async def test_libxl_waits_for_a_key_of_the_guest(tmp_path: Path) -> None:
    vm = vm_of("libxl", wait_for_key="data/status")
    async with running_libxl("libxl", vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        await key_comes(made)


@pytest.mark.suite
async def test_libxl_a_domain_that_its_own_xl_removes_too_is_destroyed_all_the_same(tmp_path: Path) -> None:
    vm = vm_of("libxl")
    async with running_libxl("libxl", vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        (tmp_path / "fake" / "race-destroy").touch()
        await made.hypervisor.stop(vm, StopMode.DESTROY)
        assert await made.state() is GuestState.OFF


async def test_libxl_says_why_xl_has_failed(libxl: str, tmp_path: Path) -> None:
    vm, other = vm_of(libxl), vm_of(libxl, uuid=STRANGER)
    async with running_libxl(libxl, vm, tmp_path) as made:
        await made.hypervisor.start(other)
        with pytest.raises(JitsuError, match=r'xl create: .*Domain with name "jitsu-conforms" already exists'):
            await made.hypervisor.start(vm)
        await made.hypervisor.stop(other, StopMode.DESTROY)


@pytest.mark.suite
@pytest.mark.parametrize(
    ("keys", "refusal"),
    [
        ({"kernel": ""}, "kernel: is required on libxl"),
        ({"kernel": "/nowhere"}, "kernel: there is no file /nowhere"),
        ({"kernel": "/tmp"}, "kernel: /tmp cannot be read: Is a directory"),
        ({"disk": "x"}, "disk: 'x' is not DEVICE-OR-FILE@TARGET"),
        ({"cmdline": 'a "quote"'}, "cannot be written into a configuration of xl"),
        ({"rumprun_config": "/proc/version"}, "rumprun_config: it is not valid JSON"),
    ],
)
async def test_libxl_refuses_what_it_cannot_do(tmp_path: Path, keys: dict[str, str], refusal: str) -> None:
    async with running_libxl("libxl", vm_of("libxl"), tmp_path) as made:
        assert refusal in refusal_of(made.hypervisor, vm_of("libxl", **keys))


def saves_of(made: Running) -> Saves:
    assert isinstance(made.hypervisor, Libxl)
    return made.hypervisor.saves


async def refuses_to_start(made: Running, why: str) -> None:
    """See that no start restores anything, that status says why, and that an operator can get the VM back."""
    guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
    assert guest.state is GuestState.OFF
    assert why in guest.note
    assert "jitsu start jitsu-conforms --discard-saved-state" in guest.note
    for _ in range(2):
        with pytest.raises(BootFailed, match=why):
            await made.hypervisor.start(made.vm)
    await made.hypervisor.discard(made.vm)
    await made.hypervisor.start(made.vm)
    guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
    assert (guest.state, guest.note) == (GuestState.RUNNING, "")


@pytest.mark.suite
@pytest.mark.parametrize(("mark", "why"), [("restoring", "that was cut short"), ("used", "was used already")])
async def test_libxl_a_save_that_a_crash_left_marked_is_never_restored(tmp_path: Path, mark: str, why: str) -> None:
    async with running("libxl", tmp_path) as made:
        await made.saved("libxl", "suspend")
        saves_of(made).becomes(made.vm.uuid, "save", mark)
        await refuses_to_start(made, why)


@pytest.mark.suite
async def test_libxl_a_domain_that_is_only_half_restored_is_not_let_run(tmp_path: Path) -> None:
    async with running("libxl", tmp_path) as made:
        await made.saved("libxl", "suspend")
        saves_of(made).becomes(made.vm.uuid, "save", "restoring")
        await commands.run("xl", "restore", "-p", str(saves_of(made).path(made.vm.uuid, "restoring")))
        await refuses_to_start(made, "that was cut short")


@pytest.mark.suite
async def test_libxl_a_domain_whose_creation_was_cut_short_is_created_again(tmp_path: Path) -> None:
    async with running("libxl", tmp_path) as made:
        await made.hypervisor.start(made.vm)
        first = await domain_id(made.hypervisor, made.vm)
        await made.hypervisor.stop(made.vm, StopMode.PAUSE)
        saves_of(made).begin_creating(made.vm.uuid)
        assert await made.state() is GuestState.OFF
        await made.hypervisor.start(made.vm)
        assert await domain_id(made.hypervisor, made.vm) not in (None, first)
        assert await made.state() is GuestState.RUNNING


@pytest.mark.suite
async def test_libxl_a_domain_that_runs_on_after_its_save_makes_that_save_useless(tmp_path: Path) -> None:
    """vmd died between the two halves of a suspend: the save is complete, the domain is still there, paused."""
    async with running("libxl", tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.PAUSE)
        saves_of(made).make_directory()
        saves_of(made).path(made.vm.uuid, "save").write_text("{}")
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.start(made.vm)
        assert saves_of(made).all() == {made.vm.uuid: {"used"}}
        assert await made.state() is GuestState.RUNNING
        assert saves_of(made).all() == {}, "it has been seen to run after that save"


@pytest.mark.suite
async def test_libxl_a_save_that_others_restored_is_not_restored_again(tmp_path: Path) -> None:
    async with running("libxl", tmp_path) as made:
        await made.saved("libxl", "suspend")
        await commands.run("xl", "restore", str(saves_of(made).path(made.vm.uuid, "save")))
        assert await made.state() is GuestState.RUNNING
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert await made.state() is GuestState.OFF


@pytest.mark.suite
async def test_libxl_a_suspend_that_fails_leaves_the_domain_and_no_save(tmp_path: Path) -> None:
    async with running("libxl", tmp_path) as made:
        await made.hypervisor.start(made.vm)
        (tmp_path / "fake" / "fail-save").touch()
        with pytest.raises(Unavailable, match="Not enough free memory"):
            await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        assert await made.state() is GuestState.RUNNING
        assert "save" not in saves_of(made).all().get(made.vm.uuid, set())


@pytest.mark.xen
@pytest.mark.timeout(300)
async def test_libxl_boots_an_image_that_has_only_an_entry_for_pvh(dom0: None, tmp_path: Path) -> None:
    vm = vm_of("libxl xen", kernel=str(pvh_guest(tmp_path)), initrd="")
    async with running_libxl("libxl xen", vm, tmp_path) as made:
        assert refusal_of(made.hypervisor, vm) == ""
        await made.hypervisor.start(vm)
        await made.becomes(GuestState.OFF)  # it halts by itself
        _, said, _ = await commands.run("xl", "dmesg")
        assert SAYS in said


@pytest.mark.xen
@pytest.mark.timeout(300)
async def test_libxl_boots_linux_as_pvh_and_suspends_it(dom0: None, tmp_path: Path) -> None:
    vm = vm_of("libxl xen", guest_type="pvh")
    async with running_libxl("libxl xen", vm, tmp_path) as made:
        await made.saved("libxl xen", "suspend")
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.start(vm)
        await made.becomes(GuestState.RUNNING)
        _, listed, _ = await commands.run("xl", "list", "-l", vm.name)
        assert '"type": "pvh"' in listed


async def test_libxl_lists_the_domains_that_run(libxl: str, tmp_path: Path) -> None:
    vm = vm_of(libxl)
    async with running_libxl(libxl, vm, tmp_path) as made:
        assert isinstance(made.hypervisor, Libxl)
        assert vm.name not in [each.name for each in await made.hypervisor.discover()]
        await made.hypervisor.start(vm)
        [machine] = [each for each in await made.hypervisor.discover() if each.name == vm.name]
        assert (machine.uuid, machine.is_running) == (vm.uuid, True)
