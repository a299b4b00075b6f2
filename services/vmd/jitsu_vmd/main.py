"""jitsu-vmd: settings -> wires -> run."""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Discover
from jitsu_protocol.model.inventory import on_host
from jitsu_protocol.model.vm import STATS_ROOT
from jitsu_runtime.bus.follow import fetch_leaves, follow_vms
from jitsu_runtime.service import EXIT_SETUP, RealWorld, configured, run, run_loop
from jitsu_runtime.settings.command_line import service_parser
from jitsu_runtime.settings.load import SettingsFault, load
from jitsu_runtime.tasks import EndableGroup
from jitsu_vmd.hypervisor import OTHERS
from jitsu_vmd.hypervisors import make
from jitsu_vmd.wires.check import looked_at
from jitsu_vmd.wires.discovery import Discovery
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.labels import Labels
from jitsu_vmd.wires.learn import check
from jitsu_vmd.wires.server import VmDaemon

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Hypervisor


def hypervisors_for(world: World) -> dict[str, Hypervisor]:
    """Return the hypervisors that are configured, by the name of their connection."""
    return {each.name: make(world, each) for each in world.settings.hypervisor.all_connections}


async def start(world: World, backends: Mapping[str, Hypervisor] | None = None) -> None:
    """Serve at once, and learn the VMs from the store and their states from the hypervisors.

    Without `backends` the hypervisors are those that are configured.

    With ten thousand VMs that takes seconds. Whoever summons a VM in that time does not wait for the others: it is
    learnt of by itself (VmDaemon.summon).
    """
    backends = hypervisors_for(world) if backends is None else backends
    hypervisors = Hypervisors(backends, world.spawn, world.clock)
    kinds = {each.name: each.kind for each in world.settings.hypervisor.all_connections}
    discovery = Discovery(backends, kinds, zones=world.settings.dns.zones)
    daemon = VmDaemon(world, hypervisors, world.publish("vm"))

    def known() -> dict[str, VM]:
        return {uuid: machine.vm for uuid, machine in daemon.fleet.machines.items()}

    labels = Labels(world, discovery, known)

    def configured(changes: Sequence[VmChanged]) -> None:
        daemon.configure(on_host(changes, world.host))
        labels.configured(changes)

    def changed(vm: str) -> None:
        if vm != OTHERS:
            daemon.hint(vm)
        labels.hint()

    world.notes = lambda: daemon.notes() + labels.notes()
    world.on_reload = daemon.reload

    async def settle() -> None:
        await hypervisors.settle()
        await daemon.outside.statistics.settle()

    world.on_stop = settle
    await hypervisors.open()
    world.serve(daemon.handlers() | {Discover: lambda _: discovery.everything(known().values())})
    world.spawn(daemon.looks.go_on(), "reconcile")
    store = world.client("store")
    daemon.orders.holds.follow(world)
    statistics = daemon.outside.statistics
    statistics.restore(await fetch_leaves(world, store, STATS_ROOT))
    await daemon.orders.holds.known.wait()  # before VMs are known that must not be started
    await follow_vms(
        world,
        store,
        configured,
        statistics.record_again,
        check=partial(check, world.host),
    )
    daemon.adopt_forgotten()
    await daemon.looks.at_all()
    daemon.complete()
    hypervisors.run(changed)
    labels.start()
    world.ready()


def main() -> None:
    """Run jitsu-vmd."""
    if "--check" in sys.argv[1:]:
        settings = configured("vmd")
        print(json.dumps(run_loop(_check(settings, _vms_of_the_file(settings)))))
        return
    run("vmd", start)


def _vms_of_the_file(settings: Settings) -> list[VM]:
    """Return the VMs of the file that --config names which run on this vmd's host; exits if it is wrong."""
    file = vars(service_parser("vmd").parse_args()).get("config") or os.environ.get("JITSU_CONFIG")
    try:
        vms = load(Path(file) if file else None, os.environ, {}).vms
    except SettingsFault as fault:
        print(fault, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    return [vm for vm in vms if vm.host == settings.hypervisor.host]


async def _check(settings: Settings, vms: list[VM]) -> dict[str, Any]:
    own = settings.hypervisor.model_copy(update={"accelerate": "tcg"})  # nothing is run to see whether KVM works
    found: dict[str, Any] = {}
    async with EndableGroup() as group:
        world = RealWorld("vmd", settings.model_copy(update={"hypervisor": own}), group)
        try:
            kinds = {each.name: each.kind for each in own.all_connections}
            found = await looked_at(hypervisors_for(world), kinds, vms)
        finally:
            world.close()
        group.end()  # the tasks of hypervisors that were opened
    return found


if __name__ == "__main__":
    main()
