"""Who uses the VMs that run: what DNS cannot tell the reaper.

A VM is in use while a client has a TCP connection to it, and when an IP packet is sent to its MAC address. Of the
connections the first and the last segments are seen (SYN with ACK; FIN in both directions; RST). Of other packets
one is enough: a VM is `awaited` until one comes, and then not looked at for a while, in which it counts as used. So a
busy VM costs a packet or two a second, and no use is missed. Broadcasts, ARP and what Synjitsu sends itself are no
use; nor are segments of TCP connections that the VM has opened: its SYN is always seen; nor UDP datagrams that answer
the VM's own (datagrams.py), ICMP errors and echo replies. In doubt a packet is use: when the VM has opened more
connections than are kept, or when more segments or datagrams come for it than can be looked at one by one.

A connection whose client has vanished ends never. So if nothing at all was sent to a VM for `max_idle_connection`,
its connections are over. What cannot be known (the table was full, Synjitsu was away) counts as a connection.

When the reaper has a VM drained, Synjitsu honours that once it has looked (`honoured`); a packet that comes from then
on is told to vmd at once, which saves the VM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Use
from jitsu_synjitsu.rules.datagrams import Datagrams
from jitsu_synjitsu.rules.frames import ACK, FIN, RST, SYN, Kind, Seen
from jitsu_synjitsu.rules.macs import Macs

if TYPE_CHECKING:
    from jitsu_protocol.vm import VM

MAX_CONNECTIONS = 4096
"""Of one VM."""
MIN_BLIND_S, MAX_BLIND_S, BLIND_PART = 0.25, 5.0, 10
"""After a packet a VM is not looked at for a tenth of its idle timeout, within these bounds."""
MAX_REPLIES = 16
"""To one VM between two calls of `passed`, on connections that it has opened: more are not looked at one by one."""
MAX_LISTENED = 256
"""VMs whose datagrams are looked at one by one: each makes the kernel's filter longer."""
MAX_USES = 5000
"""In a report."""

Connection = tuple[bytes, int, bytes, int]
"""Client's address and port, the VM's."""
Known = tuple[list[Connection], bool, list[Connection]]
"""The connections to a VM, whether there may be more, and the flows of datagrams that the VM has begun."""


@dataclass
class Running:
    """One VM that runs."""

    vm: str
    mac: bytes
    idle_timeout: float
    max_idle: float
    used_at: float
    """When a packet to it was seen last, or may have been sent unseen."""
    blind_until: float = 0.0
    connections: dict[Connection, int] = field(default_factory=dict)
    """Connection -> which sides have closed it: 1 the client, 2 the VM."""
    opened: dict[Connection, None] = field(default_factory=dict)
    """Connections that the VM has opened itself; of more than MAX_CONNECTIONS the oldest is forgotten."""
    datagrams: Datagrams = field(default_factory=Datagrams)
    replies: int = 0
    """Segments to it on those, since `passed` was called last."""
    maybe_more: bool = False
    """There may be connections that are not in the table."""
    drain: str = ""
    told_at: float = -1.0
    """Up to when its use is known to the reaper."""

    def is_connected(self) -> bool:
        """Say whether anybody is connected, as far as is known."""
        return bool(self.connections) or self.maybe_more


