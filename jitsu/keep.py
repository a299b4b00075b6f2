"""`jitsu keep`: a VM stays up for a time, used or not (docs/how-to/operate.md).

jitsu                     store                    vmd (of the VM's host)
  |-- Apply jitsu/keep/... ->|  commits it, and says why in the history
  |                          |-- feed: a head moved -->|  reads jitsu/keep; a drain ends; status says "kept up"
  |-- Summon, as an operator ------------------------->|  unless --no-start
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.apply import commit
from jitsu.cli import JsonOption, app, author, with_link
from jitsu.hold import changes_for, check_reason, hold_lines, report_late, unconfirmed, until_of
from jitsu.printable import print_lines
from jitsu.running import complete_vm, start_vm
from jitsu_protocol.changes import expectations
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.holds import KEEP_ROOT, Hold, holds_in
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.vm_names import VmNames
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu.link import Link


@app.command()
def keep(
    name: Annotated[str, typer.Argument(help="The VM.", autocompletion=complete_vm)] = "",
    duration: Annotated[str, typer.Argument(metavar="[TIME]", help="For how long: 30m, 2h. Without it, no end.")] = "",
    release: Annotated[bool, typer.Option("--release", help="End it: the VM is stopped when idle again.")] = False,
    reason: Annotated[str, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the history.")] = "",
    no_start: Annotated[bool, typer.Option("--no-start", help="Only keep it up once it runs.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Only show which VMs are kept up.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a VM, and keep it up for a time although nobody uses it.

    It is not stopped for being idle. `jitsu stop` works as always, and a VM with `evict = true` still gives way to one
    that waits for room. A keep survives restarts of everything.
    """

    async def work(link: Link) -> int:
        leaves, known = await link.leaves(KEEP_ROOT), VmNames.in_leaves(await link.leaves(VM_ROOT))
        names = {vm.uuid: vm.name for vm in known.vms}
        now = SYSTEM_CLOCK.wall()
        if show:
            _print(holds_in(leaves, now, KEEP_ROOT), names, now, as_json=as_json)
            return 0
        vm = known.find(name)
        if release and vm.uuid not in holds_in(leaves, now, KEEP_ROOT):
            raise NotFound(f"{vm.name} is not kept up by an operator", hint="see `jitsu keep --list`")
        wanted = None if release else Hold(until_of(duration, now), author(), " ".join(reason.split()))
        changes = changes_for(leaves, known, vm.uuid, wanted, now, KEEP_ROOT)
        what = f"{'Release' if release else 'Keep up'} {vm.name}{f': {reason}' if reason else ''}"
        await commit(link, changes, what, author(), expect=expectations(changes))
        keeps = holds_in(await link.leaves(KEEP_ROOT), now, KEEP_ROOT)
        late = [] if release else await unconfirmed(link, vm.uuid, lambda status: status.kept, wanted=True)
        if not (release or no_start):
            await start_vm(link, await link.find_vm(name))
        if release and not as_json:
            print_lines([f"{vm.name} is released"])
        else:
            _print({vm.uuid: keeps[vm.uuid]} if vm.uuid in keeps else {}, names, now, as_json=as_json)
        return report_late(late)

    if not (name or show):
        raise typer.BadParameter("which VM? `jitsu keep --list` shows those that are kept up", param_hint="NAME")
    check_reason(reason)
    with_link(work)


def _print(keeps: Mapping[str, Hold], names: Mapping[str, str], now: float, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({names.get(vm, vm): asdict(each) for vm, each in keeps.items()}, indent=2))
    else:
        print_lines(hold_lines(keeps, names, now, "kept up") or ["no VM is kept up"])
