"""`jitsu-dns --check`: the faults in [dns] that only this service can find. It binds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_dns.rules.records import conflicts, parse_static
from jitsu_dns.wires.servers import refuse_itself
from jitsu_protocol.model.errors import SetupFault

if TYPE_CHECKING:
    from jitsu_runtime.settings.schema import DnsSettings


def faults(settings: DnsSettings) -> list[str]:
    """Return a line for each fault with which a replica would refuse to start: `dns.key: what is wrong`."""
    found, static = [], []
    for line in settings.records:
        try:
            static.append(parse_static(line))
        except ValueError as error:
            found.append(f"dns.records: {error}")
    found += [f"dns.records: {clash}; remove one of the records" for clash in conflicts(static, settings.zones)]
    try:
        refuse_itself(settings, settings.port)
    except SetupFault as fault:
        found.append(str(fault))
    return found
