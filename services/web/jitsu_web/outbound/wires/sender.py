"""What every kind of target offers: it takes one event at a time, or says why it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jitsu_web.outbound.rules.delivery import Delivered, Failed
    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

LIMIT_S = 10.0
"""An attempt that takes longer has failed."""


class Sender(Protocol):
    """One target."""

    name: str
    """How the queue file, the log and metrics call it."""

    def wants(self, kind: str) -> bool:
        """Say whether it is sent this kind of event."""

    async def send(self, notice: Notice) -> Delivered | Failed:
        """Send an event and return whether it was taken; returns within LIMIT_S."""

    def note(self, event: WebEvent) -> None:
        """Look at everything that happens, also what is not sent as an event."""

    async def run(self) -> None:
        """Keep what it needs open, until cancelled."""
