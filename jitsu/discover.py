"""`jitsu discover`: the machines that hypervisors have and nobody has configured; `jitsu add`: make a VM of one.

jitsu                          vmd (of each host)                         hypervisors
  |-- Discover -------------------->|-- what do you have? ------------------->|  all at the same time
  |<-- Discoveries -----------------|<- machines, or nothing within 5 s ------|
  |   add only: the keys of the VM  |
  |-- Check ----------------------->|  keys that were found and that its hypervisor has no use for are left out
  |   as for any change: summary, agreement, commit
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.apply import check, commit, mistakes_of
from jitsu.cli import DryRunOption, ForceOption, JsonOption, YesOption, app, author, completing, settings, with_link
from jitsu.consent import agreed, summary_of
from jitsu.machines import AskedKeys, FoundMachines, VmDraft, as_json, chosen, draft, machine_lines
from jitsu.printable import print_lines, printable
from jitsu_protocol.changes import changes_for, expectations
from jitsu_protocol.messages import Discover, Discoveries
from jitsu_protocol.model.errors import JitsuError, Unavailable, UnknownKind
from jitsu_protocol.model.export import keys_of
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_runtime.service import EXIT_FAILED

if TYPE_CHECKING:
    from jitsu.link import Link
    from jitsu_protocol.messages import DiscoveredMachine
    from jitsu_protocol.model.vm import VM

DISCOVER_TIMEOUT_S = 10.0
MAX_DROPPED = 4
"""Keys that a hypervisor may have no use for."""


async def found_by(link: Link) -> FoundMachines:
    """Ask the vmds of all hosts for the machines of their hypervisors; raises Unavailable if none answers."""
    hosts = list(link.hosts)
    answers = await asyncio.gather(*(_ask(link, host) for host in hosts))
    heard = {host: each for host, each in zip(hosts, answers, strict=True) if isinstance(each, Discoveries)}
    silent = {host: str(each) for host, each in zip(hosts, answers, strict=True) if isinstance(each, JitsuError)}
    if not heard:
        raise next(each for each in answers if isinstance(each, JitsuError))
    return FoundMachines.of(heard, silent)


async def _ask(link: Link, host: str) -> Discoveries | JitsuError:
    try:
        return await link.call("vmd", Discover(), Discoveries, DISCOVER_TIMEOUT_S, host)
    except UnknownKind:
        return Unavailable("this vmd is of a version that cannot list machines", hint="bring it up to date")
    except JitsuError as error:
        return error


@app.command()
def discover(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those that are configured.")] = False,
    json_wanted: JsonOption = False,
) -> None:
    """List the machines that hypervisors have and for which no VM is configured; `jitsu add NAME` makes one a VM.

    Addresses are those that the hypervisor knows: fixed ones, leases, what a guest's agent reports. The exit status is
    1 if a hypervisor does not answer.
    """

    async def work(link: Link) -> int:
        found = await found_by(link)
        if json_wanted:
            print(json.dumps(as_json(found, everything=everything), indent=2))
        else:
            print_lines(machine_lines(found, everything=everything))
            print_lines([f"note: {line}" for line in found.cannot_list()], sys.stderr)
        print_lines([f"jitsu: {line}" for line in found.troubles()], sys.stderr)
        return 0 if found.is_complete else EXIT_FAILED

    with_link(work)


def complete_machine(incomplete: str) -> list[str]:
    """Return the machines without a VM whose names begin so."""

    async def names(link: Link) -> list[str]:
        found = await found_by(link)
        return sorted(each.name for _, each in found.machines if not each.vm and each.name.startswith(incomplete))

    return completing(names)


@app.command()
def add(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MACHINE", help="Its name at its hypervisor, or its uuid.", autocompletion=complete_machine
        ),
    ],
    dns: Annotated[
        list[str] | None, typer.Option("--dns", metavar="NAME", help="Its DNS name; MACHINE.ZONE if not given.")
    ] = None,
    ip: Annotated[
        list[str] | None, typer.Option("--ip", metavar="ADDRESS", help="Its address, if its hypervisor knows none.")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="TTL of the answers: 30, 5m.")] = "",
    hypervisor: Annotated[
        str | None, typer.Option("--hypervisor", metavar="NAME", help="The connection that has it.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="The host whose vmd has it.")] = None,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    yes: YesOption = False,
    json_wanted: JsonOption = False,
) -> None:
    """Make a VM of a machine that a hypervisor has, and print its section for jitsu.toml.

    What is not given comes from its labels and from its hypervisor. `jitsu set` changes it afterwards.
    """
    wanted = AskedKeys(dns or (), ip or (), ttl)

    async def work(link: Link) -> int:
        found = await found_by(link)
        where, machine = chosen(found, name, hypervisor, host)
        leaves = await link.leaves(VM_ROOT)
        known = settings()
        twins = [each.name for _, each in found.machines if each is not machine]
        drafted = draft(found, where, machine, wanted, known.dns.zones or found.zones, twins)
        vm = await _accepted(link, drafted, known.defaults.as_texts())
        changes = changes_for([vm], leaves)
        await check(link, changes, leaves, force=force)
        out = sys.stderr if json_wanted else sys.stdout
        if not json_wanted:
            from jitsu.toml_text import toml

            print(toml([vm]), flush=True)
        print_lines([f"note: {line}" for line in (*drafted.notes, *_of_running(machine, vm))], sys.stderr)
        summary = await summary_of(link, leaves, changes, "master")
        if not await agreed(summary, "master", yes=yes or dry_run, out=out):
            return EXIT_FAILED
        applied = None
        if not dry_run:
            applied = await commit(link, changes, f"Add {printable(vm.name)}", author(), expect=expectations(changes))
        if json_wanted:
            done = {} if applied is None else applied.model_dump()
            print(json.dumps({**done, "vm": {vm.name: keys_of(vm)}, "summary": asdict(summary)}, indent=2))
        elif applied is not None:
            print(f"{applied.commit[:10]} {vm.name} is added; if you keep a jitsu.toml, write this section into it")
        return 0

    with_link(work)


def _of_running(machine: DiscoveredMachine, vm: VM) -> list[str]:
    """Return what somebody should know who adds a machine that runs."""
    return [f"it runs; it is stopped when it has been idle for {vm.idle_timeout:g} s"] if machine.is_running else []


async def _accepted(link: Link, drafted: VmDraft, defaults: dict[str, str]) -> VM:
    """Return the VM without the keys that were found and that its hypervisor has no use for; raises BadRequest."""
    for _ in range(MAX_DROPPED):
        vm = drafted.vm(defaults)
        refusals = await mistakes_of(link, [vm])
        useless = [key for key in drafted.doubtful if any(f": {key}: " in each for each in refusals)]
        if not useless:
            return vm
        drafted = drafted.without(useless[0])
    return drafted.vm(defaults)
