"""Synjitsu's rpc. Without a bridge it holds no address, and says so to whoever asks it to."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from jitsu_protocol.errors import Unavailable
from jitsu_protocol.messages import Arm, Disarm, Done
from jitsu_synjitsu.rules.arming import Arming
from jitsu_synjitsu.rules.kept import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.bus import Handler
    from jitsu_protocol.messages import Request
    from jitsu_protocol.process import Process
    from jitsu_synjitsu.rules.handover import Action


class Bridge(Protocol):
    """What puts frames on a bridge."""

    def perform(self, action: Action) -> None:
        """Send what an action says."""


class SynjitsuServer:
    """Joins the rules, the rpc and a bridge, if there is one."""

    def __init__(self, process: Process, bridge: Bridge | None) -> None:
        settings = process.settings.synjitsu
        self.arming = Arming(Kept(settings.max_kept_per_vm, settings.max_kept))
        self._bridge = bridge
        self._timer: asyncio.TimerHandle | None = None
        metrics = process.metrics
        metrics.gauge("armed_addresses", "Addresses held.", lambda: float(len(self.arming.addresses())))
        metrics.gauge("kept_packets", "Packets kept for booting VMs.", lambda: float(len(self.arming.kept)))

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {Arm: self.arm, Disarm: self.disarm}

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        if self._bridge is None:
            return ["no bridge: boots are masked by delay only"]
        return [f"holds {', '.join(self.arming.addresses()) or 'no address'}"]

    def arm(self, request: Arm) -> Done:
        """Answer Arm."""
        if self._bridge is None:
            raise Unavailable("Synjitsu has no bridge", hint="VMs are masked by response_delay meanwhile")
        self._perform(self.arming.arm(request.vm, request.addresses, monotonic() + request.limit_s))
        return Done()

    def disarm(self, request: Disarm) -> Done:
        """Answer Disarm."""
        self._perform(self.arming.disarm(request.vm, request.outcome))
        return Done()

    def _perform(self, actions: Sequence[Action]) -> None:
        if self._bridge is not None:
            for action in actions:
                self._bridge.perform(action)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.arming.next_deadline()
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                max(0.0, due - monotonic()), lambda: self._perform(self.arming.passed(monotonic()))
            )
