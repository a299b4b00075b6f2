"""What the kernel passes on from a bridge: a classic BPF program (socket(7), SO_ATTACH_FILTER).

    held       VMs that are off or boot: every frame to or from them, all ARP and neighbour discovery
    flooded    of the held, those that are sent too much: one of SAMPLE frames to them, so that others are still seen
    sampled    running VMs that are flooded: one of SAMPLE frames to and from them
    awaited    running VMs: the next IP packet to them, of which the first bytes are enough
    listened   running VMs: the UDP datagrams to and from them, of which the first bytes are enough
    absent     IP addresses of running VMs that are held still: every packet to them, all ARP and neighbour discovery
    running    running VMs: the TCP segments with SYN, FIN or RST to and from them, and every IPv6 packet with an
               extension header, as this program does not look behind those; the first bytes are enough
    magic      whether VMs at rest may be woken so: magic packets (magic.py), which are frames of a type of their own,
               or UDP datagrams to all, to port 7 or 9; the whole of them

A VM is found by the last four bytes of its MAC address, in a tree of comparisons: a frame of no interest costs tens of
instructions even with hundreds of VMs. That another interface has the same four bytes does no harm, as all is looked
at again. Nothing passes while nothing is watched. If a program gets too long, it passes more than it need.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.frames import (
    ADVERT,
    ARP,
    DISCARD_PORT,
    ECHO_PORT,
    EXTENSIONS,
    FIN,
    ICMPV6,
    IPV4,
    IPV6,
    MAGIC,
    RST,
    SOLICIT,
    SYN,
    TCP,
    UDP,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
ALL_BYTES = 0x40000
SAMPLE = 64
BUCKET = 8
"""Addresses that are compared one after the other."""
MAX_SHORT_JUMP = 255
HEAD_BYTES = 160
"""Ethernet with two VLAN tags, IPv6 with some options, TCP."""
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_AT_X, _LOAD_IHL = 0x20, 0x28, 0x30, 0x50, 0xB1
_LOAD_HALF_AT_X = 0x48
_JUMP, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
RANDOM = 2**32 - 0x1000 + 56
"""Loading from here gives a random word (linux/filter.h, SKF_AD_OFF and SKF_AD_RANDOM)."""
_DESTINATION, _SOURCE, _TYPE, _PAYLOAD = 2, 8, 12, 14
_DESTINATION_GROUP = 0  # of this byte, the last bit says that a frame is to all, or to a group

Instruction = tuple[int, int, int, int]
"""Code, how far to jump if true and if false, operand."""

_DROP: Instruction = (_RETURN, 0, 0, 0)
_WHOLE: Instruction = (_RETURN, 0, 0, ALL_BYTES)
_HEAD: Instruction = (_RETURN, 0, 0, HEAD_BYTES)
_SAMPLED: list[Instruction] = [(_LOAD_WORD, 0, 0, RANDOM), (_IF_AT_LEAST, 0, 1, 2**32 // SAMPLE), _DROP, _WHOLE]


@dataclass(frozen=True)
class Interest:
    """The MAC addresses of VMs (`absent`: IP addresses), by what is to be seen of them."""

    held: frozenset[bytes] = frozenset()
    flooded: frozenset[bytes] = frozenset()
    awaited: frozenset[bytes] = frozenset()
    running: frozenset[bytes] = frozenset()
    absent: frozenset[bytes] = frozenset()
    listened: frozenset[bytes] = frozenset()
    sampled: frozenset[bytes] = frozenset()
    magic: bool = False

    def __bool__(self) -> bool:
        """Say whether there is any."""
        return bool(self.held or self.awaited or self.running or self.absent or self.listened or self.magic)


def program(interest: Interest, *, everything: bool = False) -> list[Instruction]:
    """Return the instructions; `everything` is for when the kernel has no memory for a longer filter."""
    if everything:
        return [_WHOLE]
    if not interest:
        return [_DROP]
    too_long = [_WHOLE] if interest.held or interest.absent or interest.magic else [_HEAD]
    if _least(interest) > MAX_INSTRUCTIONS:
        return too_long
    code: list[Instruction] = _magic_packets() if interest.magic else []
    if interest.flooded:
        code += _searched(interest.flooded, _DESTINATION, _SAMPLED)
    if interest.sampled:
        code += _both_ways(interest.sampled, _SAMPLED)
    if interest.held:
        code += _both_ways(interest.held, [_WHOLE])
    if interest.absent:
        code += _to_addresses(interest.absent)
    if interest.held or interest.absent:
        code += _neighbour_discovery()
    if interest.awaited:
        code += _searched(interest.awaited, _DESTINATION, _if_ip([_HEAD]))
    if interest.listened:
        code += _if_udp(_both_ways(interest.listened, [_HEAD]))
    if interest.running:
        code += _unless_tcp_begins_or_ends()
        fits = len(code) + 2 * len(interest.running) < MAX_INSTRUCTIONS
        of_these = _both_ways(interest.running, [_HEAD]) if fits else []
        code += of_these if of_these and len(code) + len(of_these) < MAX_INSTRUCTIONS else [_HEAD]
    code.append(_DROP)
    return code if len(code) <= MAX_INSTRUCTIONS else too_long


def _least(interest: Interest) -> int:
    """Return how many instructions it takes at least, with one for each comparison, and none for `running`."""
    twice = len(interest.held) + len(interest.listened) + len(interest.sampled)
    return 2 * twice + len(interest.flooded) + len(interest.awaited) + len(interest.absent)


def packed(code: Iterable[Instruction]) -> bytes:
    """Return the instructions as the kernel reads them (struct sock_filter)."""
    parts = list(chain.from_iterable(code))
    return struct.pack("HBBI" * (len(parts) // 4), *parts)  # at once: a long program takes half as long


def _searched(macs: Iterable[bytes], at: int, found: list[Instruction]) -> list[Instruction]:
    """Return what does `found` if the address at that offset is one of these, and goes on behind if not."""
    return [(_LOAD_WORD, 0, 0, at), *_tree(_ends(macs), found)]


def _both_ways(macs: Iterable[bytes], found: list[Instruction]) -> list[Instruction]:
    """Return what does `found` if a frame is from or to one of these."""
    tree = _tree(_ends(macs), found)
    return [(_LOAD_WORD, 0, 0, _DESTINATION), *tree, (_LOAD_WORD, 0, 0, _SOURCE), *tree]


def _ends(macs: Iterable[bytes]) -> list[int]:
    return sorted({int.from_bytes(mac[2:], "big") for mac in macs})


def _tree(ends: list[int], found: list[Instruction]) -> list[Instruction]:
    """Return a search for the word that is loaded; all of its ways that find nothing end behind it."""
    if len(ends) <= BUCKET:
        last = len(ends) - 1
        comparisons = [(_IF_EQUAL, last - n, len(found) if n == last else 0, end) for n, end in enumerate(ends)]
        return [*comparisons, *found]
    middle = len(ends) // 2
    low, high = _tree(ends[:middle], found), _tree(ends[middle:], found)
    over_low = len(low) + 1
    if over_low <= MAX_SHORT_JUMP:
        branch = [(_IF_GREATER, over_low, 0, ends[middle - 1])]
    else:
        branch = [(_IF_GREATER, 0, 1, ends[middle - 1]), (_JUMP, 0, 0, over_low)]
    return [*branch, *low, (_JUMP, 0, 0, len(high)), *high]


def _magic_packets() -> list[Instruction]:
    """Pass frames of the type of magic packets, and datagrams to all at one of their ports; go on behind if not."""
    return [
        (_LOAD_HALF, 0, 0, _TYPE),
        (_IF_EQUAL, 16, 0, MAGIC),
        (_IF_EQUAL, 5, 0, IPV4),
        (_IF_EQUAL, 0, 15, IPV6),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 6),
        (_IF_EQUAL, 0, 13, UDP),
        (_LOAD_HALF, 0, 0, _PAYLOAD + 40 + 2),
        (_JUMP, 0, 0, 6),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 9),
        (_IF_EQUAL, 0, 9, UDP),
        (_LOAD_HALF, 0, 0, _PAYLOAD + 6),
        (_IF_BITS, 7, 0, 0x1FFF),
        (_LOAD_IHL, 0, 0, _PAYLOAD),
        (_LOAD_HALF_AT_X, 0, 0, _PAYLOAD + 2),
        (_IF_EQUAL, 1, 0, ECHO_PORT),
        (_IF_EQUAL, 0, 3, DISCARD_PORT),
        (_LOAD_BYTE, 0, 0, _DESTINATION_GROUP),
        (_IF_BITS, 0, 1, 1),
        _WHOLE,
    ]


def _to_addresses(addresses: Iterable[bytes]) -> list[Instruction]:
    """Return what passes packets to these addresses, of which an IPv6 address is known by its last four bytes."""
    code: list[Instruction] = []
    for ethertype, length, at in ((IPV4, 4, _PAYLOAD + 16), (IPV6, 16, _PAYLOAD + 36)):
        ends = sorted({int.from_bytes(each[-4:], "big") for each in addresses if len(each) == length})
        if ends:
            search = [(_LOAD_WORD, 0, 0, at), *_tree(ends, [_WHOLE])]
            code += [(_LOAD_HALF, 0, 0, _TYPE), (_IF_EQUAL, 1, 0, ethertype), (_JUMP, 0, 0, len(search)), *search]
    return code


def _neighbour_discovery() -> list[Instruction]:
    return [
        (_LOAD_HALF, 0, 0, _TYPE),
        (_IF_EQUAL, 0, 1, ARP),
        _WHOLE,
        (_IF_EQUAL, 0, 6, IPV6),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 6),
        (_IF_EQUAL, 0, 4, ICMPV6),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 40),
        (_IF_EQUAL, 1, 0, SOLICIT),
        (_IF_EQUAL, 0, 1, ADVERT),
        _WHOLE,
    ]


def _if_ip(found: list[Instruction]) -> list[Instruction]:
    return [(_LOAD_HALF, 0, 0, _TYPE), (_IF_EQUAL, 1, 0, IPV4), (_IF_EQUAL, 0, len(found), IPV6), *found]


def _if_udp(found: list[Instruction]) -> list[Instruction]:
    """Do `found` with UDP, in fragments too; with IPv6 also with what may have UDP behind an extension header."""
    extensions = sorted(EXTENSIONS)
    over = len(extensions) + 1
    return [
        (_LOAD_HALF, 0, 0, _TYPE),
        (_IF_EQUAL, 0, 3, IPV4),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 9),
        (_IF_EQUAL, over + 4, 0, UDP),
        (_JUMP, 0, 0, over + 3 + len(found)),
        (_IF_EQUAL, 0, over + 1, IPV6),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 6),
        (_IF_EQUAL, over, 0, UDP),
        *((_IF_EQUAL, len(extensions) - n, 0, extension) for n, extension in enumerate(extensions)),
        (_JUMP, 0, 0, len(found)),
        *found,
    ]


def _unless_tcp_begins_or_ends() -> list[Instruction]:
    """Drop what is no first fragment of TCP with SYN, FIN or RST, and no IPv6 packet with an extension header."""
    extensions = sorted(EXTENSIONS)
    over = len(extensions)
    return [
        (_LOAD_HALF, 0, 0, _TYPE),
        (_IF_EQUAL, 0, 7, IPV4),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 9),
        (_IF_EQUAL, 0, over + 9, TCP),
        (_LOAD_HALF, 0, 0, _PAYLOAD + 6),
        (_IF_BITS, over + 7, 0, 0x1FFF),
        (_LOAD_IHL, 0, 0, _PAYLOAD),
        (_LOAD_AT_X, 0, 0, _PAYLOAD + 13),
        (_JUMP, 0, 0, over + 6),
        (_IF_EQUAL, 0, over + 3, IPV6),
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 6),
        *((_IF_EQUAL, over - n + 5, 0, extension) for n, extension in enumerate(extensions)),
        (_IF_EQUAL, 0, 1, TCP),
        (_JUMP, 0, 0, 1),
        _DROP,
        (_LOAD_BYTE, 0, 0, _PAYLOAD + 40 + 13),
        (_IF_BITS, 1, 0, SYN | FIN | RST),
        _DROP,
    ]
