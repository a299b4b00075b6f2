"""What is to be seen of VMs that run, so that a busy one costs little and a flooded one costs the others nothing.

    a VM is    while                                                of its frames are seen
    awaited    the next packet to it is of interest                 the next IP packet to it
    listened   there is a place for it, and it is not busy          all its UDP datagrams
    waiting    it should be listened to, and there is no place      no datagram; each counts as use
    sampled    more than FLOOD_FRAMES of its frames were seen in    one of SAMPLE
               one count, until a count shows that this is over
    any        it runs                                              segments that begin and end TCP connections

A flood of SYNs to one VM would make the kernel drop the frames of all others, so a flood is `urgent`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.filter import SAMPLE

if TYPE_CHECKING:
    from jitsu_synjitsu.rules.running import Running

MAX_LISTENED = 256
"""VMs whose datagrams are looked at one by one: each makes the kernel's filter longer."""
FLOOD_FRAMES = 1000
"""Of one VM in a count: more could not be looked at without losing those of others."""


@dataclass
class Attention:
    """For all VMs on one bridge that run."""

    changed: bool = False
    """What is to be seen has changed; set back by who looks at it."""
    urgent: bool = False
    """It has changed because of a flood, of which each millisecond may cost frames of others; set back likewise."""
    floods: int = 0
    """How often a VM was flooded."""
    _awaited: set[bytes] = field(default_factory=set, init=False)
    _listened: set[bytes] = field(default_factory=set, init=False)
    _waiting: dict[str, Running] = field(default_factory=dict, init=False)
    _sampled: dict[str, Running] = field(default_factory=dict, init=False)
    _counted: dict[str, Running] = field(default_factory=dict, init=False)
    """VMs of which something was counted since the last count began."""

    # --- the next packet ---

    def await_packet(self, vm: Running) -> None:
        """See the next packet to a VM."""
        self._awaited.add(vm.mac)
        self.changed = True

    def look_away(self, vm: Running) -> None:
        """See no packets to a VM for a while."""
        self._awaited.discard(vm.mac)
        self.changed = True

    def awaited(self) -> frozenset[bytes]:
        """Return the MAC addresses of those to which the next packet is of interest."""
        return frozenset(self._awaited)

    # --- datagrams ---

    def listen(self, vm: Running) -> None:
        """See each datagram of a VM, now or when there is a place."""
        if len(self._listened) < MAX_LISTENED:
            self._listened.add(vm.mac)
            self.changed = True
        else:
            vm.datagrams.rest(float("inf"))
            self.wait_to_listen(vm)

    def wait_to_listen(self, vm: Running) -> None:
        """See its datagrams as soon as there is a place."""
        self._waiting[vm.vm] = vm

    def end_wait(self, vm: Running) -> None:
        """Wait for a place no longer."""
        self._waiting.pop(vm.vm, None)

    def listen_to_waiting(self, now: float) -> None:
        """Give places that have become free to those that wait."""
        while self._waiting and len(self._listened) < MAX_LISTENED:
            vm = self._waiting.pop(next(iter(self._waiting)))
            vm.datagrams.resume(now)
            self.listen(vm)

    def rest(self, vm: Running) -> None:
        """See the datagrams of a VM no longer: it has too many."""
        self._listened.discard(vm.mac)

    def listens(self, vm: Running) -> bool:
        """Say whether each datagram of a VM is seen."""
        return vm.mac in self._listened

    def listened(self) -> frozenset[bytes]:
        """Return the MAC addresses of those whose datagrams are all of interest."""
        return frozenset(self._listened)

    # --- floods ---

    def count(self, vm: Running) -> bool:
        """Count a frame of a VM; return whether a flood begins."""
        self._counted[vm.vm] = vm
        vm.counted.frames += 1
        if vm.counted.frames <= FLOOD_FRAMES or vm.vm in self._sampled:
            return False
        self._sampled[vm.vm] = vm
        self.floods += 1
        self.changed = self.urgent = True
        return True

    def begin_count(self) -> list[Running]:
        """Begin another count; return the VMs whose flood is over, because little of them was seen."""
        over = [vm for vm in self._sampled.values() if vm.counted.frames * SAMPLE < FLOOD_FRAMES]
        for vm in over:
            del self._sampled[vm.vm]
            self.changed = True
        for vm in self._counted.values():
            vm.look()
        self._counted.clear()
        return over

    def sampled(self) -> frozenset[bytes]:
        """Return the MAC addresses of those that are flooded."""
        return frozenset(vm.mac for vm in self._sampled.values())

    # --- the end ---

    def forget_mac(self, mac: bytes) -> None:
        """See nothing of a MAC address any longer."""
        self._awaited.discard(mac)
        self._listened.discard(mac)
        self.changed = True

    def forget(self, vm: Running) -> None:
        """Forget a VM that runs no longer."""
        for table in (self._waiting, self._sampled, self._counted):
            table.pop(vm.vm, None)
