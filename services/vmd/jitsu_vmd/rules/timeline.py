"""The timeline of one summon: when each stage was passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.messages import Trigger
    from jitsu_vmd.rules.events import SummonRequested


@dataclass
class SummonLog:
    """The timeline of one summon."""

    trigger: Trigger
    stages: list[tuple[str, float]] = field(default_factory=list)
    joined: int = 0
    outcome: str = ""
    by: str = ""

    @classmethod
    def begin(cls, event: SummonRequested, now: float) -> SummonLog:
        """Return the timeline of a summon that has been admitted now, and may have waited for that."""
        asked_at = now - event.queued_s
        stages = [("query", asked_at - event.waited_s), ("summon", asked_at)]
        by = event.by if event.trigger == "operator" else ""
        return cls(event.trigger, [*stages, ("admitted", now)] if event.queued_s else stages, by=by)

    def stage(self, name: str, now: float) -> None:
        """Note that a stage has been passed."""
        self.stages.append((name, now))
