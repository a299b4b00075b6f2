"""One bridge: the rules for what is on it, and its raw socket while it is there."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import SetupFault
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.arming import Arming, WakeLimit
from jitsu_synjitsu.rules.filter import Interest
from jitsu_synjitsu.wires.flooding import BridgePorts
from jitsu_synjitsu.wires.packet import BridgeSocket, hindrances, knows_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_synjitsu.rules.events import Action
    from jitsu_synjitsu.rules.kept import Kept
    from jitsu_synjitsu.wires.ledger import Ledger

FOCUS_S, SHRINK_S = 0.02, 0.002
"""A filter that shows more of running VMs, or less of any, is renewed that often at most: a long one takes a
millisecond to make, and many VMs may boot at once. One that shows too much for long would cost more.
"""

LOG_LOSS_S = 60.0

log = structlog.get_logger("synjitsu")


class Bridge:
    """One bridge by its name."""

    def __init__(
        self,
        name: str,
        kept: Kept,
        wakes: WakeLimit,
        ledger: Ledger,
        perform: Callable[[Bridge, Sequence[Action]], None],
        save: Callable[[str], None],
    ) -> None:
        """`perform` does what the rules want done; `save` is told of a VM that drains and is used."""
        self.name = name
        self.arming = Arming(kept, wakes)
        self.activity = Activity()
        self.ports = BridgePorts(name, ledger)
        self.wire: BridgeSocket | None = None
        self.unsent: Counter[str] = Counter()
        """Frames that earlier sockets on this bridge did not send, by the name of the error."""
        self._perform = perform
        self._save = save
        self.listens_since = float("inf")
        """When it attached to the bridge for the first time (time.monotonic())."""
        self._index = 0
        self._focuses = False
        self._lost_at = float("-inf")
        """When it was found last that the kernel had dropped frames."""
        self._flooded: frozenset[bytes] = frozenset()
        """Those of which, since the last focus, not all frames were seen."""

    def look(self) -> None:
        """Attach to the bridge if it came, let go of it if it went; raises SetupFault if that is not allowed."""
        index = self._is_there()
        is_broken = self.wire is not None and self.wire.is_broken
        if self.wire is not None and self.wire.has_lost():
            self._note_loss(monotonic())
        if index == self._index and not is_broken:
            return
        if self.wire is not None:
            self.unsent += self.wire.unsent
            self.wire.close()
            self.wire = None
            if not is_broken:
                log.warning("the bridge is gone", bridge=self.name)
            self.ports.detach()
        self._index = index
        if index:
            self._attach()

    def _note_loss(self, now: float) -> None:
        """Note that the kernel has dropped frames, and log it once a minute at most."""
        self.activity.missed(now)
        if now >= self._lost_at + LOG_LOSS_S:
            log.warning("frames were not read in time and are lost: connections may be open unseen", bridge=self.name)
        self._lost_at = now

    def _is_there(self) -> int:
        """Return the bridge's index, 0 if there is none."""
        try:
            return socket.if_nametoindex(self.name)
        except OSError:
            return 0

    def _attach(self) -> None:
        try:
            self.wire = BridgeSocket(self.name, self._taken)
        except SetupFault:
            self._index = 0  # it is tried again
            if self._is_there():
                raise
            return  # it went at this moment
        self.activity.missed(monotonic())
        self.wire.open()
        self.listens_since = min(self.listens_since, monotonic())
        self.ports.attach()
        self.arming.changed = True
        self.focus()
        log.info("listening", bridge=self.name)
        for hindrance in hindrances():
            log.warning(hindrance)

    def knows_elsewhere(self, mac: bytes) -> bool:
        """Say whether the bridge has heard the MAC address of a VM that nobody has held until now."""
        return mac not in self.arming.macs() and knows_elsewhere(self.name, mac)

    def notes(self) -> list[str]:
        """Return what keeps Synjitsu from doing its work on this bridge, each with what mends it."""
        notes = [self.wire.hindrance(), *self.ports.notes()] if self.wire is not None else []
        if (ago := monotonic() - self._lost_at) < (longest := self.activity.longest_idle()):
            notes.append(
                f"frames on {self.name} were lost {ago:.0f} s ago: its VMs that ran then count as connected until "
                f"nothing was sent to them for max_idle_connection ({longest:g} s at most)"
            )
        for address, mac in self.arming.rivals().items():
            notes.append(f"{address} is held by {mac.hex(':')} too: give one of them another address")
        for address, foreign in self.arming.missing().items():
            announced = f"it announces {foreign}" if foreign else "check what the guest configures"
            notes.append(f"{address} did not appear when its VM booted: {announced}")
        return [note for note in notes if note]

    def _taken(self, frame: bytes, is_own: bool) -> None:
        seen, now = frames.read(frame), monotonic()
        saved = self.activity.frame(seen, now)
        if saved:
            self._save(saved)
        self._perform(self, self.arming.frame(frame, seen, now, is_own=is_own))

    def send(self, frame: bytes, what: str) -> None:
        """Put a frame on the bridge."""
        if self.wire is None:
            return
        self.wire.send(frame)
        if what == "probe":
            self.activity.sent(frames.read(frame), monotonic())

    def focus(self) -> None:
        """See what is of interest now: of VMs that are held or flooded at once, of others soon."""
        if self.arming.changed or self.activity.urgent:
            self._focus()
        elif (self.activity.changed or self.arming.shrunk) and not self._focuses:
            self._focuses = True
            pause = SHRINK_S if self.arming.shrunk else FOCUS_S
            asyncio.get_running_loop().call_later(pause, self._focus)

    def _focus(self) -> None:
        self._focuses = False
        if not (self.arming.changed or self.arming.shrunk or self.activity.changed):
            return
        self._note_floods()
        self.arming.changed = self.arming.shrunk = self.activity.changed = self.activity.urgent = False
        if self.wire is not None:
            held = self.arming.macs()
            self.wire.watch(
                Interest(
                    held,
                    self.arming.flooded(),
                    self.activity.awaited(),
                    self.activity.running(),
                    self.arming.lingering(),
                    self.activity.listened(),
                    self.activity.sampled() - held,
                )
            )

    def _note_floods(self) -> None:
        """Note whose use is not seen as a whole: of a VM that is held and flooded one of SAMPLE frames is."""
        flooded = self.arming.flooded()
        for mac in flooded | self._flooded:
            self.activity.missed_of(mac, monotonic())
        self._flooded = flooded

    def look_now(self) -> None:
        """Take all frames that have come until now."""
        self._focus()
        if self.wire is not None:
            self.wire.look()
