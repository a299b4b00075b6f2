"""What the kernel passes on from a bridge: a classic BPF program (socket(7), SO_ATTACH_FILTER).

Frames to or from an armed VM's MAC address; ARP; neighbour solicitations and advertisements. Nothing while no VM is
armed: a busy bridge costs next to nothing. With more VMs than a program can name, everything.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.frames import ADVERT, ARP, ICMPV6, IPV6, SOLICIT

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MACS = 300
ALL_BYTES = 0x40000
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06

Instruction = tuple[int, int, int, int]
"""Code, how far to jump if true and if false, operand."""


def program(macs: Sequence[bytes]) -> list[Instruction]:
    """Return the instructions."""
    if not macs:
        return [(_RETURN, 0, 0, 0)]
    if len(macs) > MAX_MACS:
        return [(_RETURN, 0, 0, ALL_BYTES)]
    take = (_RETURN, 0, 0, ALL_BYTES)
    code = [(_LOAD_HALF, 0, 0, 12), (_IF_EQUAL, 0, 1, ARP), take]
    for mac in macs:
        high, low = int.from_bytes(mac[:2], "big"), int.from_bytes(mac[2:], "big")
        for at in (0, 6):
            code += [(_LOAD_WORD, 0, 0, at + 2), (_IF_EQUAL, 0, 3, low)]
            code += [(_LOAD_HALF, 0, 0, at), (_IF_EQUAL, 0, 1, high), take]
    code += [(_LOAD_HALF, 0, 0, 12), (_IF_EQUAL, 0, 6, IPV6), (_LOAD_BYTE, 0, 0, 20), (_IF_EQUAL, 0, 4, ICMPV6)]
    code += [(_LOAD_BYTE, 0, 0, 54), (_IF_EQUAL, 1, 0, SOLICIT), (_IF_EQUAL, 0, 1, ADVERT), take]
    return [*code, (_RETURN, 0, 0, 0)]


def packed(code: Sequence[Instruction]) -> bytes:
    """Return the instructions as the kernel reads them (struct sock_filter)."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
