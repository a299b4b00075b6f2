"""The ports of a bridge while guests boot: nothing for a guest is to wait in the queue of its tap.

A bridge that does not know a MAC address floods what is sent there into every port, and a tap has a queue from the
moment that the hypervisor opens it. So what a client sends while the guest boots would reach the guest when its driver
is up, and once more when Synjitsu replays it. Therefore the guest's port is shut while it boots: the bridge does not
flood to it (`flood off` of bridge(8)). Broadcast and multicast still pass, and once the guest has sent a frame the
bridge knows its port and brings it what is its own.

    port     event                                        then
    open     a VM whose port it is, is paused             Shut; Unlearn: the bridge knows the MAC address of a guest
                                                          that is paused, and would go on to fill its queue
    open     a VM boots, and vmd has named it as the      Shut, before the hypervisor opens it
             VM's port
    open     it is new, or its carrier came, while VMs    Shut, for the VM that it belongs to; if that is not known, for
             boot that have no port yet                   all of these VMs
    shut     vmd names it as the port of another VM       no longer shut for the others
    shut     the guest of the VM is there, or its boot    no longer shut for that VM
             is over
    shut     (for no VM any more)                         Open
    any      it is no longer a port of the bridge         forgotten

A hypervisor makes and opens a tap at any moment, and it is shut a little later: when the kernel has reported it and
Synjitsu had its turn. So that nothing waits in the queue from that moment either, Synjitsu tells the bridge at the
beginning that the guest's MAC address is at another port, one that was there before. What is sent to the guest then
goes there, where nobody accepts it, and to Synjitsu, but is not flooded. The guest's first frame corrects that, as when
a machine moves from one port to another.

    a VM boots                                            Divert, to a port that is up and not its own, if there is one
    that port goes down, or away                          Divert, to another
    the guest of the VM is there, or its boot is over     EndDivert

Whose port it is follows from the name that vmd gives (`vnet3`, `vif7.0`), or from the MAC address of the tap, which
libvirt makes of the guest's: fe and its last five bytes. A port with `flood off` of the operator's own is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

K = TypeVar("K")
TAIL = slice(1, 6)


@dataclass(frozen=True)
class Port:
    """One port of the bridge, as the kernel describes it."""

    index: int
    name: str
    mac: bytes
    is_up: bool
    """Frames pass: it is up and has its carrier."""
    floods: bool


@dataclass(frozen=True)
class Shut:
    """Do not flood to a port."""

    port: Port


@dataclass(frozen=True)
class Open:
    """Flood to a port again."""

    port: Port


@dataclass(frozen=True)
class Unlearn:
    """Forget at which port a MAC address is."""

    port: Port
    mac: bytes


@dataclass(frozen=True)
class Divert:
    """Have the bridge take a MAC address to be at a port, unless it knows it already."""

    port: Port
    mac: bytes


@dataclass(frozen=True)
class EndDivert:
    """End that, if the guest has not done so by sending a frame."""

    port: Port
    mac: bytes


PortAction = Shut | Open | Unlearn | Divert | EndDivert


@dataclass
class Ports:
    """All ports of one bridge."""

    _ports: dict[int, Port] = field(default_factory=dict, init=False)
    """By the interface's index."""
    _shut: dict[int, set[str]] = field(default_factory=dict, init=False)
    """Ports that are shut, and the VMs for which they are."""
    _macs: dict[str, bytes] = field(default_factory=dict, init=False)
    """VMs that boot or are paused -> MAC address."""
    _by_mac: dict[bytes, dict[str, None]] = field(default_factory=dict, init=False)
    """The last five bytes of a MAC address -> the VMs of `_macs` that have it."""
    _names: dict[str, str] = field(default_factory=dict, init=False)
    """VM -> name of its port, as vmd reports it."""
    _by_name: dict[str, dict[str, None]] = field(default_factory=dict, init=False)
    """Name -> the VMs that have it; more than one while an interface goes from one VM to another."""
    _diverted: dict[str, int] = field(default_factory=dict, init=False)
    """VMs that boot -> the port at which the bridge assumes that they are."""

    def shut(self) -> list[Port]:
        """Return the ports that are shut."""
        return [self._ports[index] for index in self._shut]

    def detached(self) -> Ports:
        """Return what is known when the bridge is let go of: no port, but the names that vmd has given."""
        known = Ports()
        for vm, name in self._names.items():
            known.named(vm, name)
        return known

    def arm(self, vm: str, mac: bytes, *, is_paused: bool = False) -> list[PortAction]:
        """Note that a VM boots, or is paused.

        Of the ports that are there already, only the one that vmd has named is a booting VM's for certain.
        """
        self._forget_mac(vm)
        self._macs[vm] = mac
        self._by_mac.setdefault(mac[TAIL], {})[vm] = None
        actions: list[PortAction] = []
        for port in self._ports.values():
            if is_paused and self._owner(port) == vm:
                actions += [*self._shut_for(port, {vm}), Unlearn(port, mac)]
            elif self._names.get(vm) == port.name:
                actions += self._shut_for(port, {vm})
        return actions if is_paused else [*self._divert(vm), *actions]

    def settled(self, vm: str) -> list[PortAction]:
        """Note that a guest is there, or that its boot is over."""
        actions: list[PortAction] = []
        if (index := self._diverted.pop(vm, 0)) in self._ports:
            actions.append(EndDivert(self._ports[index], self._macs[vm]))
        self._forget_mac(vm)
        return actions + [action for index in list(self._shut) for action in self._free(index, vm)]

    def named(self, vm: str, name: str) -> list[PortAction]:
        """Note what vmd reports of a VM's port; "" if it does not know."""
        if self._names.get(vm, "") == name:
            return []
        if vm in self._names:
            _drop(self._by_name, self._names.pop(vm), vm)
        if not name:
            return []
        self._names[vm] = name
        self._by_name.setdefault(name, {})[vm] = None
        actions: list[PortAction] = []
        for index, vms in list(self._shut.items()):
            others = vms - {vm} if self._ports[index].name == name else vms & {vm}
            for each in others:
                actions += self._free(index, each)
        return actions

    def appeared(self, port: Port) -> list[PortAction]:
        """Note a port as it is now."""
        before = self._ports.get(port.index)
        self._ports[port.index] = port
        if before is not None and before.is_up and not port.is_up:
            return self._divert_again(port.index)
        is_new = before is None or (port.is_up and not before.is_up)
        if not is_new or port.index in self._shut:
            return []
        owner = self._owner(port)
        if not owner:
            return self._shut_for(port, self._without_port())
        return self._shut_for(port, {owner}) if owner in self._macs else []

    def gone(self, index: int) -> list[PortAction]:
        """Note that an interface is no longer a port of the bridge."""
        self._ports.pop(index, None)
        self._shut.pop(index, None)
        return self._divert_again(index)

    def _divert(self, vm: str) -> list[PortAction]:
        """Have what is sent to a VM that boots go to a port that is certainly not its own: best to nobody's."""
        if vm in self._diverted:
            return []
        others = [port for port in self._ports.values() if port.is_up and self._owner(port) != vm]
        port = next((port for port in others if not self._owner(port)), others[0] if others else None)
        if port is None:
            return []
        self._diverted[vm] = port.index
        return [Divert(port, self._macs[vm])]

    def _divert_again(self, index: int) -> list[PortAction]:
        """The bridge forgets what it has learned at a port that is gone, or down."""
        vms = [vm for vm, port in self._diverted.items() if port == index]
        for vm in vms:
            del self._diverted[vm]
        return [action for vm in vms for action in self._divert(vm)]

    def _owner(self, port: Port) -> str:
        """Return the VM that a port is known to belong to, or ""."""
        vms = self._by_name.get(port.name)
        if not vms and port.mac[:1] == b"\xfe":
            vms = self._by_mac.get(port.mac[TAIL])
        return next(iter(vms or ()), "")

    def _forget_mac(self, vm: str) -> None:
        if vm in self._macs:
            _drop(self._by_mac, self._macs.pop(vm)[TAIL], vm)

    def _without_port(self) -> set[str]:
        owners = {self._owner(port) for port in self.shut()}
        return {vm for vm in self._macs if vm not in owners}

    def _shut_for(self, port: Port, vms: set[str]) -> list[PortAction]:
        if not vms or (not port.floods and port.index not in self._shut):
            return []
        is_shut = port.index in self._shut
        self._shut.setdefault(port.index, set()).update(vms)
        return [] if is_shut else [Shut(port)]

    def _free(self, index: int, vm: str) -> list[PortAction]:
        vms = self._shut[index]
        vms.discard(vm)
        if vms:
            return []
        del self._shut[index]
        port = self._ports[index] = replace(self._ports[index], floods=True)
        return [Open(port)]


def _drop(index: dict[K, dict[str, None]], key: K, vm: str) -> None:
    del index[key][vm]
    if not index[key]:
        del index[key]
