"""jitsu-reaper: settings -> wires -> run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.process import run
from jitsu_reaper.wires.server import ReaperServer

if TYPE_CHECKING:
    from jitsu_protocol.process import Process


async def start(process: Process) -> None:
    """Learn what is known, then decide."""
    server = ReaperServer(process)
    process.notes = server.notes
    process.stopping = server.stop
    process.take = server.take
    await server.start()
    process.ready()


def main() -> None:
    """Run jitsu-reaper."""
    run("reaper", start)


if __name__ == "__main__":
    main()
