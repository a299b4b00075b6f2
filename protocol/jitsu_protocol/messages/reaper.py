"""Messages to and from the reaper."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from jitsu_protocol.messages.base import Request, VmId

MAX_REPORTED = 20_000
"""How many uses, and how many drains, a report may have: twice the number of VMs of a large suite. dns sends a few
hundred at a time."""
MAX_COUNT = 2**53
"""The largest number of queries for one name in one report."""
MAX_TTL = 2**31 - 1  # RFC 2181, section 8


class Use(NamedTuple):
    """The use of one name of a VM since the last report; only a list on the bus, because there are many."""

    vm: VmId
    name: Annotated[str, Field(max_length=255)]
    """The DNS name that was asked for; "" for use that is not a query."""
    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]  # type: ignore[assignment]  # not the method of tuple
    age_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Seconds since the latest use."""


class Report(Request):
    """dns and synjitsu to reaper: about once a second, and at once when a VM starts to drain or more use is left.
    Answer: Done.

    The first report registers the reporter; until it is acknowledged, a dns replica gives no warm answers. A batch is
    sent again until it is acknowledged, and counted once, because the reaper ignores a number that is not higher than
    the last.
    """

    kind: ClassVar[str] = "reaper.report"
    max_bytes: ClassVar[int] = 2 * 1024 * 1024

    replica: str = Field(max_length=255)
    """The name of the reporter, which stays the same after a restart."""
    service: Literal["dns", "synjitsu"] = "dns"
    """The kind of the reporter: dns sees queries, synjitsu sees traffic."""
    instance: str = Field(max_length=255)
    """Changes whenever the reporter starts."""
    host: Annotated[str, Field(max_length=255)] | None = None
    """The host whose VMs it reports on; None for all hosts."""
    address: str = Field("", max_length=255)
    """The HOST:PORT on which it serves."""
    batch: int
    lease_s: float = Field(ge=0)
    """For how many seconds it goes on giving warm answers without an acknowledgement, or for how many seconds there may
    be use that it cannot report."""
    uses: list[Use] = Field(default_factory=list, max_length=MAX_REPORTED)
    ttls: list[Annotated[int, Field(ge=0, le=MAX_TTL)]] = Field(default_factory=list, max_length=MAX_REPORTED)
    """For each of `uses`, the longest TTL that its answers had, in seconds; the VM is not stopped before that is over.
    The list is shorter or empty if the reporter does not know (protocol 1.1)."""
    drains: list[Annotated[str, Field(max_length=255)]] = Field(default_factory=list, max_length=MAX_REPORTED)
    """The ids of all drains that it honours. It asks vmd again before it answers for these VMs, and all earlier use of
    them is in this report or in one before it."""
    warnings: list[str] = Field(default_factory=list)
    """What an operator should repair, for `jitsu status`."""
    leaving: bool = False
    """The reporter stops in an orderly way, and sends no further report."""
