"""Messages to and from vmd, and the message of its feed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.messages.base import Message, Request, VmId
from jitsu_protocol.model.states import VmState

Trigger = Literal["dns", "traffic", "operator", "schedule"]
"""Why a VM is started. vmd itself starts it by its schedule (`awake`); that value is new after protocol 1.2."""


class Summon(Request):
    """dns, synjitsu or an operator to vmd: make this VM reachable. Answer: Summoned, when its masking rule is met.

    It joins the summon under way, if there is one (G1). The answer comes at once if the VM is ready, and a summon saves
    a draining VM. The reply comes before the envelope's deadline or not at all.
    """

    kind: ClassVar[str] = "vmd.summon"

    vm: VmId
    trigger: Trigger = "dns"
    waited_s: float = 0.0
    """How many seconds the query has been waiting at the sender, for the timeline."""
    ttl: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """The longest TTL with which the sender answers queries for the VM, in seconds. None if it answers no queries, or
    does not send its TTL (protocol 1.1)."""
    by: str = Field("", max_length=255)
    """The requester, for `jitsu why`: an operator, or a token that the sender's next report to the reaper explains."""


class Summoned(Message):
    """The answer to Summon: clients may be given the addresses of the VM."""

    kind: ClassVar[str] = "vmd.summoned"

    armed: bool = False
    """Synjitsu answers for the address: the VM is still starting, and its start may fail."""
    addresses: list[str] = Field(default_factory=list)
    """The addresses with which its guest was started; empty from a vmd of protocol 1.1. If they differ from the
    configuration that dns has, one of the two has not received a change yet, and dns asks again."""


class StartDiscarding(Request):
    """jitsu to vmd: delete the suspended or paused state of this VM, then boot it. Answer: Summoned, as for Summon.

    The answer is Refused if the VM may be running. If it is sent twice, the second joins the first while that is under
    way.
    """

    kind: ClassVar[str] = "vmd.start-discarding"

    vm: VmId
    by: str = Field("", max_length=255)
    """The operator, for `jitsu why`."""


class Drain(Request):
    """reaper to vmd: this VM seems to be idle; announce that it drains. Answer: Draining.

    The answer is Refused if the VM is not ready, or was summoned within its idle timeout. That is its `evict_timeout`
    while it should be stopped for a VM that `wants_room`. If it is sent twice, the answer is the same drain. If no
    StopDrained follows, vmd cancels the drain by itself.
    """

    kind: ClassVar[str] = "vmd.drain"

    vm: VmId


class Draining(Message):
    """The answer to Drain."""

    kind: ClassVar[str] = "vmd.draining"

    drain: str


class StopDrained(Request):
    """reaper to vmd: all reporters have acknowledged the drain; stop the VM in its stop mode. Answer: Done.

    The answer is Refused if that drain is over, because a query has saved the VM.
    """

    kind: ClassVar[str] = "vmd.stop-drained"

    vm: VmId
    drain: str


class CancelDrain(Request):
    """reaper to vmd: the VM was used after all, or a reporter does not answer. Answer: Done."""

    kind: ClassVar[str] = "vmd.cancel-drain"

    vm: VmId
    drain: str


class OperatorStop(Request):
    """jitsu to vmd: stop this VM now, even if it is in use. Answer: Done, when it has stopped."""

    kind: ClassVar[str] = "vmd.stop"

    vm: VmId
    by: str = Field("", max_length=255)
    """The operator, for `jitsu why`."""


class HandedOver(Request):
    """synjitsu to vmd: the guest is up, and has the packets that were kept for it. Answer: Done."""

    kind: ClassVar[str] = "vmd.handed-over"

    vm: VmId


class Check(Request):
    """jitsu to vmd: check whether its hypervisors could run VMs with a new configuration. Answer: Checked."""

    kind: ClassVar[str] = "vmd.check"
    max_bytes: ClassVar[int] = 4 * 1024 * 1024

    vms: dict[str, dict[str, str]] = Field(max_length=1000)
    """The leaves below `jitsu/vm/<uuid>/`, by UUID."""


class Checked(Message):
    """The answer to Check."""

    kind: ClassVar[str] = "vmd.checked"

    refusals: dict[str, str]
    """The reason for each VM that could not run, by UUID."""
    writes_to_disk: dict[str, bool] = Field(default_factory=dict)
    """Whether the VM has a disk that it writes to, and can be shut down, by UUID. VMs are missing of which vmd does not
    know, and all of them from a vmd of protocol 1.2 or earlier."""


class Discover(Request):
    """jitsu to vmd: list the machines of its hypervisors, configured or not. Answer: Discoveries.

    All hypervisors are asked at the same time; one that does not answer within seconds is named in the reply, and
    delays no other. New after protocol 1.2.
    """

    kind: ClassVar[str] = "vmd.discover"


class DiscoveredMachine(BaseModel):
    """A machine that a hypervisor has."""

    model_config = ConfigDict(frozen=True)

    name: str
    hypervisor: str = ""
    """The name of the connection, "" for that of [hypervisor]."""
    uuid: str = ""
    """Its uuid at the hypervisor, "" if it has none that stays the same."""
    is_running: bool = False
    mac: str = ""
    """Of its first interface."""
    bridge: str = ""
    addresses: list[str] = Field(default_factory=list)
    """As far as the hypervisor itself knows them."""
    ports: list[int] = Field(default_factory=list)
    keys: dict[str, str] = Field(default_factory=dict)
    """What its labels say, unchecked."""
    is_read: bool = True
    """False if its labels and addresses could not be read now."""
    vm: str = ""
    """The uuid of the VM that is configured for it, "" if there is none."""


