"""Helpers that tests of Synjitsu share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Summon
from jitsu_protocol.rates import Buckets, Networks
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.addresses import Addresses
from jitsu_synjitsu.rules.events import ArmRequested
from jitsu_synjitsu.rules.held import HeldVms
from jitsu_synjitsu.rules.kept import Kept
from jitsu_synjitsu.rules.magic import MagicPackets
from jitsu_synjitsu.rules.waking import WakeLimit
from jitsu_synjitsu.wires.bridge import WatchedBridge
from jitsu_synjitsu.wires.focus import Focus
from jitsu_synjitsu.wires.ledger import Ledger
from jitsu_synjitsu.wires.status import SynjitsuStatus
from tests.support.clock import VirtualClock
from tests.support.memory_lan import MemoryLan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from jitsu_protocol.messages import Request
    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.rules.events import Action
    from jitsu_synjitsu.rules.frames import Seen
    from jitsu_synjitsu.wires.lan import Lan
    from jitsu_synjitsu.wires.server import SynjitsuServer


def wake_limit(*allowed: str, rate: float = 1.0, burst: float = 5.0, of_all: float = 0.0) -> WakeLimit:
    """Return a limit at which everybody may wake VMs."""
    return WakeLimit(Networks(allowed), Buckets(rate, burst), Buckets(of_all, of_all))


def made_addresses(kept: Kept, wakes: WakeLimit) -> Addresses:
    """Return the addresses of a bridge on which none is held yet."""
    return Addresses(HeldVms(kept), wakes)


def armed(
    addresses: Addresses, vm: str, held: Sequence[str], mac: bytes, limit: float, now: float, **order: Any
) -> list[Action]:
    """Have a VM's addresses held for a boot that counts as failed after `limit`."""
    return addresses.arm(vm, held, mac, ArmRequested(limit, **order), now)


def notes_of(server: SynjitsuServer) -> list[str]:
    """Return what `jitsu status` shows of a Synjitsu."""
    return SynjitsuStatus(server, MemoryLan(VirtualClock())).notes()


def without_tokens(calls: Iterable[Request]) -> list[Request]:
    """Return what was asked of others, without the tokens of the clients that caused it."""
    return [call.model_copy(update={"by": ""}) if isinstance(call, Summon) else call for call in calls]


class PlayedOutlet:
    """Notes what a bridge asks vmd and Xenstore for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def handed_over(self, vm: str) -> None:
        self.asked.append(("handed over", vm))

    def wake(self, bridge: WatchedBridge, vm: str, packet: Seen | None) -> None:
        del packet
        self.asked.append(("wake", bridge.name, vm))

    def summon(self, vm: str, packet: Seen) -> None:
        del packet
        self.asked.append(("summon", vm))

    def save(self, vm: str, packet: Seen) -> None:
        del packet
        self.asked.append(("save", vm))

    def write(self, vm: str, values: dict[str, str]) -> None:
        self.asked.append(("write", vm, values))

    def clear(self, vm: str, addresses: Sequence[bytes], after_s: float) -> None:
        self.asked.append(("clear", vm, tuple(addresses), after_s))


def made_bridge(
    directory: Path,
    activity: Activity | None = None,
    lan: Lan | None = None,
    clock: Clock | None = None,
    outlet: PlayedOutlet | None = None,
) -> WatchedBridge:
    """Return the bridge br0, which is not there unless `lan` has it."""
    clock = clock or VirtualClock()
    lan = lan or MemoryLan(clock)
    focus = Focus(
        made_addresses(Kept(10, 100), wake_limit()), activity or Activity(), MagicPackets(wake_limit()), clock
    )
    return WatchedBridge("br0", focus, lan, clock, Ledger(directory / "ports", lan), outlet or PlayedOutlet())
