"""What the doctor finds, and what its examinations are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.messages import Pong
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.settings.load import Settings


@dataclass(frozen=True)
class Finding:
    """One thing that an operator should know."""

    topic: str
    what: str
    advice: str
    is_fault: bool = True
    """Something does not work, or soon will not. Otherwise it is a note, which does not change the exit status."""


def note(topic: str, what: str, advice: str) -> Finding:
    """Return a finding that is not a fault."""
    return Finding(topic, what, advice, is_fault=False)


@dataclass(frozen=True)
class Suite:
    """What is known of the suite before anything else is looked at."""

    settings: Settings
    vms: tuple[VM, ...] = ()
    """Those of the store if it answers, else those of jitsu.toml."""
    pongs: Mapping[str, Pong | None] = field(default_factory=dict)
    """What each service answers, None for one that does not."""
    silences: Mapping[str, str] = field(default_factory=dict)
    """Why a service does not answer."""
    replicas: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """HOST:PORT -> the dns replicas that the store knows there."""
    answering: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """HOST:PORT -> those that answer."""
    last_commit_ts: float | None = None
    """When the store's latest commit says that it was made."""

    @property
    def is_running(self) -> bool:
        """Whether any service answers."""
        return any(self.pongs.values())


def lines(findings: list[Finding]) -> list[str]:
    """Return findings for people: faults last, where they are read."""
    shown = []
    for each in sorted(findings, key=lambda each: each.is_fault):
        shown += [f"{'FAULT' if each.is_fault else 'note ':<5} {each.topic}: {each.what}", f"      {each.advice}"]
    faults = sum(each.is_fault for each in findings)
    count = f"{faults} fault{'' if faults == 1 else 's'}" if faults else "no faults"
    notes = len(findings) - faults
    return [*shown, f"{count}, {notes} note{'' if notes == 1 else 's'}"]
