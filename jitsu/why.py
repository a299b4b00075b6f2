"""`jitsu why` and `jitsu forget-clients`: what the reaper has recorded of a VM, for people."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.cli import JsonOption, app, with_link
from jitsu.durations import duration
from jitsu.printable import print_lines
from jitsu.running import VmArgument, complete_vm
from jitsu_protocol.messages import Done, ForgetClients, Why, WhyReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu.link import Link
    from jitsu_protocol.messages import WhyClient, WhyEvent

EVENTS_SHOWN = 20
HEADS = ("WHEN", "WHAT", "TOOK", "CAUSE", "BY")


def why_lines(report: WhyReport) -> list[str]:
    """Return what a person wants to read: three paragraphs, then the last boots and stops."""
    lines = [report.why_booted, "", report.why_up, "", report.when_stops]
    if report.last_error:
        lines += ["", f"Last error{_when(report.last_error_ts)}: {report.last_error}"]
    if report.clients:
        lines += ["", "The clients that were noticed last:", *(f"  {_client(each)}" for each in report.clients)]
    return [*lines, "", *event_lines(report.events[:EVENTS_SHOWN])]


def event_lines(events: Sequence[WhyEvent]) -> list[str]:
    """Return a table of boots and stops, the latest first."""
    if not events:
        return ["no boots or stops are recorded"]
    rows = [HEADS, *map(_row, events)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(event: WhyEvent) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.ts))
    cause = " ".join(filter(None, (event.cause, event.about, f"from {event.client}" if event.client else "")))
    what = event.what if event.outcome in ("ready", "stopped", "") else f"{event.what} {event.outcome}"
    return when, what, duration(event.took_s), cause, event.decided_by


def _when(ts: float | None) -> str:
    return "" if ts is None else time.strftime(" (%Y-%m-%d %H:%M:%S)", time.localtime(ts))


def _client(each: WhyClient) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.ts))
    times = f", {each.count} times" if each.count > 1 else ""
    return f"{when}  {each.client or 'a client'}: a {each.what}, {each.about}, seen by {each.reporter}{times}"


@app.command()
def why(name: VmArgument, as_json: JsonOption = False) -> None:
    """Say why a VM has booted, why it is still up and when it stops, and show its last boots and stops.

    How much is recorded of clients, `log.privacy` says: their networks, unless it is set otherwise.
    """

    async def work(link: Link) -> None:
        vm = await link.find_vm(name)
        report = await link.call("reaper", Why(vm=vm.uuid), WhyReport)
        if as_json:
            print(json.dumps(report.model_dump(), indent=2))
        else:
            print_lines(why_lines(report))

    with_link(work)


@app.command(name="forget-clients")
def forget_clients(
    name: Annotated[str, typer.Argument(help="Only this VM; without it, all.", autocompletion=complete_vm)] = "",
) -> None:
    """Delete what is recorded for `jitsu why`: clients, boots and stops. That cannot be undone."""

    async def work(link: Link) -> None:
        vm = await link.find_vm(name) if name else None
        await link.call("reaper", ForgetClients(vm=vm.uuid if vm else ""), Done)
        print_lines([f"the recorded clients, boots and stops of {vm.name if vm else 'all VMs'} are deleted"])

    with_link(work)
