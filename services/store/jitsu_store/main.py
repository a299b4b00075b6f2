"""jitsu-store: settings -> wires -> run.

`start` touches the outside through two things that it is given. One is the world: the clock, the bus, the settings.
The other is a `Storage` (wires/storage.py): the repository, the files beside it, the process that repacks, the threads
for blocking work. `open_storage` makes it; the real one opens the directory that `store.path` names. A test puts a fake
in by giving its own function, which gets the world and returns a storage:

    disk = MemoryDisk()                                        # tests/support/store_memory.py; it outlives the store
    await start(world, lambda world: MemoryStorage(disk))      # and once more after a kill
"""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import DamagedStore, Refused, Unavailable
from jitsu_runtime.service import run
from jitsu_store.wires.disk import open_storage as open_disk
from jitsu_store.wires.feeds import FEEDS
from jitsu_store.wires.server import StoreServer
from jitsu_store.wires.tokens import TokenKeeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.world import World
    from jitsu_store.wires.storage import Storage

log = structlog.get_logger("store")


async def start(world: World, open_storage: Callable[[World], Storage] = open_disk) -> None:
    """Open the repository and serve it."""
    storage = open_storage(world)
    repacker = storage.repacker(lambda: server.repacked())
    try:
        feed = world.publish(*FEEDS)
        server = StoreServer(world, storage, feed, repacker.committed)
        tokens = TokenKeeper(storage, feed, world.clock)
    except (Unavailable, Refused) as error:
        raise DamagedStore(error.message, hint=error.hint) from None
    repacker.started(server.missing)
    log.debug("store open", path=storage.name)

    async def stopping() -> None:
        await server.keeper.stop()
        server.close()
        tokens.close()
        storage.close()

    world.on_stop = stopping
    world.notes = lambda: [
        f"repository {storage.name}{', deleted when this process stops' if storage.is_temporary else ''}",
        *server.notes(),
        *filter(None, [tokens.fault]),
        *repacker.notes(),
    ]
    world.spawn(server.commit_for_ever(), "commit")
    world.spawn(server.keeper.run(), "statistics")
    world.spawn(server.delete_old_scratch_for_ever(), "scratch branches")
    world.spawn(repacker.run(), "repacker")
    world.serve({**server.handlers(), **tokens.handlers()})
    world.ready()


def main() -> None:
    """Run jitsu-store."""
    run("store", start)


if __name__ == "__main__":
    main()
