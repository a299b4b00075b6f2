"""`jitsu is-ready`: an exit status for scripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from jitsu.cli import app, with_link
from jitsu.printable import print_lines
from jitsu.running import VmArgument  # noqa: TC001  typer reads annotations at run time
from jitsu_protocol.messages import ListVms, VmList
from jitsu_protocol.model.states import VmState
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from jitsu.link import Link

NOT_READY = 3
"""The exit status; 1 means that nothing could be found out."""
LOOK_S = 0.1
SERVES = frozenset({VmState.READY, VmState.DRAINING})
"""A query that comes while a VM drains is answered, and ends the drain."""


@app.command(name="is-ready")
def is_ready(
    name: VmArgument,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait that long until it is.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Say whether a VM is ready, without starting it: the exit status is 0 if it is, 3 if not, 1 if nobody can tell."""

    async def work(link: Link) -> int:
        vm, until = await link.find_vm(name), SYSTEM_CLOCK.now() + wait
        while True:
            listed = await link.call("vmd", ListVms(), VmList, host=vm.host)
            state = next((each.state for each in listed.vms if each.uuid == vm.uuid), VmState.UNKNOWN)
            if state in SERVES or SYSTEM_CLOCK.now() >= until:
                break
            await asyncio.sleep(LOOK_S)
        if not quiet:
            print_lines([f"{vm.name} is {state}"])
        return 0 if state in SERVES else NOT_READY

    with_link(work)
