"""jitsu-dns: settings -> wires -> run."""

from __future__ import annotations

import gc
import json
import sys
from typing import TYPE_CHECKING

from jitsu_dns.wires import check
from jitsu_dns.wires.replica import Replica
from jitsu_dns.wires.workers import run_workers
from jitsu_runtime.service import configured, run_loop, run_with

if TYPE_CHECKING:
    from jitsu_runtime.world import World


async def start(process: World) -> None:
    """Bind the port, learn what there is to know, serve."""
    gc.disable()
    replica = Replica(process)
    process.on_stop = replica.stop
    process.on_reload = replica.take
    await replica.start()
    process.ready()
    process.spawn(_settle(replica), "settle")


async def _settle(replica: Replica) -> None:
    """Leave the table to itself once it is there.

    With 100,000 names it holds a million objects: to look through them, again and again while it grows and then now
    and then, takes longer than any query.
    """
    await replica.names.completed.wait()
    gc.freeze()
    gc.enable()
    replica.say_what_changed()


def main() -> None:
    """Run jitsu-dns."""
    settings = configured("dns")
    if "--check" in sys.argv[1:]:
        print(json.dumps({"faults": check.faults(settings.dns)}))
        return
    if settings.dns.workers > 1:
        sys.exit(run_loop(run_workers(settings)))
    run_with(settings, "dns", start)


if __name__ == "__main__":
    main()
