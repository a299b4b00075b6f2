"""Synjitsu's rpc, and what joins it, the rules and the bridges."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Arm, Disarm, Done, HandedOver, Summon, Summoned
from jitsu_protocol.model.errors import BadRequest, JitsuError, Unavailable
from jitsu_protocol.rates import Buckets, Networks
from jitsu_runtime.driver import Alarm
from jitsu_synjitsu.rules.arming import WakeLimit
from jitsu_synjitsu.rules.events import ClearEntries, OpenPort, Send, ShutPort, Wake, WriteEntry
from jitsu_synjitsu.rules.events import HandedOver as Handed
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.rules.values import packed, packed_mac, seconds
from jitsu_synjitsu.wires.bridge import Bridge
from jitsu_synjitsu.wires.bridges import Bridges
from jitsu_synjitsu.wires.entries import Entries
from jitsu_synjitsu.wires.ledger import Ledger
from jitsu_synjitsu.wires.packet import hindrances
from jitsu_synjitsu.wires.ports import heard_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from jitsu_runtime.world import World
    from jitsu_synjitsu.rules.events import Action

LOOK_S = 0.25
"""How often it is looked whether bridges came or went, and VMs are to be watched again."""
TELL_TIMEOUT_S = 5.0
WAKE_TIMEOUT_S = 60.0
BURST_OF_ALL_S = 10.0
"""So many seconds' worth of `wake_rate_of_all` may come at once."""
MAX_STRANGERS = 10_000
"""VMs that vmd arms and that are not configured as far as is known here: vmd may hear of a new VM first."""
MAX_ADDRESSES_SHOWN = 6
MAX_NAMES_SHOWN = 20

log = structlog.get_logger("synjitsu")


