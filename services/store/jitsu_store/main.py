"""jitsu-store: settings -> wires -> run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.process import run
from jitsu_store.rules.tree import TOPICS
from jitsu_store.wires.git import GitRepository
from jitsu_store.wires.server import StoreServer

if TYPE_CHECKING:
    from jitsu_protocol.process import Process

log = structlog.get_logger("store")


async def start(process: Process) -> None:
    """Open the repository and serve it."""
    configured = process.settings.store.path
    path = Path(configured or tempfile.mkdtemp(prefix="jitsu-store-"))
    server = StoreServer(GitRepository(path), process.publish(*TOPICS), process.metrics)
    log.debug("store open", path=str(path))

    async def stopping() -> None:
        server.flush()
        if not configured:
            shutil.rmtree(path, ignore_errors=True)

    process.stopping = stopping
    process.notes = lambda: [f"repository {path}{'' if configured else ', gone when this process stops'}"]
    process.serve(server.handlers())
    process.spawn(server.run(), "flush")
    process.ready()


def main() -> None:
    """Run jitsu-store."""
    run("store", start)


if __name__ == "__main__":
    main()
