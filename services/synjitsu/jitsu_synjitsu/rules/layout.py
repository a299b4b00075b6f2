"""How the original's Synjitsu writes a SYN into Xenstore, for guests whose TCP stack reads that (FACTS.md, 2).

    /ip/<a-b-c-d>                                        "managed" once the guest looks after the address itself
    /ip/<a-b-c-d>/<port>/<client a-b-c-d>/<client port>/syn/...      tx_wnd, sequence, options, tx_isn, rx_wnd,
                                                                     rx_wnd_scaleoffer

`options` is an s-expression as OCaml's sexplib prints it; `sequence` is an OCaml int32, which has a sign.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_synjitsu.rules.frames import Seen

ROOT = "/ip"
MANAGED = "managed"
RX_WND, RX_WND_SCALE_OFFER = 65535, 2
_END, _NOOP = 0, 1  # kinds of TCP options (RFC 9293, 3.1)
_PLAIN = frozenset(map(chr, range(33, 127))) - frozenset('"();\\')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b"}  # OCaml's String.escaped


def address_path(address: bytes) -> str:
    """Return the path of a VM's address."""
    return f"{ROOT}/{_dashed(address)}"


def entry(frame: bytes, seen: Seen, isn: int) -> dict[str, str]:
    """Return what is written for a SYN: path -> value. `isn` is the guest's own first sequence number."""
    at = seen.payload_at
    base = f"{address_path(seen.target)}/{seen.target_port}/{_dashed(seen.sender)}/{seen.source_port}/syn"
    sequence = int.from_bytes(frame[at + 4 : at + 8], "big", signed=True)
    header_bytes = 4 * (frame[at + 12] >> 4)
    return {
        f"{base}/tx_wnd": str(int.from_bytes(frame[at + 14 : at + 16], "big")),
        f"{base}/sequence": str(sequence),
        f"{base}/options": options(frame[at + 20 : at + header_bytes]),
        f"{base}/tx_isn": str(isn),
        f"{base}/rx_wnd": str(RX_WND),
        f"{base}/rx_wnd_scaleoffer": str(RX_WND_SCALE_OFFER),
    }


def options(data: bytes) -> str:
    """Return TCP options as an s-expression, up to where they are cut short."""
    text = ""
    for each in _options(data):
        parted = text and not text.endswith((")", "(")) and not each.startswith("(")
        text += f" {each}" if parted else each
    return f"({text})"


def _options(data: bytes) -> Iterator[str]:
    at = 0
    while at < len(data) and data[at] != _END:
        kind = data[at]
        if kind == _NOOP:
            yield "Noop"
            at += 1
            continue
        length = data[at + 1] if at + 1 < len(data) else 0
        body = data[at + 2 : at + length]
        if length < 2 or at + length > len(data):
            return
        yield _option(kind, body)
        at += length


def _option(kind: int, body: bytes) -> str:
    words = [int.from_bytes(body[at : at + 4], "big", signed=True) for at in range(0, len(body) - 3, 4)]
    match kind, len(body):  # RFC 9293, 3.1; RFC 7323; RFC 2018
        case (2, 2):
            return f"(MSS {int.from_bytes(body, 'big')})"
        case (3, 1):
            return f"(Window_size_shift {body[0]})"
        case (4, 0):
            return "SACK_ok"
        case (5, size) if size % 8 == 0:
            return f"(SACK({''.join(f'({words[n]} {words[n + 1]})' for n in range(0, len(words), 2))}))"
        case (8, 8):
            return f"(Timestamp {words[0]} {words[1]})"
        case _:
            return f"(Unknown {kind}{_string(body)})"


def _string(body: bytes) -> str:
    """Return bytes as sexplib prints a string, with what parts it from the atom before."""
    text = body.decode("latin-1")
    if text and set(text) <= _PLAIN and "#|" not in text and "|#" not in text:
        return f" {text}"
    shown = "".join(_ESCAPES.get(c) or (c if " " <= c <= "~" else f"\\{ord(c):03}") for c in text)
    return f'"{shown}"'


def _dashed(address: bytes) -> str:
    return str(ip_address(address)).replace(".", "-")
