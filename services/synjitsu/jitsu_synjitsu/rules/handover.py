"""The machine of one armed VM: hold its address while it boots, keep first packets, hand over once, let go.

    state      event                         then
    armed      (entered)                     Announce each address
    armed      WhoHasSeen                    AnswerWhoHas
    armed      PacketSeen                    kept
    armed      GuestFrameSeen, ReadyTold     Replay what was kept, oldest first; released
    armed      FailureTold, limit passed     Reject each attempt that was kept; released
    released   anything                      nothing: the address is the guest's, or nobody's

A frame leaves `kept` when it is replayed or rejected, so none reaches the guest twice (G4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from jitsu_protocol.errors import Bug

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from jitsu_synjitsu.rules.kept import Kept


class HandoverState(StrEnum):
    """Where a VM's handover stands."""

    ARMED = "armed"
    RELEASED = "released"


@dataclass(frozen=True)
class WhoHasSeen:
    """Somebody asks who has an address (ARP request, neighbour solicitation)."""

    address: str
    asker: str
    """The asker's MAC address."""


@dataclass(frozen=True)
class PacketSeen:
    """A first packet for the VM: a SYN, a datagram, an echo request."""

    flow: Hashable
    frame: bytes


@dataclass(frozen=True)
class GuestFrameSeen:
    """The guest's own first frame: its stack is there."""


@dataclass(frozen=True)
class ReadyTold:
    """vmd says that the VM is ready."""


@dataclass(frozen=True)
class FailureTold:
    """vmd says that the boot failed."""


Event = WhoHasSeen | PacketSeen | GuestFrameSeen | ReadyTold | FailureTold


@dataclass(frozen=True)
class Announce:
    """Send a gratuitous ARP or unsolicited neighbour advertisement for an address."""

    address: str


@dataclass(frozen=True)
class AnswerWhoHas:
    """Answer who has an address."""

    address: str
    asker: str


@dataclass(frozen=True)
class Replay:
    """Send a kept frame to the guest."""

    frame: bytes


@dataclass(frozen=True)
class Reject:
    """Tell the client of a kept frame that nobody will answer (RST, ICMP unreachable)."""

    frame: bytes


Action = Announce | AnswerWhoHas | Replay | Reject


class IllegalEvent(Bug):
    """An event came that the table does not have."""


@dataclass
class Handover:
    """One VM."""

    vm: str
    addresses: tuple[str, ...]
    deadline: float
    kept: Kept
    state: HandoverState = HandoverState.ARMED
    _actions: list[Action] = field(default_factory=list)

    def armed(self) -> list[Action]:
        """Return what is sent at once, and again when the arming is renewed."""
        return [Announce(address) for address in self.addresses]

    def handle(self, event: Event) -> list[Action]:
        """Take an event."""
        row = TRANSITIONS[self.state]
        if type(event) not in row:
            raise IllegalEvent(f"{type(event).__name__} while {self.state}")
        self._actions = []
        row[type(event)](self, event)
        return self._actions

    def passed(self, now: float) -> list[Action]:
        """Look at the clock."""
        return self.handle(FailureTold()) if now >= self.deadline else []

    def _answer(self, event: WhoHasSeen) -> None:
        if event.address in self.addresses:
            self._actions.append(AnswerWhoHas(event.address, event.asker))

    def _keep(self, event: PacketSeen) -> None:
        self.kept.keep(self.vm, event.flow, event.frame)

    def _hand_over(self, _: Event) -> None:
        self.state = HandoverState.RELEASED
        self._actions += [Replay(frame) for _, frame in self.kept.take(self.vm)]

    def _give_up(self, _: Event) -> None:
        self.state = HandoverState.RELEASED
        self._actions += [Reject(frame) for _, frame in self.kept.take(self.vm)]

    def _ignore(self, _: Event) -> None:
        """Nothing follows."""


_H = Handover

TRANSITIONS: dict[HandoverState, dict[type[Any], Callable[[Handover, Any], None]]] = {
    HandoverState.ARMED: {
        WhoHasSeen: _H._answer,
        PacketSeen: _H._keep,
        GuestFrameSeen: _H._hand_over,
        ReadyTold: _H._hand_over,
        FailureTold: _H._give_up,
    },
    HandoverState.RELEASED: dict.fromkeys((WhoHasSeen, PacketSeen, GuestFrameSeen, ReadyTold, FailureTold), _H._ignore),
}
