"""Every message of the suite: who sends it to whom, and when. Below it there is no I/O.

A `Request` goes over an rpc socket and is answered by exactly one message of the class that its docstring
names, or by an error (errors.py). Every request may be sent twice; where that needs care its docstring says
what makes it safe. The items of a feed are at the end. Times that cross a process boundary are
ages in seconds, never clock readings, unless a name ends in `_ts` (Unix time, for people) or
`_mono` (CLOCK_MONOTONIC of the owner's host, for timelines).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.states import VmState

VERSION = (1, 0)
"""Protocol version: a process speaks with every other of the same first number."""


class Message(BaseModel):
    """What can stand in an envelope. Unknown fields are ignored, so that a minor version may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: ClassVar[str]


class Request(Message):
    """A message that is answered."""


class Done(Message):
    """The answer to a request that has nothing to tell but that it was carried out."""

    kind: ClassVar[str] = "done"


class Failure(Message):
    """The answer to a request that failed; becomes an exception at the caller."""

    kind: ClassVar[str] = "error"

    code: str
    message: str
    hint: str = ""
    retry_after: float | None = None


class Ping(Request):
    """Anyone to any owner of an rpc socket, to see whether it answers. Answer: Pong."""

    kind: ClassVar[str] = "ping"


class Pong(Message):
    """The answer to Ping."""

    kind: ClassVar[str] = "pong"

    service: str
    version: str
    pid: int
    uptime_s: float
    notes: list[str] = Field(default_factory=list)
    """What an operator should know about this process now, a sentence each."""


# --- store ---------------------------------------------------------------------------------------


class Change(BaseModel):
    """A new value for one path, or its removal (`value` is None)."""

    model_config = ConfigDict(frozen=True)

    path: str
    value: str | None
    old: str | None = None
    """Only in the feed: the value before."""


class Read(Request):
    """Anyone to store: the value at one path. Answer: Value, or not-found with the nearest path."""

    kind: ClassVar[str] = "store.read"

    path: str


class Value(Message):
    """The answer to Read."""

    kind: ClassVar[str] = "store.value"

    value: str
    commit: str


class List(Request):
    """Anyone to store: all leaves below a path ("" for all). Answer: Leaves.

    It is also the snapshot of the store's feed `topic`.
    """

    kind: ClassVar[str] = "store.list"

    prefix: str = ""
    topic: str = "vm"


class Leaves(Message):
    """The answer to List."""

    kind: ClassVar[str] = "store.leaves"

    leaves: dict[str, str]
    commit: str
    epoch: str
    number: int


class Apply(Request):
    """An operator to store: change the configuration, all of it or nothing. Answer: Applied.

    The answer comes when the change is committed (G5). Sent twice it is carried out once: the id of the request is
    kept in the commit.
    """

    kind: ClassVar[str] = "store.apply"

    changes: list[Change]
    author: str
    message: str
    request: str
    """An id that the caller chooses, the same when it sends the request again."""
    base: str = ""
    """The commit that the change is based on; if it is given and not the latest, conflict."""


class Applied(Message):
    """The answer to Apply."""

    kind: ClassVar[str] = "store.applied"

    commit: str
    changed: int
    """How many leaves differ from before."""


class Record(Request):
    """vmd and reaper to store: statistics, as new absolute values. Answer: Done.

    Kept in memory and committed within about a second.
    """

    kind: ClassVar[str] = "store.record"

    values: dict[str, str]
    service: str


class Log(Request):
    """An operator to store: the latest commits, newest first, that touch a path. Answer: History."""

    kind: ClassVar[str] = "store.log"

    path: str = ""
    limit: int = Field(default=20, ge=1, le=10_000)


class Commit(BaseModel):
    """One commit of the history."""

    id: str
    ts: float
    author: str
    message: str


class History(Message):
    """The answer to Log."""

    kind: ClassVar[str] = "store.history"

    commits: list[Commit]


# --- vmd -----------------------------------------------------------------------------------------

Trigger = Literal["dns", "traffic", "operator"]


class Summon(Request):
    """dns or synjitsu to vmd: make this VM reachable. Answer: Summoned, when its masking rule is met.

    Joins the summon under way, if there is one (G1). Answered at once if the VM is ready; saves a draining VM.
    The reply comes before the envelope's deadline or not at all.
    """

    kind: ClassVar[str] = "vmd.summon"

    vm: str
    trigger: Trigger = "dns"
    waited_s: float = 0.0
    """How long the query has been waiting at the sender; for the timeline."""


class Summoned(Message):
    """The answer to Summon: the VM may be told to clients."""

    kind: ClassVar[str] = "vmd.summoned"

    armed: bool = False
    """Synjitsu holds the address: the VM is still booting."""


