"""jitsu-wake: sends the magic packet that wakes a sleeping computer (AMD, publication 20213).

The packet is six bytes of ones and sixteen times the computer's MAC address. It goes to all computers of the network,
because the switch may have forgotten at which of its ports a computer sleeps. No privileges are needed.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys

TIMES = 3
"""A datagram may get lost, and nobody answers it. To receive it again does no harm."""
PORT = 9
"""Discard (RFC 863): what computers that are awake do with it."""
EVERYWHERE = "255.255.255.255"


def magic_packet(mac: str) -> bytes:
    """Return the magic packet for a MAC address; raises ValueError."""
    if not re.fullmatch(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}", mac):
        raise ValueError(f"{mac[:100]!r} is not a MAC address; expected something like 02:00:5e:00:53:01")
    return b"\xff" * 6 + bytes.fromhex(re.sub("[:-]", "", mac)) * 16


def source_towards(address: str) -> str:
    """Return this host's address on the network of another one, "" if that is not known.

    Sending from it lets Linux choose the interface of that network for a broadcast (ip_route_output_key).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asks:
        try:
            asks.connect((address, PORT))
            return str(asks.getsockname()[0])
        except OSError:
            return ""


def send(mac: str, to: str, port: int, source: str) -> None:
    """Broadcast the magic packet; raises ValueError or OSError."""
    packet = magic_packet(mac)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sends:
        sends.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if source:
            sends.bind((source, 0))
        for _ in range(TIMES):
            sends.sendto(packet, (to, port))


def main() -> None:
    """Run jitsu-wake."""
    parser = argparse.ArgumentParser(
        "jitsu-wake",
        description="Wake a sleeping computer. In [command.NAME] the MAC address is that of the VM's key `mac`.",
        allow_abbrev=False,
    )
    parser.add_argument("mac", nargs="?", default=os.environ.get("JITSU_MAC", ""), help="its MAC address [$JITSU_MAC]")
    parser.add_argument("--to", default=EVERYWHERE, metavar="ADDRESS", help=f"the broadcast address [{EVERYWHERE}]")
    parser.add_argument("--port", type=int, default=PORT, metavar="PORT", help=f"the UDP port [{PORT}]")
    parser.add_argument(
        "--near",
        default=os.environ.get("JITSU_ADDRESS", ""),
        metavar="ADDRESS",
        help="its IPv4 address: the packet is sent on the network of this [$JITSU_ADDRESS]",
    )
    given = parser.parse_args()
    if not given.mac:
        parser.exit(2, "jitsu-wake: no MAC address: name one, or write `mac` of the VM\n")
    source = source_towards(given.near) if given.near and given.to == EVERYWHERE else ""
    try:
        send(given.mac, given.to, given.port, source)
    except (ValueError, OSError, OverflowError) as error:
        print(f"jitsu-wake: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
