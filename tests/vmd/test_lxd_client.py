"""Incus, and virtual machines of LXD, as a server that plays them answers; and servers that answer nonsense."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed, Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisors.lxd.backend import Lxd
from jitsu_vmd.hypervisors.lxd.wires import cluster
from jitsu_vmd.rules.events import GuestState
from tests.support.fake_lxd import FakeLxd, serving
from tests.support.hypervisors import Running
from tests.support.process import running_process
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jitsu_protocol.model.vm import VM

pytestmark = pytest.mark.wires

VM_TYPE = "virtual-machine"


@asynccontextmanager
async def incus(fake: FakeLxd, vm: VM, directory: Path) -> AsyncIterator[Running]:
    """Run the backend of Incus against a server."""
    socket = directory / "unix.socket"
    async with serving(fake, socket):
        settings = {"hypervisor__kind": "incus", "hypervisor__connect": str(socket)}
        async with running_process("vmd", directory, **settings) as process:
            from jitsu_vmd.main import hypervisors_for

            hypervisor = hypervisors_for(process)[""]
            await hypervisor.open()
            made = Running(hypervisor, vm, process.spawn)
            await made.tells(lambda: "" in made.told)
            yield made
            made.follows.cancel()


async def test_a_connection_that_is_opened_again_goes_on_where_it_was(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web")
    fake.add("web", VM_TYPE)
    async with incus(fake, vm, tmp_path) as made:
        await made.opened_again()
        await made.tells(lambda: "" in made.told)
        await made.hypervisor.start(vm)
        assert await made.state() is GuestState.RUNNING


async def test_a_virtual_machine_is_suspended_and_restored_once(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web", stop_mode="suspend")
    record = fake.add("web", VM_TYPE)
    async with incus(fake, vm, tmp_path) as made:
        assert made.hypervisor.name == f"Incus ({tmp_path}/unix.socket)"
        await made.hypervisor.start(vm)
        await made.hypervisor.stop(vm, StopMode.SUSPEND)
        assert await made.state() is GuestState.SUSPENDED
        fake.bodies.clear()
        await made.hypervisor.start(vm)
        assert await made.state() is GuestState.RUNNING
        marked, started, cleared = fake.bodies
        assert marked == {"config": {"user.jitsu.restoring": "true"}}
        assert started["stateful"] is True
        assert cleared == {"config": {"user.jitsu.restoring": ""}}
        assert "user.jitsu.restoring" not in record["config"]


async def test_a_saved_state_that_may_have_been_used_is_not_restored_again(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web", stop_mode="suspend")
    record = fake.add("web", VM_TYPE, stateful=True)
    record["config"]["user.jitsu.restoring"] = "true"  # vmd died after it had asked
    async with incus(fake, vm, tmp_path) as made:
        assert await made.state() is GuestState.SUSPENDED
        with pytest.raises(BootFailed, match=r"may have been used before.*--discard-saved-state"):
            await made.hypervisor.start(vm)
        assert (await made.hypervisor.guests([vm]))[vm.uuid].note
        await made.hypervisor.discard(vm)
        assert await made.state() is GuestState.OFF
        fake.bodies.clear()
        await made.hypervisor.start(vm)
        assert fake.bodies[0]["stateful"] is False, "Incus deletes the state then"
        assert await made.state() is GuestState.RUNNING
        assert not [key for key in record["config"] if key.startswith("user.jitsu")]


async def test_a_restore_that_fails_leaves_the_saved_state_for_the_next_one(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web", stop_mode="suspend")
    fake.add("web", VM_TYPE, stateful=True)
    fake.fails["start"] = ["Not enough free memory"]
    async with incus(fake, vm, tmp_path) as made:
        with pytest.raises(BootFailed, match="Not enough free memory"):
            await made.hypervisor.start(vm)
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.start(vm)
        assert await made.state() is GuestState.RUNNING


async def test_a_container_that_may_not_be_suspended_is_refused_with_what_to_do(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web", stop_mode="suspend")
    fake.add("web")
    async with incus(fake, vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        with pytest.raises(Refused, match=r"requires the instance to have migration.stateful.*use pause or shutdown"):
            await made.hypervisor.stop(vm, StopMode.SUSPEND)
        fake.add("web", VM_TYPE, expanded_config={})
        found = (await made.hypervisor.examine([vm]))[vm.uuid]
        assert "`lxc config set web migration.stateful=true`" in found.mistake


async def test_a_paused_instance_is_never_destroyed(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web")
    fake.add("web", status="Frozen")
    async with incus(fake, vm, tmp_path) as made:
        with pytest.raises(Unavailable, match="its memory would be lost"):
            await made.hypervisor.stop(vm, StopMode.DESTROY)
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.start(vm)
        assert await made.state() is GuestState.RUNNING


async def test_an_image_may_be_of_a_virtual_machine(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web", "10.0.0.5", image="vm")
    async with incus(fake, vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        body = next(body for body in fake.bodies if "source" in body)
        assert body["type"] == VM_TYPE
        assert body["source"] == {"type": "image", "fingerprint": "abc"}
        assert body["devices"]["eth0"]["ipv4.address"] == "10.0.0.5"


async def test_nothing_of_a_vm_that_is_refused_goes_into_a_request(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web", image="remote:image/../x")
    async with incus(fake, vm, tmp_path) as made:
        fake.requests.clear()
        await made.hypervisor.guests([vm])
        await asyncio.sleep(0.05)
        assert fake.requests == ["GET /1.0/instances/web"]


async def test_a_lost_leader_of_the_database_is_waited_out(tmp_path: Path) -> None:
    fake, vm = FakeLxd("h1", "h2"), make_vm("web")
    fake.add("web", location="h2")
    fake.fails["start"] = ["Failed to begin transaction: context deadline exceeded", "no available cowsql leader found"]
    async with incus(fake, vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        assert await made.state() is GuestState.RUNNING
        fake.add("web", location="h2")
        fake.fails["start"] = ["Failed to begin transaction: context deadline exceeded"] * 9
        with pytest.raises(Unavailable, match="the cluster's database has no leader"):
            await made.hypervisor.start(make_vm("web", boot_limit="1"))


async def test_a_healed_member_is_followed_and_an_offline_one_proves_nothing(tmp_path: Path) -> None:
    fake, vm = FakeLxd("h1", "h2", "h3"), make_vm("web")
    record = fake.add("web", location="h2", status="Running")
    async with incus(fake, vm, tmp_path) as made:
        assert await made.state() is GuestState.RUNNING
        fake.members["h2"] |= {"status": "Offline", "message": "No heartbeat for 25.5s (2026-11-28)"}
        record["status"] = "Error"
        fake.bodies.clear()
        guest = (await made.hypervisor.guests([vm]))[vm.uuid]
        assert "its cluster member h2 is offline and may still run it" in guest.unseen
        for call in (made.hypervisor.start(vm), made.hypervisor.stop(vm, StopMode.DESTROY)):
            with pytest.raises(Unavailable, match=r"h2 is offline and may still run it.*No heartbeat for 25 s"):
                await call
        assert fake.bodies == [], "nothing is done to it"
        made.told.clear()
        record |= {"location": "h3", "status": "Running"}
        fake.members["h2"]["status"] = "Evacuated"
        await fake.tell("cluster-member-healed", "h2")
        await made.tells(lambda: "" in made.told)
        assert await made.state() is GuestState.RUNNING
        made.told.clear()
        await fake.tell("instance-started", "web", "h3")
        await made.tells(lambda: vm.uuid in made.told)


async def test_machines_that_come_and_go_beside_the_configured_ones_fill_no_memory(tmp_path: Path) -> None:
    fake, vm = FakeLxd("h1", "h2"), make_vm("web")
    fake.add("web", location="h2", status="Running")
    async with incus(fake, vm, tmp_path) as made:
        assert await made.state() is GuestState.RUNNING
        made.told.clear()
        for n in range(50):
            await fake.tell("instance-created", f"made-up-{n}", "h1")
        await fake.tell("instance-started", "web", "h1")
        await made.tells(lambda: vm.uuid in made.told)
        assert isinstance(made.hypervisor, Lxd)
        assert made.hypervisor.cluster.locations == {"web": "h1"}


async def test_a_client_that_is_not_trusted_waits_to_be_let_in(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web")
    async with incus(fake, vm, tmp_path) as made:
        fake.auth = "untrusted"
        with pytest.raises(Unavailable, match=r"does not know our certificate.*lxc config trust add"):
            await made.hypervisor.open()


async def test_events_are_heard_again_after_a_restart_and_nonsense_among_them_is_ignored(tmp_path: Path) -> None:
    fake, vm = FakeLxd(), make_vm("web")
    fake.add("web")
    async with incus(fake, vm, tmp_path) as made:
        await made.state()
        made.told.clear()
        no_url = '{"metadata": {"action": "instance-started", "source": "http://[/web"}}'
        no_source = '{"metadata": {"action": "instance-started"}}'
        for text in ("", "[]", "{}", '{"metadata": 4}', no_source, no_url, "x" * 1000):
            await fake.listeners[0].send_str(text)
        await fake.listeners[0].close()
        await made.tells(lambda: fake.listeners and "" in made.told)
        made.told.clear()
        await fake.tell("instance-started", "web")
        await made.tells(lambda: made.told == [vm.uuid])


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"hello",
        b"[]",
        b'{"type":"sync","metadata":[',
        b'{"type":"sync","metadata":4}',
        b"\xff\xfe",
        b'{"type":"sync","metadata":[1,2]}',
        b'{"type":"async","operation":"http://elsewhere/","metadata":{}}',
        b"[" * 100_000,
    ],
)
async def test_a_server_that_answers_nonsense_is_silent_to_us_and_nothing_else(tmp_path: Path, nonsense: bytes) -> None:
    fake, vm = FakeLxd(), make_vm("web")
    fake.add("web")
    async with incus(fake, vm, tmp_path) as made:
        fake.says = nonsense
        many = [make_vm(f"v{n}") for n in range(20)]
        for vms in ([vm], many):
            try:
                guests = await made.hypervisor.guests(vms)
            except Unavailable:
                continue
            assert not [guest for guest in guests.values() if not guest.unseen]
        with pytest.raises(Unavailable):
            await made.hypervisor.start(vm)
        with pytest.raises(Unavailable):
            await made.hypervisor.stop(vm, StopMode.PAUSE)


async def test_a_server_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_LIMIT_S", 0.2)
    fake, vm = FakeLxd(), make_vm("web")
    async with incus(fake, vm, tmp_path) as made:
        fake.hangs = asyncio.Event()
        with pytest.raises(Unavailable, match=r"has not answered within 0\.2 s"):
            await made.hypervisor.guests([vm])


async def test_ten_thousand_instances_are_one_request_that_blocks_nobody_for_long(tmp_path: Path) -> None:
    fake = FakeLxd()
    vms = [make_vm(f"v{n}", f"127.1.{n >> 8}.{n & 255}") for n in range(10_000)]
    for vm in vms:
        fake.add(vm.name, status="Running")
    async with incus(fake, vms[0], tmp_path) as made:
        assert isinstance(made.hypervisor, Lxd)
        fake.requests.clear()
        began = time.monotonic()
        assert len(await made.hypervisor.guests(vms)) == 10_000
        print(f"a look at ten thousand took {time.monotonic() - began:.2f} s")
        assert fake.requests == ["GET /1.0/instances"]
