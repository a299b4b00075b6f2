"""Keeps the filter of a bridge's wire at what is of interest: every frame of VMs that are held, and the others' use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_synjitsu.rules.filter import Interest

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_synjitsu.rules.activity import Activity
    from jitsu_synjitsu.rules.addresses import Addresses
    from jitsu_synjitsu.rules.magic import MagicPackets
    from jitsu_synjitsu.wires.lan import Wire

FOCUS_S, SHRINK_S = 0.02, 0.002
"""A filter that shows more of running VMs, or less of any, is renewed this often at most: a long one takes a
millisecond to make, and many VMs may boot at once. One that shows too much for long would cost more.
"""


class Focus:
    """The filter of one bridge."""

    def __init__(self, addresses: Addresses, activity: Activity, magic: MagicPackets, clock: Clock) -> None:
        self.wire: Wire | None = None
        self.magic = magic
        self.addresses = addresses
        self.activity = activity
        self._clock = clock
        self._is_due = False
        self._flooded: frozenset[bytes] = frozenset()
        """VMs of which not all frames were seen since the filter was renewed last."""

    def renew(self) -> None:
        """Show what is of interest now: of VMs that are held or flooded at once, of others soon."""
        if self.addresses.changed or self.magic.changed or self.activity.attention.urgent:
            self.now()
        elif (self.activity.attention.changed or self.addresses.shrunk) and not self._is_due:
            self._is_due = True
            self._clock.call_in(SHRINK_S if self.addresses.shrunk else FOCUS_S, self.now)

    def now(self) -> None:
        """Show it at once, if anything has changed."""
        self._is_due = False
        is_new = self.addresses.changed or self.addresses.shrunk or self.magic.changed
        if not (is_new or self.activity.attention.changed):
            return
        self._note_floods()
        self.addresses.changed = self.addresses.shrunk = self.magic.changed = False
        self.activity.attention.changed = self.activity.attention.urgent = False
        if self.wire is not None:
            held = self.addresses.macs()
            self.wire.watch(
                Interest(
                    held,
                    self.addresses.flooded(),
                    self.activity.attention.awaited(),
                    self.activity.running(),
                    self.addresses.held.lingering_addresses(),
                    self.activity.attention.listened(),
                    self.activity.attention.sampled() - held,
                    bool(self.magic),
                )
            )

    def _note_floods(self) -> None:
        """Note whose use is not seen as a whole: of a VM that is held and flooded, one frame of SAMPLE is."""
        flooded = self.addresses.flooded()
        for mac in flooded | self._flooded:
            self.activity.missed_of(mac, self._clock.now())
        self._flooded = flooded
