"""What `jitsu top` asks of the suite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from jitsu.running import OPERATOR_TIMEOUT_S, start_vm
from jitsu.selection import Selection
from jitsu.status import look
from jitsu.status_lines import service_lines
from jitsu_protocol.messages import Done, OperatorStop
from jitsu_protocol.model.errors import JitsuError

if TYPE_CHECKING:
    from jitsu.link import Link


@dataclass(frozen=True)
class TopView:
    """What is shown at one moment."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    trouble: str = ""
    """Why nothing newer is known."""


class TopSource(Protocol):
    """Where the screen has its VMs from."""

    async def view(self) -> TopView:
        """Return what there is now; raises nothing, because a screen stays open."""

    async def start(self, name: str) -> str:
        """Start a VM, and return what came of it."""

    async def stop(self, name: str) -> str:
        """Stop a VM, and return what came of it."""


class TopSuite:
    """A running suite."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def view(self) -> TopView:
        """Ask every service."""
        try:
            seen = await look(self._link, Selection((), (), (), (), "vm", False))
        except JitsuError as error:
            return TopView(trouble=str(error))
        lines = [*service_lines(seen.services, seen.not_started), *seen.dns]
        return TopView(seen.rows, lines, "" if seen.trouble is None else str(seen.trouble))

    async def start(self, name: str) -> str:
        """Start a VM as an operator."""
        try:
            await start_vm(self._link, await self._link.find_vm(name))
        except JitsuError as error:
            return str(error)
        return f"{name} is ready"

    async def stop(self, name: str) -> str:
        """Stop a VM, whoever uses it."""
        try:
            vm = await self._link.find_vm(name)
            await self._link.call("vmd", OperatorStop(vm=vm.uuid), Done, OPERATOR_TIMEOUT_S, vm.host)
        except JitsuError as error:
            return str(error)
        return f"{name} is stopped"
