"""The lines of `jitsu status`, for terminals of any width."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from jitsu.durations import duration
from jitsu.printable import printable
from jitsu.selection import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from jitsu_protocol.messages import Pong

GAP = 1
MIN_ERROR_CHARACTERS = 24
"""Where less is left for errors, they get lines of their own."""
INDENT = "    "
COLORS = {"ready": 32, "failed": 31, "invalid": 31, "booting": 33, "starting": 33, "unknown": 33, "draining": 36}
"""SGR parameters (ECMA-48, 8.3.117): green, red, yellow, cyan."""
ORDER = ("VM", "STATE", "HOST", "NAMES", "ADDRESS", "UP", "STARTS", "QUERIES", "IDLE FOR")
ERROR = "LAST ERROR"
TITLES = dict(zip(COLUMNS, (*ORDER, ERROR), strict=True))
"""What an operator writes for a column -> what stands above it."""
RIGHT = frozenset({"UP", "STARTS", "QUERIES", "IDLE FOR"})


def status_lines(
    rows: Sequence[Mapping[str, Any]], width: int | None, *, columns: Sequence[str] = (), colored: bool = False
) -> list[str]:
    """Return the table of `jitsu status`: a line for each VM, and further lines where it has more to show.

    `width` is the terminal's, None for a program, for which nothing is wrapped. Where names or errors do not fit beside
    the rest, they stand below it, indented. Without `columns`, all are shown that have something to show.
    """
    if not rows:
        return []
    shown = [TITLES[column] for column in columns] or [*ORDER, ERROR]
    if not columns and not any(row["host"] for row in rows):
        shown.remove("HOST")
    entries = [_Entry(row, shown) for row in rows]
    sizes = {key: max(len(key), *(entry.width_of(key) for entry in entries)) for key in shown if key != ERROR}
    room = None if width is None else width - _width(sizes)
    if room is None or room >= (MIN_ERROR_CHARACTERS if any(entry.error for entry in entries) else 0):
        title = ERROR if ERROR in shown else ""
        lines = [_line({**{key: key for key in sizes}, ERROR: title}, sizes)]
        return lines + [line for entry in entries for line in _wide(entry, sizes, room, colored=colored)]
    assert width is not None
    fitting = {key: size for key, size in sizes.items() if key != "NAMES"}
    if _width(fitting) > width:
        fitting.pop("ADDRESS", None)
    lines = _cut(_line({key: key for key in fitting}, fitting), width)
    return lines + [line for entry in entries for line in _narrow(entry, fitting, width, colored=colored)]


class _Entry:
    """What is shown of one VM."""

    def __init__(self, row: Mapping[str, Any], shown: Collection[str]) -> None:
        self.cells = _cells(row)
        self.name = row["name"]
        self.names = [printable(name) for name in row["names"]] if "NAMES" in shown else []
        self.address = self.cells["ADDRESS"].split() if "ADDRESS" in shown else []
        self.error = printable(_error(row)) if ERROR in shown else ""

    def width_of(self, key: str) -> int:
        """Return how many characters it needs in a column."""
        return max(map(len, self.names), default=0) if key == "NAMES" else len(self.cells[key])


def _wide(entry: _Entry, sizes: Mapping[str, int], room: int | None, *, colored: bool) -> list[str]:
    """Return the lines of a VM where its names and its error stand in columns."""
    errors = [entry.error] if room is None or not entry.error else textwrap.wrap(entry.error, room)
    lines = []
    for number in range(max(len(entry.names), len(errors), 1)):
        part = dict(entry.cells) if number == 0 else {}
        part["NAMES"] = entry.names[number] if number < len(entry.names) else ""
        part[ERROR] = errors[number] if number < len(errors) else ""
        lines.append(_line(part, sizes, colored=colored))
    return lines


def _narrow(entry: _Entry, sizes: Mapping[str, int], width: int, *, colored: bool) -> list[str]:
    """Return the lines of a VM where what does not fit stands below the others."""
    cut = _cut(_line(entry.cells, sizes), width)
    lines = cut if len(cut) > 1 else [_line(entry.cells, sizes, colored=colored)]
    names = entry.names if entry.names != [entry.name] else []
    address = [] if "ADDRESS" in sizes else entry.address
    return lines + _below(", ".join([*names, *address]), width) + _below(entry.error, width)


def _width(sizes: Mapping[str, int]) -> int:
    return sum(size + GAP for size in sizes.values())


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {
        "VM": row["name"],
        "STATE": row["state"],
        "HOST": row["host"],
        "ADDRESS": row["address"],
        "UP": duration(row["uptime_s"]),
        "STARTS": str(row["starts"]),
        "QUERIES": str(row["queries"]),
        "IDLE FOR": duration(row["idle_s"]),
    }
    return {key: printable(value) for key, value in cells.items()}


def _error(row: Mapping[str, Any]) -> str:
    if row["waits_for"]:
        return f"waits to start: {row['waits_for']}"
    error = " ".join(str(row["last_error"]).split("\n"))
    if order := row["hold"] or row["kept"] or row["asleep"]:
        return f"{order}{f'; {error}' if error else ''}"
    if row["retry_after_s"] is not None:
        error += f" (a query can start it again in {duration(max(row['retry_after_s'], 0.0))})"
    return error


def _line(cells: Mapping[str, str], sizes: Mapping[str, int], *, colored: bool = False) -> str:
    parts = []
    for key, size in sizes.items():
        text = cells.get(key, "")
        padded = text.rjust(size) if key in RIGHT else text.ljust(size)
        color = COLORS.get(text) if colored and key == "STATE" else None
        parts.append(padded if color is None else f"\x1b[{color}m{padded}\x1b[0m")
    return (" " * GAP).join([*parts, cells.get(ERROR, "")]).rstrip()


def _cut(line: str, width: int) -> list[str]:
    """Return a line, in pieces if it is longer than a terminal is wide."""
    return [line] if len(line) <= width else textwrap.wrap(line, width, subsequent_indent=INDENT)


def _below(text: str, width: int) -> list[str]:
    indent = INDENT if width > 2 * len(INDENT) else ""
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def service_lines(pongs: Mapping[str, Pong | None], not_started: Sequence[str] = ()) -> list[str]:
    """Return a line for each service: whether it answers, and what it notes."""
    lines = []
    for service, pong in pongs.items():
        if pong is not None:
            lines.append("; ".join([f"{service:<9} up {duration(pong.uptime_s)}", *pong.notes]))
        elif service in not_started:
            lines.append(f"{service:<9} is not started")
        else:
            lines.append(f"{service:<9} does not answer")
    return [printable(line) for line in lines]
