"""libvirt: domains that are there and that are made, calls that hang; its test driver, QEMU, and in a dom0."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import JitsuError, NotFound
from jitsu_protocol.model.vm import from_config
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import LIMIT_S, key_comes, libvirt, refusal_of, running, vm_of, with_what_it_needs
from tests.support.lan import BRIDGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitsu_protocol.model.vm import VM
    from tests.support.libvirtd import Libvirtd

pytestmark = pytest.mark.wires


@pytest.fixture(params=[pytest.param("libvirt test", marks=libvirt), pytest.param("libvirt qemu", marks=libvirt)])
def real(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


async def test_what_a_domain_has_is_told_and_it_is_gone_when_the_vm_is(real: str, tmp_path: Path) -> None:
    async with running(real, tmp_path, mac="02:00:5e:00:53:99") as made:
        guests = await made.hypervisor.guests([made.vm])
        assert [(nic.mac, nic.bridge) for nic in guests[made.vm.uuid].nics] == [("02:00:5e:00:53:99", BRIDGE)]
        await made.hypervisor.forget(made.vm)
        with pytest.raises(NotFound):
            await made.hypervisor.stop(made.vm, StopMode.PAUSE)


async def test_a_vm_that_was_never_defined_is_told_of(real: str, tmp_path: Path) -> None:
    async with running(real, tmp_path) as made:
        stranger = from_config({"name": ["nobody"], "dns": ["n.jitsu.test"], "ip": ["127.88.0.2"]}, {})
        with pytest.raises(NotFound, match="has no domain nobody") as caught:
            await made.hypervisor.start(stranger)
        assert "virsh define" in caught.value.hint


@libvirt
async def test_a_domain_that_others_defined_is_used_by_its_name_or_uuid(tmp_path: Path) -> None:
    async with running("libvirt test", tmp_path) as made:
        by_name = from_config({"name": ["test"], "dns": ["t.jitsu.test"], "ip": ["127.88.0.3"]}, {})
        guests = await made.hypervisor.guests([by_name])
        assert guests[by_name.uuid].state is GuestState.RUNNING, "libvirt's test driver has one that runs"
        uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
        by_uuid = from_config({"name": ["x"], "uuid": [uuid], "dns": ["u.jitsu.test"], "ip": ["127.88.0.4"]}, {})
        assert (await made.hypervisor.guests([by_uuid]))[uuid].state is GuestState.RUNNING
        await made.hypervisor.stop(by_name, StopMode.PAUSE)
        assert (await made.hypervisor.guests([by_uuid]))[uuid].state is GuestState.PAUSED
        await made.tells(lambda: uuid in made.told)
        await made.hypervisor.start(by_uuid)


@libvirt
async def test_a_domain_of_the_operators_own_xml(tmp_path: Path) -> None:
    xml = tmp_path / "own.xml"
    xml.write_text("<domain type='test'><name>other</name><memory>8192</memory><os><type>hvm</type></os></domain>")
    async with running("libvirt test", tmp_path) as made:
        keys = {"name": "own", "dns": "o.jitsu.test", "ip": "127.88.0.5", "domain_xml": str(xml)}
        vm = from_config({key: [value] for key, value in keys.items()}, {})
        await made.hypervisor.guests([vm])
        await made.hypervisor.start(vm)
        assert (await made.hypervisor.guests([vm]))[vm.uuid].state is GuestState.RUNNING
        await made.hypervisor.stop(vm, StopMode.DESTROY)
        await made.hypervisor.forget(vm)


@libvirt
@pytest.mark.parametrize(
    ("keys", "refusal"),
    [
        ({"wait_for_key": "data/status"}, "wait_for_key: this hypervisor has no Xenstore"),
        ({"domain_xml": "/nowhere.xml"}, "domain_xml: /nowhere.xml cannot be read: No such file or directory"),
        (
            {"disk": "/no-target"},
            "disk: '/no-target' is not DEVICE-OR-FILE@TARGET; expected something like /images/www.img@vda",
        ),
    ],
)
async def test_what_it_cannot_do_is_refused_before_it_is_asked_to(
    tmp_path: Path, keys: dict[str, str], refusal: str
) -> None:
    async with running("libvirt test", tmp_path) as made:
        assert refusal_of(made.hypervisor, vm_of("libvirt test", **keys)) == refusal


@libvirt
async def test_a_look_at_one_domain_does_not_list_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import libvirt as library

    async with running("libvirt test", tmp_path) as made:
        asked: list[object] = []
        monkeypatch.setattr(library.virConnect, "listAllDomains", lambda *_: list(map(asked.append, "x")))
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING
        assert asked == []
        monkeypatch.undo()


@libvirt
async def test_a_call_that_hangs_delays_no_other_and_looking_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    import libvirt as library

    goes_on = threading.Event()
    async with running("libvirt test", tmp_path) as made:
        real_create = library.virDomain.create
        monkeypatch.setattr(library.virDomain, "create", lambda _: goes_on.wait(10))
        hangs = asyncio.ensure_future(made.hypervisor.start(made.vm))
        await asyncio.sleep(0.1)
        assert await made.state() is GuestState.OFF, "others, and looking, go on"
        monkeypatch.setattr(library.virConnect, "lookupByUUIDString", lambda *_: goes_on.wait(10))
        monkeypatch.setattr("jitsu_vmd.hypervisors.libvirt.backend.LOOK_LIMIT_S", 0.2)
        for _ in range(2):
            with pytest.raises(JitsuError, match="does not answer"):
                await made.hypervisor.guests([made.vm])
        goes_on.set()
        await hangs
        monkeypatch.setattr(library.virDomain, "create", real_create)
        monkeypatch.undo()


@contextmanager
def hanging(guests: Sequence[VM]) -> Iterator[None]:
    """Stop the QEMU processes of guests, so that what libvirt asks of these is not answered."""
    pids = [int(Path(f"/run/libvirt/qemu/{vm.name}.pid").read_text()) for vm in guests]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@libvirt
@pytest.mark.timeout(300)
@pytest.mark.parametrize("real", ["libvirt qemu"], indirect=True)
async def test_guests_that_hang_hold_up_no_other_though_libvirtd_serves_five_calls_of_a_connection(
    real: str, tmp_path: Path
) -> None:
    async with running(real, tmp_path) as made:
        hypervisor = made.hypervisor
        names = [f"jitsu-hangs{number}" for number in range(7)]
        several = [vm_of(real, name=name, dns=f"{name}.jitsu.test") for name in names]
        await hypervisor.guests([made.vm, *several])
        try:
            await asyncio.gather(*map(hypervisor.start, several))
            with hanging(several):
                pauses = [asyncio.ensure_future(hypervisor.stop(vm, StopMode.PAUSE)) for vm in several]
                await asyncio.sleep(0.5)
                async with asyncio.timeout(LIMIT_S):
                    await hypervisor.start(made.vm)
                    await made.becomes(GuestState.RUNNING)
                assert not any(pause.done() for pause in pauses), "they hang, and the other has not waited for them"
            await asyncio.gather(*pauses)
            assert {each.state for each in (await hypervisor.guests(several)).values()} == {GuestState.PAUSED}
        finally:
            for vm in several:
                with suppress(JitsuError):
                    await hypervisor.discard(vm)  # those that are paused are not destroyed
                await hypervisor.stop(vm, StopMode.DESTROY)
                await hypervisor.forget(vm)


@libvirt
async def test_a_libvirtd_that_hangs_in_several_calls_is_left_without_a_write_into_freed_memory(
    qemu: Libvirtd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jitsu_vmd.hypervisors.libvirt.connections.KEEPALIVE_S", 1)
    monkeypatch.setattr("jitsu_vmd.hypervisors.libvirt.connections.KEEPALIVE_COUNT", 1)
    async with running("libvirt qemu", tmp_path) as made:
        for _ in range(3):
            calls = [asyncio.ensure_future(made.hypervisor.stop(made.vm, StopMode.PAUSE)) for _ in range(4)]
            refused = await asyncio.gather(*calls, return_exceptions=True)
            assert {str(each) for each in refused} == {"Requested operation is not valid: domain is not running"}
            os.kill(qemu.pid(), signal.SIGSTOP)
            calls = [asyncio.ensure_future(made.hypervisor.stop(made.vm, StopMode.PAUSE)) for _ in range(4)]
            await asyncio.sleep(4)  # keepalive ends them
            made.told.clear()
            os.kill(qemu.pid(), signal.SIGCONT)
            assert all(isinstance(each, JitsuError) for each in await asyncio.gather(*calls, return_exceptions=True))
            await made.tells(lambda: "" in made.told)
    assert "CRITICAL" not in capfd.readouterr().err, "what GLib says of a main loop that is gone (CVE-2024-4418)"


@pytest.mark.xen
@pytest.mark.timeout(300)
async def test_libvirt_does_the_same_with_a_guest_of_xen(libvirt_in_dom0: None, tmp_path: Path) -> None:
    async with running("libvirt xen", tmp_path, wait_for_key="data/status") as made:
        assert refusal_of(made.hypervisor, made.vm) == ""
        await made.hypervisor.start(made.vm)
        await key_comes(made)
        await made.boots()
        await made.hypervisor.stop(made.vm, StopMode.PAUSE)
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.start(made.vm)
        made.told.clear()
        async with asyncio.timeout(LIMIT_S):  # of shutdown_limit, after which it would be destroyed, far more is left
            await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
        assert await made.state() is GuestState.OFF
        await made.tells(lambda: made.vm.uuid in made.told)
        await made.hypervisor.start(made.vm)
        await made.boots()
        await made.hypervisor.stop(made.vm, StopMode.SUSPEND)
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING
