"""Who uses the VMs that run: what DNS cannot tell the reaper.

A VM is in use while a client has a TCP connection to it, and when an IP packet is sent to its MAC address. Of a
connection the first and the last segments are seen (SYN with ACK; FIN in both directions; RST). Of other packets one is
enough: after one has come, a VM is not looked at for a while, in which it counts as used (attention.py). So a busy VM
costs a packet or two a second, and no use is missed. These are no use: broadcasts, ARP, what Synjitsu itself sends,
segments of TCP connections that the VM has opened (its SYN is always seen), UDP datagrams that answer the VM's own
(datagrams.py), ICMP errors and echo replies. In doubt a packet is use: when the VM has opened more connections than are
kept, or when more segments or datagrams come for it than can be looked at one by one.

A connection whose client has vanished never ends. So if nothing at all was sent to a VM for `max_idle_connection`, its
connections are over. What cannot be known counts as a connection:

    the table of a VM was full                                    that VM may have more connections
    Synjitsu was away, or its socket on the bridge was broken     all of the bridge may
    the kernel dropped frames, as they were not read in time      all of the bridge may
    a VM is flooded: of its frames one of SAMPLE is seen          that VM may
    another VM has the same MAC address                           that VM may

When the reaper has a VM drained, Synjitsu honours that once it has looked (`honours`). A packet that comes from then on
is reported to vmd at once, which saves the VM.

A frame, a look at the clock and a report cost the same however many VMs run. What becomes due at a VM (to look at it
again, to listen to its datagrams again, the end of its connections) stands in one queue of deadlines. What the reaper
does not know yet stands in the order in which the reaper is to hear of it (unreported.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jitsu_protocol.deadlines import Deadlines
from jitsu_synjitsu.rules.attention import Attention
from jitsu_synjitsu.rules.clients import Clients
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.macs import Macs
from jitsu_synjitsu.rules.running import IdleLimits, Running
from jitsu_synjitsu.rules.unreported import Unreported

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.running import Known

MIN_BLIND_S, MAX_BLIND_S, BLIND_PART = 0.25, 5.0, 10
"""After a packet a VM is not looked at for a tenth of its idle timeout, within these bounds."""

Due = Literal["look", "listen", "expire"]


@dataclass
class Totals:
    """Of all VMs of one bridge."""

    connections: int = 0
    """How many are open now."""
    expired: int = 0
    """How many were given up because nothing was sent for too long."""


@dataclass
class Activity:
    """All VMs on one bridge that run."""

    attention: Attention = field(default_factory=Attention)
    unreported: Unreported = field(default_factory=Unreported)
    totals: Totals = field(default_factory=Totals)
    clients: Clients = field(default_factory=Clients)
    vms: dict[str, Running] = field(default_factory=dict)
    macs: Macs[Running] = field(default_factory=Macs)
    _regained: dict[str, Running] = field(default_factory=dict, init=False)
    """VMs that have their MAC address again, which another one had."""
    _unsaved: dict[str, None] = field(default_factory=dict, init=False)
    """VMs of which something else is known than `unsaved` has returned."""
    _deadlines: Deadlines[tuple[Due, str]] = field(default_factory=Deadlines, init=False)
    _max_idle: Deadlines[str] = field(default_factory=Deadlines, init=False)
    """VM -> minus its `max_idle`: the earliest one is the longest."""

    def runs(self, vm: VM, mac: bytes, drain: str, now: float, *, unknown: bool, boots: bool = False) -> None:
        """Note that a VM runs, or drains. `unknown`: it did before anybody looked; `boots`: it has sent nothing yet."""
        known, limits = self.vms.get(vm.uuid), IdleLimits(vm.idle_timeout, vm.max_idle_connection)
        if known is None:
            known = Running(vm.uuid, mac, limits, now, maybe_more=unknown)
            if not boots:
                known.datagrams.missed(now)
            self.vms[vm.uuid] = known
            self._has_mac(known, now)
            self.attention.listen(known)
        known.limits, known.drain = limits, drain
        self._max_idle.set(vm.uuid, -vm.max_idle_connection)
        self._connections_changed(known)

    def has_mac(self, vm: str, mac: bytes, now: float) -> None:
        """Note that a VM has another MAC address than was known."""
        known = self.vms.get(vm)
        if known is not None and known.mac != mac:
            self._forget_mac(known)
            known.mac = mac
            self._has_mac(known, now)
            known.datagrams.missed(now)
            self.attention.listen(known)

    def rests(self, vm: str) -> None:
        """Note that a VM no longer runs: its connections are over."""
        known = self.vms.pop(vm, None)
        if known is None:
            return
        self._forget_mac(known)
        self.totals.connections -= len(known.connections)
        self._max_idle.discard(vm)
        for due in ("look", "listen", "expire"):
            self._deadlines.discard((due, vm))
        self._regained.pop(vm, None)
        self.attention.forget(known)
        self.unreported.forget(vm)
        self.clients.forget(vm)
        self._unsaved[vm] = None

    def _has_mac(self, known: Running, now: float) -> None:
        """Watch a VM at its MAC address; the use of another VM that has the same one is not seen from now on."""
        other = self.macs.get(known.mac)
        if other is not None and other is not known:
            self._lost_some(other, now)
            self._listen_no_longer(other)
        self.macs.put(known.mac, known)
        self.attention.await_packet(known)

    def _forget_mac(self, known: Running) -> None:
        self.macs.drop(known.mac, known)
        self.attention.forget_mac(known.mac)
        if (other := self.macs.get(known.mac)) is not None:
            self.attention.await_packet(other)
            self._regained[other.vm] = other

    # --- what was not seen ---

    def may_be_connected(self, vm: str, now: float) -> None:
        """Note that connections to a VM may have been opened until now that nobody saw."""
        if vm in self.vms:
            self._may_have_more(self.vms[vm], now)

    def missed(self, now: float) -> None:
        """Note that frames of any VM may have been lost."""
        for known in self.vms.values():
            self._lost_some(known, now)

    def missed_of(self, mac: bytes, now: float) -> None:
        """Note that frames of the VM with this MAC address were lost."""
        if (known := self.macs.get(mac)) is not None:
            self._lost_some(known, now)

    def _lost_some(self, known: Running, now: float) -> None:
        """Note that nobody knows who has opened a connection to a VM, nor who has begun which flow."""
        known.datagrams.missed(now)
        self._may_have_more(known, now)

    def _may_have_more(self, known: Running, now: float) -> None:
        known.maybe_more = True
        known.used_at = max(known.used_at, now)
        self._connections_changed(known)

    def _listen_no_longer(self, known: Running) -> None:
        """Let no flow become a VM's own until its datagrams are looked at again."""
        known.datagrams.rest(float("inf"))
        self._deadlines.discard(("listen", known.vm))
        self.attention.end_wait(known)

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses of all VMs that run."""
        return frozenset(self.macs)

    # --- over a restart ---

    def restore(self, vm: str, known: Known) -> None:
        """Restore what was known of a VM before Synjitsu was started again."""
        if vm in self.vms:
            running = self.vms[vm]
            connections, running.maybe_more, own = known
            self.totals.connections += len(connections) - len(running.connections)
            running.connections = dict.fromkeys(connections, 0)
            running.datagrams.own |= dict.fromkeys(own, running.used_at)
            self._connections_changed(running)

    def unsaved(self) -> dict[str, Known | None]:
        """Return what is known of each VM of which it has changed since this was called last."""
        vms, self._unsaved = self._unsaved, {}
        return {vm: self.vms[vm].known() if vm in self.vms else None for vm in vms}

    # --- frames ---

    def frame(self, seen: Seen, now: float) -> str:
        """Look at a frame; return the VM that it saves from being stopped, or ""."""
        target, origin = self.macs.get(seen.destination), self.macs.get(seen.source)
        for known in (target, origin):
            if known is not None and self.attention.count(known):
                self._lost_some(known, now)
        if seen.kind is Kind.TCP:
            self._segment(seen, target, origin, now)
        elif seen.kind is Kind.UDP and origin is not None:
            origin.datagrams.sent((seen.target, seen.target_port, seen.sender, seen.source_port), now)
            self._rest_if_busy(origin, now)
        if target is None or not seen.at or seen.kind in (Kind.ASKS, Kind.TELLS):
            return ""
        is_reply = target.is_answered(seen, now)
        if seen.kind is Kind.UDP and self._rest_if_busy(target, now):
            is_reply = False
        if is_reply:
            return ""
        self.clients.packet(target.vm, seen, now)
        self._used(target, now)
        if target.drain:
            target.drain = ""
            return target.vm
        return ""

    def sent(self, seen: Seen, now: float) -> None:
        """Look at a frame that Synjitsu sends: with a reset it ends the connection that its probe has opened."""
        target = self.macs.get(seen.destination)
        if target is not None and seen.kind is Kind.TCP:
            self._segment(seen, target, self.macs.get(seen.source), now)

    def _rest_if_busy(self, vm: Running, now: float) -> bool:
        """Look no longer at each datagram of a VM that has many; it counts as used until that is over."""
        if vm.datagrams.changed:
            vm.datagrams.changed = False
            self._unsaved[vm.vm] = None
        if not self.attention.listens(vm) or not vm.datagrams.is_busy():
            return False
        vm.blind_until = 0.0
        self._used(vm, now)
        vm.datagrams.rest(vm.blind_until)
        self.attention.rest(vm)
        self._deadlines.set(("listen", vm.vm), vm.blind_until)
        return True

    def _segment(self, seen: Seen, target: Running | None, origin: Running | None, now: float) -> None:
        for known, changes in ((origin, Running.sends), (target, Running.gets)):
            if known is not None:
                count = len(known.connections)
                if changes(known, seen, now):
                    self.totals.connections += len(known.connections) - count
                    self._connections_changed(known)

    def _connections_changed(self, vm: Running) -> None:
        """Note who may be connected to a VM, for the reaper, for the file, and for the end of its connections."""
        self._unsaved[vm.vm] = None
        self.clients.connections_changed(vm.vm)
        self.unreported.note(vm)
        if vm.is_connected() and ("expire", vm.vm) not in self._deadlines:
            self._deadlines.set(("expire", vm.vm), vm.used_at + vm.limits.max_connection)

    def _used(self, vm: Running, now: float) -> None:
        if vm.blind_until > now:
            return
        blind = min(MAX_BLIND_S, max(MIN_BLIND_S, vm.limits.idle_timeout / BLIND_PART))
        vm.used_at = vm.blind_until = now + blind  # nobody looks until then
        self._deadlines.set(("look", vm.vm), vm.blind_until)
        self.attention.look_away(vm)
        self.unreported.note(vm)

    # --- time ---

    def deadline(self) -> float | None:
        """Return when a VM is to be looked at again; floods end a little later, as `tick` is called now and then."""
        earliest = self._deadlines.earliest()
        return None if earliest is None else earliest[1]

    def tick(self, now: float) -> None:
        """Look at VMs again, and give up connections of those to which nothing was sent for too long."""
        for vm in self.attention.begin_count():
            self._lost_some(vm, now)
        while (found := self._deadlines.pop_due(now)) is not None:
            due, name = found
            vm = self.vms[name]
            match due:
                case "look":
                    self.attention.await_packet(vm)
                case "listen":
                    vm.datagrams.resume(now)
                    self.attention.listen(vm)
                case "expire":
                    self._expire(vm, now)
        for vm in self._regained.values():
            self._lost_some(vm, now)
            self._listen_no_longer(vm)
            self.attention.wait_to_listen(vm)
        self._regained.clear()
        self.attention.listen_to_waiting(now)

    def _expire(self, vm: Running, now: float) -> None:
        """Give up the connections of a VM, unless it has been used since that was put into the queue."""
        if not vm.is_connected():
            return
        if (at := vm.used_at + vm.limits.max_connection) > now:
            self._deadlines.set(("expire", vm.vm), at)
            return
        self.totals.expired += len(vm.connections)
        self.totals.connections -= len(vm.connections)
        vm.connections.clear()
        vm.maybe_more = False
        self._connections_changed(vm)

    def honours(self, vm: str, drain: str) -> bool:
        """Say whether a VM has not been used since it drains; one that is not looked at never is."""
        known = self.vms.get(vm)
        return known is None or (known.drain == drain and not known.is_connected())

    def longest_idle(self) -> float:
        """Return how long an unseen connection could keep a VM up, at most."""
        longest = self._max_idle.earliest()
        return 0.0 if longest is None else -longest[1]
