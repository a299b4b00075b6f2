"""Everything about one VM, for `jitsu status NAME`: what vmd and the store report of it, and how it is configured."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitsu import show
from jitsu.durations import duration
from jitsu_protocol.messages import History, Leaves, List, ListVms, Log, Timelines, Trace, VmList
from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_protocol.model.export import keys_of
from jitsu_protocol.model.vm import STATS_ROOT, VM_ROOT, InvalidVm, from_tree
from jitsu_protocol.rows import below, status_rows
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu.link import Link
    from jitsu_protocol.messages import Commit, Timeline, VmStatus
    from jitsu_protocol.model.vm import VM

LATEST = 3
"""How many summons and changes are shown."""


@dataclass(frozen=True)
class OneVm:
    """What is known of a VM."""

    row: dict[str, Any]
    """As in the table of all VMs."""
    status: VmStatus | None
    """What its vmd reports; None if that does not answer, or does not know it."""
    vm: VM | None
    """How it is configured; None if that cannot be used."""
    summons: list[Timeline]
    changes: list[Commit]

    def as_json(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            **self.row,
            "status": None if self.status is None else self.status.model_dump(),
            "configuration": None if self.vm is None else keys_of(self.vm),
            "summons": [each.model_dump() for each in self.summons],
            "changes": [each.model_dump() for each in self.changes],
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        since = f", for {duration(self.status.state_age_s)}" if self.status is not None else ""
        lines = [f"{self.row['name']} is {self.row['state']}{since}"]
        lines += [f"  {what:<14} {text}" for what, text in self._facts() if text]
        for title, more in (
            ("The latest summons", show.trace_lines(self.summons)),
            ("The latest changes", show.log_lines(self.changes)),
            ("Its configuration", self._section()),
        ):
            lines += ["", f"{title}:", *(f"  {line}" for line in more)] if more else []
        return lines

    def _facts(self) -> Iterator[tuple[str, str]]:
        row, status, vm = self.row, self.status, self.vm
        for number, name in enumerate(row["names"]):
            ttl = "" if vm is None else f", kept by clients for {duration(vm.names.get(name, 0))}"
            yield ("names" if number == 0 else ""), name + ttl
        yield "address", row["address"]
        if status is not None:
            yield "MAC", status.mac
            yield "bridge", ", ".join(filter(None, (status.bridge, status.interface)))
        yield "host", row["host"]
        yield "up", "" if row["uptime_s"] is None else f"for {duration(row['uptime_s'])}"
        yield "starts", str(row["starts"])
        last = "" if row["idle_s"] is None else f", the last one {duration(row['idle_s'])} ago"
        yield "queries", f"{row['queries']}{last}"
        if vm is not None:
            yield "when idle", f"{vm.stop_mode} after {duration(vm.idle_timeout)} without use"
        yield "waits", row["waits_for"]
        yield "hold", row["hold"]
        yield "keep", row["kept"]
        yield "schedule", row["asleep"]
        again = row["retry_after_s"]
        yield "last error", row["last_error"]
        yield "", "" if again is None else f"a query can start it again in {duration(max(again, 0.0))}"

    def _section(self) -> list[str]:
        if self.vm is None:
            return []
        from jitsu.toml_text import toml

        return toml([self.vm]).splitlines()


async def describe(link: Link, word: str) -> OneVm:
    """Ask vmd and the store for everything about a VM; raises NotFound, or BadRequest if several have that name."""
    named = await link.find_vm(word)
    statistics = f"{STATS_ROOT}/{named.uuid}"
    listed, traced, own, counted, history = await asyncio.gather(
        link.call("vmd", ListVms(), VmList, host=named.host),
        link.call("vmd", Trace(vm=named.uuid, limit=LATEST), Timelines, host=named.host),
        link.call("store", List(prefix=named.path), Leaves),
        link.call("store", List(prefix=statistics), Leaves),
        link.call("store", Log(path=named.path, limit=LATEST), History),
        return_exceptions=True,
    )
    for each in (listed, traced, own, counted, history):
        if isinstance(each, BaseException) and not isinstance(each, JitsuError):
            raise each
    if isinstance(own, BaseException) and isinstance(listed, BaseException):
        raise Unavailable(f"neither the store nor vmd answers: {own}")
    leaves = own.leaves if isinstance(own, Leaves) else {}
    leaves = leaves | (counted.leaves if isinstance(counted, Leaves) else {})
    status = None
    if isinstance(listed, VmList):
        status = next((each for each in listed.vms if each.uuid == named.uuid), None)
    silent = {named.host} if isinstance(listed, BaseException) else set()
    rows = status_rows([status] if status is not None else [], leaves, SYSTEM_CLOCK.wall(), silent)
    if not rows:
        raise Unavailable(f"{named.name}: nothing is known of it any longer")
    try:
        vm = from_tree(named.uuid, below(leaves, VM_ROOT).get(named.uuid, {}))
    except InvalidVm:
        vm = None
    return OneVm(
        rows[0],
        status,
        vm,
        traced.timelines if isinstance(traced, Timelines) else [],
        history.commits if isinstance(history, History) else [],
    )
