"""A zone as it was when its transfer to a secondary began (AXFR, RFC 5936), whatever changes in the meantime.

    it begins                  the names that exist are noted; nothing is copied
    a name is about to change  what it has is kept for the transfer first, unless it was sent already; names that are
                               added later are not part of it
    a record is taken          the next name's records, as they are now or as they were kept
    it ends                    with the SOA record with which it began; or the secondary is gone

So a transfer of 100,000 names costs a list of their names, and queries are answered between its messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules.message import NO_RECORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

POINTER_TO_ZONE = b"\xc0\x0c"
"""The question's name is the zone."""


class ZoneSnapshot:
    """One zone, as it was when its transfer to one secondary began."""

    def __init__(self, zone: bytes, apex: Sequence[bytes], soa: bytes, names: Mapping[bytes, object]) -> None:
        """`apex` are the records, with their owners, that belong to no name of the table; `names` are the table's."""
        self.zone = zone
        self._apex, self._soa = apex, soa
        self._left: dict[bytes, Sequence[bytes] | None] = dict.fromkeys(names)

    def wants(self, key: bytes) -> bool:
        """Return whether what a name has now will be sent later."""
        return self._left.get(key, NO_RECORDS) is None and _is_in(key, self.zone)

    def keep(self, key: bytes, records: Sequence[bytes]) -> None:
        """Keep what a name has, each owner a pointer to the question, as it is about to change."""
        self._left[key] = records

    def records(self, now_has: Callable[[bytes], Sequence[bytes]]) -> Iterator[bytes]:
        """Yield each record with its owner; `now_has` returns those of a name that did not change."""
        yield self._soa
        yield from self._apex
        while self._left:
            key, kept = self._left.popitem()
            if _is_in(key, self.zone):
                owner = key[: -len(self.zone)] + POINTER_TO_ZONE
                for record in now_has(key) if kept is None else kept:
                    yield owner + record[len(POINTER_TO_ZONE) :]
        yield self._soa


def _is_in(key: bytes, zone: bytes) -> bool:
    """Return whether a name on the wire is in a zone: the zone's name begins where a label of it does."""
    if not key.endswith(zone):
        return False
    at, start = 0, len(key) - len(zone)
    while at < start:
        at += key[at] + 1
    return at == start
