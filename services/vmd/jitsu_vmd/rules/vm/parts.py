"""The parts of one VM's machine: what is remembered together because it changes together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_protocol.model.guests import difference
from jitsu_protocol.model.lifetimes import REPLY_MAX_AGE_S, AnswerLifetimes
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.rules.causes import Causes
from jitsu_vmd.rules.orders import Orders

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.masking import Masking
    from jitsu_vmd.rules.timeline import SummonLog


@dataclass
class Terms:
    """How a VM is configured, and what its guest was started as."""

    vm: VM
    """As it is configured; as it last was, if it is `removed`."""
    started: VM | None = None
    """As its guest was started; None if it is off, or was started by others."""
    removed: bool = False
    """It is no longer configured."""
    orders: Orders = field(default_factory=Orders)
    """What operators and its schedule ask for now."""
    watches_keys: bool = False
    """Its hypervisor can wait for a Xenstore key of the guest."""

    @property
    def guest(self) -> VM:
        """The VM as its guest was started: what all calls about that guest are made with."""
        return self.started or self.vm

    def unwanted(self) -> str:
        """Return why its guest may not go on running, or be let run again; "" if it may."""
        if self.removed:
            return "it is no longer configured"
        return "" if self.started is None else difference(self.started, self.vm)


@dataclass
class HypervisorCall:
    """The call to the hypervisor. At most one is under way for each VM."""

    number: int = 0
    """Of the call that was made last, or of what else was asked for in its place: results carry it."""
    is_under_way: bool = False
    discards: bool = False
    """This start deletes the saved state first."""
    guest_is_there: bool = False
    """The guest was paused when this start began."""
    stop_mode: StopMode = StopMode.DESTROY
    stop_again_at: float = 0.0
    """When a stop that failed is tried again."""


@dataclass
class Boot:
    """The boot that is under way, or the guest that it has led to."""

    started_at: float | None = None
    masking: Masking | None = None
    """What has to happen until clients may know that it is ready; None unless it boots."""
    is_armed: bool = False
    """Synjitsu holds the addresses."""
    may_be_armed: bool = False
    """Synjitsu was asked to hold them; it may do so though its acknowledgement came too late."""
    is_handed_early: bool = False
    """Synjitsu has seen the guest before the start call returned."""
    note: str = ""
    """What Synjitsu reports of a guest that boots and has not shown itself at an address of the VM."""

    def begin(self) -> None:
        """Forget the boot before."""
        self.is_armed = self.may_be_armed = self.is_handed_early = False
        self.note = ""


@dataclass
class Summons:
    """The summons of one VM, for `jitsu trace` and the statistics."""

    current: SummonLog | None = None
    """The one under way."""
    finished: list[SummonLog] = field(default_factory=list)
    """Those that ended since the shell last took them."""
    starts: int = 0
    boot_s: float | None = None
    """How long the last boot took, from the summon to ready; None if this vmd has seen none."""
    causes: Causes = field(default_factory=Causes)


@dataclass
class OwnUsage:
    """Until when the VM is in use, by vmd's own account."""

    used_at: float = 0.0
    """The last summon; or when the VM was found running."""
    lifetimes: AnswerLifetimes = field(default_factory=AnswerLifetimes)
    """Of the answers that dns gave after summons: the TTL may be lowered while they are valid (G3)."""
    waiting_ttl: int = 0
    """The longest TTL of answers that are given when the VM is ready."""

    def note_answer(self, ttl: int | None, now: float) -> None:
        """Note that dns answers a query now, or when the VM is ready, with this TTL; None: an older dns."""
        self.lifetimes.answered(now + REPLY_MAX_AGE_S, ttl, now)
        self.waiting_ttl = max(self.waiting_ttl, self.lifetimes.longest(now) if ttl is None else ttl)

    def ready(self, now: float) -> None:
        """Note that the answers that waited for the VM are given now."""
        if self.waiting_ttl:
            self.lifetimes.answered(now + REPLY_MAX_AGE_S, self.waiting_ttl, now)
            self.waiting_ttl = 0


@dataclass
class Drains:
    """The drains of one VM."""

    current: str = ""
    """The id of the one under way."""
    count: int = 0
