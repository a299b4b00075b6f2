"""libxl: with an xl that plays Xen, and in a dom0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.errors import JitsuError
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import XEN, key_comes, running_libxl, vm_of, with_what_it_needs

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = "0d0f4f2a-6a69-5473-8175-76302e320001"
LIBXL = [pytest.param("libxl", marks=pytest.mark.suite), pytest.param("libxl xen", marks=XEN)]


@pytest.fixture(params=LIBXL)
def libxl(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


async def test_libxl_a_guest_finds_its_rumprun_configuration_before_it_runs(libxl: str, tmp_path: Path) -> None:
    (tmp_path / "rumprun.json").write_text('{\n "cmdline": "nginx",\n "net": {"if": "xenif0"}\n}\n')
    vm = vm_of(libxl, rumprun_config=str(tmp_path / "rumprun.json"))
    async with running_libxl(libxl, vm, tmp_path) as made:
        xenstore = made.hypervisor._xenstore  # type: ignore[attr-defined]
        seen: list[GuestState] = []
        real_change = xenstore.change

        async def change(values: dict[str, str]) -> None:
            seen.append(await made.state())
            await real_change(values)

        xenstore.change = change
        await made.hypervisor.start(vm)
        assert seen == [GuestState.PAUSED]
        assert await made.state() is GuestState.RUNNING
        domain = await made.hypervisor.domain_id(vm)
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
            assert await interfaces() == [f"vif{await made.hypervisor.domain_id(vm)}.0"]
            await made.hypervisor.destroy(vm)


@pytest.mark.suite
async def test_libxl_waits_for_a_key_of_the_guest(tmp_path: Path) -> None:
    vm = vm_of("libxl", wait_for_key="data/status")
    async with running_libxl("libxl", vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        await key_comes(made)


async def test_libxl_says_why_xl_has_failed(libxl: str, tmp_path: Path) -> None:
    vm, other = vm_of(libxl), vm_of(libxl, uuid=STRANGER)
    async with running_libxl(libxl, vm, tmp_path) as made:
        await made.hypervisor.start(other)
        with pytest.raises(JitsuError, match=r'xl create: .*Domain with name "jitsu-conforms" already exists'):
            await made.hypervisor.start(vm)
        await made.hypervisor.destroy(other)


@pytest.mark.suite
@pytest.mark.parametrize(
    ("keys", "refusal"),
    [
        ({"kernel": "/nowhere"}, "kernel: there is no file /nowhere"),
        ({"disk": "x"}, "disk: 'x' is not DEVICE-OR-FILE@TARGET"),
        ({"cmdline": 'a "quote"'}, "cannot stand in a configuration of xl"),
        ({"rumprun_config": "/proc/version"}, "rumprun_config: it is no JSON"),
    ],
)
async def test_libxl_refuses_what_it_cannot_do(tmp_path: Path, keys: dict[str, str], refusal: str) -> None:
    async with running_libxl("libxl", vm_of("libxl"), tmp_path) as made:
        assert refusal in made.hypervisor.refusal(vm_of("libxl", **keys))
