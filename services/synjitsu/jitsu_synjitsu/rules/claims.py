"""Who claims an address that Synjitsu holds for a VM: the guest itself, with a MAC address that nobody knew, or another
machine on the bridge.

A claim is an ARP packet or a neighbour discovery message whose sender says that it has the address. Anybody on the
bridge can send one, so it is believed only if it came from the guest's own interface (the tap or vif that the
hypervisor names): the bridge's forwarding table says at which port it has heard the claimant's MAC address.

    the claimant's MAC address is               then
    at the port of the guest's interface        it is the guest, which has another MAC address than is configured
    at any other port                           a rival: logged once and shown in status; the configured MAC stands
    unknown, as the interface is not known yet  the claim is kept, and decided when vmd has named the interface; a rival
                                                if the boot is over before that
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_synjitsu.rules.frames import Seen

MAX_UNDECIDED = 8
"""Claims kept for one VM; each further MAC address displaces the oldest."""
MAX_CHECKS = 8
"""For one VM between two calls of `check_anew`: reading the forwarding table of a large bridge takes a millisecond."""


def _unknown(_: str, __: bytes) -> bool | None:
    return None


@dataclass
class Claims:
    """All claims on one bridge."""

    is_at_guest: Callable[[str, bytes], bool | None] = _unknown
    """Says whether the bridge has heard a MAC address at the interface of a VM; None if that interface is not known."""
    rivals: dict[bytes, bytes] = field(default_factory=dict)
    """Address of a VM -> the MAC address of another machine that claimed it."""
    _new: list[tuple[bytes, bytes]] = field(default_factory=list)
    _undecided: dict[str, dict[bytes, tuple[bytes, Seen]]] = field(default_factory=dict)
    _checks: dict[str, int] = field(default_factory=dict)

    def is_by_guest(self, vm: str, frame: bytes, seen: Seen) -> bool:
        """Say whether a claim on an address of a VM comes from its guest; keep it, if that cannot be known yet."""
        checks = self._checks[vm] = self._checks.get(vm, 0) + 1
        found = self.is_at_guest(vm, seen.source) if checks <= MAX_CHECKS else None
        if found is None:
            undecided = self._undecided.setdefault(vm, {})
            undecided.pop(seen.source, None)
            undecided[seen.source] = (frame, seen)
            if len(undecided) > MAX_UNDECIDED:
                del undecided[next(iter(undecided))]
        elif not found:
            self.add_rival(seen.sender, seen.source)
        return bool(found)

    def add_rival(self, address: bytes, mac: bytes) -> None:
        """Note that another machine claims an address."""
        if address not in self.rivals:
            self._new.append((address, mac))
        self.rivals[address] = mac

    def undecided(self, vm: str) -> list[tuple[bytes, Seen]]:
        """Return the claims that could not be decided, and forget them: they are to be looked at again."""
        return list(self._undecided.pop(vm, {}).values())

    def over(self, vm: str) -> None:
        """Note that a VM's addresses are no longer held: a claim that was never decided is not the guest's."""
        for _, seen in self.undecided(vm):
            self.add_rival(seen.sender, seen.source)

    def new_rivals(self) -> list[tuple[bytes, bytes]]:
        """Return the rivals that were found since this was asked last, as address and MAC address."""
        found, self._new = self._new, []
        return found

    def check_anew(self) -> None:
        """Begin another quarter of a second."""
        self._checks.clear()
