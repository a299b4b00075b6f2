"""The state machines of the suite, found by their tables: what docs/reference/machines.md is made from.

A module of rules that has `TRANSITIONS` has a machine, and its docstring has the same table for people. Its head is the
line `state  event  then  what happens`; columns are two or more spaces apart, and what is continued on the next line is
indented further than the table. `any` is every state, `others` every state that no row above has for this event, and
`same` the state itself; the module may name further groups of states in `GROUPS`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitsu_protocol.machine import Transition

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOMS = (
    "jitsu_protocol",
    "jitsu_store.rules",
    "jitsu_vmd.rules",
    "jitsu_vmd.hypervisors",
    "jitsu_dns.rules",
    "jitsu_synjitsu.rules",
    "jitsu_reaper.rules",
    "jitsu_web.outbound.rules",
)
HEAD = re.compile(r"^( +)state +event +then +what happens$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One row of a table, for one state and one event."""

    state: str
    event: str
    then: frozenset[str]


def machines() -> dict[str, ModuleType]:
    """Return the modules that have a machine, by the name of its states' class without `State`."""
    found = {}
    for room in ROOMS:
        package = importlib.import_module(room)
        names = [room, *(each.name for each in pkgutil.walk_packages(package.__path__, f"{room}."))]
        for name in names:
            if ".wires" in name or (room == "jitsu_vmd.hypervisors" and ".rules" not in name):
                continue
            module = importlib.import_module(name)
            table = vars(module).get("TRANSITIONS", {})
            if all(isinstance(row, Transition) for row in table.values()) and table:
                found[states_of(module).__name__.removesuffix("State")] = module
    return found


def states_of(module: ModuleType) -> Any:
    """Return the enumeration of a machine's states."""
    return type(next(iter(module.TRANSITIONS))[0])


def rows_of_code(module: ModuleType) -> list[Row]:
    """Return the rows of TRANSITIONS."""
    return [
        Row(str(state), event.__name__, frozenset(map(str, row.then)))
        for (state, event), row in module.TRANSITIONS.items()
    ]


def rows_of_docstring(module: ModuleType) -> list[Row]:
    """Return the rows of the docstring's table, each state and event by itself."""
    every = [str(state) for state in states_of(module)]
    groups = {name: sorted(map(str, states)) for name, states in getattr(module, "GROUPS", {}).items()}
    rows: list[Row] = []
    for states, events, then in _lines(module):
        for event in events:
            named = {row.state for row in rows if row.event == event}
            others = [state for state in every if state not in named]
            meant = {**groups, "any": every, "others": others}
            for state in [one for each in states for one in meant.get(each, [each])]:
                following = {one for each in then for one in {**meant, "same": [state]}.get(each, [each])}
                rows.append(Row(state, event, frozenset(following)))
    return rows


def _lines(module: ModuleType) -> Iterator[tuple[list[str], list[str], list[str]]]:
    text = module.__doc__ or ""
    head = HEAD.search(text)
    if head is None:
        raise ValueError(f"{module.__name__} has TRANSITIONS, but its docstring has no table")
    margin = head.group(1)
    for line in text[head.end() :].split("\n")[1:]:
        if not line.strip() or not line.startswith(margin):
            return
        if line[len(margin)] == " ":
            continue  # the last column goes on
        states, events, then, *_ = re.split(r" {2,}", line.strip())
        yield states.split(", "), events.split(", "), then.split(", ")


def page() -> str:
    """Return docs/reference/machines.md."""
    lines = [
        "# State machines",
        "",
        "Each decision that depends on what was before is a state machine: a pure function of its state, an event and",
        "the time. This page shows each machine as its table in the code has it; `make docs` makes it from that.",
        "`Tick` stands for the clock. The contract is in",
        "[Architecture](../explanation/architecture.md#one-contract-for-machines).",
    ]
    for name, module in sorted(machines().items()):
        first = " ".join((module.__doc__ or "").partition("\n\n")[0].split())
        lines += ["", f"## {name}", "", first, "", f"`{module.__name__}`", "", "```mermaid", "stateDiagram-v2"]
        arrows: dict[tuple[str, str], list[str]] = {}
        for row in rows_of_code(module):
            for state in sorted(row.then):
                if state != row.state:
                    arrows.setdefault((row.state, state), []).append(row.event)
        begins = str(next(iter(states_of(module))))
        lines += [f"    [*] --> {begins}"]
        lines += [f"    {start} --> {end}: {', '.join(events)}" for (start, end), events in arrows.items()]
        lines += ["```"]
    return "\n".join([*lines, ""])
