"""`jitsu hold`: during maintenance, VMs are neither started nor stopped automatically (docs/how-to/operate.md).

jitsu                     store                    vmd (of each host)
  |-- Apply jitsu/hold/... ->|  commits it, and says why in the history
  |                          |-- feed: a head moved -->|  reads jitsu/hold; drains end; status says "held"
  |-- ListVms ---------------------------------------->|  until it says so, or CONFIRM_S is over
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.apply import commit
from jitsu.cli import JsonOption, app, author, with_link
from jitsu.printable import print_lines
from jitsu.running import complete_vm
from jitsu_protocol.changes import expectations
from jitsu_protocol.messages import Change
from jitsu_protocol.model.errors import BadRequest, NotFound
from jitsu_protocol.model.holds import ALL, HOLD_ROOT, MAX_REASON_CHARACTERS, Hold, hold_of, holds_in, path_of
from jitsu_protocol.model.units import plain
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.vm_names import VmNames
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.service import EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jitsu.link import Link
    from jitsu_protocol.messages import VmStatus

CONFIRM_S = 3.0
"""A vmd that has not applied a hold by then does not run, or is too old to know holds."""
LOOK_S = 0.1
MAX_HOLD_S = 366 * 86400.0
"""A longer hold is one without a time limit."""


def until_of(duration: str, now: float) -> float:
    """Return when a hold for a duration ends, 0 for one without; raises BadRequest."""
    if not duration:
        return 0.0
    try:
        seconds = float(plain(duration, "s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_HOLD_S:
        raise BadRequest(f"{duration!r} is not a duration; use seconds or a unit, for example 30m or 2h")
    return now + seconds


def changes_for(
    leaves: Mapping[str, str], known: VmNames, vm: str, hold: Hold | None, now: float, root: str = HOLD_ROOT
) -> list[Change]:
    """Return the changes that set a hold or a keep, or release it if it is None.

    What is over below the same root is removed as well, and what belongs to no VM. `leaves` are those below the root.
    """
    uuids = {each.uuid for each in known.vms} | {ALL}
    there = holds_in(leaves, now, root)
    stale = [path for path in leaves if (name := path.removeprefix(root + "/")) not in there or name not in uuids]
    wanted: dict[str, str | None] = dict.fromkeys(stale)
    wanted[path_of(vm, root)] = None if hold is None else hold.text()
    return [
        Change(path=path, value=value, old=leaves.get(path))
        for path, value in wanted.items()
        if value != leaves.get(path)
    ]


def hold_lines(holds: Mapping[str, Hold], names: Mapping[str, str], now: float, verb: str = "held") -> list[str]:
    """Return the holds or keeps for people, that of all VMs first; `verb` says what is done to the VMs."""
    lines = []
    for vm, hold in sorted(holds.items(), key=lambda each: (each[0] != ALL, names.get(each[0], each[0]))):
        who = "all VMs" if vm == ALL else names.get(vm, f"{vm}, which is no longer configured,")
        left = f"for {max(hold.until - now, 0.0) / 60:.0f} min more" if hold.until else "until it is released"
        by = f", by {hold.by}" if hold.by else ""
        lines.append(f"{who}: {verb} {left}{by}{f': {hold.reason}' if hold.reason else ''}")
    return lines


def not_held(name: str, *, is_held_with_all: bool) -> NotFound:
    """Return the error for a release of what is not held."""
    if is_held_with_all:
        return NotFound(f"{name} is held only because all VMs are", hint="`jitsu hold --release` ends that")
    return NotFound(f"{name} is not held" if name else "there is no hold on all VMs", hint="see `jitsu hold --list`")


async def unconfirmed(link: Link, vm: str, reason: Callable[[VmStatus], str], *, wanted: bool) -> list[str]:
    """Return the hosts whose vmd has not applied a hold or a keep, or its release, within CONFIRM_S.

    `reason` tells it from the status of a VM: "" if the VM is not held, or not kept up.
    """
    deadline = SYSTEM_CLOCK.now() + CONFIRM_S
    while True:
        vms, silent = await link.vms_of_all_hosts()
        late = {each.host for each in vms if vm in (ALL, each.uuid) and bool(reason(each)) is not wanted}
        if not late and not silent:
            return []
        if SYSTEM_CLOCK.now() >= deadline:
            return sorted(late | set(silent))
        await asyncio.sleep(LOOK_S)


def report_late(hosts: list[str]) -> int:
    """Name the hosts whose vmd has not applied it; returns the exit status."""
    for host in hosts:
        print(f"jitsu: the vmd{f' of {host}' if host else ''} has not applied it yet", file=sys.stderr)
    return EXIT_FAILED if hosts else 0


def check_reason(reason: str) -> None:
    """Raise BadParameter if a reason is too long."""
    if len(reason) > MAX_REASON_CHARACTERS:
        raise typer.BadParameter(f"at most {MAX_REASON_CHARACTERS} characters", param_hint="--reason")


@app.command()
def hold(
    name: Annotated[str, typer.Argument(help="Only this VM; without it, all.", autocompletion=complete_vm)] = "",
    release: Annotated[bool, typer.Option("--release", help="End it: VMs start and stop automatically again.")] = False,
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="End it by itself: 30m, 2h.")] = "",
    reason: Annotated[str, typer.Option("--reason", "-m", metavar="TEXT", help="Why; clients are told so too.")] = "",
    show: Annotated[bool, typer.Option("--list", help="Only show what is held.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Neither start nor stop VMs automatically during maintenance: all of them, or one.

    A VM that runs goes on, whoever uses it or not. One that is off stays off, and a query for it is answered SERVFAIL
    with the reason. `jitsu start` and `jitsu stop` work as always. A hold survives restarts of everything.
    """

    async def work(link: Link) -> int:
        leaves, known = await link.leaves(HOLD_ROOT), VmNames.in_leaves(await link.leaves(VM_ROOT))
        names = {vm.uuid: vm.name for vm in known.vms}
        now = SYSTEM_CLOCK.wall()
        if show:
            holds = holds_in(leaves, now)
            if as_json:
                print(json.dumps({names.get(vm, vm): asdict(each) for vm, each in holds.items()}, indent=2))
            else:
                print_lines(hold_lines(holds, names, now) or ["nothing is held"])
            return 0
        vm = known.find(name).uuid if name else ALL
        shown = names.get(vm, "all VMs")
        if release and vm not in holds_in(leaves, now):
            raise not_held(name, is_held_with_all=hold_of(holds_in(leaves, now), vm) is not None)
        wanted = None if release else Hold(until_of(duration, now), author(), " ".join(reason.split()))
        changes = changes_for(leaves, known, vm, wanted, now)
        what = f"{'Release' if release else 'Hold'} {shown}{f': {reason}' if reason else ''}"
        await commit(link, changes, what, author(), expect=expectations(changes))
        holds = holds_in(await link.leaves(HOLD_ROOT), now)
        is_held = hold_of(holds, vm) is not None
        late = await unconfirmed(link, vm, lambda status: status.hold, wanted=True) if is_held else []
        if as_json:
            print(json.dumps({names.get(vm, vm): asdict(each) for vm, each in holds.items()}, indent=2))
        else:
            lines = hold_lines(holds, names, now)
            print_lines([*([f"{shown} {'is' if name else 'are'} released"] if release else []), *lines])
        return report_late(late)

    check_reason(reason)
    with_link(work)