class Drain(Request):
    """reaper to vmd: this VM is idle as far as I know; tell everybody. Answer: Draining.

    Refused if the VM is not ready, or was summoned within its idle timeout. Sent twice it gives the same drain.
    vmd takes the drain back by itself if no StopDrained follows.
    """

    kind: ClassVar[str] = "vmd.drain"

    vm: str


class Draining(Message):
    """The answer to Drain."""

    kind: ClassVar[str] = "vmd.draining"

    drain: str


class StopDrained(Request):
    """reaper to vmd: all replicas have acknowledged; stop the VM as its mode says. Answer: Done.

    Refused if that drain is over, because a query saved the VM.
    """

    kind: ClassVar[str] = "vmd.stop-drained"

    vm: str
    drain: str


class CancelDrain(Request):
    """reaper to vmd: there was activity after all, or a replica does not answer. Answer: Done."""

    kind: ClassVar[str] = "vmd.cancel-drain"

    vm: str
    drain: str


class OperatorStop(Request):
    """jitsu to vmd: stop this VM now, whoever uses it. Answer: Done, when it has stopped."""

    kind: ClassVar[str] = "vmd.stop"

    vm: str


class ListVms(Request):
    """Anyone to vmd: all VMs and their states. Answer: VmList. Also the snapshot of vmd's feed."""

    kind: ClassVar[str] = "vmd.list"


class VmStatus(BaseModel):
    """One VM as vmd sees it."""

    model_config = ConfigDict(frozen=True)

    uuid: str
    name: str
    state: VmState
    drain: str = ""
    """Id of the drain while `draining`."""
    state_age_s: float = 0.0
    up_s: float | None = None
    """Since the start, if it runs."""
    idle_s: float | None = None
    """Since the last summon that reached vmd, if it runs."""
    starts: int = 0
    last_error: str = ""
    retry_after_s: float | None = None
    """While it backs off: until the next try is allowed."""


class VmList(Message):
    """The answer to ListVms."""

    kind: ClassVar[str] = "vmd.vms"

    vms: list[VmStatus]
    epoch: str
    number: int


class Trace(Request):
    """jitsu to vmd: the latest summons, newest last. Answer: Timelines."""

    kind: ClassVar[str] = "vmd.trace"

    vm: str = ""
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


# --- synjitsu ------------------------------------------------------------------------------------


class Arm(Request):
    """vmd to synjitsu, before the VM is started: hold its addresses until it boots. Answer: Done.

    Unavailable if no bridge is attached. Sent twice it renews the time limit.
    """

    kind: ClassVar[str] = "synjitsu.arm"

    vm: str
    addresses: list[str]
    mac: str = ""
    limit_s: float
    """After that long without Disarm the boot counts as failed."""


class Disarm(Request):
    """vmd to synjitsu: the VM is `ready`, or its boot `failed`. Answer: Done."""

    kind: ClassVar[str] = "synjitsu.disarm"

    vm: str
    outcome: Literal["ready", "failed"]


# --- reaper --------------------------------------------------------------------------------------


class Use(BaseModel):
    """What happened to one name of a VM since the last report."""

    model_config = ConfigDict(frozen=True)

    vm: str
    name: str
    count: int = Field(ge=0)
    age_s: float = Field(ge=0)
    """Since the latest query."""


class Report(Request):
    """dns to reaper, about once a second, and at once when a VM starts to drain. Answer: Done.

    The first report registers the replica: before it is acknowledged, a replica answers nothing warm. A batch is sent
    until it is acknowledged, and counted once: a number that is not higher than the last is known already.
    """

    kind: ClassVar[str] = "reaper.report"

    replica: str
    """Name of the replica, the same after a restart."""
    instance: str
    """Changes at each start of the replica."""
    batch: int
    lease_s: float = Field(ge=0)
    """How long it goes on answering warm if it hears from us no more."""
    uses: list[Use] = Field(default_factory=list)
    drains: list[str] = Field(default_factory=list)
    """Ids of all drains that it honours: it asks vmd again before it answers for these VMs."""
    leaving: bool = False
    """It stops in an orderly way; nothing more comes from it."""


# --- feeds ---------------------------------------------------------------------------------------


class Committed(Message):
    """In the store's feed: one commit, with all that it changed below the feed's topic."""

    kind: ClassVar[str] = "feed.committed"

    commit: str
    changes: list[Change]


class VmStateChanged(Message):
    """In vmd's feed: a VM's new state. `gone` when the VM is configured no more."""

    kind: ClassVar[str] = "feed.vm"

    vm: VmStatus
    gone: bool = False


class FeedItem(Message):
    """The envelope's body on a feed socket; without `body` it is a heartbeat that repeats the last number."""

    kind: ClassVar[str] = "feed.item"

    epoch: str
    """Changes when the owner restarts."""
    number: int
    body_kind: str = ""
    body: dict[str, object] | None = None
