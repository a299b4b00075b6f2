"""jitsu-reaper: settings -> wires -> run."""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

from typing import TYPE_CHECKING

from jitsu_reaper.wires.server import ReaperServer
from jitsu_runtime.service import run

if TYPE_CHECKING:
    from jitsu_runtime.world import World


async def start(world: World) -> None:
    """Learn what is known, then decide."""
    server = ReaperServer(world)
    world.notes = server.notes
    world.on_stop = server.stop
    world.on_reload = server.reload
    await server.start()
    world.ready()


def main() -> None:
    """Run jitsu-reaper."""
    run("reaper", start)


if __name__ == "__main__":
    main()
