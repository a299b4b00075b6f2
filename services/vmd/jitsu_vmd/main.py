"""jitsu-vmd: settings -> wires -> run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.inventory import on_host
from jitsu_protocol.model.vm import STATS_ROOT
from jitsu_runtime.bus.follow import follow_vms, told
from jitsu_runtime.service import EXIT_SETUP, RealWorld, configured, run, run_loop
from jitsu_runtime.settings.load import SettingsFault, load, service_parser
from jitsu_vmd.wires.check import looked_at
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.learn import check
from jitsu_vmd.wires.server import VmDaemon

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import World
    from jitsu_vmd.hypervisor import Hypervisor


def hypervisors_for(process: World) -> dict[str, Hypervisor]:
    """Return the hypervisors that are configured, by name."""
    settings = process.settings.hypervisor
    backends = {"": _hypervisor(process, settings.kind, settings.connect)}
    for text in settings.connections:
        name, kind, *uri = text.split()
        backends[name] = _hypervisor(process, kind, uri[0] if uri else "")
    return backends


def _hypervisor(process: World, kind: str, uri: str) -> Hypervisor:
    """Return one hypervisor; its library is loaded only here."""
    match kind:
        case "libvirt":
            from jitsu_vmd.hypervisors.libvirt import Libvirt

            return Libvirt(process, uri)
        case "libxl":
            from jitsu_vmd.hypervisors.libxl import Libxl

            return Libxl(process)
        case "solo5":
            from jitsu_vmd.hypervisors.solo5.backend import Solo5

            return Solo5(process, uri)
        case "xapi":
            from jitsu_vmd.hypervisors.xapi import Xapi

            return Xapi(process, uri)
        case "bridge":
            from jitsu_vmd.hypervisors.bridge import Bridge

            return Bridge(process)
        case _:
            from jitsu_vmd.hypervisors.loopback import Loopback

            return Loopback(process)


async def start(process: World) -> None:
    """Serve at once, and learn the VMs from the store and their states from the hypervisors.

    With ten thousand VMs that takes seconds. Whoever summons a VM in that time does not wait for the others: it is
    learnt of by itself (VmDaemon.summon).
    """
    hypervisors = Hypervisors(hypervisors_for(process), process.spawn)
    daemon = VmDaemon(process, hypervisors, process.publish("vm"))
    process.notes = daemon.notes
    process.on_reload = daemon.take
    process.on_stop = hypervisors.settle
    await hypervisors.open()
    process.serve(daemon.handlers())
    process.spawn(daemon.looks.go_on(), "reconcile")
    store = process.client("store")
    daemon.holds.follow(process)
    statistics = daemon.statistics
    statistics.restore(await told(store, STATS_ROOT))
    await daemon.holds.known.wait()  # before VMs are known that must not be started
    await follow_vms(
        process,
        store,
        lambda changes: daemon.configure(on_host(changes, process.host)),
        statistics.record_again,
        check=partial(check, process.host),
    )
    daemon.adopt_forgotten()
    await daemon.looks.at_all()
    daemon.complete()
    hypervisors.run(daemon.looks.changed)
    process.ready()


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
    try:
        async with asyncio.TaskGroup() as group:
            process = RealWorld("vmd", settings.model_copy(update={"hypervisor": own}), group)
            try:
                kinds = {"": own.kind, **{text.split()[0]: text.split()[1] for text in own.connections}}
                found = await looked_at(hypervisors_for(process), kinds, vms)
            finally:
                process.close()
            raise _Looked
    except* _Looked:
        pass
    return found


class _Looked(Exception):
    """All is known; tasks of hypervisors that were opened end."""


if __name__ == "__main__":
    main()