class SynjitsuServer:
    """All bridges."""

    def __init__(self, process: World) -> None:
        self._process = process
        settings = process.settings.synjitsu
        self._kept = Kept(settings.max_kept_per_vm, settings.max_kept)
        wakes = WakeLimit(
            Networks(settings.wake_for),
            Buckets(settings.wake_rate, settings.wake_burst),
            Buckets(settings.wake_rate_of_all, settings.wake_rate_of_all * BURST_OF_ALL_S),
        )
        self._ledger = Ledger(process.settings.bus.directory / "synjitsu.ports")
        self.interfaces: dict[str, str] = {}
        """VM -> the host's end of its interface, a port of the bridge, while it runs or is paused, if vmd knows it."""
        self._wakes = wakes
        self.bridges = Bridges(settings.bridges, self._bridge)
        self._vmd = process.client("vmd", process.settings.hypervisor.host)
        self.armed: Callable[[str, Bridge, bytes], None] = lambda *_: None
        """Told of each VM that is about to boot, before it does."""
        self._entries = Entries(process, self._managed)
        self.unwatched: Callable[[], dict[str, list[str]]] = dict
        """Returns the names of the VMs that run and whose use is not seen, by the reason."""
        self.left_out: Callable[[], list[str]] = list
        """Returns notes about VMs of which vmd says what makes no sense."""
        self.is_configured: Callable[[str], bool] = lambda _: False
        """Says whether a VM is configured, as far as is known here."""
        self.probed_port: Callable[[str], int | None] = lambda _: None
        """Returns the port of a VM to which vmd connects while the VM boots (`wait_for_port`)."""
        self._strangers: dict[str, None] = {}
        """VMs that were armed and are not configured, as far as was known then."""
        self._seen_elsewhere: set[str] = set()
        """VMs of which that has been logged."""
        self._alarm = Alarm(self._passed, process.clock)
        self._sent: Counter[str] = Counter()
        self._publish_metrics()

    def _bridge(self, name: str) -> Bridge:
        bridge = Bridge(name, self._kept, self._wakes, self._ledger, self.perform, self._save)
        bridge.arming.claims.heard_from = partial(self._heard_from, name)
        for vm, interface in self.interfaces.items():
            bridge.ports.named(vm, interface)
        return bridge

    def _publish_metrics(self) -> None:
        metrics = self._process.metrics
        metrics.gauge("armed_addresses", "Addresses held.", lambda: float(len(self._addresses())))
        metrics.gauge("kept_packets", "Packets kept for booting VMs.", lambda: float(len(self._kept)))
        metrics.counted(
            "displaced_packets",
            "Kept packets that were dropped to make room for others.",
            lambda: float(self._kept.displaced),
        )
        metrics.counted_by("sent_frames", "Frames sent.", ("what",), lambda: {(k,): v for k, v in self._sent.items()})
        metrics.counted_by("unsent_frames", "Frames that could not be sent on a bridge.", ("error",), self._unsent)
        metrics.counted(
            "unwoken_packets", "Packets to VMs that are off, from clients that may not wake them.", self._unwoken
        )
        metrics.counted("floods", "Times that a VM was sent more packets than Synjitsu can look at.", self._floods)
        metrics.gauge("connections", "TCP connections open to VMs.", self._connected)
        metrics.counted(
            "expired_connections",
            "Connections that count as closed, because they were silent for max_idle_connection.",
            self._expired,
        )

    async def start(self) -> None:
        """Attach to the bridges, and serve."""
        self._ledger.restore()
        self._process.on_stop = self._open_ports
        self._look()
        self._process.serve({Arm: self.arm, Disarm: self.disarm})
        self._process.spawn(self._look_for_ever(), "bridges")

    async def _open_ports(self) -> None:
        """Leave no port of a bridge shut behind."""
        for bridge in self.bridges:
            bridge.ports.open_all()
        self._ledger.close()

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        if not self.bridges:
            why = "synjitsu.bridges is none" if self.bridges.is_off else "no VM is on a bridge"
            return [f"{why}: boots are hidden by delay only, and open connections do not keep VMs up"]
        notes = [f"the bridge {bridge.name} is not there" for bridge in self.bridges if bridge.wire is None]
        replayed = sum(bridge.arming.replayed for bridge in self.bridges)
        notes += hindrances()
        notes += [note for bridge in self.bridges for note in bridge.notes()]
        notes += self.left_out()
        for reason, names in sorted(self.unwatched().items()):
            shown = f"{', '.join(names[:MAX_NAMES_SHOWN])}{', ...' if len(names) > MAX_NAMES_SHOWN else ''}"
            notes.append(f"open connections do not keep {len(names)} VMs up ({shown}): {reason}")
        held = self._addresses()
        more = f" and {len(held) - MAX_ADDRESSES_SHOWN} more" if len(held) > MAX_ADDRESSES_SHOWN else ""
        notes.append(f"holds {', '.join(held[:MAX_ADDRESSES_SHOWN]) or 'no address'}{more}")
        notes.append(f"{len(self._kept)} packets kept, {replayed} replayed")
        notes.append(f"{self._connected():.0f} connections open to VMs that run")
        return notes

    def arm(self, request: Arm) -> Done | Awaitable[Done]:
        """Answer Arm."""
        try:
            packed(request.addresses)
            mac, limit_s = packed_mac(request.mac), seconds(request.limit_s)
        except ValueError as error:
            raise BadRequest(f"Synjitsu cannot hold the addresses of the VM {request.vm[:64]}: {error}") from None
        self._meet(request.vm)
        if request.handover == "xenstore":
            return self._arm_by_xenstore(request, mac, limit_s)
        return self._arm(request, mac, limit_s)

    def _meet(self, vm: str) -> None:
        """Note a VM that is not configured; raises Unavailable if the addresses of too many such VMs are held."""
        if vm in self._strangers or self.is_configured(vm):
            return
        if len(self._strangers) >= MAX_STRANGERS:
            for each in list(self._strangers):
                if not any(bridge.arming.holds(each) for bridge in self.bridges):
                    del self._strangers[each]
                    if not self.is_configured(each):
                        self._seen_elsewhere.discard(each)
                        self.name_interface(each, "")
        if len(self._strangers) >= MAX_STRANGERS:
            raise Unavailable(f"{MAX_STRANGERS} VMs are armed that are not configured")
        self._strangers[vm] = None

    async def _arm_by_xenstore(self, request: Arm, mac: bytes, limit_s: float) -> Done:
        """Make place for what is handed over; without Xenstore it is sent to the guest, as to any other."""
        self.bridges.want(request.bridge)
        self.bridges.of(request.bridge)
        try:
            await self._entries.arm(request.vm, request.addresses, request.domain_id)
        except Unavailable as error:
            log.warning("kept packets cannot be handed over through Xenstore", vm=request.vm, reason=str(error))
            return self._arm(request, mac, limit_s)
        return self._arm(request, mac, limit_s, by_xenstore=True)

    def _arm(self, request: Arm, mac: bytes, limit_s: float, *, by_xenstore: bool = False) -> Done:
        self.bridges.want(request.bridge)
        bridge, now = self.bridges.of(request.bridge), monotonic()
        limit = now + limit_s
        if request.interface:
            self.name_interface(request.vm, request.interface)
        self.armed(request.vm, bridge, mac)
        is_known = request.is_there or request.vm in self._seen_elsewhere
        if not is_known and bridge.knows_elsewhere(mac):
            self._seen_elsewhere.add(request.vm)
            log.warning(
                "a VM that is off has its MAC address on the bridge: another machine has the same, or it runs",
                bridge=bridge.name,
                mac=request.mac,
                mend=f"bridge fdb show br {bridge.name} | grep {request.mac}; give one of them another (its key mac)",
            )
        actions = bridge.arming.arm(
            request.vm,
            request.addresses,
            mac,
            limit,
            now,
            by_xenstore=by_xenstore,
            probed_port=self.probed_port(request.vm),
        )
        self.perform(bridge, actions)
        return Done(note=bridge.arming.boot_note(request.vm))

    def name_interface(self, vm: str, interface: str) -> None:
        """Note at which interface a VM is, "" if unknown; claims on its addresses can be decided then."""
        for bridge in self.bridges:
            bridge.ports.named(vm, interface)
        if not interface:
            self.interfaces.pop(vm, None)
        elif self.interfaces.get(vm) != interface:
            self.interfaces[vm] = interface
            for bridge in self.bridges:
                self.perform(bridge, bridge.arming.decide(vm, monotonic()))

    def _heard_from(self, bridge: str, vm: str) -> frozenset[bytes] | None:
        interface = self.interfaces.get(vm)
        return None if interface is None else heard_at(bridge, interface)

    def _managed(self, vm: str) -> None:
        for bridge in self.bridges:
            self.perform(bridge, bridge.arming.managed(vm, monotonic()))

    def disarm(self, request: Disarm) -> Done:
        """Answer Disarm."""
        for bridge in self.bridges:
            self.perform(bridge, bridge.arming.disarm(request.vm, request.outcome, monotonic()))
        return Done()

    async def _look_for_ever(self) -> None:
        while not self.bridges.is_off:
            await asyncio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        self.bridges.look()
        for bridge in self.bridges:
            bridge.arming.count_anew()
            for address, mac in bridge.arming.new_rivals().items():
                log.warning(
                    "another machine claims the address of a VM",
                    address=address,
                    mac=mac.hex(":"),
                    mend=f"bridge fdb show br {bridge.name} shows its port; give one of them another address",
                )
            bridge.activity.passed(monotonic())
            bridge.focus()

    # --- the rules' shell ---

    def perform(self, bridge: Bridge, actions: Sequence[Action]) -> None:
        """Do what the rules want done on a bridge, and arm the one timer."""
        for action in actions:
            match action:
                case Send(frame, what):
                    bridge.send(frame, what)
                    self._sent[what] += 1
                case Handed(vm, mac):
                    bridge.activity.has_mac(vm, mac, monotonic())
                    self._process.spawn(self._tell(vm))
                case WriteEntry(vm, values):
                    self._entries.write(vm, values)
                case ClearEntries(vm, addresses, after_s):
                    self._entries.clear(vm, addresses, after_s)
                case ShutPort(vm, mac):
                    bridge.ports.boots(vm, mac)
                case OpenPort(vm):
                    bridge.ports.settled(vm)
                case Wake(vm):
                    self._process.spawn(self._wake(bridge, vm))
        bridge.focus()
        dues = [due for each in self.bridges if (due := each.arming.next_deadline()) is not None]
        self._alarm.set(min(dues, default=None))

    def _passed(self) -> None:
        for bridge in self.bridges:
            self.perform(bridge, bridge.arming.passed(monotonic()))

    async def _tell(self, vm: str) -> None:
        try:
            await self._vmd.call(HandedOver(vm=vm), Done, TELL_TIMEOUT_S)
        except JitsuError as error:
            log.warning("cannot report to vmd that the guest is there", vm=vm, reason=str(error))

    async def _wake(self, bridge: Bridge, vm: str) -> None:
        """Have a VM started that is off; once it is ready, it has what was kept even if nobody has armed it."""
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic"), Summoned, WAKE_TIMEOUT_S)
        except JitsuError as error:
            log.info("not woken by traffic", vm=vm, reason=str(error))
            self.perform(bridge, bridge.arming.not_woken(vm, monotonic()))
        else:
            self.perform(bridge, bridge.arming.unwatch(vm, monotonic(), runs=True))

    def summon_again(self, bridge: Bridge, vm: str) -> None:
        """Have vmd start a VM that it had armed when it died: its clients have their answer, and wait."""
        self._process.spawn(self._summoned_again(bridge, vm))

    async def _summoned_again(self, bridge: Bridge, vm: str) -> None:
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic"), Summoned, WAKE_TIMEOUT_S)
        except JitsuError as error:
            log.warning("a VM that was about to start when vmd died was not started", vm=vm, reason=str(error))
            self.perform(bridge, bridge.arming.disarm(vm, "failed", monotonic()))

    def _save(self, vm: str) -> None:
        self._process.spawn(self._saved(vm))

    async def _saved(self, vm: str) -> None:
        try:
            await self._vmd.call(Summon(vm=vm, trigger="traffic"), Summoned, TELL_TIMEOUT_S)
        except JitsuError as error:
            log.info("cannot report to vmd that a draining VM is used", vm=vm, reason=str(error))

    # --- views ---

    def _addresses(self) -> list[str]:
        return sorted(address for bridge in self.bridges for address in bridge.arming.addresses())

    def _unsent(self) -> dict[tuple[str, ...], float]:
        unsent: Counter[str] = Counter()
        for bridge in self.bridges:
            unsent += bridge.unsent
            if bridge.wire is not None:
                unsent += bridge.wire.unsent
        return {(error,): float(count) for error, count in unsent.items()}

    def _unwoken(self) -> float:
        return float(sum(bridge.arming.unwoken for bridge in self.bridges))

    def _floods(self) -> float:
        return float(sum(bridge.arming.floods + bridge.activity.floods for bridge in self.bridges))

    def _connected(self) -> float:
        return float(sum(bridge.activity.connected() for bridge in self.bridges))

    def _expired(self) -> float:
        return float(sum(bridge.activity.expired for bridge in self.bridges))
