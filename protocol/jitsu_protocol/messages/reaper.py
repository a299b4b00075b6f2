"""Messages to and from the reaper."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.messages.base import Message, Request, VmId

MAX_REPORTED = 20_000
"""How many uses, and how many drains, a report may have: twice the number of VMs of a large suite. dns sends a few
hundred at a time."""
MAX_COUNT = 2**53
"""The largest number of queries for one name in one report."""
MAX_TTL = 2**31 - 1  # RFC 2181, section 8
MAX_ASKED = 1000
"""How many facts about clients, and how many VMs with their connections, a report may have."""
MAX_PEERS = 16
"""How many peers of one VM a report names; it says how many connections there are in all."""

ShortText = Annotated[str, Field(max_length=255)]
Network = Annotated[str, Field(max_length=64)]
"""A client as it is recorded: an address, a network, or "", as `log.privacy` has it (model/privacy.py)."""
Age = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Seconds since something happened."""


class Use(NamedTuple):
    """The use of one name of a VM since the last report; only a list on the bus, because there are many."""

    vm: VmId
    name: Annotated[str, Field(max_length=255)]
    """The DNS name that was asked for; "" for use that is not a query."""
    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]  # type: ignore[assignment]  # not the method of tuple
    age_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Seconds since the latest use."""


class NotedClient(NamedTuple):
    """A client that asked for a VM, or sent it a packet; only a list on the bus, because there may be many."""

    vm: VmId
    token: ShortText
    """The `by` of the summon that this client caused; "" for one that caused none."""
    what: Literal["query", "packet", "magic packet"]
    about: ShortText
    """Which name and type was asked for (`www.example.org A`), or where the packet went (`tcp/22`)."""
    client: Network
    age_s: Age


class Peer(NamedTuple):
    """Connections of one client network to one port of a VM."""

    client: Network
    about: Annotated[str, Field(max_length=32)]
    """`tcp/22`"""
    count: Annotated[int, Field(ge=0, le=MAX_COUNT)]  # type: ignore[assignment]  # not the method of tuple


class Connected(NamedTuple):
    """The connections to a VM that are open now."""

    vm: VmId
    open: Annotated[int, Field(ge=0, le=MAX_COUNT)]
    unseen: bool
    """There may be others: Synjitsu did not see all connections begin."""
    peers: Annotated[list[Peer], Field(max_length=MAX_PEERS)]
    """Those with the most connections."""


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
    asked: list[NotedClient] = Field(default_factory=list, max_length=MAX_ASKED)
    """Facts for `jitsu why`: who caused a summon, and now and then one of the clients that are answered at once. They
    decide nothing. Empty from a reporter of protocol 1.2 or earlier."""
    connected: list[Connected] = Field(default_factory=list, max_length=MAX_ASKED)
    """For `jitsu why`: the connections to VMs of which they have changed, or were not reported for a while."""


class Why(Request):
    """jitsu and jitsu-web to reaper: why did this VM boot, why is it up, and when does it stop? Answer: WhyReport.

    The answer is NotFound if the VM is not configured and nothing is recorded of it. New after protocol 1.2.
    """

    kind: ClassVar[str] = "reaper.why"

    vm: VmId


class WhyClient(BaseModel):
    """A client that used a VM, as far as it is recorded."""

    model_config = ConfigDict(frozen=True)

    what: str
    """`query`, `packet` or `magic packet`."""
    about: str
    """The name and type, or the protocol and port: `www.example.org A`, `tcp/22`."""
    client: str
    """A network, an address, or "" if clients are not recorded."""
    reporter: str
    """The dns replica or the Synjitsu that saw it."""
    ts: float
    """When it was seen last, in Unix time."""
    count: int
    """How often it was noticed. Of clients that are answered at once, only samples are."""


class WhyPeer(BaseModel):
    """Connections that are open."""

    model_config = ConfigDict(frozen=True)

    client: str
    about: str
    count: int


class WhyReason(BaseModel):
    """One reason why a VM is not stopped now."""

    model_config = ConfigDict(frozen=True)

    kind: str
    """`held`, `kept`, `not-ready`, `draining`, `answers`, `connections`, `used`, `silence`, `started`, `unconfigured`,
    `retry` or `turn` (the reaper's rules/why.py says what each means)."""
    text: str
    """A clause for people: `an answer that was given for it is valid for 40 s more`."""
    until_ts: float | None = None
    """When it is over unless something happens, in Unix time; None if nobody knows."""


class WhyEvent(BaseModel):
    """A boot or a stop."""

    model_config = ConfigDict(frozen=True)

    what: Literal["boot", "stop"]
    ts: float
    """When it began, in Unix time."""
    cause: str
    """Of a boot: `query`, `packet`, `magic packet`, `operator`, `schedule`, `traffic`, `dns` or `found`. Of a stop:
    `idle`, `room`, `operator`, `changed`, `removed`, `failed`, `ended`, `crashed` or `unknown`."""
    decided_by: str
    """A service or an operator: `dns-0`, `operator:alice`, `the reaper`, `vmd`, `the VM itself`."""
    about: str = ""
    """What was asked for, as of a WhyClient; or why it was stopped."""
    client: str = ""
    took_s: float | None = None
    """Until it was ready, or had stopped; None if that is not over, or not known."""
    outcome: str = ""
    """`ready`, `stopped`, `failed: REASON`, or "" as long as it is not over."""


class WhyReport(Message):
    """The answer to Why. `jitsu why --json` prints it, and the HTTP API returns it."""

    kind: ClassVar[str] = "reaper.why-report"

    vm: str
    name: str
    state: str
    why_booted: str
    """A paragraph for people, and so are the next two."""
    why_up: str
    when_stops: str
    reasons: list[WhyReason] = Field(default_factory=list)
    """Why it is not stopped now; empty if it does not run."""
    stops_ts: float | None = None
    """When it is stopped unless it is used, in Unix time; None if that is not known, or never."""
    clients: list[WhyClient] = Field(default_factory=list)
    """Those that were noticed last, the latest first."""
    connections: list[WhyPeer] = Field(default_factory=list)
    connections_open: int = 0
    """How many connections are open in all."""
    events: list[WhyEvent] = Field(default_factory=list)
    """The last boots and stops, the latest first."""
    last_error: str = ""
    last_error_ts: float | None = None


class ForgetClients(Request):
    """jitsu to reaper: delete all recorded boots, stops and clients, in the file and in memory. Answer: Done.

    New after protocol 1.2.
    """

    kind: ClassVar[str] = "reaper.forget-clients"

    vm: VmId = ""
    """Only those of this VM; "" for all VMs."""
