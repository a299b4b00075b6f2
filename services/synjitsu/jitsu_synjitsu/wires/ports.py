"""At which port of a bridge a MAC address was heard (the bridge's forwarding table, as sysfs shows it)."""

from __future__ import annotations

from pathlib import Path

ENTRY_BYTES = 16


def heard_at(bridge: str, interface: str) -> frozenset[bytes]:
    """Return the MAC addresses that a bridge has heard from this interface; none if it is not a port of the bridge.

    The kernel learns the sender of a frame before it hands the frame to anybody who listens on the bridge.
    """
    try:
        port = int(Path(f"/sys/class/net/{interface}/brport/port_no").read_text(), 16)
        table = Path(f"/sys/class/net/{bridge}/brforward").read_bytes()
    except (OSError, ValueError):
        return frozenset()
    entries = (table[at : at + ENTRY_BYTES] for at in range(0, len(table), ENTRY_BYTES))
    # struct __fdb_entry of linux/if_bridge.h: MAC address, low byte of the port, is_local, age, high byte of the port
    return frozenset(entry[:6] for entry in entries if entry[6] | entry[12] << 8 == port and not entry[7])
