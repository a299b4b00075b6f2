"""The query log: one line per query. It can be switched on and off while the server runs."""

from __future__ import annotations

from ipaddress import ip_address

import structlog

from jitsu_dns.rules.message import TYPE_NAMES, Malformed, Rcode, parse

_RCODES = [next((each.name for each in Rcode if each == number), f"RCODE{number}") for number in range(16)]
"""The servers to which queries are forwarded may answer with any of them."""

log = structlog.get_logger("dns")


class QueryLog:
    """Logs queries while it is on. To log a query costs more than to answer it."""

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on

    def switch(self) -> None:
        """Switch it on or off."""
        self.is_on = not self.is_on
        log.info("queries are logged" if self.is_on else "queries are no longer logged")

    def note(self, data: bytes, address: bytes, answer: bytes | None, protocol: str) -> None:
        """Log a query and what was answered at once."""
        if not self.is_on:
            return
        query = parse(data)
        if isinstance(query, Malformed):
            log.info("query", client=str(ip_address(address)), over=protocol, malformed=len(data))
            return
        outcome = "waits" if answer is None else "dropped" if not answer else _RCODES[answer[3] & 0xF]
        log.info(
            "query",
            client=str(ip_address(address)),
            over=protocol,
            name=_readable(query.key),
            type=TYPE_NAMES.get(query.qtype, f"TYPE{query.qtype}"),
            answer=outcome,
        )


def _readable(key: bytes) -> str:
    """Return a name in wire format as text; what is not printable ASCII is escaped (RFC 1035, 5.1)."""
    labels = []
    while key[0]:
        label, key = key[1 : key[0] + 1], key[key[0] + 1 :]
        labels.append("".join(chr(c) if 33 <= c < 127 and c not in b".\\" else f"\\{c:03}" for c in label))
    return ".".join(labels) or "."
