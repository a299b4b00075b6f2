"""The bridges of the Linux kernel: packet sockets (packet.py), rtnetlink (links.py) and sysfs."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu_synjitsu.wires import links
from jitsu_synjitsu.wires.packet import BridgeSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jitsu_synjitsu.rules.ports import Port
    from jitsu_synjitsu.wires.lan import Taken

FDB_ENTRY_BYTES = 16


class KernelLan:
    """The bridges of the network namespace of this process. See lan.py."""

    set_flood = staticmethod(links.set_flood)
    learn = staticmethod(links.learn)
    unlearn = staticmethod(links.unlearn)

    def index(self, bridge: str) -> int:
        """Return the number of an interface, 0 if it is not there."""
        try:
            return socket.if_nametoindex(bridge)
        except OSError:
            return 0

    def is_bridge(self, name: str) -> bool:
        """Say whether there is a Linux bridge of that name."""
        return os.path.isdir(f"/sys/class/net/{name}/bridge")

    def wire(self, bridge: str, taken: Taken) -> BridgeSocket:
        """Open a packet socket on a bridge; raises SetupFault."""
        return BridgeSocket(bridge, taken)

    def ports(self, bridge: str, appeared: Callable[[Port], None], gone: Callable[[int], None]) -> links.Links:
        """Follow the ports of a bridge; raises OSError."""
        return links.Links(bridge, appeared, gone)

    def heard_at(self, bridge: str, interface: str) -> frozenset[bytes]:
        """Return the MAC addresses that a bridge has heard at one of its ports; none if it is not a port of it.

        The kernel learns the sender of a frame before it hands the frame to anybody who listens on the bridge.
        """
        try:
            port = int(Path(f"/sys/class/net/{interface}/brport/port_no").read_text(), 16)
            return frozenset(mac for mac, number in _heard(bridge) if number == port)
        except (OSError, ValueError):
            return frozenset()

    def knows_elsewhere(self, bridge: str, mac: bytes) -> bool:
        """Say whether a bridge has heard a MAC address at one of its ports."""
        try:
            return any(heard == mac for heard, _ in _heard(bridge))
        except OSError:
            return False

    def warnings(self) -> list[str]:
        """Return what may keep packets from guests, each with what to do about it."""
        found = []
        for tables in ("iptables", "ip6tables"):
            switch = Path(f"/proc/sys/net/bridge/bridge-nf-call-{tables}")
            if switch.exists() and switch.read_text().strip() == "1":
                found.append(
                    f"bridged packets pass through {tables}, which may drop them: sysctl net.bridge.{switch.name}=0"
                )
        return found


def _heard(bridge: str) -> Iterator[tuple[bytes, int]]:
    """Yield each MAC address that a bridge has heard, and the number of its port; raises OSError.

    The table has entries of struct __fdb_entry (linux/if_bridge.h): the MAC address, the low byte of the port, whether
    it is an address of the bridge itself, the age, the high byte of the port.
    """
    table = Path(f"/sys/class/net/{bridge}/brforward").read_bytes()
    for at in range(0, len(table), FDB_ENTRY_BYTES):
        entry = table[at : at + FDB_ENTRY_BYTES]
        if not entry[7]:
            yield entry[:6], entry[6] | entry[12] << 8


KERNEL_LAN = KernelLan()
