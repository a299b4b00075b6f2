"""Messages to and from the store, and the messages of its feeds.

The caller of a change states its identity in `author`: `operator:NAME`, `service:NAME` or `vm:UUID` (identity.py). The
store's rules decide which paths each of them may write.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.messages.base import AuthoredRequest, Message, Request
from jitsu_protocol.model.labels import MAX_KEPT, MAX_LABELLED
from jitsu_protocol.model.vm import REPLICA_ROOT

MASTER = "master"
"""The branch whose configuration is in effect."""


class Change(BaseModel):
    """A new value for one path, or its removal (`value` is None)."""

    model_config = ConfigDict(frozen=True)

    path: str
    value: str | None
    old: str | None = None
    """In answers and feeds: the previous value."""


class Read(Request):
    """Anyone to store: read the value at one path. Answer: Value, or NotFound with the most similar path."""

    kind: ClassVar[str] = "store.read"

    path: str
    branch: str = MASTER


class Value(Message):
    """The answer to Read."""

    kind: ClassVar[str] = "store.value"

    value: str
    commit: str


class List(Request):
    """Anyone to store: read all leaves below a path ("" for the whole tree). Answer: Leaves.

    On master this is also the snapshot of the store's feed `topic`, and it can be read in pages. Later pages may be
    newer than the first, but a follower that applies the feed from the first page's number on ends up with the current
    state.
    """

    kind: ClassVar[str] = "store.list"

    prefix: str = ""
    topic: str = "vm"
    branch: str = MASTER
    after: str = ""
    """For a page: the name directly below the path after which it begins, which is `upto` of the page before."""
    limit: int = Field(default=0, ge=0)
    """How many leaves fill a page, or 0 for all in one. The leaves below one name are never split between pages."""


class Leaves(Message):
    """The answer to List."""

    kind: ClassVar[str] = "store.leaves"

    leaves: dict[str, str]
    commit: str
    epoch: str
    number: int
    serial: int = 0
    """The serial of the zones that master describes, the same for every caller (RFC 1035, section 3.3.13)."""
    upto: str = ""
    """The last name of this page; "" if it is the last page."""


class Apply(AuthoredRequest):
    """An operator to store: change the tree of a branch, completely or not at all. Answer: Applied.

    The answer comes when the change is on disk (G5). If it is sent twice, it is carried out once, because the commit
    contains the id of the request.
    """

    kind: ClassVar[str] = "store.apply"
    max_bytes: ClassVar[int] = 32 * 1024 * 1024
    """10,000 VMs with 12 keys are about 10 MB, and twice that if `expect` has each value too."""

    changes: list[Change]
    message: str
    request: str
    """An id that the caller chooses, and repeats when it sends the request again."""
    branch: str = MASTER
    base: str = ""
    """The commit that the change is based on. If it is given and not the latest, the answer is Conflict."""
    expect: dict[str, str | None] = Field(default_factory=dict)
    """The value that a path must have now, or None for no value. If one differs, the answer is Conflict."""


class Register(Request):
    """The reaper to store: record a dns replica or a synjitsu, and for how long it counts. Answer: Applied."""

    kind: ClassVar[str] = "store.register"
    max_bytes: ClassVar[int] = 1024 * 1024

    replica: str
    leaves: dict[str, str | None]
    """The leaves below its place in the tree; None for a leaf to remove."""
    message: str
    request: str
    """As in Apply."""

    def as_apply(self) -> Apply:
        """Return the same change as an Apply."""
        place = f"{REPLICA_ROOT}/{self.replica}"
        return Apply(
            changes=[Change(path=f"{place}/{leaf}", value=value) for leaf, value in self.leaves.items()],
            author="service:reaper",
            message=self.message,
            request=self.request,
        )


class Describe(Request):
    """vmd to store: all VMs that labels describe on its host (docs/explanation/labels.md). Answer: Described.

    The store writes them to the label branch of that host, and merges that into master, both or neither. VMs of the
    branch that are not in the message are removed, unless it says that they are to be left alone. If it is sent twice,
    the second finds everything done. New after protocol 1.2.
    """

    kind: ClassVar[str] = "store.describe"
    max_bytes: ClassVar[int] = 16 * 1024 * 1024
    """5,000 VMs with 12 keys are 5 MB."""

    host: str = Field(default="", pattern="^([A-Za-z0-9][A-Za-z0-9-]{0,31})?$")
    vms: dict[str, dict[str, str]] = Field(max_length=MAX_LABELLED)
    """The leaves below `jitsu/vm/<uuid>/`, by UUID."""
    kept: list[str] = Field(default_factory=list, max_length=MAX_KEPT)
    """VMs that are to be left as they are: their machines are there, and what they say now cannot be used."""
    silent: list[str] = Field(default_factory=list, max_length=1000)
    """Connections that have not answered, "" for that of [hypervisor]: their VMs are left as they are."""


class Described(Message):
    """The answer to Describe."""

    kind: ClassVar[str] = "store.described"

    commit: str
    """The latest commit of master."""
    changed: int
    """How many VMs of master have changed."""
    refusals: dict[str, str]
    """Why a VM is not, or not wholly, as its labels say, by UUID."""


class Applied(Message):
    """The answer to Apply, Merge and Pull."""

    kind: ClassVar[str] = "store.applied"

    commit: str
    changed: int
    """How many leaves have changed."""


class Record(Request):
    """vmd and reaper to store: record statistics, as new absolute values. Answer: Done.

    Readers see them at once. They are in the store's journal within a second, and are committed once in
    `store.statistics_interval`.
    """

    kind: ClassVar[str] = "store.record"
    max_bytes: ClassVar[int] = 4 * 1024 * 1024
    """vmd sends the statistics of all its VMs at once to a store that has returned."""

    values: dict[str, str]
    service: str


class Log(Request):
    """An operator to store: list the latest commits of a branch that touch a path, newest first. Answer: History."""

    kind: ClassVar[str] = "store.log"

    path: str = ""
    limit: int = Field(default=20, ge=1, le=10_000)
    branch: str = MASTER


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


class Diff(Request):
    """An operator to store: compare two revisions, each a branch or the id of a commit. Answer: Difference."""

    kind: ClassVar[str] = "store.diff"

    old: str
    new: str
    prefix: str = ""


class Difference(Message):
    """The answer to Diff."""

    kind: ClassVar[str] = "store.difference"

    changes: list[Change]


class ChangesSince(Request):
    """A follower to store: list the commits of a branch after a given one, oldest first. Answer: ChangesList.

    A merge counts as one commit with all its changes. The answer is Conflict if `since` is not in the branch's history;
    the follower then needs a new snapshot (List).
    """

    kind: ClassVar[str] = "store.changes"

    since: str
    branch: str = MASTER
    prefix: str = ""
    limit: int = Field(default=100, ge=1, le=1000)


class CommitChanges(BaseModel):
    """A commit, and what it changed below the prefix."""

    commit: Commit
    changes: list[Change]


class ChangesList(Message):
    """The answer to ChangesSince."""

    kind: ClassVar[str] = "store.changes-list"

    commits: list[CommitChanges]
    """The commits that changed something below the prefix."""
    upto: str
    """The commit to ask from next."""
    more: bool
    """There are later commits already."""


class ListBranches(Request):
    """Anyone to store: list all branches. Answer: BranchList. This is also the snapshot of the feed `heads`."""

    kind: ClassVar[str] = "store.branches"


class Branch(BaseModel):
    """A branch and its latest commit."""

    name: str
    commit: Commit


class BranchList(Message):
    """The answer to ListBranches."""

    kind: ClassVar[str] = "store.branch-list"

    branches: list[Branch]
    epoch: str
    number: int


class CreateBranch(AuthoredRequest):
    """Anyone to store: make a branch at a revision. Answer: Applied, also if it is there already."""

    kind: ClassVar[str] = "store.branch"

    name: str
    start: str = MASTER
    scratch: bool = False
    """The branch is only for the command that makes it. If the command does not delete it, the store does, ten minutes
    after the last such request. New after 1.1; an older store keeps the branch."""


class DeleteBranch(AuthoredRequest):
    """Anyone to store: delete a branch and what was not merged. Answer: Done, also if there is no such branch."""

    kind: ClassVar[str] = "store.delete-branch"

    name: str


class Merge(AuthoredRequest):
    """Anyone to store: merge a branch into another, three-way (rules/merge.py of the store). Answer: Applied.

    The answer is Conflict if both have changed the same value of the configuration; `details` lists path, base, ours
    and theirs. The answer is Invalid, with every reason, if the result could not run.
    """

    kind: ClassVar[str] = "store.merge"

    branch: str
    into: str = MASTER
    message: str = ""
    request: str


class Push(AuthoredRequest):
    """An operator to store: send a branch to another Git repository. Answer: Applied.

    The answer is Refused if the other repository has commits that ours does not have; pull first.
    """

    kind: ClassVar[str] = "store.push"

    remote: str
    """A path or a URL, as in git-push(1)."""
    branch: str = MASTER


class Pull(AuthoredRequest):
    """An operator to store: fetch a branch from another Git repository and merge it into ours. Answer: Applied."""

    kind: ClassVar[str] = "store.pull"

    remote: str
    branch: str = MASTER
    request: str


class Fetch(AuthoredRequest):
    """An operator to store: fetch a branch from another Git repository to a new branch of ours. Answer: Applied.

    This is the first half of a pull and changes nothing that runs, so that somebody can look at the branch before the
    second half, a Merge. New in 1.1; a caller that gets UnknownKind can only send Pull.
    """

    kind: ClassVar[str] = "store.fetch"

    remote: str
    branch: str = MASTER
    into: str
    """The name of the new branch."""
    scratch: bool = False
    """As in CreateBranch."""


class Committed(Message):
    """In the store's feeds `vm` and `stats`: one commit on master, with all its changes that concern the topic."""

    kind: ClassVar[str] = "feed.committed"

    commit: str
    changes: list[Change]
    """Empty if the commit has only changed something else that the zones are made from."""
    serial: int = 0


class HeadMoved(Message):
    """In the store's feed `heads`: a branch has a new latest commit, or "" if it was deleted."""

    kind: ClassVar[str] = "feed.head"

    branch: str
    commit: str