class AskedHypervisor(BaseModel):
    """A connection that was asked for its machines."""

    model_config = ConfigDict(frozen=True)

    connection: str
    """Its name, "" for that of [hypervisor]."""
    name: str
    """As an operator reads it."""
    kind: str
    can_list: bool = True
    """It can list its machines."""
    trouble: str = ""
    """Why it has not answered; "" if it has."""


class Discoveries(Message):
    """The answer to Discover."""

    kind: ClassVar[str] = "vmd.discoveries"

    machines: list[DiscoveredMachine]
    hypervisors: list[AskedHypervisor]
    left_out: int = 0
    """Machines beyond the limit of one reply."""
    zones: list[str] = Field(default_factory=list)
    """The zones that this vmd's settings name (dns.zones), for a caller that has no settings."""


class ListVms(Request):
    """Anyone to vmd: list all VMs and their states. Answer: VmList. This is also the snapshot of vmd's feed."""

    kind: ClassVar[str] = "vmd.list"


class VmBoot(BaseModel):
    """Why a VM was started the last time."""

    model_config = ConfigDict(frozen=True)

    trigger: Trigger
    by: str = ""
    """The `by` of the first request; "" if it did not say."""
    begun_mono: float
    """When it was summoned: together with the VM, this identifies the boot."""
    age_s: float
    took_s: float | None = None
    """From the summon until it was ready; None if it was not."""
    joined: int = 0
    """How many further requests have joined it."""


class VmStop(BaseModel):
    """Why a VM was stopped the last time, or has ended."""

    model_config = ConfigDict(frozen=True)

    why: str
    """`idle`, `operator`, `changed`, `removed`, `failed`, `ended` or `crashed`; others may follow."""
    by: str = ""
    """The operator."""
    note: str = ""
    """What has changed, or how it failed."""
    begun_mono: float
    age_s: float
    took_s: float | None = None
    """Until it had stopped; None as long as it has not."""


class VmStatus(BaseModel):
    """The state of one VM, as far as vmd knows."""

    model_config = ConfigDict(frozen=True)

    uuid: str
    name: str
    state: VmState
    host: str = ""
    """The host of the vmd that sends this; "" if there is only one."""
    drain: str = ""
    """The id of the drain while the VM is `draining`."""
    state_age_s: float = 0.0
    up_s: float | None = None
    """Seconds since the start, if it runs."""
    idle_s: float | None = None
    """Seconds since the last summon that reached vmd, if it runs."""
    starts: int = 0
    last_error: str = ""
    mac: str = ""
    bridge: str = ""
    """The bridge of the interface that has its addresses, if that is known."""
    interface: str = ""
    """The host's end of that interface while the VM runs or is paused, such as `vnet3` or `vif7.0`; "" if unknown."""
    retry_after_s: float | None = None
    """While it backs off: seconds until the next start is allowed."""
    addresses: list[str] = Field(default_factory=list)
    """The addresses with which its guest was started, if it runs; empty if they are not known."""
    waits_for: str = ""
    """Why a VM that was summoned is not started yet."""
    wants_room: bool = False
    """It waits for memory or a slot that another VM on its host holds (`evict`)."""
    hold: str = ""
    """The hold that keeps it from being started or stopped automatically (`jitsu hold`); "" if it is not held."""
    kept: str = ""
    """Why it is not stopped although it may be idle (`jitsu keep`, or `awake`); "" if it may be. New after protocol
    1.2."""
    asleep: str = ""
    """Why only an operator may start it (`asleep`); "" if anybody may. New after protocol 1.2."""
    boot: VmBoot | None = None
    """None if this vmd has not started it, or is of protocol 1.2 or earlier."""
    stop: VmStop | None = None


class VmList(Message):
    """The answer to ListVms."""

    kind: ClassVar[str] = "vmd.vms"

    vms: list[VmStatus]
    epoch: str
    number: int


class Trace(Request):
    """jitsu to vmd: list the latest summons, newest last. Answer: Timelines."""

    kind: ClassVar[str] = "vmd.trace"

    vm: VmId = ""
    limit: int = Field(default=20, ge=1, le=1000)


class Timeline(BaseModel):
    """One summon, with the time of each stage."""

    summon: str
    vm: str
    name: str
    trigger: Trigger
    ts: float
    """When it began, in Unix time."""
    joined: int = 0
    """How many further requests have joined it."""
    stages: list[tuple[str, float]]
    """The name and the time of each stage, in order; the times are seconds of CLOCK_MONOTONIC on the VM's host."""
    outcome: str = ""
    by: str = ""
    """Whose start by hand it was, for example `operator:alice via web`; "" if that is not known."""


class Timelines(Message):
    """The answer to Trace."""

    kind: ClassVar[str] = "vmd.timelines"

    timelines: list[Timeline]


class VmStateChanged(Message):
    """In vmd's feed: the new state of a VM; `gone` if the VM is no longer configured."""

    kind: ClassVar[str] = "feed.vm"

    vm: VmStatus
    gone: bool = False
