"""What is known of all VMs, the events that follow from what arrives, and the last day of each."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import STATS_ROOT, VM_ROOT, to_tree
from jitsu_web.rules.board import Board
from jitsu_web.rules.history import QUARTER_S, QUARTERS, DayHistory
from jitsu_web.rules.hosts import HostNames, is_same_origin
from tests.support.vms import make_vm

WWW = make_vm("www", "127.0.1.1", ttl="60", memory="1024")
NOON = 1_700_000_000.0 // QUARTER_S * QUARTER_S


def status(state: VmState, **more: Any) -> VmStatus:
    return VmStatus(uuid=WWW.uuid, name="www", state=state, **more)


def board() -> Board:
    made = Board(0.0, NOON)
    made.configured(to_tree(WWW), 0.0)
    return made


def kinds(events: list[Any]) -> list[tuple[str, str]]:
    return [(each.kind, getattr(each, "state", getattr(each, "outcome", ""))) for each in events]


def test_a_vm_that_vmd_does_not_know_is_shown_with_the_reason() -> None:
    shown = board().vm(WWW.uuid, 0.0)
    assert (shown["name"], shown["state"]) == ("www", "unknown")
    assert "vmd" in shown["last_error"]
    assert (shown["idle"], shown["state_age_s"]) == (None, None)


def test_ages_are_of_the_moment_at_which_a_vm_is_shown() -> None:
    made = board()
    made.changed(status(VmState.READY, up_s=5.0, state_age_s=4.0), gone=False, now=10.0)
    shown = made.vm(WWW.uuid, 12.0)
    assert (shown["uptime_s"], shown["state_age_s"]) == (7.0, 6.0)
    # It was ready six seconds ago, and stops when it is idle for twice its TTL.
    assert shown["idle"] == {"stops_at": NOON + 12.0 - 6.0 + 120.0, "reason": ""}


def test_a_vm_that_is_held_or_kept_up_does_not_stop() -> None:
    made = board()
    made.changed(status(VmState.READY, kept="kept up by olga"), gone=False, now=0.0)
    assert made.vm(WWW.uuid, 0.0)["idle"] == {"stops_at": None, "reason": "kept up by olga"}
    made.changed(status(VmState.READY, hold="new disk"), gone=False, now=0.0)
    assert "held" in made.vm(WWW.uuid, 0.0)["idle"]["reason"]


def test_a_drain_that_a_query_ends_is_an_event_and_so_is_one_that_stops_the_vm() -> None:
    made = board()
    course = (VmState.READY, VmState.DRAINING, VmState.READY, VmState.DRAINING, VmState.STOPPING, VmState.OFF)
    seen = [each for state in course for each in made.changed(status(state), gone=False, now=0.0)]
    drains = [event for event in kinds(seen) if event[0] == "drain"]
    assert drains == [("drain", "begun"), ("drain", "prevented"), ("drain", "begun"), ("drain", "stopped")]
    assert [event[1] for event in kinds(seen) if event[0] == "vm"] == [str(state) for state in course]


def test_a_vm_is_gone_when_neither_the_store_nor_a_vmd_has_it() -> None:
    made = board()
    made.changed(status(VmState.OFF), gone=False, now=0.0)
    removed = made.committed([(path, None) for path in to_tree(WWW)], 0.0)
    assert kinds(removed) == [("vm", "off")]
    assert kinds(made.changed(status(VmState.OFF), gone=True, now=0.0)) == [("gone", "")]
    with pytest.raises(NotFound):
        made.find("www")


def test_a_vmd_that_lists_its_vms_again_has_lost_those_that_it_leaves_out() -> None:
    made = board()
    made.listed([status(VmState.READY)], "", 0.0)
    assert made.state(WWW.uuid) == "ready"
    assert kinds(made.listed([], "", 1.0)) == [("vm", "unknown")]
    assert made.vm(WWW.uuid, 1.0)["state"] == "unknown"


def test_a_commit_that_changes_nothing_of_a_vm_is_no_event() -> None:
    made = board()
    path = f"{VM_ROOT}/{WWW.uuid}/dns/www.jitsu.test/ttl"
    assert made.committed([(path, "60")], 0.0) == []
    assert kinds(made.committed([(path, "30"), ("jitsu/hold/all", "x")], 0.0)) == [("vm", "unknown")]
    model = made.model(WWW.uuid)
    assert model is not None
    assert model.ttl == 30


def test_queries_are_counted_from_what_was_known_first() -> None:
    made = board()
    made.changed(status(VmState.READY), gone=False, now=0.0)
    place = f"{STATS_ROOT}/{WWW.uuid}/dns/www.jitsu.test/total_requests"
    assert kinds(made.counted({place: "100"}, 1.0)) == [("vm", "ready")]
    assert made.counted({place: "100"}, 2.0) == []
    made.counted({place: "107"}, 3.0)
    assert made.vm(WWW.uuid, 3.0)["series"]["queries"][-1] == 7
    assert made.counted({place: "nonsense"}, 4.0)


def test_a_day_is_cut_into_quarters_and_forgets_what_is_older() -> None:
    day = DayHistory()
    day.up_or_down("x", True, NOON)
    day.up_or_down("x", False, NOON + 1.5 * QUARTER_S)
    assert list(day.series("x", NOON + 2 * QUARTER_S)["up"][-3:]) == [1, 0.5, 0]
    day.counted("x", 5, NOON + 2 * QUARTER_S, is_first=True)
    day.counted("x", 8, NOON + 2 * QUARTER_S)
    assert day.series("x", NOON + 2 * QUARTER_S)["queries"][-1] == 3
    late = day.series("x", NOON + 3 * QUARTERS * QUARTER_S)
    assert not any(late["up"])
    assert not any(late["queries"])
    assert len(late["up"]) == QUARTERS


def test_a_clock_that_is_set_back_neither_counts_twice_nor_hangs() -> None:
    day = DayHistory()
    day.up_or_down("x", True, NOON + 100.0)
    day.up_or_down("x", True, NOON + 200.0)
    day.up_or_down("x", False, NOON - 10_000.0)
    assert sum(day.series("x", NOON + 200.0)["up"]) == pytest.approx(100.0 / QUARTER_S, abs=0.001)


def test_memory_is_saved_while_a_vm_is_off() -> None:
    made = board()
    made.changed(status(VmState.OFF), gone=False, now=0.0)
    assert made.vm(WWW.uuid, 10.0)["memory_saved_bytes_s"] == 1024 * 1024 * 10.0


@pytest.mark.parametrize(
    ("listen", "host", "is_right"),
    [
        ("127.0.0.1", "localhost:8080", True),
        ("127.0.0.1", "LOCALHOST.", True),
        ("127.0.0.1", "[::1]:8080", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "10.0.0.1:8080", True),
        ("0.0.0.0", "evil.example:8080", False),
        ("::", "[2001:db8::1]", True),
        ("192.0.2.1", "192.0.2.1", True),
    ],
)
def test_only_names_of_this_server_are_right(listen: str, host: str, is_right: bool) -> None:
    assert HostNames(listen).allows(host) is is_right


@pytest.mark.parametrize(
    ("origin", "is_same"),
    [
        ("http://h:1", True),
        ("https://H:1", True),
        ("http://h", False),
        ("null", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_page_of_this_server_has_its_name_and_its_port(origin: str, is_same: bool) -> None:
    assert is_same_origin(origin, "h:1") is is_same
