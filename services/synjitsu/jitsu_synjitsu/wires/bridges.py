"""Which bridges there are to listen on: those that are configured, or those at which vmd finds its VMs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import SetupFault, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jitsu_synjitsu.wires.bridge import WatchedBridge
    from jitsu_synjitsu.wires.lan import Lan

MAX_FOUND = 1000
"""Bridges that vmd may report; one host has some tens."""
NONE = "none"
"""The value of `synjitsu.bridges` that has Synjitsu listen on none."""

log = structlog.get_logger("synjitsu")


class Bridges:
    """The bridges of one Synjitsu, by name."""

    def __init__(self, configured: Sequence[str], lan: Lan, make: Callable[[str], WatchedBridge]) -> None:
        """Without any configured, those that `want` is called with are made."""
        self._lan = lan
        self._make = make
        self.are_found = not configured
        """They are those at which vmd finds its VMs."""
        self._by_name = {name: make(name) for name in configured if name != NONE}
        self.are_there = asyncio.Event()
        """There is at least one."""
        if self._by_name:
            self.are_there.set()
        self._troubles: dict[str, str] = {}
        """Bridge -> why it cannot be listened on."""
        self.attached: Callable[[WatchedBridge], None] = lambda _: None
        """Called when a bridge came that was wanted before: VMs may have used it in the meantime."""
        self.is_off = NONE in configured
        self.is_starting = True
        """A bridge that is configured and cannot be listened on ends Synjitsu; later it is tried again."""

    def __iter__(self) -> Iterator[WatchedBridge]:
        """Go over all of them."""
        return iter(self._by_name.values())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._by_name)

    def want(self, name: str) -> None:
        """Listen on a bridge at which a VM is, unless it was configured where to listen."""
        if name and self.are_found and name not in self._by_name and len(self._by_name) < MAX_FOUND:
            bridge = self._by_name[name] = self._make(name)
            self.are_there.set()
            self._look_at(bridge)  # whoever wants it goes on to follow its VMs

    def look(self) -> None:
        """Attach to those that came, and let go of those that went.

        Raises SetupFault the first time, for one that is configured.
        """
        for bridge in list(self):
            if self._look_at(bridge):
                self.attached(bridge)
        self.is_starting = False

    def _look_at(self, bridge: WatchedBridge) -> bool:
        """Attach to a bridge, or let go of it; return whether it came."""
        was_there = bridge.wire is not None
        trouble = ""
        if self.are_found and not self._lan.is_bridge(bridge.name):
            trouble = f"{bridge.name} is not a bridge of this host, or Synjitsu runs in a network namespace of its own"
        try:
            if not trouble or was_there:
                bridge.look()
        except SetupFault as fault:
            if not self.are_found and self.is_starting:
                raise
            trouble = str(fault)
        if trouble and self._troubles.get(bridge.name) != trouble:
            log.warning("cannot watch the VMs of a bridge", bridge=bridge.name, reason=trouble)
        self._troubles[bridge.name] = trouble
        return bridge.wire is not None and not was_there

    def resolve(self, name: str) -> str:
        """Return the name of the bridge that `of` returns, "" if there is none."""
        try:
            return self.of(name).name
        except Unavailable:
            return ""

    def of(self, name: str) -> WatchedBridge:
        """Return the bridge that a VM names, "" for the only one that is configured; raises Unavailable."""
        if not name and self.are_found:
            raise Unavailable("vmd does not know its bridge", hint="name it with the VM's key nic")
        if not self._by_name:
            raise Unavailable("Synjitsu has no bridge", hint="name some in synjitsu.bridges")
        if not name and len(self._by_name) > 1:
            raise Unavailable("Synjitsu has several bridges", hint="name the VM's with its key nic")
        bridge = self._by_name.get(name) if name else next(iter(self._by_name.values()))
        if bridge is None:
            raise Unavailable(f"Synjitsu does not listen on {name}", hint="it is not listed in synjitsu.bridges")
        if trouble := self._troubles.get(bridge.name):
            raise Unavailable(trouble)
        if bridge.wire is None:
            raise Unavailable(f"the bridge {bridge.name} is not there")
        return bridge
