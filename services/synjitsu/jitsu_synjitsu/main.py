"""jitsu-synjitsu: settings -> wires -> run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_runtime.service import run
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.memory import Memory
from jitsu_synjitsu.wires.reports import Reports
from jitsu_synjitsu.wires.server import SynjitsuServer

if TYPE_CHECKING:
    from jitsu_runtime.world import World


async def start(process: World) -> None:
    """Attach to the bridges, serve, follow the VMs."""
    server = SynjitsuServer(process)
    process.notes = server.notes
    await server.start()
    memory = Memory(process.settings.bus.directory / "synjitsu.connections")
    follower = Follower(process, server, memory)
    reports = Reports(process, server, follower, memory)
    if not server.bridges.is_off:
        process.spawn(follower.run(), "follower")
    tells = not server.bridges.is_off and process.settings.synjitsu.watch_activity
    process.spawn(reports.run() if tells else reports.leave(), "reports")
    process.ready()


def main() -> None:
    """Run jitsu-synjitsu."""
    run("synjitsu", start)


if __name__ == "__main__":
    main()
