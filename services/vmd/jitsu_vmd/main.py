"""jitsu-vmd: settings -> wires -> run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.errors import Unavailable
from jitsu_protocol.follow import follow_vms, told
from jitsu_protocol.inventory import on_host
from jitsu_protocol.process import run
from jitsu_protocol.vm import STATS_ROOT
from jitsu_vmd.wires.server import VmDaemon

if TYPE_CHECKING:
    from jitsu_protocol.process import Process
    from jitsu_vmd.hypervisor import Hypervisor

RETRY_S = 1.0

log = structlog.get_logger("vmd")


def hypervisor_for(process: Process) -> Hypervisor:
    """Return the hypervisor that is configured; its library is loaded only here."""
    if process.settings.hypervisor.kind == "bridge":
        from jitsu_vmd.hypervisors.bridge import Bridge

        return Bridge(process)
    from jitsu_vmd.hypervisors.loopback import Loopback

    return Loopback(process)


async def start(process: Process) -> None:
    """Learn the VMs from the store and their states from the hypervisor, then serve."""
    hypervisor = hypervisor_for(process)
    feed = process.publish("vm")
    daemon = VmDaemon(process, hypervisor, feed)
    process.notes = daemon.notes
    await _open(hypervisor)
    store = process.client("store")
    daemon.restore(await told(store, STATS_ROOT))
    await follow_vms(
        process, store, lambda changes: daemon.configure(on_host(changes, process.host)), daemon.record_again
    )
    await daemon.reconcile()
    process.spawn(hypervisor.run(daemon.changed), "hypervisor")
    process.spawn(daemon.look_for_ever(), "reconcile")
    process.serve(daemon.handlers())
    process.ready()


async def _open(hypervisor: Hypervisor) -> None:
    while True:
        try:
            await hypervisor.open()
            return
        except Unavailable as error:
            log.warning("waiting for the hypervisor", hypervisor=hypervisor.name, reason=str(error))
            await asyncio.sleep(RETRY_S)


def main() -> None:
    """Run jitsu-vmd."""
    run("vmd", start)


if __name__ == "__main__":
    main()
