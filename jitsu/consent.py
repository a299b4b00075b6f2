"""Shows what a change does, and asks for agreement (summary.py has the rules)."""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import TYPE_CHECKING

from jitsu.summary import Summary, consent, question, summarize, summary_lines
from jitsu_protocol.messages import MASTER
from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.rows import below

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TextIO

    from jitsu.link import Link
    from jitsu_protocol.messages import Change

WIDTH_FOR_PROGRAMS = 160


def after(leaves: Mapping[str, str], changes: Iterable[Change]) -> dict[str, str]:
    """Return leaves as changes make them."""
    changed = dict(leaves)
    for change in changes:
        if change.value is None:
            changed.pop(change.path, None)
        else:
            changed[change.path] = change.value
    return changed


async def summary_of(link: Link, leaves: Mapping[str, str], changes: Iterable[Change], branch: str) -> Summary:
    """Return what changes of a branch do; `leaves` are its leaves below jitsu/vm."""
    changes = list(changes)
    of_vms = [change for change in changes if change.path.startswith(VM_ROOT + "/")]
    states = await _states(link, leaves) if branch == MASTER and of_vms else {}
    return summarize(leaves, after(leaves, of_vms), states, len(changes) - len(of_vms))


async def stopped_by(link: Link, leaves: Mapping[str, str], changes: Iterable[Change], branch: str) -> list[str]:
    """Return a line for each VM whose guest is stopped by changes of a branch; vmd is asked only if that may be so."""
    changes = list(changes)
    if branch != MASTER or not any(each.is_other for each in summarize(leaves, after(leaves, changes), {}).changed):
        return []
    summary = await summary_of(link, leaves, changes, branch)
    return [f"{each.name} is {each.state}; it is stopped for that" for each in summary.changed if each.stops]


async def _states(link: Link, leaves: Mapping[str, str]) -> dict[str, str | None]:
    """Return the state of each VM that is configured, None if its vmd does not report it."""
    vms, silent = await link.vms_of_all_hosts()
    states: dict[str, str | None] = {vm.uuid: vm.state.value for vm in vms}
    for uuid, own in below(leaves, VM_ROOT).items():
        if own.get("host", own.get("config/host/0", "")) in silent:
            states.setdefault(uuid, None)
    return states


async def agreed(summary: Summary, branch: str, *, yes: bool, out: TextIO | None = None) -> bool:
    """Show a summary and say whether the change is to be made; raises Refused where nobody can be asked."""
    out = out or sys.stdout
    width = shutil.get_terminal_size().columns if out.isatty() else WIDTH_FOR_PROGRAMS
    for line in summary_lines(summary, width):
        print(line, file=out)
    out.flush()
    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    match consent(summary, yes=yes, is_terminal=is_terminal, is_running_branch=branch == MASTER):
        case "given":
            return True
        case "ask":
            if await _answer(question(summary)):
                return True
            print("nothing is changed", file=sys.stderr)
            return False
        case "refused":
            names = ", ".join(each.name for each in summary.removed[:5]) + (", ..." if len(summary.removed) > 5 else "")
            raise Refused(f"this removes {names}, so nothing is changed", hint="give --yes if that is what you want")


async def _answer(asked: str) -> bool:
    """Ask on the terminal; Ctrl-C ends the command as at any other time."""
    print(f"{asked} [y/N] ", end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        loop.remove_reader(sys.stdin)
        if not line.done():
            line.set_result(sys.stdin.readline())  # a terminal gives whole lines

    loop.add_reader(sys.stdin, read)
    try:
        return (await line).strip().lower() in ("y", "yes")
    finally:
        loop.remove_reader(sys.stdin)
