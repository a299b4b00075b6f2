"""Proxmox VE, as a server that plays it answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed, JitsuError, Refused, SetupFault, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Discovers
from jitsu_vmd.hypervisors.proxmox.backend import Proxmox
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import refusal_of, running_proxmox, vm_of
from tests.support.proxmox import SECRET, TOKEN, FakePve, PlayedBody, token_file
from tests.support.suite import SLOWER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.hypervisors import Running

pytestmark = pytest.mark.wires

NAME = "jitsu-conforms"


@asynccontextmanager
async def one(tmp_path: Path, *nodes: str, **keys: str) -> AsyncIterator[tuple[FakePve, Running]]:
    async with FakePve(tmp_path, *nodes) as pve:
        pve.add(NAME)
        async with running_proxmox(vm_of("proxmox", **keys), tmp_path, pve) as made:
            yield pve, made


async def test_proxmox_what_the_cluster_reports_is_old_and_a_machine_that_changed_is_looked_at_by_itself(
    tmp_path: Path,
) -> None:
    async with one(tmp_path) as (pve, made):
        vms = [made.vm, *(vm_of("proxmox", name=f"other{n}", dns=f"o{n}.jitsu.test") for n in range(6))]
        pve.publishes = False
        await made.hypervisor.start(made.vm)
        pve.calls.clear()
        guests = await made.hypervisor.guests(vms)
        assert guests[made.vm.uuid].state is GuestState.RUNNING
        assert pve.calls[:2] == ["GET /cluster/resources", "GET /nodes/pve1/qemu/100/status/current"]


async def test_proxmox_ten_thousand_machines_are_looked_at_in_one_call(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        vms = [vm_of("proxmox", name=f"vm{n}", dns=f"v{n}.jitsu.test") for n in range(200)]
        for vm in vms:
            pve.add(vm.name)
        pve.calls.clear()
        guests = await made.hypervisor.guests(vms)
        assert {guest.state for guest in guests.values()} == {GuestState.OFF}
        assert len(guests) == len(vms)
        assert [call for call in pve.calls if call != "GET /cluster/tasks"] == ["GET /cluster/resources"]


async def test_proxmox_a_machine_on_an_offline_node_is_unknown_and_is_not_started_until_the_cluster_moves_it(
    tmp_path: Path,
) -> None:
    async with one(tmp_path, "pve1", "pve2") as (pve, made):
        machine = pve.machines[100]
        machine.node = "pve2"
        await made.hypervisor.start(made.vm)
        pve.nodes["pve2"] = "offline"
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert guest.unseen.startswith("its node pve2 is offline, and the machine may still run there")
        for call in (made.hypervisor.start(made.vm), made.hypervisor.stop(made.vm, StopMode.DESTROY)):
            with pytest.raises(Unavailable, match="its node pve2 is offline"):
                await call
        assert pve.starts == [100]
        machine.node, machine.body = "pve1", PlayedBody()  # the HA manager has fenced pve2
        assert await made.state() is GuestState.OFF
        await made.hypervisor.start(made.vm)
        assert pve.starts == [100, 100]


async def test_proxmox_a_node_that_the_one_asked_cannot_reach_is_unknown_too(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        pve.nodes["pve1"] = "unknown"
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert guest.unseen == "the node that has the machine cannot be reached: No route to host"


async def test_proxmox_a_lock_is_the_reason_of_a_failure_and_is_shown(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        pve.machines[100].lock = "backup"
        with pytest.raises(Unavailable, match=r"VM is locked \(backup\)"):
            await made.hypervisor.start(made.vm)
        assert (await made.hypervisor.guests([made.vm]))[made.vm.uuid].note == "Proxmox VE has locked it (backup)"
        pve.machines[100].lock = ""
        await made.hypervisor.start(made.vm)
        assert pve.starts == [100]


async def test_proxmox_twenty_are_started_at_once_and_each_once(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        vms = [vm_of("proxmox", name=f"vm{n}", dns=f"v{n}.jitsu.test") for n in range(20)]
        for vm in vms:
            pve.add(vm.name)
        await asyncio.gather(*(made.hypervisor.start(vm) for vm in vms for _ in range(2)))
        assert sorted(pve.starts) == sorted(set(pve.starts))
        assert len(pve.starts) == len(vms)


async def test_proxmox_what_others_do_is_told_within_two_seconds(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        machine = pve.machines[100]

        async def boots() -> None:
            await machine.body.boot(restored=False)

        await asyncio.sleep(1.2)  # the tasks before are known
        made.told.clear()
        pve.publishes = False
        pve.task("qmstart", machine, boots)
        async with asyncio.timeout(3 * SLOWER):
            await made.tells(lambda: made.vm.uuid in made.told)
        assert await made.state() is GuestState.RUNNING


async def test_proxmox_a_machine_that_is_removed_is_off_and_a_start_says_so(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        await made.hypervisor.start(made.vm)
        machine = pve.machines.pop(100)
        assert await made.state() is GuestState.OFF
        with pytest.raises(JitsuError, match="has no VM or container jitsu-conforms"):
            await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        pve.machines[100] = machine
        assert await made.state() is GuestState.RUNNING


async def test_proxmox_a_container_is_started_shut_down_and_destroyed(tmp_path: Path) -> None:
    async with FakePve(tmp_path) as pve:
        pve.add(NAME, type="lxc")
        vm = vm_of("proxmox")
        async with running_proxmox(vm, tmp_path, pve) as made:
            for how in (StopMode.SHUTDOWN, StopMode.DESTROY):
                await made.hypervisor.start(vm)
                await made.hypervisor.start(vm)
                assert await made.state() is GuestState.RUNNING
                await made.hypervisor.stop(vm, how)
                assert await made.state() is GuestState.OFF
            assert "can neither be suspended nor paused" in refusal_of(
                made.hypervisor, vm_of("proxmox", stop_mode="pause")
            )
            with pytest.raises(Refused, match="can neither be suspended nor paused"):
                await made.hypervisor.stop(vm, StopMode.SUSPEND)


async def test_proxmox_a_guest_that_does_not_hear_is_stopped_though_a_task_still_holds_its_lock(tmp_path: Path) -> None:
    async with one(tmp_path, shutdown_limit="0.4") as (pve, made):
        body = pve.machines[100].body
        assert isinstance(body, PlayedBody)
        body.is_deaf = True
        await made.hypervisor.start(made.vm)
        async with asyncio.timeout(20 * SLOWER):
            await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
        assert await made.state() is GuestState.OFF


async def test_proxmox_saved_memory_that_a_dying_node_may_have_used_is_not_restored_again(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        await made.saved("proxmox", "suspend")
        machine = pve.machines[100]
        pve.fails = {"qmstart": "unexpected status"}

        async def dies(*, restored: bool) -> None:
            assert restored
            pve.nodes["pve1"] = "offline"

        machine.body.boot = dies  # type: ignore[method-assign]
        pve.fails = {}
        starting = asyncio.ensure_future(made.hypervisor.start(made.vm))
        while pve.nodes["pve1"] == "online":
            await asyncio.sleep(0.02)
        starting.cancel()
        machine.lock, pve.nodes["pve1"] = (
            "suspended",
            "online",
        )  # it is back, and was cut off before it removed the memory
        assert "may have been used" in (await made.hypervisor.guests([made.vm]))[made.vm.uuid].note
        calls = len(pve.calls)
        with pytest.raises(BootFailed, match=r"may have been used already.*--discard-saved-state"):
            await made.hypervisor.start(made.vm)
        assert not [call for call in pve.calls[calls:] if call.startswith("POST")]
        machine.body = PlayedBody()
        await made.hypervisor.discard(made.vm)
        await made.hypervisor.start(made.vm)
        assert (await made.state(), machine.saved) == (GuestState.RUNNING, False)


async def test_proxmox_an_engine_that_hangs_is_unavailable_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitsu_vmd.hypervisors.proxmox.wires.looks.LOOK_LIMIT_S", 0.3)
    async with one(tmp_path) as (pve, made):
        pve.hangs = True
        for call in (made.hypervisor.guests([made.vm]), made.hypervisor.start(made.vm)):
            with pytest.raises(Unavailable, match=r"has not answered within 0\.3 s"):
                await call
        pve.hangs = False
        assert await made.state() is GuestState.OFF


async def test_proxmox_an_engine_that_is_killed_and_back_has_its_tasks_and_machines(tmp_path: Path) -> None:
    async with one(tmp_path) as (pve, made):
        body = pve.machines[100].body
        boots = asyncio.Event()
        boot = body.boot

        async def slow(*, restored: bool) -> None:
            await boots.wait()
            await boot(restored=restored)

        body.boot = slow  # type: ignore[method-assign]
        starting = asyncio.ensure_future(made.hypervisor.start(made.vm))
        while not any("/tasks/" in call for call in pve.calls):
            await asyncio.sleep(0.02)
        await pve.close()
        with pytest.raises(JitsuError, match="cannot be reached"):
            await made.state()
        assert not starting.done(), "its task goes on"
        await pve.open()
        boots.set()
        async with asyncio.timeout(10 * SLOWER):
            await starting
        assert await made.state() is GuestState.RUNNING
        assert pve.starts == [100]


async def test_proxmox_another_node_is_asked_when_one_does_not_answer(tmp_path: Path) -> None:
    async with FakePve(tmp_path) as pve:
        pve.add(NAME)
        (tmp_path / "closed").mkdir()
        closed = FakePve(tmp_path / "closed")
        await closed.open()
        await closed.close()
        vm, connect = vm_of("proxmox"), f"{pve.uri};{closed.uri}"
        async with running_proxmox(vm, tmp_path, pve, hypervisor__connect=connect) as made:
            assert isinstance(made.hypervisor, Proxmox)
            made.hypervisor.client.another(pve.uri)
            with pytest.raises(Unavailable, match="cannot be reached"):
                await made.state()
            assert await made.state() is GuestState.OFF


async def test_proxmox_certificates_and_tokens_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    async with FakePve(tmp_path) as pve:
        pve.add(NAME)
        vm = vm_of("proxmox")
        authority = {"hypervisor__fingerprint": "", "hypervisor__ca_file": str(pve.certificate)}
        async with running_proxmox(vm, tmp_path, pve, **authority) as made:
            assert await made.state() is GuestState.OFF
        pve.calls.clear()
        for settings, reason in (
            ({"hypervisor__fingerprint": ""}, "CERTIFICATE_VERIFY_FAILED"),
            ({"hypervisor__fingerprint": "ab" * 32}, "which is not the one that is pinned"),
        ):
            with pytest.raises(ExceptionGroup) as caught:
                async with running_proxmox(vm, tmp_path, pve, **settings):
                    pass
            assert reason in str(caught.value.exceptions[0])
            assert pve.calls == [], "the token went nowhere"
        (tmp_path / "other").mkdir()
        other = token_file(tmp_path / "other", TOKEN.replace("0001", "0002"))
        with pytest.raises(ExceptionGroup) as caught:
            async with running_proxmox(vm, tmp_path, pve, hypervisor__token_file=str(other)):
                pass
        assert "Proxmox VE does not accept the token: no such token" in str(caught.value.exceptions[0])
        other.chmod(0o644)
        with pytest.raises(ExceptionGroup) as caught:
            async with running_proxmox(vm, tmp_path, pve, hypervisor__token_file=str(other)):
                pass
        assert isinstance(fault := caught.value.exceptions[0], SetupFault)
        assert f"others may read {other}" in str(fault)


async def test_proxmox_the_token_is_in_no_log_and_in_no_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with one(tmp_path) as (pve, made):
        pve.fails = {"qmstart": "start failed"}
        with pytest.raises(JitsuError) as caught:
            await made.hypervisor.start(made.vm)
        await pve.close()
        with pytest.raises(JitsuError) as away:
            await made.state()
        await pve.open()
        shown = repr(caught.value) + repr(away.value) + repr(vars(made.hypervisor)) + "".join(capsys.readouterr())
        assert SECRET not in shown


async def test_proxmox_lists_its_machines_with_what_their_owner_has_written(tmp_path: Path) -> None:
    async with FakePve(tmp_path, "pve1", "pve2") as pve:
        first = pve.add(NAME, tags="jitsu.dns.www.example.org")
        first.config["description"] = "jitsu.ttl: 30"
        first.agent = {"result": [{"name": "eth0", "ip-addresses": [{"ip-address": "192.0.2.7"}]}]}
        pve.add("db", type="lxc", config={"net0": "name=eth0,hwaddr=BC:24:11:00:00:09,bridge=vmbr0,ip=192.0.2.9/24"})
        pve.add("twice")
        pve.add("twice", node="pve2")
        pve.add("golden", is_template=True)
        pve.nodes["pve2"] = "offline"
        async with running_proxmox(vm_of("proxmox"), tmp_path, pve) as made:
            await made.hypervisor.start(made.vm)
            assert isinstance(made.hypervisor, Discovers)
            found = {each.name: each for each in await made.hypervisor.discover()}
        assert list(found) == [NAME, "db", "102", "103"], "two of one name are told apart by their VMIDs"
        www = found[NAME]
        assert (www.is_running, www.addresses, www.keys) == (
            True,
            ("192.0.2.7",),
            {"dns": "www.example.org", "ttl": "30"},
        )
        assert [nic.bridge for nic in www.nics] == ["vmbr0"]
        assert found["db"].addresses == ("192.0.2.9",)
        assert found["103"].nics == (), "its node is offline"


async def test_proxmox_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    async with one(tmp_path) as (_, made):
        assert "has already" in refusal_of(made.hypervisor, vm_of("proxmox", kernel="/boot/x"))
        assert "no Xenstore" in refusal_of(made.hypervisor, vm_of("proxmox", wait_for_key="data/status"))
        missing = vm_of("proxmox", name="none")
        examined = await made.hypervisor.examine([made.vm, missing])
        assert (examined[made.vm.uuid].mistake, examined[made.vm.uuid].writes_to_disk) == (
            "boot_time: only guests of the mock hypervisor have this key; remove it",
            True,
        )
        assert examined[missing.uuid].mistake.startswith("Proxmox VE has no VM or container none")
