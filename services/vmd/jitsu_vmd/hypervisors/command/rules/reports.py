"""What commands print, and what it means: the state of a VM, a line of `watch`, and why a command has failed."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_vmd.rules.events import GuestState

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REASON_CHARACTERS = 300
MAX_NAME_CHARACTERS = 200
STATES = {
    "running": GuestState.RUNNING,
    "starting": GuestState.RUNNING,
    "stopping": GuestState.RUNNING,
    "off": GuestState.OFF,
    "crashed": GuestState.CRASHED,
    "paused": GuestState.PAUSED,
    "suspended": GuestState.SUSPENDED,
}
"""The words that need no translation."""


class NotUnderstood(ValueError):
    """What a command has printed says nothing about a state; the message is for an operator."""


@dataclass(frozen=True)
class StateReport:
    """What was found out about a VM."""

    state: GuestState
    reason: str = ""


@dataclass(frozen=True)
class Ended:
    """How a command has ended, and what it has printed."""

    status: int
    """Its exit status; negative: the signal that has ended it."""
    output: str = ""
    errors: str = ""
    killed_after_s: float | None = None
    """It took longer than this and was killed."""
    is_cut: bool = False
    """It printed more than is read: what is missing may be anything."""

    @property
    def has_failed(self) -> bool:
        """Whether it did not end by itself with status 0."""
        return self.status != 0 or self.killed_after_s is not None


def ending(ended: Ended) -> str:
    """Return how a command has ended, with the tail of what it printed."""
    said = tail(ended.errors) or tail(ended.output)
    if ended.killed_after_s is not None:
        how = f"it had not ended after {ended.killed_after_s:g} s and was killed"
    elif ended.status < 0:
        how = f"it was ended by signal {-ended.status}"
    else:
        how = f"exit status {ended.status}"
    return f"{how}: {said}" if said else how


def tail(text: str) -> str:
    """Return the end of what a program printed, as one line of harmless characters."""
    clean = "".join(" " if unicodedata.category(each).startswith(("C", "Z")) else each for each in text[-4096:])
    line = " ".join(clean.split())
    return line if len(line) <= MAX_REASON_CHARACTERS else f"...{line[-MAX_REASON_CHARACTERS:]}"


def state(ended: Ended, words: Mapping[str, str]) -> StateReport:
    """Return what the command `state` has reported; raises NotUnderstood.

    What is printed counts before the exit status: many programs print `inactive` and exit with 3.
    """
    if ended.killed_after_s is not None:
        raise NotUnderstood(ending(ended))
    _check_whole(ended)
    line = _last_line(ended.output)
    found = _of_line(line, words)
    if found is None:
        by_status = words.get(f"exit {ended.status}", "")
        rest = words.get("*", "") if ended.status == 0 and line else ""
        if not (by_status or rest):
            if ended.has_failed:
                raise NotUnderstood(ending(ended))
            raise NotUnderstood(f"it printed {line[:80]!r}, which is not a state; `words` can say what that means")
        found = StateReport(STATES[by_status or rest], tail(ended.errors))
    return found


def states(ended: Ended, words: Mapping[str, str]) -> dict[str, StateReport]:
    """Return what the command `states` has reported, by name or UUID of a VM; raises NotUnderstood.

    A VM that is not listed is off, so a list whose end is missing says nothing: its VMs would be started twice. Of a
    name that is listed twice, one that runs counts, for the same reason.
    """
    if ended.has_failed:
        raise NotUnderstood(ending(ended))
    _check_whole(ended)
    found: dict[str, StateReport] = {}
    for line in ended.output.split("\n"):  # and nowhere else: a name may have other characters that end lines
        name, _, rest = line.strip().partition(" ")
        if not name:
            continue
        report = _of_line(rest.strip(), words)
        if report is None and (other := words.get("*", "")) and rest.strip():
            report = StateReport(STATES[other])
        if report is None:
            raise NotUnderstood(f"it printed {line[:80]!r}, which is not NAME STATE")
        name = name[:MAX_NAME_CHARACTERS]
        if name not in found or found[name].state is not GuestState.RUNNING:
            found[name] = report
    return found


def watched(line: str, words: Mapping[str, str]) -> tuple[str, StateReport | None]:
    """Return the VM that a line of `watch` names, "" for all, and its state if the line says that."""
    name, _, rest = line.strip().partition(" ")
    return name[:MAX_NAME_CHARACTERS], _of_line(rest.strip(), words)


def _check_whole(ended: Ended) -> None:
    if ended.is_cut:
        raise NotUnderstood("it printed more than is read")


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()


def _of_line(line: str, words: Mapping[str, str]) -> StateReport | None:
    """Return the state that a line begins with: first the whole line counts as a word, then its first word."""
    if line in words:
        return StateReport(STATES[words[line]])
    word, _, rest = line.partition(" ")
    word = word.rstrip(":")
    meaning = words.get(word) or word
    return StateReport(STATES[meaning], tail(rest)) if meaning in STATES else None
