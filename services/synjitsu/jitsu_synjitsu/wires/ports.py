"""At which port of a bridge a MAC address was heard (the bridge's forwarding table, as sysfs shows it)."""

from __future__ import annotations

from pathlib import Path

ENTRY_BYTES = 16


def is_at(bridge: str, mac: bytes, interface: str) -> bool:
    """Say whether a bridge has heard a MAC address from this interface.

    The kernel learns the sender of a frame before it hands the frame to anybody who listens on the bridge.
    """
    try:
        port = int(Path(f"/sys/class/net/{interface}/brport/port_no").read_text(), 16)
        table = Path(f"/sys/class/net/{bridge}/brforward").read_bytes()
    except (OSError, ValueError):
        return False
    entries = (table[at : at + ENTRY_BYTES] for at in range(0, len(table), ENTRY_BYTES))
    # struct __fdb_entry of linux/if_bridge.h: MAC address, low byte of the port, is_local, age, high byte of the port
    return any(entry[:6] == mac and entry[6] | entry[12] << 8 == port and not entry[7] for entry in entries)
