"""The base classes of all messages, and the messages that every process understands."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

VERSION = (1, 3)
"""The protocol version, major and minor: processes of the same major version understand each other.

With a peer of an older minor version, a process can do everything that the older one can. A field that only one of the
two knows is ignored or has a default. A caller that gets UnknownKind for a new request falls back to an older one.

1.1 added store.register (the fallback is store.apply) and vmd.check (without it, nothing is checked).
1.2 added the TTL of answers to reaper.report and vmd.summon (without it, the larger of the old and the new TTL counts).
1.3 added vmd.discover, reaper.why and reaper.forget-clients, and to other messages who asked for a VM and why it was
    started or stopped (without that, `jitsu why` knows less).
"""


VmId = Annotated[str, Field(max_length=128)]
"""The UUID of a VM. Longer texts are refused, because a process may keep the names in a request for a long time."""


class Message(BaseModel):
    """The body of an envelope. Unknown fields are ignored, so that a minor version may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: ClassVar[str]


class Request(Message):
    """A message that gets a reply."""

    max_bytes: ClassVar[int] = 64 * 1024
    """The largest body on the wire, in bytes. The default is plenty for a few names and numbers."""


class AuthoredRequest(Request):
    """A request whose sender states in whose name it is carried out (identity.py)."""

    author: str


class Done(Message):
    """The answer to a request that was carried out and has no other result."""

    kind: ClassVar[str] = "done"

    note: str = Field("", max_length=1000)
    """A remark for the caller. In the answer to Arm: the address at which the guest was seen instead."""


class Failure(Message):
    """The answer to a request that failed; the caller raises it as an exception."""

    kind: ClassVar[str] = "error"

    code: str
    message: str
    hint: str = ""
    retry_after: float | None = None
    details: list[dict[str, str | None]] = Field(default_factory=list)
    """The same for programs: for a conflict, one row per path."""


class Ping(Request):
    """Anyone to any owner of an rpc socket, to check whether it answers. Answer: Pong."""

    kind: ClassVar[str] = "ping"


class Pong(Message):
    """The answer to Ping."""

    kind: ClassVar[str] = "pong"

    service: str
    version: str
    pid: int
    uptime_s: float
    notes: list[str] = Field(default_factory=list)
    """What an operator should know about this process now, one sentence each."""


class FeedItem(Message):
    """The body of an envelope on a feed socket. Without `body` it is a heartbeat that repeats the last number."""

    kind: ClassVar[str] = "feed.item"

    epoch: str
    """Changes when the owner restarts."""
    number: int
    body_kind: str = ""
    body: dict[str, object] | None = None
