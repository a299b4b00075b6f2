"""The JSON of the API: what each route takes and returns, from which OpenAPI is made.

What a route returns is the same as what `jitsu --json` prints for it, where both exist.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.model.tokens import TokenRole

MAX_VALUE = 64 * 1024

Limit = Annotated[int, Query(ge=1, le=100)]


class Shape(BaseModel):
    """What the API returns."""


class AskedShape(BaseModel):
    """What the API takes: a member that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", str_max_length=MAX_VALUE)


class ProblemShape(Shape):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    hint: str = Field(description="What to do about it; may be empty.")
    code: str = Field("", description="Our own word for this kind of error.")
    details: list[dict[str, str | None]] = Field(default_factory=list)


class IdleShape(Shape):
    """When a VM stops."""

    stops_at: float | None = Field(description="Unix time at which it stops unless it is used; null if it will not.")
    reason: str = Field(description="What keeps it up, if something does.")


class SeriesShape(Shape):
    """The last day in quarters of an hour, oldest first."""

    queries: list[float]
    up: list[float] = Field(description="The share of each quarter for which it was up, from 0 to 1.")


class VmShape(Shape):
    """A VM: as `jitsu status --json` prints it, with what a page shows besides."""

    name: str
    uuid: str
    state: str
    host: str
    names: list[str]
    address: str
    queries: int
    idle_s: float | None
    uptime_s: float | None
    starts: int
    last_error: str
    retry_after_s: float | None
    waits_for: str
    hold: str
    kept: str
    state_age_s: float | None
    idle: IdleShape | None
    series: SeriesShape
    memory_saved_bytes_s: float


class VmPageShape(Shape):
    """A page of VMs, by name."""

    items: list[VmShape]
    next: str | None = Field(description="The cursor of the next page; null if this is the last.")


class OneVmShape(VmShape):
    """Everything about one VM, as `jitsu status NAME --json` prints it."""

    status: dict[str, Any] | None
    configuration: dict[str, Any] | None = Field(description="Its keys, as in [vm.NAME]; null if it cannot be used.")


class StageShape(Shape):
    """A part of a summon."""

    name: str
    at_s: float = Field(description="Seconds since the summon began.")


class SummonShape(Shape):
    """A summon: from what asked for the VM until it was ready or failed."""

    summon: str
    vm: str
    name: str
    trigger: str
    by: str = Field(description="Whose start by hand it was, if that is known.")
    ts: float
    joined: int
    outcome: str
    stages: list[StageShape]


class CommitShape(Shape):
    """A commit."""

    id: str
    ts: float
    author: str
    message: str


class ChangeShape(Shape):
    """A path with its value before and after; null where there is none."""

    path: str
    old: str | None
    value: str | None


class CommitChangesShape(CommitShape):
    """A commit with what it changed."""

    changes: list[ChangeShape]


class CommitsShape(Shape):
    """Commits, newest first."""

    items: list[CommitShape]


class HistoryShape(Shape):
    """Commits with what they changed, newest first."""

    items: list[CommitChangesShape]


class SummonsShape(Shape):
    """Summons, newest first."""

    items: list[SummonShape]


class BranchShape(Shape):
    """A branch and its latest commit."""

    name: str
    commit: CommitShape


class BranchesShape(Shape):
    """All branches."""

    items: list[BranchShape]


class DiffShape(Shape):
    """In what two revisions differ."""

    changes: list[ChangeShape]


class AppliedShape(Shape):
    """What a change has led to."""

    commit: str
    changed: int


class ValueShape(Shape):
    """The value at a path, or what is below it."""

    path: str
    value: str | None
    leaves: dict[str, str] = Field(default_factory=dict)
    commit: str


class ServiceShape(Shape):
    """A service, or a dns replica."""

    name: str
    role: str
    answers: bool
    version: str
    pid: int | None
    uptime_s: float | None
    notes: list[str]
    lag_s: float | None = Field(description="For how long nothing was heard of it; null if that is not known.")


class ServicesShape(Shape):
    """All of them."""

    items: list[ServiceShape]


class DiscoveredShape(Shape):
    """A machine that a hypervisor has and that may be no VM of ours yet."""

    host: str
    machine: dict[str, Any]


class DiscoveriesShape(Shape):
    """What the hypervisors have."""

    items: list[DiscoveredShape]
    hypervisors: list[dict[str, Any]]


class SessionShape(Shape):
    """The caller."""

    name: str
    role: TokenRole
    via: Literal["token", "session", "socket"]
    csrf: str = Field(description="To be sent in X-CSRF-Token with each change of this session; empty otherwise.")


class TokenShape(Shape):
    """A token, without what makes it one."""

    name: str
    role: TokenRole
    created_ts: float
    expires_ts: float | None


class NewTokenShape(TokenShape):
    """A token that was just made."""

    token: str = Field(description="The token itself; it is shown only this once.")


class TokensShape(Shape):
    """All tokens."""

    items: list[TokenShape]


class AskedSession(AskedShape):
    """Log in."""

    token: str = Field(max_length=200)


class AskedToken(AskedShape):
    """Make a token."""

    name: str = Field(min_length=1, max_length=64)
    role: TokenRole = "viewer"
    expires_s: float | None = Field(default=None, gt=0, le=10 * 365 * 86_400)


class AskedKeep(AskedShape):
    """Keep a VM up: until a moment (ISO 8601), or for some seconds."""

    until: str | None = Field(default=None, max_length=64)
    for_s: float | None = Field(default=None, gt=0, le=366 * 86_400)
    reason: str = Field(default="", max_length=150)


KeyValue = str | int | float | bool | list[str] | list[int]


class AskedVm(AskedShape):
    """The keys of a VM, as in [vm.NAME]."""

    keys: dict[str, KeyValue] = Field(max_length=200)
    message: str = Field(default="", max_length=2000)


class AskedNewVm(AskedVm):
    """A new VM."""

    name: str = Field(min_length=1, max_length=253)


class AskedChangedVm(AskedShape):
    """Keys to change; null takes one away."""

    keys: dict[str, KeyValue | None] = Field(max_length=200)
    message: str = Field(default="", max_length=2000)


class AskedRevert(AskedShape):
    """Go back to how it was at a commit."""

    to: str = Field(min_length=4, max_length=64, pattern=r"^[0-9a-f]+$")
    message: str = Field(default="", max_length=2000)


class AskedBranch(AskedShape):
    """Make a branch."""

    name: str = Field(min_length=1, max_length=200)
    start: str = Field(default="master", min_length=1, max_length=200)


class AskedMerge(AskedShape):
    """Merge a branch into another."""

    branch: str = Field(min_length=1, max_length=200)
    into: str = Field(default="master", min_length=1, max_length=200)
    commit: str = Field(default="", max_length=64, description="Where the branch was when it was reviewed.")
    message: str = Field(default="", max_length=2000)


class AskedValue(AskedShape):
    """A value for a path."""

    value: str
    message: str = Field(default="", max_length=2000)
