"""Summons as pages show them: the time of each stage counts from the beginning of the summon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jitsu_protocol.messages import Timeline


def summon_of(timeline: Timeline) -> dict[str, Any]:
    """Return a summon with its stages in seconds since it began."""
    began = timeline.stages[0][1] if timeline.stages else 0.0
    stages = [{"name": name, "at_s": round(at - began, 6)} for name, at in timeline.stages]
    return {**timeline.model_dump(exclude={"stages"}), "stages": stages}
