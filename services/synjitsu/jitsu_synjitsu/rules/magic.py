"""Magic packets (AMD, publication 20213): somebody wants a VM that is off to run, and names it by its MAC address.

Such a frame has six bytes of ones and sixteen times the MAC address, anywhere in it. Tools send it as a frame of its
own type (0x0842), to all or to the VM alone, or as a UDP datagram to port 7 or 9, to all. Only VMs with `wake_on_lan`
that are at rest are woken by it, within the limits of those that traffic wakes (waking.py). An answer is not expected.

The sender of a datagram is known by its IP address. A frame without one is known by its MAC address; if the networks
that may wake VMs are configured, it wakes none, because it belongs to none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.frames import DISCARD_PORT, ECHO_PORT, MAGIC, Kind

if TYPE_CHECKING:
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.rules.waking import WakeLimit

PORTS = frozenset({ECHO_PORT, DISCARD_PORT})
SYNC = b"\xff" * 6
TIMES = 16
AGAIN_S = 1.0
"""Tools send the packet more than once; for that long the same VM is not summoned again."""
MAX_PLACES = 16
"""In one frame, at which a packet may begin: a frame full of ones costs little."""


@dataclass
class MagicPackets:
    """The VMs of one bridge that a magic packet wakes."""

    limit: WakeLimit
    changed: bool = False
    """Whether there are any has changed; set back by who looks at it."""
    _vms: dict[bytes, dict[str, None]] = field(default_factory=dict)
    """MAC address -> the VMs that have it."""
    _macs: dict[str, bytes] = field(default_factory=dict)
    _woken_at: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Say whether there are any."""
        return bool(self._macs)

    def listen(self, vm: str, mac: bytes) -> None:
        """Wake a VM that is at rest by a magic packet."""
        if self._macs.get(vm) == mac:
            return
        self.end(vm)
        self.changed |= not self._macs
        self._macs[vm] = mac
        self._vms.setdefault(mac, {})[vm] = None

    def end(self, vm: str) -> None:
        """Wake a VM no longer: it runs, or is not to be woken so."""
        mac = self._macs.pop(vm, None)
        if mac is None:
            return
        self._woken_at.pop(vm, None)
        others = self._vms[mac]
        del others[vm]
        if not others:
            del self._vms[mac]
        self.changed |= not self._macs

    def frame(self, frame: bytes, seen: Seen, now: float) -> list[str]:
        """Return the VMs that a frame wakes."""
        if not self._macs or not may_be_magic(frame, seen):
            return []
        vms = self._vms.get(named(frame, self._vms))
        if vms is None:
            return []
        woken = [
            vm
            for vm in vms
            if now - self._woken_at.get(vm, float("-inf")) >= AGAIN_S
            and self.limit.allow_magic(seen.sender, seen.source, now)  # each counts, also if they have one address
        ]
        self._woken_at |= dict.fromkeys(woken, now)
        return woken


def may_be_magic(frame: bytes, seen: Seen) -> bool:
    """Say whether a frame is of one of the kinds that tools send."""
    if seen.kind is Kind.UDP:
        # A datagram to one computer may be from anywhere. Only if something else is held as well is it seen here.
        return seen.target_port in PORTS and is_to_all(seen.destination)
    at = 12 + len(seen.vlan)
    return frame[at : at + 2] == MAGIC.to_bytes(2, "big")


def is_to_all(mac: bytes) -> bool:
    """Say whether a frame is for more than one interface (IEEE 802: the lowest bit of the first octet)."""
    return bool(mac) and bool(mac[0] & 1)


def named(frame: bytes, macs: dict[bytes, dict[str, None]]) -> bytes:
    """Return the MAC address of one of these that a magic packet in a frame names, b"" if there is none."""
    at = -1
    for _ in range(MAX_PLACES):
        at = frame.find(SYNC, at + 1)
        if at < 0:
            break
        start = at + len(SYNC)
        while start < len(frame) and frame[start] == 0xFF:
            start += 1  # more ones than it takes, for example of a broadcast: the last six count
        mac = frame[start : start + 6]
        if mac in macs and frame[start : start + 6 * TIMES] == mac * TIMES:
            return mac
        at = start - len(SYNC)
    return b""
