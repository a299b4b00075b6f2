"""What `jitsu status` shows: a row for each VM whatever else is wrong, on terminals of any width."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu.printable import printable
from jitsu.status_lines import status_lines
from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import STATS_ROOT, VM, to_tree
from jitsu_protocol.rows import status_rows
from tests.support.vms import make_vm

NOW = 1_000_000.0


def as_vmd_sees(vm: VM, **fields: Any) -> VmStatus:
    return VmStatus(uuid=vm.uuid, name=vm.name, state=fields.pop("state", VmState.READY), host=vm.host, **fields)


def only_row(vm: VM, more: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    (row,) = status_rows([as_vmd_sees(vm, **fields)], to_tree(vm) | (more or {}), NOW)
    return row


def test_a_row_joins_what_vmd_says_with_the_names_and_statistics_of_the_store() -> None:
    vm = make_vm()
    stats = f"{STATS_ROOT}/{vm.uuid}/dns/www.jitsu.test"
    more = {f"{stats}/total_requests": "7", f"{stats}/last_request_ts": str(NOW - 12)}
    assert only_row(vm, more, up_s=3.0, starts=2) == {
        "name": "www",
        "uuid": vm.uuid,
        "state": "ready",
        "host": "",
        "names": ["www.jitsu.test"],
        "address": "127.0.1.1",
        "queries": 7,
        "idle_s": 12.0,
        "uptime_s": 3.0,
        "starts": 2,
        "last_error": "",
        "retry_after_s": None,
        "waits_for": "",
        "hold": "",
        "kept": "",
        "asleep": "",
    }


def test_a_vm_is_never_idle_for_less_than_no_time_when_the_clock_was_set_back() -> None:
    vm = make_vm()
    path = f"{STATS_ROOT}/{vm.uuid}/dns/www.jitsu.test/last_request_ts"
    assert only_row(vm, {path: str(NOW + 3600)})["idle_s"] == 0.0


@pytest.mark.parametrize("value", ["abc", "", "nan", "1e999", "-"])
def test_a_statistic_that_is_not_a_number_does_not_hide_the_vm(value: str) -> None:
    vm = make_vm()
    stats = f"{STATS_ROOT}/{vm.uuid}/dns/www.jitsu.test"
    row = only_row(vm, {f"{stats}/total_requests": value, f"{stats}/last_request_ts": value})
    assert (row["queries"], row["idle_s"]) == (0, None)


def test_vms_of_a_host_whose_vmd_is_away_are_shown_and_say_so() -> None:
    here, there = make_vm("here", "127.0.1.1"), make_vm("there", "127.0.1.2", host="london")
    rows = status_rows([as_vmd_sees(here)], to_tree(here) | to_tree(there), NOW, silent_hosts={"london"})
    assert [(row["name"], row["state"], row["host"], row["last_error"]) for row in rows] == [
        ("here", "ready", "", ""),
        ("there", "unknown", "london", "vmd of london does not answer"),
    ]


def test_a_vm_that_cannot_be_used_is_shown_with_the_reason() -> None:
    vm = make_vm()
    leaves = to_tree(vm) | {f"jitsu/vm/{vm.uuid}/stop_mode": "explode"}
    (row,) = status_rows([], leaves, NOW)
    assert (row["name"], row["state"]) == ("www", "invalid")
    assert "is not allowed; use destroy, suspend" in row["last_error"]


ROW = {
    "name": "grafana",
    "state": "ready",
    "host": "",
    "names": ["grafana.internal.example.org"],
    "address": "2001:db8:1234:5678::[1]",
    "uptime_s": 3.0,
    "starts": 1,
    "queries": 12,
    "idle_s": 0.4,
    "last_error": "",
    "retry_after_s": None,
    "waits_for": "",
    "hold": "",
    "kept": "",
    "asleep": "",
}


def test_addresses_and_brackets_are_shown_as_they_are() -> None:
    assert "2001:db8:1234:5678::[1]" in "\n".join(status_lines([ROW], 200))


@pytest.mark.parametrize("width", [200, 120, 80, 40])
def test_no_line_is_wider_than_the_terminal_and_real_names_stay_whole(width: int) -> None:
    names = [f"{first}.internal.example.org" for first in ("grafana", "metrics", "dashboards")]
    failed = {**ROW, "name": "wiki", "names": names, "last_error": "no memory: " + 20 * "word "}
    lines = status_lines([ROW, failed], width)
    assert max(map(len, lines)) <= width
    assert all(any(name in line for line in lines) for name in names)
    if width == 80:
        assert len(lines) <= 8, lines


def test_a_narrow_terminal_gets_names_and_errors_below_the_row() -> None:
    assert status_lines([{**ROW, "address": "10.0.0.7", "last_error": "no memory", "retry_after_s": 2.0}], 80) == [
        "VM      STATE ADDRESS     UP STARTS QUERIES IDLE FOR",
        "grafana ready 10.0.0.7 3.0 s      1      12    0.4 s",
        "    grafana.internal.example.org",
        "    no memory (a query can start it again in 2.0 s)",
    ]


def test_a_program_gets_one_line_for_a_vm_with_one_name_however_long_its_error_is() -> None:
    lines = status_lines([{**ROW, "last_error": "x" * 500}], None)
    assert len(lines) == 2
    assert lines[1].endswith("x" * 500)


def test_only_the_state_is_colored() -> None:
    assert "\x1b[32mready\x1b[0m" in status_lines([ROW], 80, colored=True)[1]
    assert status_lines([ROW], 80, colored=True)[0] == status_lines([ROW], 80)[0]


def test_what_a_terminal_would_act_on_is_printed_as_an_escape() -> None:
    assert printable("a\x1b[31m\rb\x07\n\x7f\u202ec é") == "a\\x1b[31m\\rb\\x07\\n\\x7f\\u202ec é"
    assert "\x1b" not in "\n".join(status_lines([{**ROW, "last_error": "bad \x1b[2J"}], 80))


def test_the_leaves_are_looked_at_once_however_many_vms_there_are() -> None:
    """With 10,000 VMs, looking at every leaf for each VM would be 10^9 steps, which take minutes."""
    vms = [make_vm(f"n{n}", f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255 or 1}") for n in range(500)]
    leaves: dict[str, str] = CountedLeaves()
    for vm in vms:
        leaves |= to_tree(vm)
    rows = status_rows([as_vmd_sees(vm) for vm in vms], leaves, NOW)
    assert len(rows) == 500
    assert isinstance(leaves, CountedLeaves)
    assert leaves.looks <= 3


class CountedLeaves(dict[str, str]):
    """Counts how often all leaves are looked at."""

    looks = 0

    def __iter__(self) -> Any:
        self.looks += 1
        return super().__iter__()

    def items(self) -> Any:
        self.looks += 1
        return super().items()
