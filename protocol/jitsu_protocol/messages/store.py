"""To and from the store, and what its feeds carry.

Who asks for a change says so in `author`: `operator:NAME`, `service:NAME` or `vm:UUID` (identity.py). What each may
write is in the store's rules/access.py.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from jitsu_protocol.messages.base import Message, Request
from jitsu_protocol.model.vm import REPLICA_ROOT

MASTER = "master"
"""The branch that runs."""


class Change(BaseModel):
    """A new value for one path, or its removal (`value` is None)."""

    model_config = ConfigDict(frozen=True)

    path: str
    value: str | None
    old: str | None = None
    """In answers and feeds: the value before."""


class Read(Request):
    """Anyone to store: the value at one path. Answer: Value, or not-found with the nearest path."""

    kind: ClassVar[str] = "store.read"

    path: str
    branch: str = MASTER


class Value(Message):
    """The answer to Read."""

    kind: ClassVar[str] = "store.value"

    value: str
    commit: str


class List(Request):
    """Anyone to store: all leaves below a path ("" for all). Answer: Leaves.

    On master it is also the snapshot of the store's feed `topic`, and can be had in pages. Later pages may be newer
    than the first: who takes what the feed says after the first page's number has what there is in the end.
    """

    kind: ClassVar[str] = "store.list"

    prefix: str = ""
    topic: str = "vm"
    branch: str = MASTER
    after: str = ""
    """Of a page: the name right below the path behind which it begins, the latest of the page before."""
    limit: int = Field(default=0, ge=0)
    """How many leaves make a page full; 0: all at once. What is below one name is never torn."""


class Leaves(Message):
    """The answer to List."""

    kind: ClassVar[str] = "store.leaves"

    leaves: dict[str, str]
    commit: str
    epoch: str
    number: int
    serial: int = 0
    """Of the zones that master describes, the same for all who ask (RFC 1035, 3.3.13)."""
    upto: str = ""
    """The latest name of this page; "" if there are no more."""


class Apply(Request):
    """An operator to store: change the tree of a branch, all of it or nothing. Answer: Applied.

    The answer comes when the change is on the disk (G5). Sent twice it is carried out once: the id of the request is
    kept in the commit.
    """

    kind: ClassVar[str] = "store.apply"
    max_bytes: ClassVar[int] = 32 * 1024 * 1024
    """10,000 VMs of 12 keys are about 10 MB, and as much again if each value is expected to be there."""

    changes: list[Change]
    author: str
    message: str
    request: str
    """An id that the caller chooses, the same when it sends the request again."""
    branch: str = MASTER
    base: str = ""
    """The commit that the change is based on; if it is given and not the latest, conflict."""
    expect: dict[str, str | None] = Field(default_factory=dict)
    """Path -> the value that it must have now, None for no value; if one has not, conflict, with the values."""


class Register(Request):
    """The reaper to store: who answers for a name or watches a bridge, with how long that counts. Answer: Applied."""

    kind: ClassVar[str] = "store.register"
    max_bytes: ClassVar[int] = 1024 * 1024

    replica: str
    leaves: dict[str, str | None]
    """Below its place in the tree; None for what is gone."""
    message: str
    request: str
    """As of Apply."""

    def as_apply(self) -> Apply:
        """Return the change that this is."""
        place = f"{REPLICA_ROOT}/{self.replica}"
        return Apply(
            changes=[Change(path=f"{place}/{leaf}", value=value) for leaf, value in self.leaves.items()],
            author="service:reaper",
            message=self.message,
            request=self.request,
        )


class Applied(Message):
    """The answer to Apply, Merge and Pull."""

    kind: ClassVar[str] = "store.applied"

    commit: str
    changed: int
    """How many leaves differ from before."""


class Record(Request):
    """vmd and reaper to store: statistics, as new absolute values. Answer: Done.

    Seen by readers at once, in the store's journal within a second, and committed once in `store.statistics_interval`.
    """

    kind: ClassVar[str] = "store.record"
    max_bytes: ClassVar[int] = 4 * 1024 * 1024
    """vmd tells a store that has returned of all its VMs at once."""

    values: dict[str, str]
    service: str


class Log(Request):
    """An operator to store: the latest commits of a branch, newest first, that touch a path. Answer: History."""

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
    """An operator to store: in what two revisions differ, each a branch or the id of a commit. Answer: Difference."""

    kind: ClassVar[str] = "store.diff"

    old: str
    new: str
    prefix: str = ""


class Difference(Message):
    """The answer to Diff."""

    kind: ClassVar[str] = "store.difference"

    changes: list[Change]


class ChangesSince(Request):
    """A watcher to store: the commits of a branch that came after one, oldest first. Answer: CommitChanges.

    A merge counts as one commit, with all that it brought. Conflict if `since` is not in the branch's history: then
    only a new snapshot (List) helps.
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
    """Those that changed something below the prefix."""
    upto: str
    """The commit to go on from."""
    more: bool
    """There are later ones."""


class ListBranches(Request):
    """Anyone to store: all branches. Answer: BranchList. Also the snapshot of the feed `heads`."""

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


class CreateBranch(Request):
    """Anyone to store: make a branch at a revision. Answer: Applied. Sent twice it finds it made."""

    kind: ClassVar[str] = "store.branch"

    name: str
    start: str = MASTER
    author: str
    scratch: bool = False
    """The branch is only for the command that asks. If the command does not delete it, the store does, ten minutes
    after the last such request. Newer than 1.1; an older store keeps the branch."""


class DeleteBranch(Request):
    """Anyone to store: remove a branch; what was not merged is lost. Answer: Done. Sent twice it finds it gone."""

    kind: ClassVar[str] = "store.delete-branch"

    name: str
    author: str


class Merge(Request):
    """Anyone to store: bring a branch's changes into another, three-way (rules/merge.py). Answer: Applied.

    Conflict if both have changed one value of the configuration: `details` lists path, base, ours, theirs.
    Invalid if the result could not run, with every reason.
    """

    kind: ClassVar[str] = "store.merge"

    branch: str
    into: str = MASTER
    author: str
    message: str = ""
    request: str


class Push(Request):
    """An operator to store: send a branch to another Git repository. Answer: Applied.

    Refused if the other one has commits that we lack: pull first.
    """

    kind: ClassVar[str] = "store.push"

    remote: str
    """A path or an address, as `git push` takes it."""
    branch: str = MASTER
    author: str


class Pull(Request):
    """An operator to store: fetch a branch from another Git repository and merge it into ours. Answer: Applied."""

    kind: ClassVar[str] = "store.pull"

    remote: str
    branch: str = MASTER
    author: str
    request: str


class Fetch(Request):
    """An operator to store: fetch a branch from another Git repository to a new branch of ours. Answer: Applied.

    Nothing that runs is changed: it is the first half of a pull, so that somebody can look before the second, a Merge.
    New in 1.1; who hears UnknownKind can only send Pull.
    """

    kind: ClassVar[str] = "store.fetch"

    remote: str
    branch: str = MASTER
    into: str
    """Name of the new branch."""
    author: str
    scratch: bool = False
    """As of CreateBranch."""


class Committed(Message):
    """In the store's feeds `vm` and `stats`: one commit on master, with all that it changed below the feed's topic."""

    kind: ClassVar[str] = "feed.committed"

    commit: str
    changes: list[Change]
    """None, if the commit changed nothing but what else the zones are made from."""
    serial: int = 0


class HeadMoved(Message):
    """In the store's feed `heads`: a branch has a new latest commit; "" if it was deleted."""

    kind: ClassVar[str] = "feed.head"

    branch: str
    commit: str
