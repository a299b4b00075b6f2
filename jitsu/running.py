"""The commands on the suite itself: run it, see what it did, start and stop a VM by hand."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from jitsu import demo, legacy, show
from jitsu.cli import ConfigOption, DirectoryOption, JsonOption, Where, app, author, completing, with_link, written
from jitsu.printable import print_lines
from jitsu.up import LocalSuite
from jitsu_protocol.messages import (
    Done,
    ListVms,
    OperatorStop,
    StartDiscarding,
    Summon,
    Summoned,
    Timelines,
    Trace,
    VmList,
)
from jitsu_protocol.model.errors import BootFailed, SetupFault
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.vm_names import VmNames
from jitsu_runtime.logs import STANDARD_OUTPUT, configure_logging, stream_to
from jitsu_runtime.service import EXIT_SETUP
from jitsu_runtime.settings.load import SettingsFault

if TYPE_CHECKING:
    from jitsu.link import Link
    from jitsu_protocol.vm_names import NamedVm

LOOK_S = 0.1
"""How often it is looked whether a VM that is started is there."""
OPERATOR_TIMEOUT_S = 130.0
"""A start or stop by hand may last as long as the hypervisor's own limits."""


# --- up ------------------------------------------------------------------------------------------


def _original(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(None, *names, metavar=metavar, help=help, rich_help_panel="As in the original")


StringsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE,...]...", help="One VM each, as in the original: dns=www.example.org,ip=192.0.2.7,name=www."
    ),
]

LabelZonesOption = Annotated[
    str | None, typer.Option("--label-zones", metavar="ZONE,...", help="Below these, labels of machines may name VMs.")
]

WebOption = Annotated[
    str | None, typer.Option("--web", metavar="HOST:PORT", help="Also serve the web page and the API there.")
]


@app.command()
def up(
    config: StringsArgument = None,
    bind: str | None = _original("-b", "--bind", metavar="ADDR", help="Address the DNS server binds."),
    listen: str | None = _original("-l", "--listen", metavar="PORT", help="Port it listens on."),
    connection: str | None = _original("-c", "--connect", metavar="URI", help="Hypervisor's connection string."),
    backend: str | None = _original(
        "-x", "--backend", metavar="NAME", help="Hypervisor: libvirt (if -c is given), libxl, xapi, mock."
    ),
    delay: str | None = _original("-d", "--delay", metavar="TIME", help="Response delay after the VM has started."),
    forwarder: str | None = _original(
        "-f", "--forwarder", metavar="ADDR", help="Where names not held are forwarded; 0.0.0.0: nowhere."
    ),
    forwarder_port: str | None = _original("-p", "--port", metavar="PORT", help="Port of that forwarder."),
    mode: str | None = _original(
        "-m", "--mode", metavar="MODE", help="How an idle VM is stopped: destroy, shutdown, suspend, pause."
    ),
    ttl: str | None = _original(
        "-t", "--ttl", metavar="TIME", help="TTL of the answers (60, 1m); VMs stop after 2 x TTL without a query."
    ),
    persistdb: str | None = _original(
        "--persistdb", metavar="PATH", help="Where the state is kept, a Git repository; without it, in memory."
    ),
    synjitsu: str | None = _original("--synjitsu", metavar="UUID", help="Replaced by the use_synjitsu of each VM."),
    config_file: ConfigOption = None,
    runtime_dir: DirectoryOption = "",
    replicas: Annotated[str | None, typer.Option("--replicas", metavar="N", help="dns processes on the port.")] = None,
    label_zones: LabelZonesOption = None,
    web: WebOption = None,
) -> None:
    """Run the whole suite on this machine; with no arguments, a demonstration on the mock hypervisor."""
    Where.config = config_file or Where.config
    Where.runtime_dir = runtime_dir or Where.runtime_dir
    given = {
        "dns.bind": bind,
        "dns.port": listen,
        "dns.replicas": replicas,
        "dns.forward": forwarder,
        "dns.forward_port": forwarder_port,
        "hypervisor.connect": connection,
        "hypervisor.kind": backend or ("libvirt" if connection is not None else None),
        "defaults.response_delay": delay,
        "defaults.stop_mode": mode,
        "defaults.ttl": ttl,
        "store.path": persistdb,
        "hypervisor.label_zones": label_zones,
        "web.listen": web,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    demonstration = not config and Where.config is None and not persistdb and not label_zones
    try:
        place = demo.fast_place(_say) if demonstration else None
        texts = demo.texts(place) if demonstration else legacy.parse_strings(config or [])
        presets = demo.presets(place) if demonstration else {"dns.port": "5300"}
        suite = LocalSuite(written(flags, texts, presets), _say, strings=len(texts))
    except SettingsFault as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_SETUP)
    if synjitsu is not None:
        print("note: Synjitsu is a process of the suite here, not a VM; --synjitsu does nothing", file=sys.stderr)
    _run(suite)


