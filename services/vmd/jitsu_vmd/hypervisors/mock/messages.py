"""The messages between vmd's mock hypervisors and the host process; private to jitsu-vmd."""

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


class StartMockGuest(Request):
    """Start, resume or unpause a guest. Reply: Done, when the start is accepted."""

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
    """The bridge of the guest; empty: the guest is on loopback."""
    listen_after: float = 0.0
    """On a bridge: how long after its link is up the guest listens, in seconds."""
    announces: bool = True
    tap: bool = False
    """On a bridge: the guest is on a tap, which has a queue, and can be paused."""
    arguments: str = ""
    """For the guest in C on a tap: more arguments, as a shell would split them."""


class MakeBridge(Request):
    """Make a bridge for guests, unless there is one. Reply: Done. The host process removes it when it ends."""

    kind: ClassVar[str] = "mock.bridge"

    name: str
    addresses: list[str]
    """With their prefix lengths."""


class StopMockGuest(Request):
    """Stop a guest. Reply: Done, when it has stopped. `discard` deletes the state of a suspended or paused guest."""

    kind: ClassVar[str] = "mock.stop"

    uuid: str
    how: StopHow
    shutdown_time: float = 0.0


class ListGuests(Request):
    """Ask for some guests, or for all that are not off. Reply: Guests. Also the snapshot of the feed."""

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
    """The reply to ListGuests."""

    kind: ClassVar[str] = "mock.guests"

    guests: dict[str, GuestInfo]
    epoch: str
    number: int


class GuestChanged(Message):
    """In the host's feed: the state of a guest has changed."""

    kind: ClassVar[str] = "mock.changed"

    uuid: str
