"""Containers of a real engine: those that others made, what is found of them, and those that are made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed, NotFound
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Discovers
from jitsu_vmd.rules.events import GuestState
from tests.support.dockerd import BRIDGE, IMAGE, NETWORK, PREFIX
from tests.support.hypervisors import NEEDS, running, vm_of
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.dockerd import ContainerEngine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
OTHERS = "jitsu-others"


@pytest.fixture(params=["docker", "docker podman"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(kind: str, request: pytest.FixtureRequest) -> ContainerEngine:
    made: ContainerEngine = request.getfixturevalue(NEEDS[kind])
    return made


def make_container(engine: ContainerEngine, name: str, number: int) -> None:
    """Make a container as its owner does."""
    with engine.client() as client:
        place = client.create_endpoint_config(ipv4_address=f"{PREFIX}.{number}")
        client.create_container(
            IMAGE,
            name=name,
            labels={"jitsu.dns": "others.jitsu.test", "else": "x"},
            host_config=client.create_host_config(network_mode=NETWORK),
            networking_config=client.create_networking_config({NETWORK: place}),
        )


async def test_a_container_that_others_made_is_found_used_and_left_alone(
    kind: str, engine: ContainerEngine, tmp_path: Path
) -> None:
    make_container(engine, OTHERS, 40)
    async with running(kind, tmp_path) as made:
        assert isinstance(made.hypervisor, Discovers)
        (found,) = [each for each in await made.hypervisor.discover() if each.name == OTHERS]
        assert found.keys == {"dns": "others.jitsu.test"}
        assert [nic.bridge for nic in found.nics] == [BRIDGE]
        # Podman's list has the address of a container only while it runs.
        assert found.addresses == ((f"{PREFIX}.40",) if kind == "docker" else ())
        vm = make_vm("others", f"{PREFIX}.40", container=OTHERS)
        examined = await made.hypervisor.examine([vm])
        assert examined[vm.uuid].mistake == ""
        await made.hypervisor.start(vm)
        guest = (await made.hypervisor.guests([vm]))[vm.uuid]
        assert (guest.state, guest.nics[0].bridge) == (GuestState.RUNNING, BRIDGE)
        await made.hypervisor.stop(vm, StopMode.DESTROY)
        await made.hypervisor.forget(vm)
        assert (await made.hypervisor.guests([vm]))[vm.uuid].state is GuestState.OFF, "it is not ours to remove"
        with pytest.raises(BootFailed, match="was not made for this VM"):
            await made.hypervisor.start(vm_of(kind, name=OTHERS, ip=f"{PREFIX}.40"))


async def test_no_container_is_taken_for_a_vm_because_its_id_begins_like_the_vms_name(
    kind: str, engine: ContainerEngine, tmp_path: Path
) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        with engine.client() as client:
            container = client.inspect_container(made.vm.name)["Id"]
        stranger = make_vm(container[:8], f"{PREFIX}.41")
        with pytest.raises(NotFound, match="has no container"):
            await made.hypervisor.start(stranger)
        await made.hypervisor.stop(stranger, StopMode.DESTROY)
        assert await made.state() is GuestState.RUNNING


async def test_a_container_has_the_mac_address_of_its_vm_at_each_start(
    kind: str, engine: ContainerEngine, tmp_path: Path
) -> None:
    """A client that has talked to it before knows it by that address, and would wait half a minute for another."""
    async with running(kind, tmp_path) as made:
        for _ in range(2):
            await made.hypervisor.start(made.vm)
            with engine.client() as client:
                place = client.inspect_container(made.vm.name)["NetworkSettings"]["Networks"][NETWORK]
            assert place["MacAddress"] == made.vm.mac
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)


async def test_a_container_is_made_again_when_its_keys_change(
    kind: str, engine: ContainerEngine, tmp_path: Path
) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        await made.hypervisor.start(vm_of(kind, memory="131072"))
        with engine.client() as client:
            assert client.inspect_container(made.vm.name)["HostConfig"]["Memory"] == 128 << 20


async def test_an_image_that_is_not_there_is_a_mistake_and_a_failed_boot(
    kind: str, engine: ContainerEngine, tmp_path: Path
) -> None:
    async with running(kind, tmp_path) as made:
        vm = vm_of(kind, name="jitsu-missing", image="localhost/missing", ip=f"{PREFIX}.42")
        examined = await made.hypervisor.examine([vm])
        assert examined[vm.uuid].mistake == (
            "image: the engine has no image localhost/missing; `docker pull localhost/missing` fetches it"
        )
        with pytest.raises(BootFailed, match="docker pull localhost/missing"):
            await made.hypervisor.start(vm)
