"""jitsu-store: settings -> wires -> run."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import DamagedStore, Refused, Unavailable
from jitsu_runtime.service import run
from jitsu_store.wires.git import GitRepository, prepare
from jitsu_store.wires.server import FEEDS, StoreServer
from jitsu_store.wires.upkeep import Upkeep

if TYPE_CHECKING:
    from jitsu_runtime.world import World

log = structlog.get_logger("store")


async def start(process: World) -> None:
    """Open the repository and serve it."""
    configured = process.settings.store.path
    path = Path(configured or tempfile.mkdtemp(prefix="jitsu-store-"))
    durable = bool(configured)
    lock = prepare(path, durable=durable)
    upkeep = Upkeep(path, lambda: server.packed())
    try:
        server = StoreServer(
            GitRepository(path, durable=durable),
            process.publish(*FEEDS),
            process.metrics,
            upkeep.committed,
            process.settings.store.statistics_interval,
        )
    except (Unavailable, Refused) as error:
        raise DamagedStore(error.message, hint=error.hint) from None
    upkeep.started(server.missing)
    log.debug("store open", path=str(path))

    async def stopping() -> None:
        await server.keeper.stop()
        server.close()
        os.close(lock)
        if not configured:
            shutil.rmtree(path, ignore_errors=True)

    process.on_stop = stopping
    process.notes = lambda: [
        f"repository {path}{'' if configured else ', deleted when this process stops'}",
        *server.notes(),
        *upkeep.notes(),
    ]
    process.spawn(server.commit_for_ever(), "commit")
    process.spawn(server.keeper.run(), "statistics")
    process.spawn(server.delete_old_scratch_for_ever(), "scratch branches")
    process.spawn(upkeep.run(), "upkeep")
    process.serve(server.handlers())
    process.ready()


def main() -> None:
    """Run jitsu-store."""
    run("store", start)


if __name__ == "__main__":
    main()