def _run(suite: LocalSuite) -> NoReturn:
    configure_logging(suite.settings.log, "up")
    command = _own_name() + (f" --runtime-dir {Where.runtime_dir}" if Where.runtime_dir else "")
    try:
        sys.exit(asyncio.run(suite.run(lambda found: demo.next_steps(found, command))))
    except SetupFault as error:
        print(f"jitsu up: {error}", file=sys.stderr)
        sys.exit(EXIT_SETUP)


def _own_name() -> str:
    """Return what an operator types to run this tool."""
    called = Path(sys.argv[0])
    if called.name != "jitsu":
        return f"{sys.executable} -m jitsu.main"
    return "jitsu" if shutil.which("jitsu") else os.path.relpath(called)


def _say(line: str) -> None:
    """Print a line in one piece: the children write to the same terminal; and never wait: they need their parent."""
    output = stream_to(STANDARD_OUTPUT)
    output.write(line + "\n")
    output.flush()


# --- looking -------------------------------------------------------------------------------------


@app.command()
def trace(
    name: Annotated[str, typer.Argument(help="Only those of this VM: its name, UUID or a DNS name of it.")] = "",
    limit: Annotated[int, typer.Option("-n", metavar="NUMBER", min=1, max=1000, help="At most this many.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show the latest summons as timelines: where each millisecond went."""

    async def show_trace(link: Link) -> None:
        vm = await link.find_vm(name) if name else None
        request = Trace(vm=vm.uuid if vm else "", limit=limit)
        timelines = (await link.call("vmd", request, Timelines, host=vm.host if vm else "")).timelines
        if vm is None:
            for further in await link.from_further_hosts(request, Timelines):
                timelines += further.timelines
            timelines = sorted(timelines, key=lambda each: each.ts)[-limit:]
        if as_json:
            print(json.dumps([each.model_dump() for each in timelines], indent=2))
        else:
            print_lines(show.trace_lines(timelines) or ["no summons yet"])

    with_link(show_trace)


# --- by hand -------------------------------------------------------------------------------------


def complete_vm(incomplete: str) -> list[str]:
    """Return the names of VMs that begin so."""

    async def names(link: Link) -> list[str]:
        known = VmNames.in_leaves(await link.leaves(VM_ROOT))
        return sorted(vm.name for vm in known.vms if vm.name.startswith(incomplete))

    return completing(names)


VmArgument = Annotated[
    str, typer.Argument(help="The VM: its name, UUID or a DNS name of it.", autocompletion=complete_vm)
]


async def _until_it_is_there(link: Link, vm: NamedVm) -> None:
    """Wait for a guest that Synjitsu holds the address of; raises BootFailed if it does not come."""
    while True:
        listed = await link.call("vmd", ListVms(), VmList, OPERATOR_TIMEOUT_S, vm.host)
        status = next((each for each in listed.vms if each.uuid == vm.uuid), None)
        if status is None or status.state in (VmState.READY, VmState.DRAINING):
            return
        if status.state not in (VmState.STARTING, VmState.BOOTING):
            raise BootFailed(f"{vm.name}: {status.last_error or f'it is {status.state}'}")
        await asyncio.sleep(LOOK_S)


@app.command()
def start(
    name: VmArgument,
    discard_saved_state: Annotated[
        bool,
        typer.Option(
            "--discard-saved-state",
            help="Delete what was suspended or paused of it, and boot from its disk. That cannot be undone.",
        ),
    ] = False,
) -> None:
    """Start a VM by hand, whatever its back-off says."""

    async def summon(link: Link) -> None:
        vm = await link.find_vm(name)
        await start_vm(link, vm, discard=discard_saved_state)
        print(f"{vm.name} is ready")

    with_link(summon)


async def start_vm(link: Link, vm: NamedVm, *, discard: bool = False) -> None:
    """Start a VM as an operator, and return when it is ready; raises what keeps it from that."""
    by = author()
    request = StartDiscarding(vm=vm.uuid, by=by) if discard else Summon(vm=vm.uuid, trigger="operator", by=by)
    summoned = await link.call("vmd", request, Summoned, OPERATOR_TIMEOUT_S, vm.host)
    if summoned.armed:
        await _until_it_is_there(link, vm)


@app.command()
def stop(name: VmArgument) -> None:
    """Stop a VM now, whoever uses it; the next query starts it again."""

    async def stop_vm(link: Link) -> None:
        vm = await link.find_vm(name)
        await link.call("vmd", OperatorStop(vm=vm.uuid, by=author()), Done, OPERATOR_TIMEOUT_S, vm.host)
        print(f"{vm.name} is stopped")

    with_link(stop_vm)
