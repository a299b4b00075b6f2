"""jitsu-dns: settings -> wires -> run."""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

import asyncio
import gc
import json
import signal
import sys
from typing import TYPE_CHECKING

from jitsu_dns.wires import check
from jitsu_dns.wires.network import RealSockets
from jitsu_dns.wires.replica import Replica
from jitsu_dns.wires.workers import run_workers
from jitsu_runtime.service import configured, run_loop, run_with

if TYPE_CHECKING:
    from jitsu_dns.wires.sockets import Sockets
    from jitsu_runtime.world import World


async def start(world: World, sockets: Sockets | None = None) -> Replica:
    """Bind the port, learn what there is to know, serve. Without `sockets` they are this host's."""
    replica = Replica(world, sockets or RealSockets(world))
    await _serve(world, replica)
    return replica


async def _serve(world: World, replica: Replica) -> None:
    world.on_stop = replica.stop
    world.on_reload = replica.reload
    await replica.start()
    world.ready()


async def _start_process(world: World) -> None:
    """Start, and arrange what concerns the whole process: its memory and its signals."""
    gc.disable()
    replica = Replica(world, RealSockets(world))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, replica.switch_query_log)
    await _serve(world, replica)
    world.spawn(_settle(replica), "settle")


async def _settle(replica: Replica) -> None:
    """Exempt the table from garbage collection once it is complete.

    With 100,000 names it has a million objects. Looking through them while it grows, and then now and then, would take
    longer than any query.
    """
    await replica.names.completed.wait()
    gc.freeze()
    gc.enable()
    replica.log_what_changed()


def main() -> None:
    """Run jitsu-dns."""
    settings = configured("dns")
    if "--check" in sys.argv[1:]:
        print(json.dumps({"faults": check.faults(settings.dns)}))
        return
    if settings.dns.workers > 1:
        sys.exit(run_loop(run_workers(settings)))
    run_with(settings, "dns", _start_process)


if __name__ == "__main__":
    main()
