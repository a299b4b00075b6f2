"""What a change does to VMs, by name, for who is to agree to it.

    added    comes into being          changed  goes on with other settings
    removed  is gone; if it runs, it is stopped within a second, whoever uses it

Whether somebody has to agree:

    what the change does       --yes or another branch   on a terminal   for a program
    nothing                    -                         -               -
    removes no VM              done                      asked           done
    removes a VM               done                      asked           refused
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jitsu.printable import printable
from jitsu_protocol.model.effect import differences
from jitsu_protocol.model.guests import difference
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM, VM_ROOT, InvalidVm, from_tree
from jitsu_protocol.rows import below, configured_name

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHOWN = 40
"""VMs of each kind that are shown; after a change of 10,000 the file is easier to read."""
STOPPED = frozenset({VmState.OFF, VmState.FAILED})
SAVED = frozenset({VmState.SUSPENDED, VmState.PAUSED})
"""Such a VM is not stopped when it is removed, and what is saved of it stays."""


@dataclass(frozen=True)
class ChangedVm:
    """A VM that goes on with other settings."""

    name: str
    differences: tuple[str, ...]
    state: str = ""
    is_other: bool = False
    """Its guest may not run on as it was started (docs/reference/changes.md)."""

    @property
    def stops(self) -> bool:
        """Whether its guest is stopped."""
        return self.is_other and self.state not in ("", *STOPPED, *SAVED)


@dataclass(frozen=True)
class RemovedVm:
    """A VM that is gone afterwards."""

    name: str
    state: str | None
    """None if its vmd does not report it."""

    @property
    def runs(self) -> bool:
        """Whether it has to be stopped, as far as is known."""
        return self.state is None or self.state not in STOPPED | SAVED


@dataclass(frozen=True)
class Summary:
    """What a change does, by name."""

    added: tuple[str, ...] = ()
    changed: tuple[ChangedVm, ...] = ()
    removed: tuple[RemovedVm, ...] = ()
    other: int = 0
    """How many values that belong to no VM."""

    def __bool__(self) -> bool:
        """Return whether anything is changed."""
        return bool(self.added or self.changed or self.removed or self.other)


def summarize(
    before: Mapping[str, str], after: Mapping[str, str], states: Mapping[str, str | None], other: int = 0
) -> Summary:
    """Return what a change of the leaves below jitsu/vm does.

    `states` are those of VMs by uuid, None for one whose vmd does not answer; it is empty for a branch that does not
    run, on which nothing is stopped.
    """
    old, new = below(before, VM_ROOT), below(after, VM_ROOT)
    added = [configured_name(new[uuid]) or uuid for uuid in new.keys() - old.keys()]
    removed = [
        RemovedVm(configured_name(old[uuid]) or uuid, states.get(uuid, VmState.OFF.value))
        for uuid in old.keys() - new.keys()
    ]
    changed = []
    for uuid in new.keys() & old.keys():
        if old[uuid] != new[uuid]:
            name = configured_name(new[uuid]) or uuid
            found = _differences(uuid, old[uuid], new[uuid])
            one, two = _vm(uuid, old[uuid]), _vm(uuid, new[uuid])
            is_other = one is not None and two is not None and bool(difference(one, two))
            changed.append(ChangedVm(name, tuple(found), states.get(uuid) or "", is_other))
    return Summary(
        tuple(sorted(added)),
        tuple(sorted(changed, key=lambda each: each.name)),
        tuple(sorted(removed, key=lambda each: (not each.runs, each.name))),
        other,
    )


def _differences(uuid: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    one, other = _vm(uuid, old), _vm(uuid, new)
    if one is not None and other is not None:
        return differences(one, other) or ["written differently, with the same effect"]
    return [
        f"{path} {old.get(path, 'none')} -> {new.get(path, 'none')}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _vm(uuid: str, own: Mapping[str, str]) -> VM | None:
    try:
        return from_tree(uuid, own)
    except InvalidVm:
        return None


def summary_lines(summary: Summary, width: int) -> list[str]:
    """Return a summary for people, what is dangerous last, where it is read."""
    lines = [f"added    {name}" for name in summary.added[:MAX_SHOWN]]
    lines += _more("added", summary.added)
    for each in summary.changed[:MAX_SHOWN]:
        state = "" if each.state in (*STOPPED, "") else f" ({each.state})"
        stops = "; it is stopped for that" if each.stops else ""
        lines.append(f"changed  {each.name}{state}: {'; '.join(each.differences)}{stops}")
    lines += _more("changed", summary.changed)
    if summary.other:
        lines.append(f"changed  {_count(summary.other, 'value')} outside of VMs")
    stopped = [each for each in summary.removed if not each.runs]
    running = [each for each in summary.removed if each.runs]
    for gone in stopped[:MAX_SHOWN]:
        lines.append(f"removed  {gone.name}" + (f": what is {gone.state} of it stays" if gone.state in SAVED else ""))
    lines += _more("removed", stopped)
    for vm in running[:MAX_SHOWN]:
        what = f"is {vm.state} and will be stopped" if vm.state else "is stopped if it runs: its vmd does not answer"
        lines.append(f"REMOVED  {vm.name}: {what}")
    lines += _more("REMOVED", running, " that run and will be stopped")
    wrapped = [textwrap.wrap(printable(line), width, subsequent_indent=" " * 9) for line in lines]
    return [line for each in wrapped for line in each]


def _more(kind: str, names: tuple[object, ...] | list[RemovedVm], what: str = "") -> list[str]:
    left = len(names) - MAX_SHOWN
    return [f"{kind:<8} {left} more{what}"] if left > 0 else []


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def question(summary: Summary) -> str:
    """Return what is asked on a terminal."""
    running = sum(each.runs for each in summary.removed)
    if running:
        return f"Remove {_count(len(summary.removed), 'VM')}, and stop {running} of them now?"
    if summary.removed:
        return f"Remove {_count(len(summary.removed), 'VM')}?"
    if stopping := sum(each.stops for each in summary.changed):
        return f"Make this change, and stop {_count(stopping, 'VM')} now?"
    return "Make this change?"


def consent(
    summary: Summary, *, yes: bool, is_terminal: bool, is_running_branch: bool
) -> Literal["given", "ask", "refused"]:
    """Return whether a change may be made; the table above."""
    if yes or not is_running_branch or not summary:
        return "given"
    if is_terminal:
        return "ask"
    return "refused" if summary.removed else "given"
