"""To and from vmd, and what its feed carries."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.messages.base import Message, Request, VmId
from jitsu_protocol.model.states import VmState

Trigger = Literal["dns", "traffic", "operator"]


class Summon(Request):
    """dns or synjitsu to vmd: make this VM reachable. Answer: Summoned, when its masking rule is met.

    Joins the summon under way, if there is one (G1). Answered at once if the VM is ready; saves a draining VM.
    The reply comes before the envelope's deadline or not at all.
    """

    kind: ClassVar[str] = "vmd.summon"

    vm: VmId
    trigger: Trigger = "dns"
    waited_s: float = 0.0
    """How long the query has been waiting at the sender; for the timeline."""
    ttl: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """The longest TTL with which the sender answers queries for the VM, in seconds; None if it answers none, or does
    not tell (protocol 1.1)."""


class Summoned(Message):
    """The answer to Summon: the VM may be told to clients."""

    kind: ClassVar[str] = "vmd.summoned"

    armed: bool = False
    """Synjitsu holds the address: the VM is still starting, and its start may yet fail."""
    addresses: list[str] = Field(default_factory=list)
    """With which its guest was started; empty if vmd does not tell (protocol 1.1). dns asks again if it is configured
    otherwise: one of the two has not heard of a change yet."""


class StartDiscarding(Request):
    """jitsu to vmd: delete what was suspended or paused of this VM, then boot it. Answer: Summoned, as to Summon.

    Refused if the VM may be running. Sent twice, the second joins the first while that is under way.
    """

    kind: ClassVar[str] = "vmd.start-discarding"

    vm: VmId


class Drain(Request):
    """reaper to vmd: this VM is idle as far as I know; tell everybody. Answer: Draining.

    Refused if the VM is not ready, or was summoned within its idle timeout; its `evict_timeout`, while it is to give
    way to a VM that `wants_room`. Sent twice it gives the same drain.
    vmd takes the drain back by itself if no StopDrained follows.
    """

    kind: ClassVar[str] = "vmd.drain"

    vm: VmId


class Draining(Message):
    """The answer to Drain."""

    kind: ClassVar[str] = "vmd.draining"

    drain: str


class StopDrained(Request):
    """reaper to vmd: all replicas have acknowledged; stop the VM as its mode says. Answer: Done.

    Refused if that drain is over, because a query saved the VM.
    """

    kind: ClassVar[str] = "vmd.stop-drained"

    vm: VmId
    drain: str


class CancelDrain(Request):
    """reaper to vmd: there was activity after all, or a replica does not answer. Answer: Done."""

    kind: ClassVar[str] = "vmd.cancel-drain"

    vm: VmId
    drain: str


class OperatorStop(Request):
    """jitsu to vmd: stop this VM now, whoever uses it. Answer: Done, when it has stopped."""

    kind: ClassVar[str] = "vmd.stop"

    vm: VmId


class HandedOver(Request):
    """synjitsu to vmd: the guest is there, and has what was kept for it. Answer: Done."""

    kind: ClassVar[str] = "vmd.handed-over"

    vm: VmId


class Check(Request):
    """jitsu to vmd: could its hypervisors run VMs as they would be configured? Answer: Checked."""

    kind: ClassVar[str] = "vmd.check"
    max_bytes: ClassVar[int] = 4 * 1024 * 1024

    vms: dict[str, dict[str, str]] = Field(max_length=1000)
    """UUID -> leaves below `jitsu/vm/<uuid>/`."""


class Checked(Message):
    """The answer to Check."""

    kind: ClassVar[str] = "vmd.checked"

    refusals: dict[str, str]
    """UUID -> the reason, for those that could not."""
    writes_to_disk: dict[str, bool] = Field(default_factory=dict)
    """UUID -> whether the VM has a disk that it writes to, and can be shut down; without those of which vmd cannot say.

    Empty from a vmd of protocol 1.2 or earlier.
    """


class ListVms(Request):
    """Anyone to vmd: all VMs and their states. Answer: VmList. Also the snapshot of vmd's feed."""

    kind: ClassVar[str] = "vmd.list"


class VmStatus(BaseModel):
    """One VM as vmd sees it."""

    model_config = ConfigDict(frozen=True)

    uuid: str
    name: str
    state: VmState
    host: str = ""
    """Whose vmd says this; "" if there is only one."""
    drain: str = ""
    """Id of the drain while `draining`."""
    state_age_s: float = 0.0
    up_s: float | None = None
    """Since the start, if it runs."""
    idle_s: float | None = None
    """Since the last summon that reached vmd, if it runs."""
    starts: int = 0
    last_error: str = ""
    mac: str = ""
    bridge: str = ""
    """Of the interface at which it is reached, as far as is known."""
    interface: str = ""
    """The host's end of that interface while the VM runs or is paused, such as `vnet3` or `vif7.0`; "" if unknown."""
    retry_after_s: float | None = None
    """While it backs off: until the next try is allowed."""
    addresses: list[str] = Field(default_factory=list)
    """With which its guest was started, if it runs; empty if that is not known."""
    waits_for: str = ""
    """Why a VM that is wanted is not started yet."""
    wants_room: bool = False
    """That ends when another VM on its host is stopped (`evict`)."""
    hold: str = ""
    """Why it is neither started nor stopped automatically (`jitsu hold`); "" if it is not held."""


class VmList(Message):
    """The answer to ListVms."""

    kind: ClassVar[str] = "vmd.vms"

    vms: list[VmStatus]
    epoch: str
    number: int


class Trace(Request):
    """jitsu to vmd: the latest summons, newest last. Answer: Timelines."""

    kind: ClassVar[str] = "vmd.trace"

    vm: VmId = ""
    limit: int = Field(default=20, ge=1, le=1000)


class Timeline(BaseModel):
    """One summon: when each stage was passed."""

    summon: str
    vm: str
    name: str
    trigger: Trigger
    ts: float
    """When it began."""
    joined: int = 0
    """How many further requests joined it."""
    stages: list[tuple[str, float]]
    """(name, `_mono` seconds), in order."""
    outcome: str = ""


class Timelines(Message):
    """The answer to Trace."""

    kind: ClassVar[str] = "vmd.timelines"

    timelines: list[Timeline]


class VmStateChanged(Message):
    """In vmd's feed: a VM's new state. `gone` when the VM is configured no more."""

    kind: ClassVar[str] = "feed.vm"

    vm: VmStatus
    gone: bool = False
