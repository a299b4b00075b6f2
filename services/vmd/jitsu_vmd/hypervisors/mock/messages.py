"""What vmd's mock hypervisors and the host process say to each other; private to jitsu-vmd."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel

from jitsu_protocol.messages import Message, Request
from jitsu_protocol.model.vm_keys import BootFailure
from jitsu_vmd.rules.events import GuestState

TOPIC = "guests"
"""Topic of the host's feed."""
SOCKET = "mock"
"""Name of the host's sockets in the runtime directory."""

StopHow = Literal["destroy", "shutdown", "suspend", "pause", "discard"]


class StartGuest(Request):
    """Start, resume or unpause a guest. Answer: Done, when the start is accepted."""

    kind: ClassVar[str] = "mock.start"

    uuid: str
    name: str
    addresses: list[str]
    port: int
    start_time: float
    boot_time: float
    """Already with its jitter."""
    failure: BootFailure
    mac: str = ""
    bridge: str = ""
    """Of a guest of the bridge kind; empty: it is of the loopback kind."""
    listen_after: float = 0.0
    """Of the bridge kind: between its link's being up and its first listening."""
    announces: bool = True
    tap: bool = False
    """Of the bridge kind: it is on a tap with a queue, and can be paused."""
    arguments: str = ""
    """For the guest in C on a tap: more arguments, as a shell would split them."""


class MakeBridge(Request):
    """Make a bridge for guests, unless there is one. Answer: Done. The host removes it at its end."""

    kind: ClassVar[str] = "mock.bridge"

    name: str
    addresses: list[str]
    """With their prefix lengths."""


class StopGuest(Request):
    """Stop a guest. Answer: Done, when it has stopped. To discard deletes what is suspended or paused of it."""

    kind: ClassVar[str] = "mock.stop"

    uuid: str
    how: StopHow
    shutdown_time: float = 0.0


class ListGuests(Request):
    """Ask for some guests, or all that are not off. Answer: Guests. Also the snapshot of the feed."""

    kind: ClassVar[str] = "mock.list"

    uuids: list[str] | None = None


class GuestInfo(BaseModel):
    """One guest."""

    state: GuestState
    up_s: float | None = None
    reason: str = ""
    interface: str = ""
    """The host's end of its interface; "" if it has none, or is off."""


class Guests(Message):
    """The answer to ListGuests."""

    kind: ClassVar[str] = "mock.guests"

    guests: dict[str, GuestInfo]
    epoch: str
    number: int


class GuestChanged(Message):
    """In the host's feed: a guest is no longer what it was."""

    kind: ClassVar[str] = "mock.changed"

    uuid: str
