"""Synjitsu's rpc, and what joins it, the rules and the bridges."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.errors import JitsuError, SetupFault, Unavailable
from jitsu_protocol.messages import Arm, Disarm, Done, HandedOver
from jitsu_synjitsu.rules.arming import Arming
from jitsu_synjitsu.rules.handover import HandedOver as Handed
from jitsu_synjitsu.rules.handover import Send
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.wires.packet import BridgeSocket, hindrances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.process import Process
    from jitsu_synjitsu.rules.handover import Action

LOOK_S = 0.5
"""How often it is looked whether bridges came or went."""
TELL_TIMEOUT_S = 5.0

log = structlog.get_logger("synjitsu")


class Bridge:
    """One bridge by its name: what is held on it, and its socket while it is there."""

    def __init__(self, name: str, arming: Arming) -> None:
        self.name = name
        self.arming = arming
        self.index = 0
        self.wire: BridgeSocket | None = None


class SynjitsuServer:
    """All bridges."""

    def __init__(self, process: Process) -> None:
        self._process = process
        settings = process.settings.synjitsu
        self._kept = Kept(settings.max_kept_per_vm, settings.max_kept)
        self._bridges = {name: Bridge(name, Arming(self._kept)) for name in settings.bridges}
        self._vmd = process.client("vmd", process.settings.hypervisor.host)
        self._timer: asyncio.TimerHandle | None = None
        self._sent: Counter[str] = Counter()
        metrics = process.metrics
        metrics.gauge("armed_addresses", "Addresses held.", lambda: float(len(self._addresses())))
        metrics.gauge("kept_packets", "Packets kept for booting VMs.", lambda: float(len(self._kept)))
        metrics.counted("displaced_packets", "Packets dropped for others.", lambda: float(self._kept.displaced))
        metrics.counted_by("sent_frames", "Frames sent.", ("what",), lambda: {(k,): v for k, v in self._sent.items()})
        metrics.counted("unsent_frames", "Frames that a bridge did not take.", self._unsent)

    async def start(self) -> None:
        """Attach to the bridges, and serve."""
        self._look()
        self._process.serve({Arm: self.arm, Disarm: self.disarm})
        self._process.spawn(self._look_for_ever(), "bridges")
        if not self._bridges:
            log.info("no bridge: first packets to booting VMs are not kept, boots are masked by delay only")

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        if not self._bridges:
            return ["no bridge: boots are masked by delay only"]
        away = [bridge.name for bridge in self._bridges.values() if bridge.wire is None]
        notes = [f"the bridge {name} is not there" for name in away]
        replayed = sum(bridge.arming.replayed for bridge in self._bridges.values())
        notes += hindrances()
        notes.append(f"holds {', '.join(self._addresses()) or 'no address'}")
        notes.append(f"{len(self._kept)} packets kept, {replayed} replayed")
        return notes

    def arm(self, request: Arm) -> Done:
        """Answer Arm."""
        bridge = self._bridge_of(request.bridge)
        mac, now = bytes.fromhex(request.mac.replace(":", "")), monotonic()
        actions = bridge.arming.arm(request.vm, request.addresses, mac, now + request.limit_s, now)
        self._perform(bridge, actions)
        return Done()

    def disarm(self, request: Disarm) -> Done:
        """Answer Disarm."""
        for bridge in self._bridges.values():
            self._perform(bridge, bridge.arming.disarm(request.vm, request.outcome, monotonic()))
        return Done()

    def _bridge_of(self, name: str) -> Bridge:
        if not self._bridges:
            raise Unavailable("Synjitsu has no bridge", hint="name some in synjitsu.bridges")
        if not name and len(self._bridges) > 1:
            raise Unavailable("Synjitsu has several bridges", hint="say which one is the VM's, with its key nic")
        bridge = self._bridges.get(name) if name else next(iter(self._bridges.values()))
        if bridge is None:
            raise Unavailable(f"Synjitsu does not listen on {name}", hint="it is none of synjitsu.bridges")
        if bridge.wire is None:
            raise Unavailable(f"the bridge {bridge.name} is not there")
        return bridge

    # --- bridges ---

    async def _look_for_ever(self) -> None:
        while self._bridges:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        """Attach to bridges that came, and let go of those that went."""
        for bridge in self._bridges.values():
            index = self._is_there(bridge)
            if index == bridge.index:
                continue
            if bridge.wire is not None:
                bridge.wire.close()
                bridge.wire = None
                log.warning("bridge is gone", bridge=bridge.name)
            bridge.index = index
            if index:
                self._attach(bridge)

    @staticmethod
    def _is_there(bridge: Bridge) -> int:
        """Return the bridge's index, 0 if there is none."""
        try:
            return socket.if_nametoindex(bridge.name)
        except OSError:
            return 0

    def _attach(self, bridge: Bridge) -> None:
        try:
            bridge.wire = BridgeSocket(bridge.name, lambda frame: self._taken(bridge, frame))
        except SetupFault:
            if self._is_there(bridge):
                raise
            bridge.index = 0  # it went at this moment
            return
        bridge.wire.open()
        bridge.wire.watch(bridge.arming.macs())
        log.info("listening", bridge=bridge.name)
        for hindrance in hindrances():
            log.warning(hindrance)

    def _taken(self, bridge: Bridge, frame: bytes) -> None:
        self._perform(bridge, bridge.arming.frame(frame, monotonic()))

    # --- the rules' shell ---

    def _perform(self, bridge: Bridge, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Send(frame, what):
                    if bridge.wire is not None:
                        bridge.wire.send(frame)
                        self._sent[what] += 1
                case Handed(vm):
                    self._process.spawn(self._tell(vm))
        if bridge.wire is not None:
            bridge.wire.watch(bridge.arming.macs())
        self._arm_timer()

    def _arm_timer(self) -> None:
        dues = [due for each in self._bridges.values() if (due := each.arming.next_deadline()) is not None]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if dues:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, min(dues) - monotonic()), self._passed)

    def _passed(self) -> None:
        self._timer = None
        for bridge in self._bridges.values():
            self._perform(bridge, bridge.arming.passed(monotonic()))

    async def _tell(self, vm: str) -> None:
        try:
            await self._vmd.call(HandedOver(vm=vm), Done, TELL_TIMEOUT_S)
        except JitsuError as error:
            log.warning("vmd does not know that it is handed over", vm=vm, reason=str(error))

    def _addresses(self) -> list[str]:
        return sorted(address for bridge in self._bridges.values() for address in bridge.arming.addresses())

    def _unsent(self) -> float:
        return float(sum(bridge.wire.unsent for bridge in self._bridges.values() if bridge.wire is not None))