@dataclass
class Activity:
    """All VMs on one bridge that run."""

    _vms: dict[str, Running] = field(default_factory=dict)
    _macs: Macs[Running] = field(default_factory=Macs)
    _awaited: set[bytes] = field(default_factory=set)
    _listened: set[bytes] = field(default_factory=set)
    changed: bool = False
    """`running` or `awaited` has changed; set back by who looks at them."""
    expired: int = 0
    """Connections given up because nothing was sent for too long."""

    def runs(self, vm: VM, mac: bytes, drain: str, now: float, *, unknown: bool, boots: bool = False) -> None:
        """Note that a VM runs, or drains. `unknown`: it did before anybody looked; `boots`: it has sent nothing yet."""
        known = self._vms.get(vm.uuid)
        if known is None:
            known = Running(vm.uuid, mac, vm.idle_timeout, vm.max_idle_connection, now, maybe_more=unknown)
            if not boots:
                known.datagrams.missed(now)
            self._vms[vm.uuid] = known
            self._has_mac(known)
            self._listen(known, now)
        known.idle_timeout, known.max_idle, known.drain = vm.idle_timeout, vm.max_idle_connection, drain

    def has_mac(self, vm: str, mac: bytes, now: float) -> None:
        """Note that a VM has another MAC address than was known."""
        known = self._vms.get(vm)
        if known is not None and known.mac != mac:
            self._forget_mac(known)
            known.mac = mac
            self._has_mac(known)
            known.datagrams.missed(now)
            self._listen(known, now)

    def rests(self, vm: str) -> None:
        """Note that a VM runs no more: its connections are over."""
        known = self._vms.pop(vm, None)
        if known is not None:
            self._forget_mac(known)

    def _has_mac(self, known: Running) -> None:
        """Watch a VM at its MAC address; the use of another VM that has the same one is not seen from now on."""
        other = self._macs.get(known.mac)
        if other is not None and other is not known:
            other.maybe_more = True
        self._macs.put(known.mac, known)
        self._await(known)

    def _forget_mac(self, known: Running) -> None:
        self._macs.drop(known.mac, known)
        self._awaited.discard(known.mac)
        self._listened.discard(known.mac)
        self.changed = True
        if (other := self._macs.get(known.mac)) is not None:
            self._await(other)

    def may_be_connected(self, vm: str) -> None:
        """Note that connections to a VM may have been opened that nobody saw."""
        if vm in self._vms:
            self._vms[vm].maybe_more = True

    def missed(self, now: float) -> None:
        """Note that frames were lost: who began which flow is not known."""
        for known in self._vms.values():
            known.datagrams.missed(now)

    def _listen(self, known: Running, now: float) -> None:
        if len(self._listened) < MAX_LISTENED:
            self._listened.add(known.mac)
            self.changed = True
        else:
            known.datagrams.rest(now + MAX_BLIND_S)

    def _await(self, known: Running) -> None:
        self._awaited.add(known.mac)
        self.changed = True

    def restore(self, vm: str, known: Known) -> None:
        """Take in what was known of a VM before Synjitsu was started again."""
        if vm in self._vms:
            running = self._vms[vm]
            connections, running.maybe_more, own = known
            running.connections = dict.fromkeys(connections, 0)
            running.datagrams.own |= dict.fromkeys(own, running.used_at)

    def known(self) -> dict[str, Known]:
        """Return what is known of each VM."""
        return {
            vm: (list(each.connections), each.maybe_more, list(each.datagrams.own)) for vm, each in self._vms.items()
        }

    def running(self) -> frozenset[bytes]:
        """Return the MAC addresses of all VMs that run."""
        return frozenset(self._macs)

    def awaited(self) -> frozenset[bytes]:
        """Return the MAC addresses of those to which the next packet is of interest."""
        return frozenset(self._awaited)

    def listened(self) -> frozenset[bytes]:
        """Return the MAC addresses of those whose datagrams are all of interest."""
        return frozenset(self._listened)

    def frame(self, seen: Seen, now: float) -> str:
        """Take a frame; returns the VM that it saves from being stopped, or nothing."""
        target = self._macs.get(seen.destination)
        if seen.kind is Kind.TCP:
            self._segment(seen, target, now)
        elif seen.kind is Kind.UDP and (origin := self._macs.get(seen.source)) is not None:
            origin.datagrams.sent((seen.target, seen.target_port, seen.sender, seen.source_port), now)
            self._rest_if_busy(origin, now)
        if target is None or not seen.at or seen.kind in (Kind.ASKS, Kind.TELLS):
            return ""
        if self._is_reply(target, seen, now):
            return ""
        self._used(target, now)
        if target.drain:
            target.drain = ""
            return target.vm
        return ""

    def _is_reply(self, target: Running, seen: Seen, now: float) -> bool:
        match seen.kind:
            case Kind.TCP:
                return _is_reply(target, seen)
            case Kind.UDP:
                flow = (seen.sender, seen.source_port, seen.target, seen.target_port)
                is_reply = target.datagrams.is_reply(flow, now, seen.fragment)
                return not self._rest_if_busy(target, now) and is_reply
            case Kind.FRAGMENT:
                return target.datagrams.is_rest_of_reply(seen.sender, seen.fragment)
            case _:
                return seen.kind in (Kind.ANSWER, Kind.UNREACHABLE)

    def _rest_if_busy(self, vm: Running, now: float) -> bool:
        """Look no longer at each datagram of a VM that has many; it counts as used until that is over."""
        if vm.mac not in self._listened or not vm.datagrams.is_busy():
            return False
        vm.blind_until = 0.0
        self._used(vm, now)
        vm.datagrams.rest(vm.blind_until)
        self._listened.discard(vm.mac)
        return True

    def _segment(self, seen: Seen, target: Running | None, now: float) -> None:
        origin = self._macs.get(seen.source)
        if origin is not None:
            connection = (seen.target, seen.target_port, seen.sender, seen.source_port)
            if seen.flags & (SYN | ACK) == SYN | ACK:
                self._opened(origin, connection)
            elif seen.flags & SYN:
                _opens(origin, connection)
            else:
                _closed(origin, connection, seen.flags, 2, now)
        if target is not None:
            _closed(target, (seen.sender, seen.source_port, seen.target, seen.target_port), seen.flags, 1, now)

    @staticmethod
    def _opened(vm: Running, connection: Connection) -> None:
        if len(vm.connections) >= MAX_CONNECTIONS and connection not in vm.connections:
            del vm.connections[next(iter(vm.connections))]
            vm.maybe_more = True
        vm.connections[connection] = 0

    def _used(self, vm: Running, now: float) -> None:
        if vm.blind_until > now:
            return
        blind = min(MAX_BLIND_S, max(MIN_BLIND_S, vm.idle_timeout / BLIND_PART))
        vm.used_at = vm.blind_until = now + blind  # nobody looks until then
        self._awaited.discard(vm.mac)
        self.changed = True

    def sent(self, seen: Seen, now: float) -> None:
        """Take a frame that Synjitsu sends: with a reset it ends the connection that its probe has opened."""
        target = self._macs.get(seen.destination)
        if target is not None and seen.kind is Kind.TCP:
            self._segment(seen, target, now)

    def passed(self, now: float) -> None:
        """Look at VMs again, and give up connections of those to which nothing was sent for too long."""
        for vm in self._vms.values():
            vm.replies = 0
            vm.datagrams.look()
            if vm.mac not in self._listened and vm.datagrams.blind_until <= now:
                self._listen(vm, now)
            if vm.blind_until <= now and vm.mac not in self._awaited:
                self._await(vm)
            if vm.is_connected() and now - vm.used_at >= vm.max_idle:
                self.expired += len(vm.connections)
                vm.connections.clear()
                vm.maybe_more = False

    def uses(self, now: float) -> list[tuple[Use, float]]:
        """Return what the reaper does not know yet, each with what `told` takes when it does."""
        found = []
        for vm in self._vms.values():
            used_at = now if vm.is_connected() else vm.used_at
            if used_at > vm.told_at:
                found.append((Use(vm.vm, "", 0, max(0.0, now - used_at)), min(used_at, now), vm.told_at))
        if len(found) > MAX_USES:  # those of which the reaper has not heard for longest
            found = sorted(found, key=lambda each: each[2])[:MAX_USES]
        return [(use, up_to) for use, up_to, _ in found]

    def told(self, vm: str, up_to: float) -> None:
        """Note that the reaper knows of a VM's use up to a moment."""
        if vm in self._vms:
            self._vms[vm].told_at = max(self._vms[vm].told_at, up_to)

    def honours(self, vm: str, drain: str) -> bool:
        """Say whether a VM has not been used since it drains; one that is not looked at never is."""
        known = self._vms.get(vm)
        return known is None or (known.drain == drain and not known.is_connected())

    def connected(self) -> int:
        """Return how many connections there are."""
        return sum(len(vm.connections) for vm in self._vms.values())

    def longest_idle(self) -> float:
        """Return how long an unseen connection could keep a VM up, at most."""
        return max((vm.max_idle for vm in self._vms.values()), default=0.0)


def _opens(vm: Running, connection: Connection) -> None:
    """Note that a VM opens a connection."""
    vm.opened.pop(connection, None)
    vm.opened[connection] = None
    if len(vm.opened) > MAX_CONNECTIONS:
        del vm.opened[next(iter(vm.opened))]


def _is_reply(vm: Running, seen: Seen) -> bool:
    """Say whether a segment belongs to a connection that the VM has opened, and is no use of it."""
    connection = (seen.sender, seen.source_port, seen.target, seen.target_port)
    if connection not in vm.opened:
        return False
    if seen.flags & (SYN | ACK) == SYN:  # now somebody else opens one with the same ports
        del vm.opened[connection]
        return False
    vm.replies += 1
    return vm.replies <= MAX_REPLIES


def _closed(vm: Running, connection: Connection, flags: int, side: int, now: float) -> None:
    if connection not in vm.connections:
        return
    if flags & FIN:
        vm.connections[connection] |= side
    if flags & RST or vm.connections[connection] == 3:
        del vm.connections[connection]
        vm.used_at = max(vm.used_at, now)
