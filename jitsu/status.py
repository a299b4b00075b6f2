"""`jitsu status`: each VM, and whether each service answers; and `jitsu dig`, which asks the dns replicas."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from jitsu.cli import JsonOption, app, with_link
from jitsu.dig import (
    ReplicaReport,
    ask_replicas,
    checked_question,
    dig_lines,
    is_on_all_addresses,
    replicas_at,
    who_answers,
)
from jitsu.link import OWNERS
from jitsu.one_vm import describe
from jitsu.printable import print_lines, printable
from jitsu.running import complete_vm
from jitsu.selection import COLUMNS, Selection, words_in
from jitsu.status_lines import service_lines, status_lines
from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_protocol.model.vm import REPLICA_ROOT, STATS_ROOT, VM_ROOT
from jitsu_protocol.rows import UNKNOWN, status_rows
from jitsu_protocol.vm_names import VmNames
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.service import EXIT_FAILED
from jitsu_runtime.settings.help import wants_color

if TYPE_CHECKING:
    from jitsu.link import Link
    from jitsu_protocol.messages import Pong

WATCH_S = 1.0
DNS_TIMEOUT_S = 0.7
"""A replica answers with its name at once, because it asks nobody for that."""
OPTIONAL = "synjitsu"
"""A machine without bridges does not need them."""


@dataclass
class Overview:
    """Everything that `jitsu status` shows."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    services: dict[str, Pong | None] = field(default_factory=dict)
    not_started: list[str] = field(default_factory=list)
    """Services that are absent and may be."""
    dns: list[str] = field(default_factory=list)
    """A line for each place where dns serves."""
    dns_answers: bool = False
    trouble: JitsuError | None = None
    """Why the store has not reported which VMs there are."""
    columns: tuple[str, ...] = ()
    """Those of the table; empty: all that have something to show."""
    is_part: bool = False
    """Not all VMs are wanted."""

    @property
    def is_well(self) -> bool:
        """Whether all that should run answers."""
        silent = [name for name, pong in self.services.items() if pong is None and name not in self.not_started]
        return not silent and self.dns_answers and self.trouble is None

    def lines(self, width: int | None, *, colored: bool) -> list[str]:
        """Return lines for people."""
        table = status_lines(self.rows, width, columns=self.columns, colored=colored)
        if not table and self.trouble is None:
            table = ["no VM is like that" if self.is_part else "no VM is configured"]
        return [*table, "", *service_lines(self.services, self.not_started), *map(printable, self.dns)]


async def look(link: Link, wanted: Selection) -> Overview:
    """Ask every service; raises Unavailable if no service runs at all, NotFound if a wanted VM does not exist."""
    wanted.check(link.hosts)
    if not any(link.runs(owner) for owner in OWNERS):
        raise link.absent("store")
    shown = Overview(services=await link.pings(), columns=wanted.columns, is_part=wanted.is_part)
    if shown.services[OPTIONAL] is None and not link.runs(OPTIONAL):
        shown.not_started.append(OPTIONAL)
    silent = {host for host in link.hosts if shown.services[link.service_name("vmd", host)] is None}
    (vms, errors), leaves = await asyncio.gather(link.vms_of_all_hosts(silent), _leaves(link, shown))
    rows = status_rows(vms, leaves, SYSTEM_CLOCK.wall(), errors)
    shown.rows = wanted.of(rows) if shown.trouble is None else rows
    places = replicas_at(leaves)
    heard = await asyncio.gather(
        *(asyncio.to_thread(who_answers, address, replicas, DNS_TIMEOUT_S) for address, replicas in places.items())
    )
    shown.dns_answers = bool(places)
    for (address, replicas), answering in zip(places.items(), heard, strict=True):
        # What is bound to all addresses of another machine is reached there under an address that is not known here.
        may_be_elsewhere = is_on_all_addresses(address) and not link.is_local
        silence = "cannot be asked from here" if may_be_elsewhere else "does not answer"
        shown.dns += [
            f"{replica:<9} {'answers' if replica in answering else silence} at {address}"
            for replica in sorted(replicas)
        ]
        shown.dns_answers &= replicas <= answering or may_be_elsewhere
    if not places:
        shown.dns = ["dns       does not answer: the store knows of no replica"]
    return shown


async def _leaves(link: Link, shown: Overview) -> dict[str, str]:
    """Return the leaves that rows are made from, none and the reason if the store does not answer."""
    try:
        if shown.services["store"] is None:
            raise Unavailable("store does not answer", hint="is jitsu-store running?")
        found = await asyncio.gather(*(link.leaves(root) for root in (VM_ROOT, STATS_ROOT, REPLICA_ROOT)))
    except JitsuError as error:
        shown.trouble = error
        return {}
    return found[0] | found[1] | found[2]


