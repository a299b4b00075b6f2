"""The lines of `jitsu status`, for terminals of any width."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from jitsu.durations import duration
from jitsu.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_protocol.messages import Pong

GAP = 1
MIN_ERROR_CHARACTERS = 24
"""Where less is left for errors, they get lines of their own."""
INDENT = "    "
COLORS = {"ready": 32, "failed": 31, "invalid": 31, "booting": 33, "starting": 33, "unknown": 33, "draining": 36}
"""SGR parameters (ECMA-48, 8.3.117): green, red, yellow, cyan."""
ORDER = ("VM", "STATE", "HOST", "NAMES", "ADDRESS", "UP", "STARTS", "QUERIES", "IDLE FOR")
ERROR = "LAST ERROR"
RIGHT = frozenset({"UP", "STARTS", "QUERIES", "IDLE FOR"})


def status_lines(rows: Sequence[Mapping[str, Any]], width: int | None, *, colored: bool = False) -> list[str]:
    """Return the table of `jitsu status`: a line for each VM, and further lines where it has more to show.

    `width` is the terminal's, None for a program, for which nothing is wrapped. Where names or errors do not fit beside
    the rest, they stand below it, indented.
    """
    if not rows:
        return ["no VM is configured"]
    table = [_cells(row) for row in rows]
    sizes = {key: max(len(key), *(len(cells[key]) for cells in table)) for key in table[0]}
    sizes |= {"NAMES": max([len("NAMES"), *(len(name) for row in rows for name in row["names"])])}
    if not any(row["host"] for row in rows):
        del sizes["HOST"]
    errors = [printable(_error(row)) for row in rows]
    room = None if width is None else width - _width(sizes)
    if room is None or room >= (MIN_ERROR_CHARACTERS if any(errors) else 0):
        return _wide_lines(rows, table, errors, {key: sizes[key] for key in ORDER if key in sizes}, room, colored)
    assert width is not None
    shown = [key for key in ORDER if key in sizes and key != "NAMES"]
    if _width({key: sizes[key] for key in shown}) > width:
        shown.remove("ADDRESS")
    return _narrow_lines(rows, table, errors, {key: sizes[key] for key in shown}, width, colored)


def _wide_lines(
    rows: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, str]],
    errors: Sequence[str],
    sizes: Mapping[str, int],
    room: int | None,
    colored: bool,
) -> list[str]:
    lines = [_line({key: key for key in (*sizes, ERROR)}, sizes)]
    for row, cells, error in zip(rows, table, errors, strict=True):
        names = list(map(printable, row["names"]))
        errors_of_row = [error] if room is None or not error else textwrap.wrap(error, room)
        for number in range(max(len(names), len(errors_of_row), 1)):
            part = dict(cells) if number == 0 else {}
            part["NAMES"] = names[number] if number < len(names) else ""
            part[ERROR] = errors_of_row[number] if number < len(errors_of_row) else ""
            lines.append(_line(part, sizes, colored=colored))
    return lines


def _narrow_lines(
    rows: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, str]],
    errors: Sequence[str],
    sizes: Mapping[str, int],
    width: int,
    colored: bool,
) -> list[str]:
    lines = _cut(_line({key: key for key in sizes}, sizes), width)
    for row, cells, error in zip(rows, table, errors, strict=True):
        cut = _cut(_line(cells, sizes), width)
        lines += cut if len(cut) > 1 else [_line(cells, sizes, colored=colored)]
        names = [printable(name) for name in row["names"]] if row["names"] != [row["name"]] else []
        address = [] if "ADDRESS" in sizes else cells["ADDRESS"].split()
        lines += _below(", ".join([*names, *address]), width) + _below(error, width)
    return lines


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
    if row["hold"]:
        return f"{row['hold']}{f'; {error}' if error else ''}"
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
