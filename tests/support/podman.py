"""What `make bench-engines` needs of Podman: containers on the Lan's bridge."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.docker import LAN_GATEWAY, LAN_SUBNET, containers
from tests.support.dockerd import running_engine
from tests.support.lan import BRIDGE, ip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.engine_bench import EngineBench
    from tests.support.lan import Lan


@contextmanager
def bench_engine(lan: Lan, _: Path) -> Iterator[EngineBench]:
    """Yield containers on the Lan's bridge."""
    address = f"{LAN_GATEWAY}/{LAN_SUBNET.partition('/')[2]}"
    ip("-n", lan.host, "address", "delete", address, "dev", BRIDGE)  # a network that the host has is not made again
    with running_engine("docker podman", lan=lan, network=(BRIDGE, LAN_SUBNET, LAN_GATEWAY)) as engine:
        ip("-n", lan.host, "address", "replace", address, "dev", BRIDGE)
        yield containers(engine)
