"""What Synjitsu needs of the network: bridges, their ports, and on each bridge a wire that takes and sends frames.

This is the seam between Synjitsu and the kernel. There are two sides that fit: the kernel's bridges (kernel.py), and
bridges in memory (tests/support/memory_lan.py), on which Synjitsu runs without rights, without sleeping and on virtual
time. One contract test (tests/synjitsu/test_lan.py) holds both to the same behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from jitsu_synjitsu.rules.filter import Interest
    from jitsu_synjitsu.rules.ports import Port

    Taken = Callable[[bytes, bool], None]
    """Is given each frame, and whether this host itself has sent it."""


class Wire(Protocol):
    """A packet socket on one bridge."""

    unsent: Counter[str]
    """Frames that were not sent, by the name of the error."""
    is_broken: bool
    """It can no longer be used, and has to be replaced by a new one."""

    def open(self) -> None:
        """Begin to take frames."""

    def close(self) -> None:
        """Take no more frames, and free what it holds."""

    def watch(self, interest: Interest) -> None:
        """From now on take the frames that are of interest, and no others."""

    def send(self, frame: bytes) -> None:
        """Put a frame on the bridge; one that cannot be sent is counted."""

    def look(self) -> None:
        """Take every frame that has arrived until now."""

    def has_lost(self) -> bool:
        """Say whether frames were dropped since the last call, because they were not read in time."""

    def warning(self) -> str:
        """Return why not all frames on the bridge are seen, or ""."""


class PortFeed(Protocol):
    """Follows the ports of one bridge."""

    def open(self) -> None:
        """Report all ports that are there, and begin to follow them; raises OSError."""

    def close(self) -> None:
        """Follow them no longer."""

    def is_static(self, mac: bytes) -> bool:
        """Say whether an operator has made a forwarding entry for a MAC address; it is never changed."""


class Lan(Protocol):
    """All bridges that this process can see."""

    def index(self, bridge: str) -> int:
        """Return the number of an interface, 0 if it is not there."""

    def is_bridge(self, name: str) -> bool:
        """Say whether there is a Linux bridge of that name."""

    def wire(self, bridge: str, taken: Taken) -> Wire:
        """Open a packet socket on a bridge; raises SetupFault."""

    def ports(self, bridge: str, appeared: Callable[[Port], None], gone: Callable[[int], None]) -> PortFeed:
        """Follow the ports of a bridge; `appeared` is called again when one changes. Raises OSError."""

    def set_flood(self, index: int, floods: bool) -> None:
        """Let a bridge flood to one of its ports, or not; raises OSError."""

    def learn(self, index: int, mac: bytes) -> None:
        """Have a bridge assume that a MAC address is at a port; raises OSError if it knows the address already."""

    def unlearn(self, index: int, mac: bytes) -> None:
        """Have a bridge forget that a MAC address is at a port; raises OSError if it does not know that."""

    def heard_at(self, bridge: str, interface: str) -> frozenset[bytes]:
        """Return the MAC addresses that a bridge has heard at one of its ports; none if it is not a port of it."""

    def knows_elsewhere(self, bridge: str, mac: bytes) -> bool:
        """Say whether a bridge has heard a MAC address at one of its ports."""

    def warnings(self) -> list[str]:
        """Return what may keep packets from guests, each with what to do about it."""
