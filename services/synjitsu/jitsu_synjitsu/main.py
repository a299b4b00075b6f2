"""jitsu-synjitsu: settings -> wires -> run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.process import run
from jitsu_synjitsu.wires.server import SynjitsuServer

if TYPE_CHECKING:
    from jitsu_protocol.process import Process


async def start(process: Process) -> None:
    """Attach to the bridges, serve."""
    server = SynjitsuServer(process)
    process.notes = server.notes
    await server.start()
    process.ready()


def main() -> None:
    """Run jitsu-synjitsu."""
    run("synjitsu", start)


if __name__ == "__main__":
    main()
