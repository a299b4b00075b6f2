"""What the commands print: tables, the tree, timelines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jitsu_protocol.vm import STATS_ROOT, VM_ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu.dig import Told
    from jitsu_protocol.messages import Commit, Pong, Timeline, VmStatus

MIN_DOTS = 3
BAR_CHARACTERS = 40
STYLES = {"ready": "green", "failed": "red", "booting": "yellow", "starting": "yellow", "draining": "cyan"}


def tree_lines(leaves: Mapping[str, str]) -> list[str]:
    """Return a line for each leaf as `irmin tree` prints it: path, dots, the value in quotes at the right edge."""
    if not leaves:
        return []
    paths = {f"/{path}": f'"{value}"' for path, value in sorted(leaves.items())}
    width = max(map(len, paths)) + max(map(len, paths.values())) + MIN_DOTS
    return [path + "." * (width - len(path) - len(value)) + value for path, value in paths.items()]


def status_rows(vms: Sequence[VmStatus], leaves: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each VM, from what vmd and the store say."""
    now = time.time()
    rows = []
    for vm in sorted(vms, key=lambda each: each.name):
        own, stats = f"{VM_ROOT}/{vm.uuid}", f"{STATS_ROOT}/{vm.uuid}"
        names = sorted(path.split("/")[4] for path in leaves if path.startswith(own + "/dns/"))
        requests = [int(leaves.get(f"{stats}/dns/{name}/total_requests", "0")) for name in names]
        last = max((float(leaves.get(f"{stats}/dns/{name}/last_request_ts", "0")) for name in names), default=0.0)
        rows.append(
            {
                "name": vm.name,
                "uuid": vm.uuid,
                "state": vm.state.value,
                "host": vm.host,
                "names": names,
                "address": leaves.get(own + "/ip", ""),
                "uptime_s": vm.up_s,
                "starts": vm.starts,
                "queries": sum(requests),
                "idle_s": now - last if last else None,
                "last_error": vm.last_error,
                "retry_after_s": vm.retry_after_s,
                "waits_for": vm.waits_for,
            }
        )
    return rows


def status_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of `jitsu status`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    has_hosts = any(row["host"] for row in rows)
    for column in ("VM", "STATE", *(("HOST",) if has_hosts else ()), "NAMES", "ADDRESS"):
        table.add_column(column, overflow="fold")
    for column in ("UP", "STARTS", "QUERIES", "IDLE FOR"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("LAST ERROR", overflow="fold")
    for row in rows:
        error = row["last_error"]
        if row["retry_after_s"] is not None:
            error += f" (next try in {duration(row['retry_after_s'])})"
        if row["waits_for"]:
            error = f"waits to start: {row['waits_for']}"
        style = STYLES.get(row["state"], "")
        table.add_row(
            row["name"],
            f"[{style}]{row['state']}[/]" if style else row["state"],
            *((row["host"],) if has_hosts else ()),
            "\n".join(row["names"]),
            row["address"],
            duration(row["uptime_s"]),
            str(row["starts"]),
            str(row["queries"]),
            duration(row["idle_s"]),
            error,
        )
    return table


def service_lines(pongs: Mapping[str, Pong | None]) -> list[str]:
    """Return a line for each service: whether it answers, and what it notes."""
    lines = []
    for service, pong in pongs.items():
        if pong is None:
            lines.append(f"{service:<9} does not answer")
        else:
            notes = "; ".join(pong.notes)
            lines.append(f"{service:<9} up {duration(pong.uptime_s)}{'; ' + notes if notes else ''}")
    return lines


def log_lines(commits: Sequence[Commit]) -> list[str]:
    """Return the history, one commit a line, the rest of its message left to `git log`."""
    return [
        f"{each.id[:10]}  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(each.ts))}  "
        f"{each.author:<12} {each.message.splitlines()[0] if each.message else ''}"
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


def dig_lines(told: Mapping[str, Told]) -> list[str]:
    """Return what each replica says, a line for each."""
    lines = []
    for replica, each in sorted(told.items()):
        believes = ", ".join(each.states) or "no VM has this name"
        said = each.fault or f"{believes}; {' '.join(each.answer)}"
        lines.append(f"{replica} at {each.address}: {said}")
    return lines


def duration(seconds: float | None) -> str:
    """Return a time span for people."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 360_000 else f"{seconds / 86400:.0f} d"
