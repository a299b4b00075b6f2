"""The timeline of one summon: when each stage was passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitsu_protocol.messages import Trigger


@dataclass
class SummonLog:
    """The timeline of one summon."""

    trigger: Trigger
    stages: list[tuple[str, float]] = field(default_factory=list)
    joined: int = 0
    outcome: str = ""

    def stage(self, name: str, now: float) -> None:
        """Note that a stage has been passed."""
        self.stages.append((name, now))