@app.command()
def status(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Only these VMs; web* means all that begin so.", autocompletion=complete_vm
        ),
    ] = None,
    state: Annotated[str, typer.Option(metavar="STATE,...", help="Only VMs in these states.")] = "",
    host: Annotated[str, typer.Option(metavar="HOST,...", help="Only VMs of these hosts.")] = "",
    columns: Annotated[str, typer.Option(metavar="COLUMN,...", help=f"Show these: {', '.join(COLUMNS)}.")] = "",
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="By what the VMs are sorted; numbers: greatest first.")
    ] = "vm",
    reverse: Annotated[bool, typer.Option("--reverse", help="Sort the other way round.")] = False,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it.")] = False,
) -> None:
    """Show each VM: state, names, address, uptime, starts, queries, idle for, last error; and whether services answer.

    With the NAME of one VM, show everything about it. The exit status is 1 if a service that should run does not
    answer, dns included.
    """
    wanted = Selection(tuple(names or ()), words_in(state), words_in(host), words_in(columns), sort.lower(), reverse)

    async def show_status(link: Link) -> int:
        if watch and not as_json:
            await _watch_status(link, wanted)
        if wanted.one:
            return await _show_one(link, wanted.one, as_json=as_json)
        shown = await look(link, wanted)
        if as_json:
            answers = {name: None if pong is None else pong.model_dump() for name, pong in shown.services.items()}
            print(json.dumps({"vms": shown.rows, "services": answers, "dns": shown.dns}, indent=2))
        else:
            is_terminal = sys.stdout.isatty()
            width = shutil.get_terminal_size().columns if is_terminal else None
            print("\n".join(shown.lines(width, colored=wants_color(sys.stdout))))
        if shown.trouble is not None:
            raise shown.trouble
        return 0 if shown.is_well else EXIT_FAILED

    with_link(show_status)


async def _show_one(link: Link, word: str, *, as_json: bool) -> int:
    known = await describe(link, word)
    if as_json:
        print(json.dumps(known.as_json(), indent=2))
    else:
        print_lines(known.lines())
    return EXIT_FAILED if known.row["state"] == UNKNOWN else 0


async def _watch_status(link: Link, wanted: Selection) -> NoReturn:
    is_terminal = sys.stdout.isatty()
    while True:
        columns, height = shutil.get_terminal_size()
        try:
            if wanted.one:
                lines = list(map(printable, (await describe(link, wanted.one)).lines()))
            else:
                lines = (await look(link, wanted)).lines(columns, colored=wants_color(sys.stdout))
        except JitsuError as error:
            lines = [printable(str(error))]
        if is_terminal:
            services = lines[lines.index("") :] if "" in lines else []
            if len(lines) >= height:  # the services stay in sight
                lines = [*lines[: max(height - len(services) - 2, 1)], "...", *services]
            print("\x1b[H\x1b[J" + "\n".join(lines), end="", flush=True)
        else:
            print("\n".join([*lines, ""]), flush=True)
        await asyncio.sleep(WATCH_S)


@app.command()
def dig(
    name: Annotated[str, typer.Argument(help="A DNS name, for example www.example.org.")],
    rdtype: Annotated[str, typer.Argument(metavar="[TYPE]", help="A type of DNS record.")] = "A",
    summon: Annotated[bool, typer.Option("--summon", help="Ask even if that starts a VM.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask each dns replica: what it believes of the VMs of a name, and what it answers.

    Without --summon nothing is asked that might start a VM.
    """

    async def ask(link: Link) -> int:
        question = checked_question(name, rdtype)
        witness = next((vm.dns[0] for vm in VmNames.in_leaves(await link.leaves(VM_ROOT)).vms if vm.dns), "")
        reports: dict[str, ReplicaReport] = {}
        for address, replicas in replicas_at(await link.leaves(REPLICA_ROOT)).items():
            reports |= await asyncio.to_thread(ask_replicas, question, address, replicas, witness, summon=summon)
        if not reports:
            raise Unavailable("no dns replica is registered", hint="`jitsu status` shows what runs")
        if as_json:
            print(json.dumps({replica: asdict(each) for replica, each in reports.items()}, indent=2))
        else:
            print_lines(dig_lines(reports))
        return EXIT_FAILED if any(each.fault for each in reports.values()) else 0

    with_link(ask)
