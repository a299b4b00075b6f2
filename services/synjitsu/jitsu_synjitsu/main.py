"""jitsu-synjitsu: settings -> wires -> run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.errors import SetupFault
from jitsu_protocol.process import run
from jitsu_synjitsu.wires.server import SynjitsuServer

if TYPE_CHECKING:
    from jitsu_protocol.process import Process

log = structlog.get_logger("synjitsu")


async def start(process: Process) -> None:
    """Serve; raw sockets on bridges are not built yet."""
    bridges = process.settings.synjitsu.bridges
    if bridges:
        raise SetupFault(
            f"cannot listen on {', '.join(bridges)}: this version of Synjitsu has no raw sockets",
            hint="leave synjitsu.bridges empty; boots are masked by delay",
        )
    server = SynjitsuServer(process, None)
    process.notes = server.notes
    process.serve(server.handlers())
    log.info("no bridge: first packets to booting VMs are not kept, boots are masked by delay only")
    process.ready()


def main() -> None:
    """Run jitsu-synjitsu."""
    run("synjitsu", start)


if __name__ == "__main__":
    main()
