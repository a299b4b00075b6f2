"""Who claims an address that Synjitsu holds for a VM: the guest itself, with a MAC address that nobody knew, or another
machine on the bridge.

A claim is an ARP packet or a neighbour discovery message whose sender claims to have the address. Anybody on the
bridge can send one, so it is believed only if it came from the guest's own interface (the tap or vif that the
hypervisor names): the bridge's forwarding table shows at which port it has heard the claimant's MAC address.

    the claimant's MAC address is               then
    at the port of the guest's interface        it is the guest, which has another MAC address than is configured
    at any other port                           a rival: logged once and shown in status; the configured MAC stands
    unknown, as the interface is not known yet  the claim is kept, and decided when vmd has named the interface; a rival
                                                if the boot is over before that

Reading the forwarding table of a large bridge takes a millisecond, so it is read once in CHECK_S at most for each VM,
and each reading decides all claims that have come by then. A flood of forged claims therefore delays the guest's own by
CHECK_S, and can no longer use up the readings or push that claim out before it has been decided.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from jitsu_synjitsu.rules.frames import Seen

MAX_UNDECIDED = 1024
"""Claims kept for one VM; each further MAC address displaces the oldest. More cannot be read in CHECK_S."""
CHECK_S = 0.03
"""Between two readings for one VM: about as long as Synjitsu waits before it asks a guest once more."""


def _unknown(_: str) -> None:
    return None


@dataclass
class Claims:
    """All claims on one bridge."""

    heard_from: Callable[[str], Collection[bytes] | None] = _unknown
    """Returns the MAC addresses that the bridge has heard at the interface of a VM; None if it is not known."""
    rivals: dict[bytes, bytes] = field(default_factory=dict)
    """Address of a VM -> the MAC address of another machine that claimed it."""
    _new: list[tuple[bytes, bytes]] = field(default_factory=list, init=False)
    _undecided: dict[str, dict[bytes, Seen]] = field(default_factory=dict, init=False)
    _next_check: dict[str, float] = field(default_factory=dict, init=False)

    def add(self, vm: str, seen: Seen) -> None:
        """Keep a claim on an address of a VM until it is decided."""
        undecided = self._undecided.setdefault(vm, {})
        undecided.pop(seen.source, None)
        undecided[seen.source] = seen
        if len(undecided) > MAX_UNDECIDED:
            del undecided[next(iter(undecided))]

    def decide(self, vm: str, now: float) -> tuple[list[Seen], float | None]:
        """Return the claims that are the guest's own, and when to call again, if there are others.

        Nothing is decided while it is not known at which interface the VM is.
        """
        claims = self._undecided.get(vm)
        if not claims:
            return [], None
        if now < (at := self._next_check.get(vm, now)):
            return [], at
        macs = self.heard_from(vm)
        if macs is None:
            return [], None
        self._next_check[vm] = now + CHECK_S
        del self._undecided[vm]
        own = []
        for mac, seen in claims.items():
            if mac in macs:
                own.append(seen)
            else:
                self.add_rival(seen.sender, mac)
        return own, None

    def add_rival(self, address: bytes, mac: bytes) -> None:
        """Note that another machine claims an address."""
        if address not in self.rivals:
            self._new.append((address, mac))
        self.rivals[address] = mac

    def over(self, vm: str) -> None:
        """Note that a VM's addresses are no longer held: a claim that was never decided is not the guest's."""
        for mac, seen in self._undecided.pop(vm, {}).items():
            self.add_rival(seen.sender, mac)
        self._next_check.pop(vm, None)

    def rivals_shown(self) -> dict[str, bytes]:
        """Return the addresses of VMs that another machine claims, for people, each with its MAC address."""
        return {str(ip_address(address)): mac for address, mac in self.rivals.items()}

    def new_rivals_shown(self) -> dict[str, bytes]:
        """Return those that were found since this was asked last."""
        found, self._new = self._new, []
        return {str(ip_address(address)): mac for address, mac in found}
