"""What the commands print: the tree, the history, timelines, what replicas say. Each string is one line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from jitsu.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.messages import Commit, Timeline

MIN_DOTS = 3
NEWLINE = "\n"
"""Ends the first line of a message; nothing else does, so that none can hide what stands before it."""
BAR_CHARACTERS = 40


def tree_lines(leaves: Mapping[str, str]) -> list[str]:
    """Return a line for each leaf as `irmin tree` prints it: path, dots, the value in quotes at the right edge."""
    if not leaves:
        return []
    paths = {printable(f"/{path}"): f'"{printable(value)}"' for path, value in sorted(leaves.items())}
    width = max(map(len, paths)) + max(map(len, paths.values())) + MIN_DOTS
    return [path + "." * (width - len(path) - len(value)) + value for path, value in paths.items()]


def log_lines(commits: Sequence[Commit]) -> list[str]:
    """Return the history, one commit a line, the rest of its message left to `git log`."""
    return [
        f"{each.id[:10]}  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(each.ts))}  "
        f"{printable(each.author):<12} {printable(each.message.partition(NEWLINE)[0])}"
        for each in commits
    ]


def trace_lines(timelines: Sequence[Timeline]) -> list[str]:
    """Return the latest summons: where each millisecond went."""
    lines: list[str] = []
    for each in timelines:
        begin = each.stages[0][1]
        total = max(each.stages[-1][1] - begin, 1e-6)
        joined = f", {each.joined} joined" if each.joined else ""
        when = time.strftime("%H:%M:%S", time.localtime(each.ts))
        lines.append(f"{when} {each.name} ({each.trigger}{joined}) {1000 * total:.1f} ms: {each.outcome}")
        before = begin
        for stage, at in each.stages[1:]:
            left = round(BAR_CHARACTERS * (before - begin) / total)
            bar = " " * left + "━" * max(1, round(BAR_CHARACTERS * (at - before) / total))
            lines.append(f"  {stage:<15}{1000 * (at - begin):>9.1f} ms  {bar}")
            before = at
    return lines
