"""What `make bench-engines` needs of Docker: containers on the Lan's bridge."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from tests.support.dockerd import IMAGE, NETWORK, running_engine
from tests.support.engine_bench import MACHINES, BenchMachine, EngineBench, address_of, mac_of
from tests.support.lan import BRIDGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.dockerd import ContainerEngine
    from tests.support.lan import Lan

LAN_SUBNET, LAN_GATEWAY = "10.77.0.0/24", "10.77.0.1"


@contextmanager
def bench_engine(lan: Lan, _: Path) -> Iterator[EngineBench]:
    """Yield containers on the Lan's bridge."""
    with running_engine("docker", lan=lan, network=(BRIDGE, LAN_SUBNET, LAN_GATEWAY)) as engine:
        yield containers(engine)


def containers(engine: ContainerEngine) -> EngineBench:
    """Make the containers of a row."""
    machines = []
    for number in range(MACHINES):
        name = f"m{number}"
        _make(engine, name, number)
        start, stop = partial(engine.start_behind_our_back, name), partial(engine.stop_behind_our_back, name)
        machines.append(BenchMachine(name, address_of(number), f'mac = "{mac_of(number)}"', start, stop))
    return EngineBench(f'[hypervisor]\nkind = "docker"\nconnect = "{engine.uri}"\n', machines)


def _make(engine: ContainerEngine, name: str, number: int) -> None:
    with engine.client() as client:
        # Docker takes the MAC address of the container, and Podman that of the endpoint.
        place = client.create_endpoint_config(ipv4_address=address_of(number), mac_address=mac_of(number))
        client.create_container(
            IMAGE,
            name=name,
            mac_address=mac_of(number),
            host_config=client.create_host_config(network_mode=NETWORK),
            networking_config=client.create_networking_config({NETWORK: place}),
        )
