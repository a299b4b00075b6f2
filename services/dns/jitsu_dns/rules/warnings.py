"""What an operator should fix about what a replica serves; the log and `jitsu status` show it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_dns.rules.table import Table

MAX_EACH = 5
"""Warnings of one kind: a thousand VMs with the same fault do not need a thousand lines."""


class WarningList:
    """What is wrong now. What was not wrong before belongs in the log."""

    def __init__(self, *, has_secondaries: bool) -> None:
        self._has_secondaries = has_secondaries
        self.found: list[str] = []

    def update(self, table: Table, left_out: Mapping[str, str], others: Sequence[str]) -> list[str]:
        """Look again, and return what was not wrong the last time; `others` come from outside the rules."""
        before = self.found
        self.found = [*warnings(table, left_out, has_secondaries=self._has_secondaries), *others]
        return [warning for warning in self.found if warning not in before]


def warnings(table: Table, left_out: Mapping[str, str], *, has_secondaries: bool) -> list[str]:
    """Return a sentence for each thing that an operator should change; `left_out` are VMs, each with the reason."""
    found = _first([f"left out: {reason}" for reason in left_out.values()], "VMs are left out")
    found += _first(
        [
            f'{name} has no address: set dns.glue = ["{name}=ADDRESS"] or dns.nameservers'
            for name in table.zones.without_address()
        ],
        "name servers have no address",
    )
    found += _first(table.hidden_records(), "configured records are not served")
    if has_secondaries and not table.zones.names:
        found.append("dns.secondaries have nothing to transfer: set dns.zones")
    return found


def upgrade_hint(table: Table) -> str:
    """Return the line of jitsu.toml that makes whole zones of what VMs' names lie in; "" if there is no need.

    Without `dns.zones`, earlier versions took the parent domain of each name for a zone of theirs.
    """
    domains = [] if table.zones.names else table.homeless_domains()
    return f"zones = [{', '.join(map(json.dumps, domains))}]" if domains else ""


def _first(found: list[str], what: str) -> list[str]:
    more = len(found) - MAX_EACH
    return found if more <= 0 else [*found[:MAX_EACH], f"{more} more {what}"]
