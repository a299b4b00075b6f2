"""jitsu-synjitsu: settings -> wires -> run."""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

from typing import TYPE_CHECKING

from jitsu_runtime.service import run
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.kernel import KERNEL_LAN
from jitsu_synjitsu.wires.reports import Reports
from jitsu_synjitsu.wires.server import SynjitsuServer
from jitsu_synjitsu.wires.status import SynjitsuStatus

if TYPE_CHECKING:
    from jitsu_runtime.world import World
    from jitsu_synjitsu.wires.lan import Lan


async def start(world: World, lan: Lan = KERNEL_LAN) -> None:
    """Attach to the bridges, serve, follow the VMs. A simulation gives bridges of its own (wires/lan.py)."""
    server = SynjitsuServer(world, lan)
    status = SynjitsuStatus(server, lan)
    world.notes = status.notes
    status.publish(world.metrics)
    await server.start()
    follower = Follower(world, server.bridges, server.watcher)
    reports = Reports(world, server.bridges, follower, server.watcher, server.askers)
    if not server.bridges.is_off:
        world.spawn(follower.run(), "follower")
    watches = not server.bridges.is_off and world.settings.synjitsu.watch_activity
    world.spawn(reports.run() if watches else reports.leave(), "reports")
    world.ready()


def main() -> None:
    """Run jitsu-synjitsu."""
    run("synjitsu", start)


if __name__ == "__main__":
    main()
