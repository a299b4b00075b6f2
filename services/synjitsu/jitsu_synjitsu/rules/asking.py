"""When an address is announced for a guest that is not there yet, and when that guest is asked for.

Announcements let neighbours go on with the guest's MAC address; each pause is twice the one before. Questions are for
the guest: one that never announces itself answers them, and so shows itself. They are asked often in the first EAGER_S
of a boot, while a client waits (in the client's name), and for COMING_S after the guest's first frame; else once in
ASK_SILENT_S, in Synjitsu's own name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.events import SendFrame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jitsu_synjitsu.rules.frames import Seen

ANNOUNCE_FIRST_S, ANNOUNCE_MAX_S = 0.1, 2.0
"""After the first announcement; each pause is twice the one before."""
ASK_FIRST_S, ASK_S = 0.005, 0.02
"""How often an armed VM is asked for that somebody waits for. At first it is more often, because a unikernel's
announcement may come before the bridge accepts what its new port sends; then the pauses grow.
"""
ASK_SILENT_S = 1.0
"""How often an armed VM is asked for that nobody waits for."""
EAGER_S = 0.1
"""This long after it was armed a VM is asked for often, even if nobody waits for it yet. A unikernel that is up within
milliseconds may lose its announcement in the same way, and `ready = "first-frame"` waits for its next frame.
"""
COMING_S = 2.0
"""This long after its first frame a guest is asked for often: duplicate address detection takes 1 s (RFC 4862, 5.4)."""
DEFEND_S = 10.0  # RFC 5227, 1.1: DEFEND_INTERVAL


@dataclass
class Asking:
    """For all addresses of one VM."""

    _askers: dict[bytes, Seen] = field(default_factory=dict, init=False)
    """Address -> who asked for it last."""
    _announce_at: float = field(default=float("inf"), init=False)
    _announce_pause: float = field(default=ANNOUNCE_FIRST_S, init=False)
    _ask_at: float = field(default=float("inf"), init=False)
    _ask_pause: float = field(default=ASK_FIRST_S, init=False)
    _eager_until: float = field(default=0.0, init=False)
    _coming_until: float = field(default=float("-inf"), init=False)
    _defended_at: float = field(default=float("-inf"), init=False)

    def begin(self, now: float) -> None:
        """Note that the VM is about to boot: it is announced at once, and asked for soon."""
        self._announce_at, self._announce_pause = now, ANNOUNCE_FIRST_S
        self._ask_at, self._ask_pause, self._eager_until = now + ASK_FIRST_S, ASK_FIRST_S, now + EAGER_S
        self._coming_until = float("-inf")

    def waits(self, address: bytes, asker: Seen, now: float) -> None:
        """Note that somebody waits for an address."""
        self._askers[address] = asker
        self._ask_at = min(self._ask_at, now + self._ask_pause)

    def heard(self, now: float) -> None:
        """Note that the guest has sent its first frame."""
        self._coming_until, self._ask_at = now + COMING_S, min(self._ask_at, now)

    def deadline(self) -> float:
        """Return when to call `due`."""
        return min(self._announce_at, self._ask_at)

    def due(self, mac: bytes, absent: Sequence[bytes], now: float) -> list[SendFrame]:
        """Return the announcements and questions that are due for addresses at which nobody is yet."""
        sends: list[SendFrame] = []
        if now >= self._announce_at:
            self._announce_at = now + self._announce_pause
            self._announce_pause = min(2 * self._announce_pause, ANNOUNCE_MAX_S)
            sends += announcements(mac, absent)
        return sends + self.ask(absent, now) if now >= self._ask_at else sends

    def ask(self, absent: Sequence[bytes], now: float) -> list[SendFrame]:
        """Return questions for addresses at which nobody is yet, at once."""
        is_often = now < max(self._coming_until, self._eager_until) or any(each in self._askers for each in absent)
        self._ask_at = now + (self._ask_pause if is_often else ASK_SILENT_S)
        self._ask_pause = min(2 * self._ask_pause, ASK_S) if is_often else ASK_FIRST_S
        askers = [(self._askers.get(address, frames.OURSELVES[len(address)]), address) for address in absent]
        return [SendFrame(frames.question(asker, address), "question") for asker, address in askers]

    def defend(self, mac: bytes, addresses: Iterable[bytes], now: float) -> list[SendFrame]:
        """Return announcements against another machine that claims an address, at most every DEFEND_S."""
        if now < self._defended_at + DEFEND_S:
            return []
        self._defended_at = now
        return announcements(mac, addresses)


def announcements(mac: bytes, addresses: Iterable[bytes]) -> list[SendFrame]:
    """Return the frames that announce addresses."""
    return [SendFrame(frame, "announcement") for address in addresses for frame in frames.announcements(mac, address)]
