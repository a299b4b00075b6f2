"""Guests that turned out to have another MAC address than was known.

The address that was configured has been announced, so clients go on to use it for a while: what they send there is
forwarded. Later boots announce the address that the guest has, as long as the configured one stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOVED_S = 3.0
"""This long clients may go on with the MAC address that was announced: for a second they accept no other (arp(7))."""


@dataclass
class MovedMacs:
    """All of one bridge."""

    _moved: dict[bytes, bytes] = field(default_factory=dict, init=False)
    """MAC address that was announced -> the one that the guest has."""
    _learned: dict[str, tuple[bytes, bytes]] = field(default_factory=dict, init=False)
    """VM -> the MAC address that it was said to have, and the one that it has."""

    def learn(self, vm: str, announced: bytes, real: bytes) -> None:
        """Note the MAC address that a VM has."""
        self._moved[announced] = real
        self._learned[vm] = (announced, real)

    def real(self, vm: str, mac: bytes) -> bytes:
        """Return the MAC address that a VM turned out to have when it was configured to have this one."""
        configured, real = self._learned.get(vm, (mac, mac))
        return real if configured == mac else mac

    def destination(self, mac: bytes) -> bytes | None:
        """Return where to forward what is sent to a MAC address that was announced; None for any other."""
        return self._moved.get(mac)

    def end(self, announced: bytes) -> bool:
        """Forward nothing to that address any more; return whether anything was."""
        return self._moved.pop(announced, None) is not None

    def macs(self) -> frozenset[bytes]:
        """Return the MAC addresses of which something may have to be forwarded."""
        return frozenset(self._moved)
