"""What all messages have in common, and those that every process understands."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

VERSION = (1, 2)
"""Protocol version: a process speaks with every other of the same first number.

With one of the minor version before it does all that the older one can: fields that only one of the two knows are
ignored or have defaults, and who asks with a message that is new falls back to an older one when it hears UnknownKind.
1.1 brought store.register (fallback: store.apply) and vmd.check (without it nothing is checked).
1.2 brought the TTL of answers in reaper.report and vmd.summon (without it the larger of old and new counts).
"""


VmId = Annotated[str, Field(max_length=128)]
"""The UUID of a VM. Longer texts are refused: what a request names may be kept until it is answered, or longer."""


class Message(BaseModel):
    """What can stand in an envelope. Unknown fields are ignored, so that a minor version may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: ClassVar[str]


class Request(Message):
    """A message that is answered."""

    max_bytes: ClassVar[int] = 64 * 1024
    """How long its body may be on the wire: a few names and numbers, unless its class says otherwise."""


class Done(Message):
    """The answer to a request that has nothing to tell but that it was carried out."""

    kind: ClassVar[str] = "done"

    note: str = Field("", max_length=1000)
    """What the asker should know nevertheless. Of Arm: at which address the guest has shown itself instead."""


class Failure(Message):
    """The answer to a request that failed; becomes an exception at the caller."""

    kind: ClassVar[str] = "error"

    code: str
    message: str
    hint: str = ""
    retry_after: float | None = None
    details: list[dict[str, str | None]] = Field(default_factory=list)
    """What a program needs of it: for a conflict, a row per path."""


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


class FeedItem(Message):
    """The envelope's body on a feed socket; without `body` it is a heartbeat that repeats the last number."""

    kind: ClassVar[str] = "feed.item"

    epoch: str
    """Changes when the owner restarts."""
    number: int
    body_kind: str = ""
    body: dict[str, object] | None = None
