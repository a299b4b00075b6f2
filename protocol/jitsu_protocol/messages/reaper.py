"""To and from the reaper."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from jitsu_protocol.messages.base import Request, VmId

MAX_REPORTED = 20_000
"""Uses, and drains, in one report: twice as many as a large suite has VMs. dns sends some hundred at a time."""
MAX_COUNT = 2**53
"""Of queries in one report."""
MAX_TTL = 2**31 - 1  # RFC 2181, section 8


class Use(NamedTuple):
    """What happened to one name of a VM since the last report; a bare list on the bus, as there are many."""

    vm: VmId
    name: Annotated[str, Field(max_length=255)]
    """"" for use that is no query."""
    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]  # type: ignore[assignment]  # not the method of tuple
    age_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Since the latest query."""


class Report(Request):
    """dns and synjitsu to reaper, about once a second, and at once when a VM starts to drain, or more is left.
    Answer: Done.

    The first report registers who reports: before it is acknowledged, a replica answers nothing warm. A batch is sent
    until it is acknowledged, and counted once: a number that is not higher than the last is known already.
    """

    kind: ClassVar[str] = "reaper.report"
    max_bytes: ClassVar[int] = 2 * 1024 * 1024

    replica: str = Field(max_length=255)
    """Name of who reports, the same after a restart."""
    service: Literal["dns", "synjitsu"] = "dns"
    """What it sees: queries, or traffic."""
    instance: str = Field(max_length=255)
    """Changes at each start of the replica."""
    host: Annotated[str, Field(max_length=255)] | None = None
    """The host of whose VMs it tells; None for all."""
    address: str = Field("", max_length=255)
    """HOST:PORT where it serves."""
    batch: int
    lease_s: float = Field(ge=0)
    """How long it goes on answering warm if it hears from us no more; or how long what it cannot tell us may last."""
    uses: list[Use] = Field(default_factory=list, max_length=MAX_REPORTED)
    ttls: list[Annotated[int, Field(ge=0, le=MAX_TTL)]] = Field(default_factory=list, max_length=MAX_REPORTED)
    """For each of `uses` the longest TTL that its answers had, in seconds: the VM is not stopped before that is over.
    The list is shorter, or empty, if that is not told (protocol 1.1)."""
    drains: list[Annotated[str, Field(max_length=255)]] = Field(default_factory=list, max_length=MAX_REPORTED)
    """Ids of all drains that it honours: it asks vmd again before it answers for these VMs, and all use from before it
    did so is in this report or an earlier one."""
    warnings: list[str] = Field(default_factory=list)
    """What an operator should put right, for `jitsu status`."""
    leaving: bool = False
    """It stops in an orderly way; nothing more comes from it."""
